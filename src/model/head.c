/* head.c: final norm, lm_head, and the loss, over a few tokens at a time.
 *
 * Logits of a whole micro-batch would be the largest array of all; here those of one chunk exist, become their own
 * gradients in place, and go into dX and dW before the next chunk. A quantized head runs as one chunk, because its
 * tensor scale and its random bits belong to the whole operand.
 */
#include "backend/table.h"
#include "model/decoder.h"

#include <math.h>

enum { CHUNK_ROWS = 128 }; /* a chunk is a whole multiple of so many tokens */

nb_status ni_head_declare(ni_builder *builder, nb_error *err) {
    nb_model *model = builder->model;
    const nb_model_config *c = &model->config;
    ni_params_begin_section(&model->params);
    if (model->traits->sphere) {
        NB_TRY(ni_params_declare(&model->params, "lm_head.s_z", c->vocab, 0, &model->head.gain.param, err));
        const double start = 1 / sqrt((double)c->hidden);
        model->params.list[model->head.gain.param].start = start;
        model->head.gain = (ni_gain){.param = model->head.gain.param, .dim = c->vocab, .factor = 1 / start, .power = 1};
        model->head.norm.param = model->head.gain.param;
    } else {
        NB_TRY(ni_declare_norm(builder, "norm", c->hidden, &model->head.norm, err));
    }
    model->head.param = model->embedding;
    if (c->tied)
        return NB_OK;
    NB_TRY(ni_params_declare(&model->params, "lm_head.weight", c->vocab, c->hidden, &model->head.param, err));
    model->params.list[model->head.param].unit = model->traits->sphere ? NB_UNIT_ROWS : NB_UNIT_NONE;
    return NB_OK;
}

static nb_status chunk_rows(nb_model *model, const nb_plan *plan, nb_error *err) {
    ni_head *head = &model->head;
    if (head->asked_rows && plan->quantized)
        return nb_fail(err, NB_BAD_CONFIG,
                       "head_rows: %lld, but the recipe quantizes lm_head, whose scales belong to all rows of a "
                       "micro-batch; expected 0",
                       (long long)head->asked_rows);
    int64_t rows = model->be->logit_elements / model->config.vocab / CHUNK_ROWS * CHUNK_ROWS;
    rows = rows < CHUNK_ROWS ? CHUNK_ROWS : rows;
    rows = head->asked_rows ? head->asked_rows : rows;
    head->chunk = plan->quantized || rows > model->max_rows ? model->max_rows : rows;
    head->wide_rows = head->chunk < CHUNK_ROWS ? head->chunk : CHUNK_ROWS;
    return NB_OK;
}

nb_status ni_head_build(ni_builder *builder, nb_error *err) {
    nb_model *model = builder->model;
    nb_plan plan;
    if (model->traits->sphere)
        ni_gain_build(builder, &model->head.gain);
    else
        ni_build_norm(builder, &model->head.norm);
    NB_TRY(nb_recipe_plan(builder->recipe, "lm_head", -1, model->config.layers, &plan, err));
    NB_TRY(chunk_rows(model, &plan, err));
    const ni_projection projection = {"lm_head", model->head.param};
    return ni_build_group(builder, "lm_head.input", &projection, 1, model->head.chunk, &model->head.linear, err);
}

void ni_head_place(const ni_builder *builder, ni_arena *working) {
    nb_model *model = builder->model;
    ni_head *head = &model->head;
    size_t hidden = ni_act_bytes(builder, model->config.hidden);
    head->normed = ni_arena_take(working, hidden);
    head->dnormed = model->training ? ni_arena_take(working, hidden) : NULL;
    head->rstd = ni_arena_take(working, ni_real_bytes(builder, 1));
    head->loss = ni_arena_take(working, ni_real_bytes(builder, 1));
    const size_t vocab = (size_t)model->config.vocab;
    head->logits = ni_arena_take(working, (size_t)head->chunk * vocab * nb_dtype_size(model->be->act));
    if (model->traits->sphere)
        head->gain.raw = ni_arena_take(working, (size_t)head->chunk * vocab * nb_dtype_size(model->be->act));
    head->wide = ni_arena_take(working, (size_t)head->wide_rows * vocab * sizeof(float));
}

/* ---- over chunks ---- */

static void *row(const nb_model *model, void *array, int64_t first) {
    return (uint8_t *)array + (size_t)(first * model->config.hidden) * nb_dtype_size(model->be->act);
}

/* What lm_head reads: the stream's last, which in ngpt has length 1 as it is. */
static void *read_by_head(const nb_model *model) {
    return model->traits->sphere ? model->stream[2 * model->config.layers] : model->head.normed;
}

static nb_status logits_of(nb_model *model, const ni_run *run, int64_t first, int64_t count, nb_mat *logits,
                           nb_error *err) {
    ni_head *head = &model->head;
    nb_dtype act = model->be->act;
    const bool sphere = model->traits->sphere;
    nb_mat x = nb_mat_of(row(model, read_by_head(model), first), act, count, model->config.hidden);
    *logits = nb_mat_of(head->logits, act, count, model->config.vocab);
    nb_mat product = *logits;
    product.data = sphere ? head->gain.raw : head->logits;
    NB_TRY(ni_linear_group_forward(head->linear, run->pass, run->scratch, run->training, &x, &product, err));
    if (sphere)
        ni_gain_forward(run, &head->gain, logits);
    return NB_OK;
}

nb_status ni_head_loss(nb_model *model, const ni_run *run, const void *x, int64_t scored, void *dx,
                       double *sum_of_losses, nb_error *err) {
    ni_head *head = &model->head;
    nb_backend *be = model->be;
    const int64_t vocab = model->config.vocab, hidden = model->config.hidden;
    const double share = scored > 0 ? 1.0 / (double)scored : 0.0;
    for (int64_t first = 0; first < run->rows; first += head->chunk) {
        int64_t count = run->rows - first < head->chunk ? run->rows - first : head->chunk;
        nb_mat logits, dlogits;
        NB_TRY(logits_of(model, run, first, count, &logits, err));
        dlogits = logits;
        void *loss = (uint8_t *)head->loss + (size_t)first * nb_dtype_size(be->real);
        be->ops->cross_entropy(be, loss, NULL, dx ? dlogits.data : NULL, logits.data, run->targets + first, count,
                               vocab, share, run->pass->z_loss);
        if (!dx)
            continue;
        if (model->traits->sphere)
            ni_gain_backward(run, &head->gain, &dlogits, dlogits.data);
        nb_mat normed = nb_mat_of(row(model, read_by_head(model), first), be->act, count, hidden);
        nb_mat dnormed =
            nb_mat_of(row(model, model->traits->sphere ? dx : head->dnormed, first), be->act, count, hidden);
        NB_TRY(ni_linear_group_backward(head->linear, run->pass, run->scratch, &normed, &dlogits, &dnormed, err));
    }
    be->ops->sum(be, sum_of_losses, head->loss, run->rows);
    if (!dx)
        return NB_OK;
    const ni_branch *last = &model->branches[2 * model->config.layers - 1]; /* begins with it where no norm is before */
    const nb_mat gradient =
        ni_act_with(run, dx, hidden, model->traits->post_norm ? (ni_amaxes){NULL, NULL} : last->dy_amaxes);
    if (!model->traits->sphere)
        ni_norm_backward(be, &head->norm, &gradient, head->dnormed, x, head->rstd);
    ni_params_pack(&model->params, head->norm.param);
    return NB_OK;
}

nb_status ni_head_logits(nb_model *model, const ni_run *run, float *logits, nb_error *err) {
    ni_head *head = &model->head;
    nb_backend *be = model->be;
    const int64_t vocab = model->config.vocab;
    for (int64_t first = 0; first < run->rows; first += head->chunk) {
        int64_t count = run->rows - first < head->chunk ? run->rows - first : head->chunk;
        nb_mat chunk;
        NB_TRY(logits_of(model, run, first, count, &chunk, err));
        for (int64_t done = 0; done < count; done += head->wide_rows) {
            const int64_t some = (count - done < head->wide_rows ? count - done : head->wide_rows) * vocab;
            const uint8_t *from = (uint8_t *)chunk.data + (size_t)(done * vocab) * nb_dtype_size(be->act);
            be->ops->cast(be, head->wide, NB_F32, from, be->act, some);
            be->ops->download(be, logits + (first + done) * vocab, head->wide, (size_t)some * sizeof(float));
        }
    }
    return NB_OK;
}
