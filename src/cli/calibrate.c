/* calibrate.c: the largest magnitudes that the inputs of linear layers have on a text. */
#include "backend/table.h"
#include "cli/serve.h"
#include "data/tokenizer.h"
#include "files/file.h"
#include "nibble/lens.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_LIMIT = 1 << 20, BATCHES = 8 };

typedef struct calibration {
    const char *const *modules;
    int32_t count;
    float *amax;
    void *copy; /* of an input, on the host */
    size_t room;
    bool failed; /* a callback ran out of memory */
} calibration;

/* Inputs have names of their own: "layers.0.mlp.input" is that of gate_proj and up_proj. */
static bool reads(const char *module, const char *input) {
    static const struct {
        const char *layer, *input;
    } inputs[] = {{"self_attn.q_proj", "self_attn.input"}, {"self_attn.k_proj", "self_attn.input"},
                  {"self_attn.v_proj", "self_attn.input"}, {"self_attn.o_proj", "self_attn.output"},
                  {"mlp.gate_proj", "mlp.input"},          {"mlp.up_proj", "mlp.input"},
                  {"mlp.down_proj", "mlp.inner"},          {"lm_head", "lm_head.input"}};
    const size_t length = strlen(module);
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        const size_t own = strlen(inputs[i].layer);
        if (length >= own && strcmp(module + length - own, inputs[i].layer) == 0)
            return strncmp(module, input, length - own) == 0 && strcmp(input + length - own, inputs[i].input) == 0;
    }
    return false;
}

static float largest(const nb_mat *x, const void *copy) {
    uint32_t most = 0;
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t i = r * x->stride; i < r * x->stride + x->cols; i++) {
            uint32_t bits;
            if (x->dtype == NB_BF16)
                bits = (uint32_t)((const uint16_t *)copy)[i] << 16;
            else
                bits = ((const uint32_t *)copy)[i];
            bits &= 0x7fffffffu;
            most = bits > most ? bits : most;
        }
    float value;
    memcpy(&value, &most, sizeof value);
    return value;
}

static void see(void *context, const nb_lens_operand *seen) {
    calibration *c = context;
    if (seen->role != NB_FPROP_X || !seen->source || seen->transposed)
        return;
    const size_t bytes = (size_t)(seen->source->rows * seen->source->stride) * nb_dtype_size(seen->source->dtype);
    if (bytes > c->room) {
        void *more = realloc(c->copy, bytes);
        c->failed |= !more;
        if (!more)
            return;
        c->copy = more;
        c->room = bytes;
    }
    seen->be->ops->download(seen->be, c->copy, seen->source->data, bytes);
    const float amax = largest(seen->source, c->copy);
    for (int32_t i = 0; i < c->count; i++)
        if (reads(c->modules[i], seen->module) && amax > c->amax[i])
            c->amax[i] = amax;
}

/* Rows of `seq` tokens from the beginning of the text, each a document of its own. */
static nb_status run_over(nb_model *model, const ni_tokens *tokens, int64_t seq, const nb_lens *lens, nb_error *err) {
    int32_t *positions = calloc((size_t)seq * 2, sizeof *positions);
    if (!positions)
        return nb_fail(err, NB_NO_MEMORY, "no memory to calibrate");
    nb_status status = NB_OK;
    for (int64_t i = 0; i < seq; i++)
        positions[i] = (int32_t)i;
    for (int64_t at = 0; status == NB_OK && at < BATCHES * seq && at + seq < tokens->count; at += seq) {
        const nb_batch batch = {1, seq, tokens->ids + at, tokens->ids + at + 1, positions, positions + seq};
        const nb_pass pass = {.steps = 1, .lens = lens};
        double loss;
        status = nb_model_loss(model, &batch, &pass, &loss, err);
    }
    free(positions);
    return status;
}

static nb_status read_tokens(const char *from, const char *text, ni_tokens *tokens, nb_error *err) {
    ni_tokenizer *tokenizer;
    char *bytes = NULL;
    size_t size;
    NB_TRY(ni_tokenizer_load(from, &tokenizer, err));
    nb_status status = ni_file_read(text, TEXT_LIMIT, &bytes, &size, err);
    if (status == NB_OK)
        status = ni_tokenizer_encode(tokenizer, bytes, size, false, tokens, NULL, err);
    free(bytes);
    ni_tokenizer_free(tokenizer);
    return status;
}

nb_status ni_cli_calibrate(nb_backend *be, const char *from, const nb_recipe *recipe, const char *text,
                           const char *const *modules, int32_t count, float *amax, nb_error *err) {
    calibration c = {.modules = modules, .count = count, .amax = amax};
    const nb_lens lens = {.context = &c, .operand = see};
    ni_tokens tokens = {0};
    nb_loaded loaded;
    memset(amax, 0, (size_t)count * sizeof *amax);
    NB_TRY(nb_load_checkpoint(be, from, recipe, 1, 0, &loaded, err));
    const int64_t seq = loaded.info.config.seq;
    nb_status status = read_tokens(from, text, &tokens, err);
    if (status == NB_OK && tokens.count <= seq)
        status = nb_fail(err, NB_BAD_USAGE, "%s: %lld tokens; expected more than the %lld of a sequence", text,
                         (long long)tokens.count, (long long)seq);
    if (status == NB_OK)
        status = run_over(loaded.model, &tokens, seq, &lens, err);
    if (status == NB_OK && c.failed)
        status = nb_fail(err, NB_NO_MEMORY, "no memory to calibrate");
    free(c.copy);
    ni_tokens_free(&tokens);
    nb_loaded_free(&loaded);
    return status;
}
