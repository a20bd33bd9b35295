/* gla.c: gated linear attention (arXiv:2312.06635), as the flash-linear-attention project computes it.
 *
 *     q, k, v, g, low = W_q x, W_k x, W_v x, W_g x, A x
 *     gate            = logsigmoid(B low + b) / normalizer                      log decay of each key channel, <= 0
 *     S_t             = diag(exp(gate_t)) S_{t-1} + k_t v_t^T                   per head, zero where a document starts
 *     o_t             = key_dim^(-1/2) S_t^T q_t
 *     y               = W_o (rmsnorm(o) * g * sigmoid(g))                       one norm weight for all heads
 */
#include "backend/table.h"
#include "model/decoder.h"
#include "nibble/lens.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct ni_gla_layer {
    char name[NB_NAME_SIZE];                       /* "layers.0.attn" */
    int64_t hidden, heads, keys, values, low_rank; /* keys, values: of all heads together */
    double normalizer, clamp;
    int32_t q_param, k_param, v_param, g_param, a_param, b_param, o_param, bias_param;
    void *bias, *bias_grad; /* real [keys] */
    ni_norm norm;           /* [values / heads] */
    ni_linear_group *in, *gate_out, *out;
    void *q, *k, *v, *g, *low, *a; /* saved: act [rows, keys | values | low_rank] */
    void *gate;                    /* saved: real [rows, keys]; NULL: made where it is read (ni_gla.made) */
    void *left;                    /* saved: [left_bytes], of the scan (ni_gla.left); NULL: nothing */
    size_t left_bytes;
    void *kept[4];           /* q, k, v, gate of the tokens before (step.c); NULL where none are kept */
    void *o, *rstd, *normed; /* saved: act [rows, values], real [rows, heads], act [rows, values] */
    ni_amaxes normed_amaxes;
    void *dq, *dk, *dv, *dg, *dlow, *da, *dgate, *do_, *dnormed; /* of a pass; dgate real, as gate */
    ni_amaxes dq_amaxes, dk_amaxes, dv_amaxes;                   /* of a pass */
} ni_gla_layer;

static void *create(const nb_model_config *config) {
    ni_gla_layer *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->hidden = config->hidden;
    l->heads = config->heads;
    l->keys = (int64_t)(config->hidden * config->expand_k);
    l->values = (int64_t)(config->hidden * config->expand_v);
    l->low_rank = config->gate_low_rank;
    l->normalizer = config->gate_normalizer;
    l->clamp = config->gate_clamp;
    return l;
}

static nb_status declare(void *layer, ni_builder *builder, nb_error *err) {
    ni_gla_layer *l = layer;
    const struct {
        const char *name;
        int64_t rows, cols;
        int32_t *param;
    } weights[] = {
        {"attn.q_proj", l->keys, l->hidden, &l->q_param},        {"attn.k_proj", l->keys, l->hidden, &l->k_param},
        {"attn.v_proj", l->values, l->hidden, &l->v_param},      {"attn.g_proj", l->values, l->hidden, &l->g_param},
        {"attn.gk_proj.0", l->low_rank, l->hidden, &l->a_param}, {"attn.gk_proj.1", l->keys, l->low_rank, &l->b_param},
        {"attn.o_proj", l->hidden, l->values, &l->o_param}};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        NB_TRY(ni_declare(builder, weights[i].name, "weight", weights[i].rows, weights[i].cols, weights[i].param, err));
    NB_TRY(ni_declare(builder, "attn.gk_proj.1", "bias", l->keys, 0, &l->bias_param, err));
    return ni_declare_norm(builder, "attn.g_norm_swish_gate", l->values / l->heads, &l->norm, err);
}

static nb_status build(void *layer, ni_builder *builder, nb_error *err) {
    ni_gla_layer *l = layer;
    const ni_projection in[] = {{"attn.q_proj", l->q_param},
                                {"attn.k_proj", l->k_param},
                                {"attn.v_proj", l->v_param},
                                {"attn.g_proj", l->g_param},
                                {"attn.gk_proj.0", l->a_param}};
    const ni_projection gate_out[] = {{"attn.gk_proj.1", l->b_param}};
    const ni_projection out[] = {{"attn.o_proj", l->o_param}};
    const int64_t rows = builder->model->max_rows;
    ni_module_name(builder, "attn", l->name);
    l->bias = ni_params_value(&builder->model->params, l->bias_param);
    l->bias_grad = ni_params_grad(&builder->model->params, l->bias_param);
    ni_build_norm(builder, &l->norm);
    NB_TRY(ni_build_group(builder, "attn.input", in, 5, rows, &l->in, err));
    NB_TRY(ni_build_group(builder, "attn.gk_proj.low", gate_out, 1, rows, &l->gate_out, err));
    return ni_build_group(builder, "attn.output", out, 1, rows, &l->out, err);
}

static ni_gla whole_shape(const ni_gla_layer *l, const nb_model *model) {
    return (ni_gla){.batch = model->max_batch,
                    .seq = model->max_seq,
                    .heads = l->heads,
                    .key_dim = l->keys / l->heads,
                    .value_dim = l->values / l->heads};
}

static void place(void *layer, const ni_builder *builder, ni_arena *saved, ni_arena *working) {
    ni_gla_layer *l = layer;
    const size_t keys = ni_act_bytes(builder, l->keys), values = ni_act_bytes(builder, l->values);
    const size_t low = ni_act_bytes(builder, l->low_rank), gate = ni_real_bytes(builder, l->keys);
    const bool makes_gates = builder->model->be->makes_gates;
    l->q = ni_arena_take(saved, keys);
    l->k = ni_arena_take(saved, keys);
    l->v = ni_arena_take(saved, values);
    l->g = ni_arena_take(saved, values);
    l->low = ni_arena_take(saved, low);
    l->a = ni_arena_take(saved, keys);
    l->gate = makes_gates ? NULL : ni_arena_take(saved, gate);
    l->o = ni_arena_take(saved, values);
    l->rstd = ni_arena_take(saved, ni_real_bytes(builder, l->heads));
    l->normed = ni_arena_take(saved, values);
    const bool asks = ni_linear_group_wants(l->out, false).plain; /* a gated norm does not look at turned columns */
    l->normed_amaxes = ni_amax_words(builder, (ni_wanted_amaxes){.plain = asks});
    if (!builder->model->training)
        return;
    const ni_gla most = whole_shape(l, builder->model);
    l->left_bytes = builder->model->be->ops->gla_left_bytes(builder->model->be, &most);
    l->left = l->left_bytes ? ni_arena_take(saved, l->left_bytes) : NULL;
    l->dq = ni_arena_take(working, keys);
    l->dk = ni_arena_take(working, keys);
    l->dv = ni_arena_take(working, values);
    l->dg = ni_arena_take(working, values);
    l->dlow = ni_arena_take(working, low);
    l->da = ni_arena_take(working, keys);
    l->dgate = makes_gates ? NULL : ni_arena_take(working, gate);
    const ni_wanted_amaxes of_slopes = ni_linear_group_wants(l->in, true);
    l->dq_amaxes = ni_amax_words(builder, of_slopes);
    l->dk_amaxes = ni_amax_words(builder, of_slopes);
    l->dv_amaxes = ni_amax_words(builder, of_slopes);
    l->do_ = ni_arena_take(working, values);
    l->dnormed = ni_arena_take(working, values);
}

static ni_wanted_amaxes wants(const void *layer, bool gradients) {
    const ni_gla_layer *l = layer;
    return ni_linear_group_wants(gradients ? l->out : l->in, gradients);
}

static ni_gla shape(const ni_gla_layer *l, const ni_run *run) {
    const int64_t key_dim = l->keys / l->heads;
    ni_gla s = {.batch = run->batch,
                .seq = run->seq,
                .heads = l->heads,
                .key_dim = key_dim,
                .value_dim = l->values / l->heads,
                .scale = 1.0 / sqrt((double)key_dim),
                .doc_start = run->doc_start};
    if (l->left && run->be->ops->gla_left_bytes(run->be, &s) <= l->left_bytes)
        s.left = l->left;
    return s;
}

static ni_gla_gate gate_of(const ni_gla_layer *l) {
    return (ni_gla_gate){
        .a = l->a, .bias = l->bias, .normalizer = l->normalizer, .clamp = l->clamp, .da = l->da, .dbias = l->bias_grad};
}

static nb_status forward(void *layer, const ni_run *run, const nb_mat *x, const nb_mat *y, nb_error *err) {
    ni_gla_layer *l = layer;
    nb_backend *be = run->be;
    const bool kept = run->kept >= 0; /* the token at hand stands behind those that are kept */
    void *q = kept ? ni_act_row(run, l->kept[0], run->kept, l->keys) : l->q;
    void *k = kept ? ni_act_row(run, l->kept[1], run->kept, l->keys) : l->k;
    void *v = kept ? ni_act_row(run, l->kept[2], run->kept, l->values) : l->v;
    void *gate = kept ? (uint8_t *)l->kept[3] + (size_t)(run->kept * l->keys) * nb_dtype_size(be->real) : l->gate;
    void *o = kept ? ni_act_row(run, l->o, run->kept, l->values) : l->o;
    const nb_mat projected[] = {ni_act(run, q, l->keys), ni_act(run, k, l->keys), ni_act(run, v, l->values),
                                ni_act(run, l->g, l->values), ni_act(run, l->low, l->low_rank)};
    const nb_mat low = ni_act(run, l->low, l->low_rank), a = ni_act(run, l->a, l->keys);
    const nb_mat normed = ni_act_with(run, l->normed, l->values, l->normed_amaxes);
    NB_TRY(ni_run_group_of(run, l->in, run->x_from, x, projected, err));
    NB_TRY(ni_run_group(run, l->gate_out, &low, &a, err));
    if (run->pass->lens && run->pass->lens->gate)
        run->pass->lens->gate(run->pass->lens->context, be, l->name, &a, l->bias);
    const ni_gla_gate made = gate_of(l);
    ni_gla s = shape(l, run);
    if (kept || !be->makes_gates)
        be->ops->gla_gate_forward(be, gate, l->a, l->bias, run->rows, l->keys, l->normalizer, l->clamp);
    else
        s.made = &made;
    if (kept) { /* the recurrence over all of them again: few operations beside those of the linear layers */
        s.seq = run->kept + 1;
        s.doc_start = run->kept_document;
        s.left = NULL;
        NB_TRY(be->ops->gla_forward(be, &s, l->o, l->kept[0], l->kept[1], l->kept[2], l->kept[3], err));
    } else {
        NB_TRY(be->ops->gla_forward(be, &s, l->o, l->q, l->k, l->v, l->gate, err));
        const nb_mat scan = ni_act(run, l->o, l->values);
        ni_show_output(run, l->name, "scan", &scan);
    }
    nb_mat heads = nb_mat_of(l->normed, be->act, run->rows * l->heads, l->norm.dim);
    heads.amax = l->normed_amaxes.plain;
    be->ops->gated_norm_forward(be, &heads, l->rstd, o, l->g, l->norm.weight, l->norm.eps);
    return y ? ni_run_group(run, l->out, &normed, y, err) : NB_OK;
}

static nb_status backward(void *layer, const ni_run *run, const nb_mat *x, const nb_mat *dy, const nb_mat *dx,
                          nb_error *err) {
    ni_gla_layer *l = layer;
    nb_backend *be = run->be;
    const nb_mat normed = ni_act_with(run, l->normed, l->values, l->normed_amaxes),
                 dnormed = ni_act(run, l->dnormed, l->values);
    const nb_mat low = ni_act(run, l->low, l->low_rank), dlow = ni_act(run, l->dlow, l->low_rank);
    const nb_mat da = ni_act(run, l->da, l->keys);
    const nb_mat dprojected[] = {ni_act_with(run, l->dq, l->keys, l->dq_amaxes),
                                 ni_act_with(run, l->dk, l->keys, l->dk_amaxes),
                                 ni_act_with(run, l->dv, l->values, l->dv_amaxes), ni_act(run, l->dg, l->values), dlow};
    NB_TRY(ni_linear_group_backward(l->out, run->pass, run->scratch, &normed, dy, &dnormed, err));
    const nb_mat dg = nb_mat_of(l->dg, be->act, run->rows * l->heads, l->norm.dim);
    be->ops->gated_norm_backward(be, l->do_, &dg, l->norm.grad, l->dnormed, l->o, l->g, l->norm.weight, l->rstd);
    const ni_gla_gate made = gate_of(l);
    ni_gla s = shape(l, run);
    s.made = be->makes_gates ? &made : NULL;
    for (int i = 0; i < 3; i++)
        s.amax[i] = dprojected[i].amax, s.turned_amax[i] = dprojected[i].turned_amax;
    NB_TRY(be->ops->gla_backward(be, &s, l->dq, l->dk, l->dv, l->dgate, l->do_, l->q, l->k, l->v, l->gate, err));
    if (!be->makes_gates)
        be->ops->gla_gate_backward(be, l->da, l->bias_grad, l->dgate, l->a, l->bias, run->rows, l->keys, l->normalizer,
                                   l->clamp);
    NB_TRY(ni_linear_group_backward(l->gate_out, run->pass, run->scratch, &low, &da, &dlow, err));
    return ni_linear_group_backward(l->in, run->pass, run->scratch, x, dprojected, dx, err);
}

/* The recurrence: k v^T into the state and the state out to o, one multiplication and one addition each for every
 * element of the state, counted three times for forward and backward. Chunked forms compute more, and win time. */
static double flops(const void *layer, int64_t seq) {
    const ni_gla_layer *l = layer;
    (void)seq;
    return 3.0 * 4.0 * (double)l->keys * (double)l->values / (double)l->heads;
}

static void census(const void *layer, const nb_model *model, nb_census_row *row) {
    const ni_gla_layer *l = layer;
    const ni_gla s = whole_shape(l, model);
    snprintf(row->module, sizeof row->module, "%s", l->name);
    snprintf(row->formats, sizeof row->formats, "bf16, %lld heads of %lld by %lld", (long long)l->heads,
             (long long)s.key_dim, (long long)s.value_dim);
    row->gemm = "gla";
    row->kernel = model->be->ops->gla_kernel(model->be, &s, &row->reason);
}

static size_t keep(void *layer, nb_backend *be, int64_t rows, void *memory) {
    ni_gla_layer *l = layer;
    const size_t act = nb_dtype_size(be->act),
                 bytes[4] = {(size_t)(rows * l->keys) * act, (size_t)(rows * l->keys) * act,
                             (size_t)(rows * l->values) * act, (size_t)(rows * l->keys) * nb_dtype_size(be->real)};
    size_t used = 0;
    for (int i = 0; i < 4; i++) {
        if (memory)
            l->kept[i] = (uint8_t *)memory + used;
        used += ni_arena_round(bytes[i]);
    }
    return used;
}

const ni_layer_kind ni_gla_kind = {create, declare, build, place, wants, forward, backward, flops, census, keep, NULL};
