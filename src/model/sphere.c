/* sphere.c: the normalized transformer (nGPT, arXiv:2410.01131): every vector has length 1.
 *
 *     x <- N(A + |alpha| (B - A)),  A = N(x),  B = N(f(x))      a branch is a step from x towards f(x)
 *
 * with N(v) = v / |v|. Rows of the embedding, of lm_head and of all matrices that read the stream, columns of those
 * that write it, have length 1 after every update. There are no other norms. What is learned beside matrices are
 * vectors of factors: alpha of a branch, s_qk, s_u and s_v, s_z of the logits. All but s_u and s_v are stored as
 * 1/sqrt(hidden) and used as multiples of that, so that an update of AdamW moves them as it moves the numbers of
 * matrices.
 */
#include "model/decoder.h"

#include <math.h>
#include <stdlib.h>

enum { DIMS = 3 };

/* Lengths of the vectors that are brought to length 1 inside of layers: heads, all heads, the MLP's inner layer. */
static void dims_of(const nb_model_config *c, int64_t dims[DIMS]) {
    dims[0] = c->head_dim;
    dims[1] = (int64_t)c->heads * c->head_dim;
    dims[2] = c->intermediate;
}

/* ---- N ---- */

void ni_sphere_place(const ni_builder *builder, ni_arena *working) {
    nb_model *model = builder->model;
    const size_t real = nb_dtype_size(model->be->real);
    int64_t dims[DIMS], sum = 0, most = 0;
    if (!model->traits->sphere)
        return;
    dims_of(&model->config, dims);
    for (int i = 0; i < DIMS; i++) {
        sum += dims[i];
        most = dims[i] > most ? dims[i] : most;
    }
    model->unit_weight = ni_arena_take(working, (size_t)sum * real);
    model->unit_grad = ni_arena_take(working, (size_t)most * real);
}

nb_status ni_sphere_upload(nb_model *model, nb_error *err) {
    nb_backend *be = model->be;
    int64_t dims[DIMS], sum = 0, at = 0;
    if (!model->traits->sphere)
        return NB_OK;
    dims_of(&model->config, dims);
    for (int i = 0; i < DIMS; i++)
        sum += dims[i];
    double *weights = malloc((size_t)sum * sizeof *weights);
    float *rounded = malloc((size_t)sum * sizeof *rounded);
    for (int i = 0; weights && rounded && i < DIMS; i++)
        for (int64_t j = 0; j < dims[i]; j++, at++) {
            weights[at] = 1 / sqrt((double)dims[i]);
            rounded[at] = (float)weights[at];
        }
    const bool wide = be->real == NB_F64;
    if (weights && rounded)
        be->ops->upload(be, model->unit_weight, wide ? (void *)weights : (void *)rounded,
                        (size_t)sum * nb_dtype_size(be->real));
    const bool failed = !weights || !rounded;
    free(weights);
    free(rounded);
    return failed ? nb_fail(err, NB_NO_MEMORY, "no memory for the lengths of a model's vectors") : NB_OK;
}

void ni_unit_place(const ni_builder *builder, ni_unit *unit, int64_t cols, int64_t dim, ni_arena *saved) {
    const nb_model *model = builder->model;
    int64_t dims[DIMS], at = 0;
    dims_of(&model->config, dims);
    for (int i = 0; i < DIMS && dims[i] != dim; i++)
        at += dims[i];
    unit->norm = (ni_norm){.param = -1,
                           .weight = model->unit_weight
                                         ? (uint8_t *)model->unit_weight + (size_t)at * nb_dtype_size(model->be->real)
                                         : NULL,
                           .grad = model->unit_grad,
                           .dim = dim,
                           .eps = model->config.norm_eps / (double)dim}; /* of the mean: norm_eps of the sum */
    unit->raw = ni_arena_take(saved, ni_act_bytes(builder, cols));
    unit->rstd = ni_arena_take(saved, ni_real_bytes(builder, cols / dim));
}

static nb_mat in_vectors(const nb_mat *m, int64_t dim) {
    nb_mat v = *m;
    v.rows = m->rows * m->cols / dim;
    v.cols = v.stride = dim;
    return v;
}

void ni_unit_forward(const ni_run *run, const ni_unit *unit, const nb_mat *y) {
    const nb_mat out = in_vectors(y, unit->norm.dim);
    run->be->ops->rmsnorm_forward(run->be, &out, unit->rstd, unit->raw, unit->norm.weight, unit->norm.eps);
}

void ni_unit_backward(const ni_run *run, const ni_unit *unit, const nb_mat *dx, const void *dy) {
    const nb_mat out = in_vectors(dx, unit->norm.dim);
    run->be->ops->fill_zero(run->be, unit->norm.grad, (size_t)unit->norm.dim * nb_dtype_size(run->be->real));
    run->be->ops->rmsnorm_backward(run->be, &out, unit->norm.grad, dy, unit->raw, unit->norm.weight, unit->rstd);
}

/* ---- learned factors ---- */

nb_status ni_gain_declare(ni_builder *builder, const char *inner, const char *suffix, int64_t dim, double start,
                          double first, int32_t power, ni_gain *gain, nb_error *err) {
    *gain = (ni_gain){.dim = dim, .factor = pow(first, 1.0 / power) / start, .power = power};
    NB_TRY(ni_declare(builder, inner, suffix, dim, 0, &gain->param, err));
    builder->model->params.list[gain->param].start = start;
    return NB_OK;
}

void ni_gain_build(const ni_builder *builder, ni_gain *gain) {
    gain->s = ni_params_value(&builder->model->params, gain->param);
    gain->grad = ni_params_grad(&builder->model->params, gain->param);
}

void ni_gain_forward(const ni_run *run, const ni_gain *gain, const nb_mat *y) {
    run->be->ops->gain_forward(run->be, y, gain->raw, gain->s, gain->factor, gain->power);
}

void ni_gain_backward(const ni_run *run, const ni_gain *gain, const nb_mat *dx, const void *dy) {
    run->be->ops->gain_backward(run->be, dx, gain->grad, dy, gain->raw, gain->s, gain->factor, gain->power);
}

/* ---- branches ---- */

nb_status ni_sphere_declare(ni_builder *builder, ni_branch *branch, nb_error *err) {
    const nb_model_config *c = &builder->model->config;
    const char *layer = branch->kind == &ni_mlp_kind ? "mlp" : "self_attn";
    NB_TRY(ni_gain_declare(builder, layer, "alpha", c->hidden, 1 / sqrt((double)c->hidden), c->alpha, 1, &branch->alpha,
                           err));
    branch->norm = (ni_norm){.param = branch->alpha.param, .dim = c->hidden, .eps = c->norm_eps};
    return NB_OK;
}

nb_status ni_sphere_forward(nb_model *model, const ni_run *run, int32_t i, nb_error *err) {
    ni_branch *branch = &model->branches[i];
    const int64_t hidden = model->config.hidden;
    const nb_mat in = ni_act(run, model->stream[i], hidden), y = ni_act(run, branch->normed, hidden);
    const nb_mat out = ni_act(run, model->stream[i + 1], hidden);
    NB_TRY(branch->kind->forward(branch->layer, run, &in, &y, err));
    run->be->ops->slerp_forward(run->be, &out, in.data, y.data, branch->alpha.s, branch->alpha.factor,
                                branch->norm.eps);
    return NB_OK;
}

/* dstream holds d(loss)/d(out) and ends as d(loss)/dx. */
nb_status ni_sphere_backward(nb_model *model, const ni_run *run, int32_t i, nb_error *err) {
    nb_backend *be = run->be;
    ni_branch *branch = &model->branches[i];
    const int64_t hidden = model->config.hidden;
    const nb_mat in = ni_act(run, model->stream[i], hidden);
    const nb_mat dy = ni_act_with(run, model->branch_buffer[1], hidden, branch->dy_amaxes);
    const nb_mat dx = ni_act(run, model->branch_buffer[0], hidden);
    be->ops->slerp_backward(be, model->dstream, &dy, branch->alpha.grad, model->dstream, in.data, branch->normed,
                            branch->alpha.s, branch->alpha.factor, branch->norm.eps);
    NB_TRY(branch->kind->backward(branch->layer, run, &in, &dy, &dx, err));
    be->ops->add(be, model->dstream, model->dstream, dx.data, run->rows * hidden);
    ni_params_pack(&model->params, branch->norm.param);
    return NB_OK;
}

/* ---- parameters ---- */

void ni_sphere_project(nb_model *model) {
    nb_backend *be = model->be;
    for (int32_t i = 0; model->traits->sphere && i < model->params.count; i++) {
        const nb_param *p = &model->params.list[i];
        if (p->unit == NB_UNIT_NONE)
            continue;
        be->ops->unit_vectors(be, ni_params_open(&model->params, i), p->rows, p->cols, p->unit == NB_UNIT_COLUMNS);
        ni_params_close(&model->params, i);
    }
}
