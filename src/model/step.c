/* step.c: one token at a time: what earlier tokens left behind is kept by the layers, so that a text of n tokens costs
 * n passes over one row. */
#include "backend/table.h"
#include "model/decoder.h"

#include <stdlib.h>

/* Every token sees all before it. On the way to the last one, which alone is wanted, the rows before it see as little
 * as the backend allows. */
static nb_status write_starts(nb_model *model, nb_error *err) {
    int32_t *starts = calloc(2 * (size_t)model->max_rows, sizeof *starts);
    if (!starts)
        return nb_fail(err, NB_NO_MEMORY, "no memory for %lld positions", (long long)model->max_rows);
    for (int64_t i = 0; model->be->any_first_key && i < model->max_rows; i++)
        starts[i] = (int32_t)i;
    model->be->ops->upload(model->be, model->kept_start, starts, 2 * (size_t)model->max_rows * sizeof *starts);
    free(starts);
    return NB_OK;
}

static nb_status make_room(nb_model *model, nb_error *err) {
    const int32_t branches = 2 * model->config.layers;
    const size_t starts = ni_arena_round(2 * (size_t)model->max_rows * sizeof(int32_t));
    size_t bytes = starts;
    for (int32_t i = 0; i < branches; i++)
        if (model->branches[i].kind->keep)
            bytes += model->branches[i].kind->keep(model->branches[i].layer, model->be, model->max_rows, NULL);
    NB_TRY(ni_backend_take(model->be, bytes, "keys and values of a text", &model->kept, err));
    model->kept_start = model->kept;
    size_t used = starts;
    for (int32_t i = 0; i < branches; i++)
        if (model->branches[i].kind->keep)
            used += model->branches[i].kind->keep(model->branches[i].layer, model->be, model->max_rows,
                                                  (uint8_t *)model->kept + used);
    return write_starts(model, err);
}

/* The last row alone looks at all of them. */
static void move_last(nb_model *model, int64_t position) {
    const int32_t pair[2] = {(int32_t)position - 1, 0};
    const int32_t skip = position == 0;
    if (model->be->any_first_key)
        model->be->ops->upload(model->be, model->kept_start + position - 1 + skip, pair + skip,
                               (size_t)(2 - skip) * sizeof *pair);
}

nb_status nb_model_step(nb_model *model, int32_t token, int64_t position, const nb_pass *pass, float *logits,
                        nb_error *err) {
    const int32_t target = -1, at = (int32_t)position, start = 0;
    const nb_batch batch = {1, 1, &token, &target, &at, &start};
    if (model->training)
        return nb_fail(err, NB_BAD_USAGE,
                       "nb_model_step: the model was made for training; expected one without gradients");
    if (position < 0 || position >= model->max_rows || position > model->kept_rows)
        return nb_fail(err, NB_BAD_USAGE, "nb_model_step: position %lld after %lld tokens in a window of %lld",
                       (long long)position, (long long)model->kept_rows, (long long)model->max_rows);
    if (token < 0 || token >= model->config.vocab)
        return nb_fail(err, NB_BAD_USAGE, "nb_model_step: token %d; model %s has a vocabulary of %d", token,
                       model->config.name, model->config.vocab);
    if (!model->kept)
        NB_TRY(make_room(model, err));
    model->kept_rows = position;
    model->doc_end[0] = 1;
    move_last(model, position);
    ni_run run = ni_model_begin(model, &batch, pass, false, false);
    run.kept = position;
    run.kept_start = model->kept_start;
    run.kept_document = model->kept_start + model->max_rows;
    NB_TRY(ni_decoder_forward(model, &run, err));
    NB_TRY(ni_head_logits(model, &run, logits, err));
    model->kept_rows = position + 1;
    return NB_OK;
}
