/* attention.c: causal softmax attention with grouped queries and RoPE, and the norms on q and k that some families put
 * before RoPE.
 *
 *     q, k, v = W_q x, W_k x, W_v x
 *     q, k    = rope(norm_q(q)), rope(norm_k(k))     Qwen3 norms each head, OLMo2 the whole projection, LLaMA nothing
 *     y       = W_o softmax(q k^T / sqrt(head_dim)) v
 *
 * ngpt (sphere.c) has q = s_qk^2 N(q) and k = N(k) of each head, logits of q k^T sqrt(head_dim), and where it is `fine`
 * N of all heads' outputs. With as many key as query heads that is s_qk on both sides.
 */
#include "backend/table.h"
#include "model/decoder.h"
#include "nibble/lens.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct ni_attention_layer {
    char name[NB_NAME_SIZE]; /* "layers.0.self_attn" */
    int64_t hidden, heads, kv_heads, head_dim;
    ni_rope rope;
    double norm_eps;
    ni_qk_norm qk_norm;
    int32_t q_param, k_param, v_param, o_param;
    ni_norm q_norm, k_norm;
    ni_linear_group *in, *out;
    void *q, *k, *v, *o; /* saved: act [rows, heads (kv_heads) * head_dim]; q, k after RoPE */
    ni_amaxes o_amaxes;
    ni_amaxes dq_amaxes, dk_amaxes, dv_amaxes;  /* not of dq and dk where they go through norms */
    void *kept_k, *kept_v;                      /* act [rows, kv_heads * head_dim]: of the tokens before (step.c) */
    void *lse;                                  /* saved: real [batch, heads, seq] */
    void *q_raw, *k_raw, *q_rstd, *k_rstd;      /* saved where q and k are normed: before the norm */
    void *dq, *dk, *dv, *do_, *dq_raw, *dk_raw; /* of a pass */
    bool sphere, fine;
    ni_unit q_unit, k_unit, o_unit; /* sphere; fine */
    void *o_long, *do_long;         /* what attention makes, before N: o, do_ where nothing follows */
    nb_attention_rule rule;
    ni_gain q_gain; /* sphere: s_qk; what it multiplies is q of length 1 after RoPE */
} ni_attention_layer;

static void *create(const nb_model_config *config) {
    ni_attention_layer *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->hidden = config->hidden;
    a->heads = config->heads;
    a->kv_heads = config->kv_heads;
    a->head_dim = config->head_dim;
    a->rope =
        (ni_rope){config->rope_theta, config->rope_factor, config->rope_low, config->rope_high, config->rope_original};
    a->norm_eps = config->norm_eps;
    a->qk_norm = ni_family_find(config->family)->qk_norm;
    a->sphere = ni_family_find(config->family)->sphere;
    a->fine = a->sphere && config->fine;
    return a;
}

static nb_status declare_factors(ni_attention_layer *a, ni_builder *builder, nb_error *err) {
    nb_param *list = builder->model->params.list;
    list[a->q_param].unit = list[a->k_param].unit = list[a->v_param].unit = NB_UNIT_ROWS;
    list[a->o_param].unit = NB_UNIT_COLUMNS;
    return ni_gain_declare(builder, "self_attn", "s_qk", a->heads * a->head_dim, 1 / sqrt((double)a->hidden), 1, 2,
                           &a->q_gain, err);
}

static nb_status declare(void *layer, ni_builder *builder, nb_error *err) {
    ni_attention_layer *a = layer;
    int64_t q = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim;
    NB_TRY(ni_declare(builder, "self_attn.q_proj", "weight", q, a->hidden, &a->q_param, err));
    NB_TRY(ni_declare(builder, "self_attn.k_proj", "weight", kv, a->hidden, &a->k_param, err));
    NB_TRY(ni_declare(builder, "self_attn.v_proj", "weight", kv, a->hidden, &a->v_param, err));
    NB_TRY(ni_declare(builder, "self_attn.o_proj", "weight", a->hidden, q, &a->o_param, err));
    if (a->sphere)
        return declare_factors(a, builder, err);
    if (a->qk_norm == NI_QK_NORM_NONE)
        return NB_OK;
    bool whole = a->qk_norm == NI_QK_NORM_WHOLE;
    NB_TRY(ni_declare_norm(builder, "self_attn.q_norm", whole ? q : a->head_dim, &a->q_norm, err));
    return ni_declare_norm(builder, "self_attn.k_norm", whole ? kv : a->head_dim, &a->k_norm, err);
}

static nb_status build(void *layer, ni_builder *builder, nb_error *err) {
    ni_attention_layer *a = layer;
    const ni_projection in[] = {
        {"self_attn.q_proj", a->q_param}, {"self_attn.k_proj", a->k_param}, {"self_attn.v_proj", a->v_param}};
    const ni_projection out[] = {{"self_attn.o_proj", a->o_param}};
    int64_t rows = builder->model->max_rows;
    a->rule = builder->recipe->attention;
    ni_module_name(builder, "self_attn", a->name);
    if (a->qk_norm != NI_QK_NORM_NONE) {
        ni_build_norm(builder, &a->q_norm);
        ni_build_norm(builder, &a->k_norm);
    }
    if (a->sphere)
        ni_gain_build(builder, &a->q_gain);
    NB_TRY(ni_build_group(builder, "self_attn.input", in, 3, rows, &a->in, err));
    return ni_build_group(builder, "self_attn.output", out, 1, rows, &a->out, err);
}

static void place(void *layer, const ni_builder *builder, ni_arena *saved, ni_arena *working) {
    ni_attention_layer *a = layer;
    size_t q = ni_act_bytes(builder, a->heads * a->head_dim), kv = ni_act_bytes(builder, a->kv_heads * a->head_dim);
    bool normed = a->qk_norm != NI_QK_NORM_NONE, whole = a->qk_norm == NI_QK_NORM_WHOLE;
    const bool through = normed || a->sphere; /* dq and dk are not what RoPE leaves */
    a->q = ni_arena_take(saved, q);
    a->k = ni_arena_take(saved, kv);
    a->v = ni_arena_take(saved, kv);
    a->o = ni_arena_take(saved, q);
    a->o_amaxes = ni_amax_words(builder, ni_linear_group_wants(a->out, false));
    a->lse = ni_arena_take(saved, ni_real_bytes(builder, a->heads));
    if (normed) {
        a->q_raw = ni_arena_take(saved, q);
        a->k_raw = ni_arena_take(saved, kv);
        a->q_rstd = ni_arena_take(saved, ni_real_bytes(builder, whole ? 1 : a->heads));
        a->k_rstd = ni_arena_take(saved, ni_real_bytes(builder, whole ? 1 : a->kv_heads));
    }
    if (a->sphere) {
        ni_unit_place(builder, &a->q_unit, a->heads * a->head_dim, a->head_dim, saved);
        ni_unit_place(builder, &a->k_unit, a->kv_heads * a->head_dim, a->head_dim, saved);
        a->q_gain.raw = ni_arena_take(saved, q);
    }
    if (a->fine) {
        ni_unit_place(builder, &a->o_unit, a->heads * a->head_dim, a->heads * a->head_dim, saved);
        a->o_long = a->o_unit.raw;
    } else {
        a->o_long = a->o;
    }
    if (!builder->model->training)
        return;
    a->dq = ni_arena_take(working, q);
    a->dk = ni_arena_take(working, kv);
    a->dv = ni_arena_take(working, kv);
    const ni_wanted_amaxes of_slopes = ni_linear_group_wants(a->in, true);
    a->dq_amaxes = ni_amax_words(builder, through ? (ni_wanted_amaxes){false, false} : of_slopes);
    a->dk_amaxes = ni_amax_words(builder, through ? (ni_wanted_amaxes){false, false} : of_slopes);
    a->dv_amaxes = ni_amax_words(builder, of_slopes);
    a->do_ = ni_arena_take(working, q);
    if (through) {
        a->dq_raw = ni_arena_take(working, q);
        a->dk_raw = ni_arena_take(working, kv);
    }
    a->do_long = a->fine ? ni_arena_take(working, q) : a->do_;
}

static ni_wanted_amaxes wants(const void *layer, bool gradients) {
    const ni_attention_layer *a = layer;
    return ni_linear_group_wants(gradients ? a->out : a->in, gradients);
}

/* A product of two vectors of length 1 is at most 1, of two with coordinates of size 1 about sqrt(head_dim). */
static double logit_scale(const ni_attention_layer *a) {
    return a->sphere ? sqrt((double)a->head_dim) : 1.0 / sqrt((double)a->head_dim);
}

static nb_attention shape(const ni_attention_layer *a, const ni_run *run) {
    nb_attention s = {.batch = run->batch,
                      .seq = run->seq,
                      .heads = a->heads,
                      .kv_heads = a->kv_heads,
                      .head_dim = a->head_dim,
                      .scale = logit_scale(a),
                      .doc_start = run->doc_start,
                      .doc_end = run->doc_end,
                      .documents = run->documents,
                      .o_amax = a->fine ? NULL : a->o_amaxes.plain,
                      .o_turned_amax = a->fine ? NULL : a->o_amaxes.turned,
                      .dv_amax = a->dv_amaxes.plain,
                      .dv_turned_amax = a->dv_amaxes.turned,
                      .rule = a->rule};
    return s;
}

/* Rows of a norm on a projection of so many heads. */
static int64_t norm_rows(const ni_attention_layer *a, const ni_run *run, int64_t heads) {
    return a->qk_norm == NI_QK_NORM_WHOLE ? run->rows : run->rows * heads;
}

/* Where this pass puts q, k, v and o. */
typedef struct places {
    void *q, *k, *v, *o;
} places;

/* The token at hand stands behind those that are kept. */
static places places_of(const ni_attention_layer *a, const ni_run *run) {
    const int64_t q_cols = a->heads * a->head_dim, kv_cols = a->kv_heads * a->head_dim;
    if (run->kept < 0)
        return (places){a->q, a->k, a->v, a->o_long};
    return (places){ni_act_row(run, a->q, run->kept, q_cols), ni_act_row(run, a->kept_k, run->kept, kv_cols),
                    ni_act_row(run, a->kept_v, run->kept, kv_cols), ni_act_row(run, a->o_long, run->kept, q_cols)};
}

/* Of all kept tokens the last one's query alone is of interest. The others look at themselves, where the backend can
 * have it so, or at what their rows of q hold: their outputs are read by nobody. */
static nb_status attend_to_kept(ni_attention_layer *a, const ni_run *run, nb_error *err) {
    nb_attention s = shape(a, run);
    s.seq = run->kept + 1;
    s.doc_start = run->kept_start;
    s.doc_end = NULL;
    s.documents = 0;
    s.o_amax = s.o_turned_amax = NULL; /* they would be those of all rows */
    return run->be->ops->attention_forward(run->be, &s, a->o_long, a->lse, a->q, a->kept_k, a->kept_v, err);
}

static nb_status forward(void *layer, const ni_run *run, const nb_mat *x, const nb_mat *y, nb_error *err) {
    ni_attention_layer *a = layer;
    nb_backend *be = run->be;
    int64_t q_cols = a->heads * a->head_dim, kv_cols = a->kv_heads * a->head_dim;
    bool normed = a->qk_norm != NI_QK_NORM_NONE;
    const places at = places_of(a, run);
    nb_mat qkv[] = {ni_act(run,
                           a->sphere ? a->q_unit.raw
                           : normed  ? a->q_raw
                                     : at.q,
                           q_cols),
                    ni_act(run,
                           a->sphere ? a->k_unit.raw
                           : normed  ? a->k_raw
                                     : at.k,
                           kv_cols),
                    ni_act(run, at.v, kv_cols)};
    NB_TRY(ni_run_group_of(run, a->in, run->x_from, x, qkv, err));
    if (normed) {
        ni_norm_forward(be, &a->q_norm, at.q, a->q_rstd, a->q_raw, norm_rows(a, run, a->heads));
        ni_norm_forward(be, &a->k_norm, at.k, a->k_rstd, a->k_raw, norm_rows(a, run, a->kv_heads));
    }
    if (a->sphere) { /* RoPE turns vectors and keeps their lengths; s_qk does not commute with it */
        const nb_mat q = ni_act(run, a->q_gain.raw, q_cols), k = ni_act(run, at.k, kv_cols);
        ni_unit_forward(run, &a->q_unit, &q);
        ni_unit_forward(run, &a->k_unit, &k);
    }
    const nb_mat turned[] = {ni_act(run, a->sphere ? a->q_gain.raw : at.q, q_cols), ni_act(run, at.k, kv_cols)};
    be->ops->rope(be, &turned[0], run->positions, a->heads, &a->rope, false);
    be->ops->rope(be, &turned[1], run->positions, a->kv_heads, &a->rope, false);
    if (a->sphere) {
        const nb_mat q = ni_act(run, at.q, q_cols);
        ni_gain_forward(run, &a->q_gain, &q);
    }
    if (run->kept >= 0) {
        NB_TRY(attend_to_kept(a, run, err));
    } else {
        nb_attention s = shape(a, run);
        if (run->pass->lens && run->pass->lens->attention)
            run->pass->lens->attention(run->pass->lens->context, be, a->name, &s, a->q, a->k);
        NB_TRY(be->ops->attention_forward(be, &s, a->o_long, a->lse, a->q, a->k, a->v, err));
    }
    nb_mat o = ni_act_with(run, a->fine ? a->o : at.o, q_cols, run->kept < 0 ? a->o_amaxes : (ni_amaxes){NULL, NULL});
    if (a->fine) {
        ni_unit of_rows = a->o_unit;
        of_rows.raw = at.o;
        ni_unit_forward(run, &of_rows, &o);
    }
    ni_show_output(run, a->name, "heads", &o);
    return y ? ni_run_group(run, a->out, &o, y, err) : NB_OK;
}

static nb_status backward(void *layer, const ni_run *run, const nb_mat *x, const nb_mat *dy, const nb_mat *dx,
                          nb_error *err) {
    ni_attention_layer *a = layer;
    nb_backend *be = run->be;
    int64_t q_cols = a->heads * a->head_dim, kv_cols = a->kv_heads * a->head_dim;
    bool normed = a->qk_norm != NI_QK_NORM_NONE;
    nb_mat o = ni_act_with(run, a->o, q_cols, a->o_amaxes), do_ = ni_act(run, a->do_, q_cols);
    NB_TRY(ni_linear_group_backward(a->out, run->pass, run->scratch, &o, dy, &do_, err));
    const nb_mat do_long = ni_act(run, a->do_long, q_cols);
    if (a->fine)
        ni_unit_backward(run, &a->o_unit, &do_long, a->do_);
    nb_attention s = shape(a, run);
    NB_TRY(
        be->ops->attention_backward(be, &s, a->dq, a->dk, a->dv, a->do_long, a->o_long, a->lse, a->q, a->k, a->v, err));
    if (a->sphere) {
        const nb_mat dq = ni_act(run, a->dq, q_cols);
        ni_gain_backward(run, &a->q_gain, &dq, a->dq);
    }
    const bool through = normed || a->sphere;
    const nb_mat turned[] = {ni_act_with(run, a->dq, q_cols, a->dq_amaxes),
                             ni_act_with(run, a->dk, kv_cols, a->dk_amaxes),
                             ni_act_with(run, a->dv, kv_cols, a->dv_amaxes)};
    const ni_producer back = {.kind = NI_PRODUCER_TURNED_BACK,
                              .positions = run->positions,
                              .rope = &a->rope,
                              .heads = {a->heads, a->kv_heads}};
    if (!through)
        return ni_linear_group_backward_of(a->in, run->pass, run->scratch, &back, x, turned, dx, err);
    be->ops->rope(be, &turned[0], run->positions, a->heads, &a->rope, true);
    be->ops->rope(be, &turned[1], run->positions, a->kv_heads, &a->rope, true);
    if (normed) {
        const nb_mat dq = nb_mat_of(a->dq_raw, be->act, norm_rows(a, run, a->heads), a->q_norm.dim);
        const nb_mat dk = nb_mat_of(a->dk_raw, be->act, norm_rows(a, run, a->kv_heads), a->k_norm.dim);
        ni_norm_backward(be, &a->q_norm, &dq, a->dq, a->q_raw, a->q_rstd);
        ni_norm_backward(be, &a->k_norm, &dk, a->dk, a->k_raw, a->k_rstd);
    }
    if (a->sphere) {
        const nb_mat dq = ni_act(run, a->dq_raw, q_cols), dk = ni_act(run, a->dk_raw, kv_cols);
        ni_unit_backward(run, &a->q_unit, &dq, a->dq);
        ni_unit_backward(run, &a->k_unit, &dk, a->dk);
    }
    const nb_mat dqkv[] = {ni_act(run, a->dq_raw, q_cols), ni_act(run, a->dk_raw, kv_cols), turned[2]};
    return ni_linear_group_backward(a->in, run->pass, run->scratch, x, dqkv, dx, err);
}

/* q k^T and p v: 2 * 2 * heads * head_dim FLOPs for each key that a query sees, (seq + 1) / 2 on average, counted
 * three times for forward and backward. Recomputation in the backward pass is not counted. */
static double flops(const void *layer, int64_t seq) {
    const ni_attention_layer *a = layer;
    return 3.0 * 4.0 * (double)(a->heads * a->head_dim) * 0.5 * (double)(seq + 1);
}

static void census(const void *layer, const nb_model *model, nb_census_row *row) {
    const ni_attention_layer *a = layer;
    const nb_attention s = {.batch = model->max_batch,
                            .seq = model->max_seq,
                            .heads = a->heads,
                            .kv_heads = a->kv_heads,
                            .head_dim = a->head_dim,
                            .scale = logit_scale(a),
                            .rule = a->rule};
    snprintf(row->module, sizeof row->module, "%s", a->name);
    snprintf(row->formats, sizeof row->formats, "bf16, %lld heads of %lld, %lld of keys", (long long)a->heads,
             (long long)a->head_dim, (long long)a->kv_heads);
    row->gemm = "attn";
    row->kernel = model->be->ops->attention_kernel(model->be, &s, &row->reason);
}

static size_t keep(void *layer, nb_backend *be, int64_t rows, void *memory) {
    ni_attention_layer *a = layer;
    const size_t bytes = ni_arena_round((size_t)(rows * a->kv_heads * a->head_dim) * nb_dtype_size(be->act));
    if (memory) {
        a->kept_k = memory;
        a->kept_v = (uint8_t *)memory + bytes;
    }
    return 2 * bytes;
}

const ni_layer_kind ni_attention_kind = {create,   declare, build,  place, wants, forward,
                                         backward, flops,   census, keep,  NULL};
