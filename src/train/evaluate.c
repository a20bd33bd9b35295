/* evaluate.c: the mean loss over validation data, and the buffers that carry it. */
#include "trainer.h"

#include "base/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

nb_status nb_batch_buffer_create(int64_t batch, int64_t seq, nb_batch_buffer *out, nb_error *err) {
    memset(out, 0, sizeof *out);
    size_t tokens = (size_t)(batch * seq);
    out->bytes = 4 * tokens * sizeof(int32_t);
    out->memory = malloc(out->bytes);
    if (!out->memory)
        return nb_fail(err, NB_NO_MEMORY, "data: a micro-batch of %lld x %lld tokens does not fit in memory",
                       (long long)batch, (long long)seq);
    int32_t *m = out->memory;
    out->buffers = (nb_dataset_buffers){m, m + tokens, m + 2 * tokens, m + 3 * tokens};
    out->view = (nb_batch){batch, seq, m, m + tokens, m + 2 * tokens, m + 3 * tokens};
    return NB_OK;
}

void nb_batch_buffer_free(nb_batch_buffer *buffer) {
    free(buffer->memory);
    memset(buffer, 0, sizeof *buffer);
}

nb_status nb_open_validation(const nb_run_config *config, const char *path, int64_t vocab, int32_t end_of_text,
                             nb_dataset **out, nb_error *err) {
    nb_dataset_options options = {.seq = config->seq,
                                  .vocab = vocab,
                                  .end_of_text = end_of_text,
                                  .cross_documents = config->data.cross_documents,
                                  .sequences = config->eval.sequences};
    if (nb_dataset_open(&path, 1, &options, out, err) != NB_OK)
        return nb_fail_within(err, "validation data");
    return NB_OK;
}

/* Targets from sequence `used` on are not scored. Returns how many targets of the micro-batch are. */
static int64_t score_only(nb_batch_buffer *buffer, int64_t used) {
    int64_t scored = 0, seq = buffer->view.seq, all = buffer->view.batch * seq;
    for (int64_t i = used * seq; i < all; i++)
        buffer->buffers.targets[i] = -1;
    for (int64_t i = 0; i < all; i++)
        scored += buffer->buffers.targets[i] >= 0;
    return scored;
}

nb_status nb_evaluate(nb_model *model, const nb_dataset *data, nb_batch_buffer *buffer, const nb_pass *pass,
                      nb_eval_report *report, nb_error *err) {
    double begin = nb_seconds(), sum = 0;
    int64_t batch = buffer->view.batch, sequences = nb_dataset_sequences(data), tokens = 0;
    for (int64_t first = 0; first < sequences; first += batch) {
        nb_pass here = *pass;
        here.micro_batch = (uint32_t)(first / batch);
        NB_TRY(nb_dataset_fill(data, first / batch, batch, &buffer->buffers, err));
        int64_t scored = score_only(buffer, sequences - first < batch ? sequences - first : batch);
        double loss;
        NB_TRY(nb_model_loss(model, &buffer->view, &here, &loss, err));
        sum += loss * (double)scored;
        tokens += scored;
    }
    report->step = pass->step;
    report->tokens = tokens;
    report->loss = tokens ? sum / (double)tokens : NAN;
    report->seconds = nb_seconds() - begin;
    return NB_OK;
}

nb_status nb_trainer_evaluate(nb_trainer *t, nb_eval_report *report, nb_error *err) {
    if (!t->val)
        return nb_fail(err, NB_BAD_CONFIG, "data.val: no validation data is given; expected a shard");
    nb_pass pass = nb_trainer_pass(t, 0);
    return nb_evaluate(t->model, t->val, &t->batch, &pass, report, err);
}
