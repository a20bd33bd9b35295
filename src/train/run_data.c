/* run_data.c: what a run file says of its data, opened. */
#include "run_data.h"

#include "model/hf.h"

#include <stdlib.h>
#include <string.h>

static nb_status end_of_folder(const char *folder, int32_t *end_of_text, nb_error *err) {
    ni_hf_marks marks;
    NB_TRY(ni_hf_marks_read(folder, &marks, err));
    *end_of_text = marks.end;
    return NB_OK;
}

nb_status ni_run_tokenizer(const nb_run_config *config, int32_t vocab, ni_tokenizer **out, int32_t *end_of_text,
                           nb_error *err) {
    *out = NULL;
    *end_of_text = config->data.end_of_text;
    if (config->data.tokenizer[0]) {
        if (ni_tokenizer_load(config->data.tokenizer, out, err) != NB_OK)
            return nb_fail_within(err, "data.tokenizer");
        if (ni_tokenizer_vocab(*out) > vocab)
            return nb_fail(err, NB_BAD_CONFIG,
                           "data.tokenizer: %s has %d tokens and the model's vocab is %d; expected at least as many",
                           config->data.tokenizer, ni_tokenizer_vocab(*out), vocab);
    }
    if (*end_of_text == NB_END_OF_TEXT_AUTO) {
        *end_of_text = *out ? ni_tokenizer_end_of_text(*out) : NB_END_OF_TEXT_NONE;
        if (!*out && ni_model_is_folder(config->model))
            NB_TRY(end_of_folder(config->model, end_of_text, err));
    }
    if (*end_of_text >= vocab)
        return nb_fail(err, NB_BAD_CONFIG, "data.end_of_text: %d is beyond the model's vocab of %d", *end_of_text,
                       vocab);
    return NB_OK;
}

nb_status ni_batch_buffer_create(int64_t batch, int64_t seq, ni_batch_buffer *out, nb_error *err) {
    memset(out, 0, sizeof *out);
    size_t tokens = (size_t)(batch * seq);
    out->bytes = 4 * tokens * sizeof(int32_t);
    out->memory = malloc(out->bytes);
    if (!out->memory)
        return nb_fail(err, NB_NO_MEMORY, "data: a micro-batch of %lld x %lld tokens does not fit in memory",
                       (long long)batch, (long long)seq);
    int32_t *m = out->memory;
    out->buffers = (ni_dataset_buffers){m, m + tokens, m + 2 * tokens, m + 3 * tokens};
    out->view = (nb_batch){batch, seq, m, m + tokens, m + 2 * tokens, m + 3 * tokens};
    return NB_OK;
}

void ni_batch_buffer_free(ni_batch_buffer *buffer) {
    free(buffer->memory);
    memset(buffer, 0, sizeof *buffer);
}

nb_status ni_open_validation(const nb_run_config *config, const char *path, int64_t vocab, int32_t end_of_text,
                             ni_dataset **out, nb_error *err) {
    ni_dataset_options options = {.seq = config->seq,
                                  .vocab = vocab,
                                  .end_of_text = end_of_text,
                                  .cross_documents = config->data.cross_documents,
                                  .sequences = config->eval.sequences};
    if (ni_dataset_open(&path, 1, &options, out, err) != NB_OK)
        return nb_fail_within(err, "validation data");
    return NB_OK;
}
