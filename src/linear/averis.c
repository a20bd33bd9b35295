/* averis.c: mean-residual splitting (arXiv:2603.10444). What the tokens of a micro-batch have in common is taken off X
 * and dY before they are quantized, and put back into the products (1: a column of ones, mu and nu: the means):
 *
 *     X = 1 mu^T + R,  dY = 1 nu^T + G
 *     Y  = Q(R) Wq^T + 1 (Q(mu) Wq^T)          dX = Q(G) Wq + 1 (Q(nu) Wq)
 *     dW = (Q(G) + 1 Q(nu))^T (Q(R) + 1 Q(mu)) = Q(G)^T Q(R) + (g + M Q(nu)) Q(mu)^T + Q(nu) r^T
 *
 * with g and r the sums of the decoded Q(G) and Q(R) over the M tokens: 0 but for what rounding leaves of them, as the
 * residuals' own sums are. Where wgrad's operands are rotated along the tokens, so is its column of ones.
 *
 * What is put back is a term of the product, a vector or two times a vector in FP32 (ni_outer): rounded with the rest.
 */
#include "backend/table.h"
#include "linear/linear.h"
#include "recipe/mechanism.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- keys ---- */

static const ni_word averis_means[] = {
    {"coded", NB_AVERIS_CODED, "by the quantizer of fprop.x and of dgrad.dy, under scales of their own"},
    {"bf16", NB_AVERIS_BF16, "in BF16, as is the weight that it meets"},
    {0}};
static const ni_key averis_rows[] = {
    {.path = "x",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_averis, x),
     .fallback = "true",
     .help = "split X",
     .source = "arXiv:2603.10444 section 5"},
    {.path = "dy",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_averis, dy),
     .fallback = "true",
     .help = "split dY",
     .source = "arXiv:2603.10444 section 5"},
    {.path = "mean",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_averis, mean),
     .fallback = "coded",
     .words = averis_means,
     .help = "how means are rounded before they are multiplied",
     .source = "arXiv:2603.10444 section 5, eq. 11"},
    {.path = "cross",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_averis, cross),
     .fallback = "true",
     .help = "wgrad multiplies means by residuals too, whose sums over the tokens are 0 but for rounding",
     .source = "arXiv:2603.10444 section 5, eq. 12"},
};

const ni_mechanism_section ni_averis_section = {
    .keys = {.name = "averis", .rows = averis_rows, .count = NI_COUNT(averis_rows), .size = sizeof(nb_averis)},
};

/* ---- state ---- */

typedef struct averis_layer {
    nb_mat nu;                     /* act [1, N]: of the backward pass at hand */
    ni_outer outer[NI_GEMM_COUNT]; /* of the products at hand */
} averis_layer;

typedef struct averis {
    ni_linear_group *group;
    nb_averis how;
    nb_mat mu; /* act [1, K]: of the micro-batch at hand */
    bool mu_fresh;
    float *ones; /* [max_rows] */
    void *memory;
    size_t bytes;
    averis_layer layers[NI_GROUP_LAYERS];
} averis;

static bool averis_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_averis;
}

/* Codes that were made of rotated channels cannot be told apart into means and residuals; scales that are folded into
 * the other operand would have to be folded into its mean. */
static nb_status check_rules(const ni_linear *layer, nb_error *err) {
    const nb_averis *how = &layer->plan.mechanisms.averis;
    const nb_operand_rule *roles = layer->plan.roles;
    static const nb_role split[2] = {NB_FPROP_X, NB_DGRAD_DY}, again[2] = {NB_WGRAD_X, NB_WGRAD_DY};
    for (int i = 0; i < 2; i++)
        if ((i ? how->dy : how->x) && roles[split[i]].quantizer.hadamard_size &&
            (how->mean == NB_AVERIS_CODED || roles[again[i]].from))
            return nb_fail(
                err, NB_BAD_CONFIG,
                "%s: averis splits %s, which is rotated; expected a rotation in wgrad alone, or `mean: bf16` "
                "and %s from numbers",
                layer->name, nb_role_name(split[i]), nb_role_name(again[i]));
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
        if (roles[role].via == NB_VIA_FOLD)
            return nb_fail(err, NB_BAD_CONFIG, "%s: averis needs %s with its scales; expected `via: bf16`", layer->name,
                           nb_role_name(role));
    return NB_OK;
}

static size_t rounded(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static nb_status place_state(averis *a, nb_error *err) {
    nb_backend *be = a->group->be;
    const size_t mean = rounded(nb_dtype_size(be->act) * (size_t)a->group->in);
    const int64_t rows = a->group->max_rows;
    float *ones = malloc(sizeof *ones * (size_t)rows);
    a->bytes = mean + sizeof *ones * (size_t)rows;
    a->memory = ones ? be->ops->alloc(be, a->bytes, "means") : NULL;
    if (!a->memory) {
        free(ones);
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for %zu bytes of means", a->group->input, a->bytes);
    }
    for (int64_t i = 0; i < rows; i++)
        ones[i] = 1;
    a->mu = nb_mat_of(a->memory, be->act, 1, a->group->in);
    a->ones = (float *)(void *)((char *)a->memory + mean);
    be->ops->upload(be, a->ones, ones, sizeof *ones * (size_t)rows);
    free(ones);
    return NB_OK;
}

static void averis_detach(void *state) {
    averis *a = state;
    nb_backend_release(a->group->be, a->memory);
    free(a);
}

static nb_status averis_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    if (!group->be->ops->column_means || !group->be->ops->subtract_row)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s splits no means off", group->input, group->be->name);
    averis *a = calloc(1, sizeof *a);
    if (!a)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for averis", group->input);
    *state = a;
    a->group = group;
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1) {
            NB_TRY(check_rules(&group->layers[i], err));
            a->how = group->layers[i].plan.mechanisms.averis; /* one recipe: the same for all of the group */
        }
    return place_state(a, err);
}

/* ---- splitting ---- */

static nb_status averis_observe(void *state, const ni_linear_call *call, nb_error *err) {
    (void)call, (void)err;
    ((averis *)state)->mu_fresh = false;
    return NB_OK;
}

static const nb_mat *mean_of_x(averis *a, const ni_linear_call *call) {
    if (!a->mu_fresh)
        call->be->ops->column_means(call->be, &a->mu, call->x);
    a->mu_fresh = !call->measuring;
    return &a->mu;
}

static nb_status mean_of_dy(averis *a, const ni_linear_call *call, const ni_linear *layer, nb_error *err) {
    nb_mat *nu = &a->layers[layer->index].nu;
    *nu = nb_mat_of(NULL, call->be->act, 1, layer->out);
    NB_TRY(ni_scratch_place_kept(call->scratch, nb_dtype_size(nu->dtype) * (size_t)layer->out, "the mean of dY",
                                 &nu->data, err));
    call->be->ops->column_means(call->be, nu, &call->dy[layer->index]);
    return NB_OK;
}

static nb_status residual(const ni_linear_call *call, const nb_mat *mean, nb_mat *prepared, nb_error *err) {
    nb_mat out = nb_mat_of(NULL, prepared->dtype, prepared->rows, prepared->cols);
    NB_TRY(ni_scratch_place_kept(call->scratch, nb_dtype_size(out.dtype) * (size_t)(out.rows * out.cols), "residuals",
                                 &out.data, err));
    call->be->ops->subtract_row(call->be, &out, prepared, mean);
    *prepared = out;
    return NB_OK;
}

static nb_status averis_prepare_x(void *state, const ni_linear_call *call, nb_mat *prepared, nb_error *err) {
    averis *a = state;
    return a->how.x ? residual(call, mean_of_x(a, call), prepared, err) : NB_OK;
}

static nb_status averis_prepare_dy(void *state, const ni_linear_call *call, ni_linear *layer, nb_mat *prepared,
                                   nb_error *err) {
    averis *a = state;
    return a->how.dy ? residual(call, &a->layers[layer->index].nu, prepared, err) : NB_OK;
}

/* ---- means as operands ---- */

static nb_status place_vector(const ni_linear_call *call, int64_t n, bool until_pass_ends, float **out, nb_error *err) {
    const size_t bytes = sizeof(float) * (size_t)n;
    void *memory;
    NB_TRY(until_pass_ends ? ni_scratch_place_kept(call->scratch, bytes, "a mean's product", &memory, err)
                           : ni_scratch_place(call->scratch, bytes, "a mean's product", &memory, err));
    *out = memory;
    return NB_OK;
}

static nb_operand plain(const nb_mat *numbers, ni_side side) {
    return (nb_operand){.quantizer = nb_quantizer_bf16(),
                        .other = nb_quantizer_bf16(),
                        .rows = numbers->rows,
                        .cols = numbers->cols,
                        .side = side,
                        .numbers = *numbers};
}

static const nb_mat *mean_of(averis *a, const ni_linear_call *call, const ni_linear *layer, nb_role role) {
    return role == NB_FPROP_X ? mean_of_x(a, call) : &a->layers[layer->index].nu;
}

/* The mean of X (role fprop.x) or of dY (dgrad.dy) as it is multiplied. One row: a tile of 16x16 has no others. */
static nb_status mean_operand(averis *a, const ni_linear_call *call, const ni_linear *layer, nb_role role,
                              nb_operand *out, nb_error *err) {
    const nb_mat *mean = mean_of(a, call, layer, role);
    const ni_operand_name *name = &layer->names[role];
    nb_quantizer q = ni_operand_quantizer(layer, role), other = ni_operand_quantizer(layer, (nb_role)(role + 1));
    *out = plain(mean, NI_LEFT);
    if (a->how.mean == NB_AVERIS_BF16 || nb_quantizer_is_bf16(&q))
        return NB_OK;
    q.block_rows = q.block_rows == NB_BLOCK_ALL ? NB_BLOCK_ALL : 1;
    const ni_operand_request request = {
        .quantizer = &q, .other = &other, .rows = 1, .cols = mean->cols, .side = NI_LEFT};
    nb_noise noise = ni_noise_of(call->pass, name);
    noise.tensor = nb_name_hash(name->module, role == NB_FPROP_X ? "averis.x" : "averis.dy");
    NB_TRY(ni_operand_place(call, &request, out, err));
    const ni_source source = {.numbers = mean};
    return call->be->ops->make_operands(call->be, &source, &(ni_making){.out = out, .noise = &noise}, 1, err);
}

/* The same in FP32, [1, n]. */
static nb_status mean_numbers(averis *a, const ni_linear_call *call, const ni_linear *layer, nb_role role,
                              const float **out, nb_error *err) {
    nb_operand operand;
    float *to;
    NB_TRY(place_vector(call, role == NB_FPROP_X ? layer->in : layer->out, false, &to, err));
    NB_TRY(mean_operand(a, call, layer, role, &operand, err));
    const nb_mat numbers = nb_mat_of(to, NB_F32, operand.rows, operand.cols);
    *out = to;
    return call->be->ops->decode(call->be, &numbers, &operand, false, NULL, true, err);
}

/* ---- fprop and dgrad: 1 (mean W) ---- */

/* W as fprop or dgrad multiplies it, or in BF16 where the mean is. */
static nb_status weight_operand(const averis *a, const ni_linear_call *call, ni_linear *layer, nb_role role,
                                nb_operand *plain_w, const nb_operand **out, nb_error *err) {
    nb_mat numbers;
    if (a->how.mean == NB_AVERIS_CODED)
        return ni_operand_ready(call, layer, role, out, err);
    NB_TRY(ni_weight_numbers(call, layer, false, &numbers, err));
    *plain_w = plain(&numbers, NI_RIGHT);
    if (role == NB_DGRAD_W) {
        plain_w->transposed = true;
        plain_w->rows = numbers.cols;
        plain_w->cols = numbers.rows;
    }
    *out = plain_w;
    return NB_OK;
}

static nb_status add_mean_term(averis *a, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                               nb_error *err) {
    const nb_role role = (nb_role)(2 * gemm);
    const int64_t n = gemm == NI_GEMM_FPROP ? layer->out : layer->in;
    ni_outer *outer = &a->layers[layer->index].outer[gemm];
    nb_operand mean, plain_w;
    const nb_operand *w;
    float *product;
    NB_TRY(place_vector(call, n, gemm == NI_GEMM_DGRAD, &product, err));
    NB_TRY(weight_operand(a, call, layer, (nb_role)(role + 1), &plain_w, &w, err));
    NB_TRY(mean_operand(a, call, layer, role, &mean, err));
    const nb_mat row = nb_mat_of(product, NB_F32, 1, n);
    NB_TRY(call->be->ops->multiply(call->be, &row, &(ni_term){.a = &mean, .b = w}, 1, false, err));
    *outer = (ni_outer){.count = 1, .right = {product}};
    return ni_add_term(terms, &(ni_term){.outer = outer}, err);
}

/* ---- wgrad ---- */

/* A column of ones as it stands beside operands of wgrad: [1, M] plain numbers. */
static nb_status ones_operand(const averis *a, const ni_linear_call *call, const ni_linear *layer, ni_side side,
                              nb_operand *out, nb_error *err) {
    nb_backend *be = call->be;
    const nb_role role = side == NI_LEFT ? NB_WGRAD_X : NB_WGRAD_DY; /* that it meets */
    const nb_quantizer q = ni_operand_quantizer(layer, role);
    const int64_t m = call->x->rows;
    const float *ones = a->ones;
    nb_mat numbers = nb_mat_of(NULL, be->act, 1, m);
    if (q.hadamard_size) {
        const nb_noise noise = ni_noise_of(call->pass, &layer->names[role]);
        float *turned;
        NB_TRY(place_vector(call, m, false, &turned, err));
        be->ops->copy(be, turned, ones, sizeof(float) * (size_t)m);
        const nb_mat column = nb_mat_of(turned, NB_F32, m, 1);
        be->ops->rotate_rows(be, &column, q.hadamard_size, q.hadamard_signs, &noise);
        ones = turned;
    }
    NB_TRY(ni_scratch_place(call->scratch, nb_dtype_size(be->act) * (size_t)m, "ones", &numbers.data, err));
    be->ops->cast(be, numbers.data, be->act, ones, NB_F32, m); /* exact, but for the root of 32 or 128 */
    *out = plain(&numbers, side);
    return NB_OK;
}

/* What an operand's codes stand for, as numbers that lose nothing in BF16: a scale of the whole tensor stays outside.
 */
static nb_status bare_numbers(const ni_linear_call *call, const nb_operand *from, nb_operand *out, nb_error *err) {
    *out = *from;
    if (nb_quantizer_is_bf16(&from->quantizer))
        return NB_OK;
    nb_mat numbers = nb_mat_of(NULL, call->be->act, from->rows, from->cols);
    NB_TRY(ni_scratch_place(call->scratch, nb_dtype_size(numbers.dtype) * (size_t)(from->rows * from->cols),
                            "an operand's numbers", &numbers.data, err));
    NB_TRY(call->be->ops->decode(call->be, &numbers, from, false, NULL, from->outer == NULL, err));
    *out = plain(&numbers, from->side);
    out->factor = from->outer;
    return NB_OK;
}

/* Both operands, each beside the one that is made in the same reading of its matrix. */
static nb_status wgrad_operands(const ni_linear_call *call, ni_linear *layer, const nb_operand **dy,
                                const nb_operand **x, nb_error *err) {
    ni_cached_operand *of_dy[2] = {layer->operands[NB_DGRAD_DY], layer->operands[NB_WGRAD_DY]};
    NB_TRY(ni_operands_ready(call, of_dy, 2, NULL, err));
    *dy = &of_dy[1]->operand;
    return ni_operand_ready(call, layer, NB_WGRAD_X, x, err);
}

/* g + M nu, [N] */
static nb_status sum_of_dy(averis *a, const ni_linear_call *call, const ni_linear *layer, const nb_operand *dy,
                           const float *nu, const float **out, nb_error *err) {
    nb_backend *be = call->be;
    nb_operand ones, numbers;
    float *sum;
    NB_TRY(place_vector(call, layer->out, false, &sum, err));
    const nb_mat column = nb_mat_of(sum, NB_F32, layer->out, 1);
    *out = sum;
    if (a->how.cross || !nu) {
        const size_t mark = call->scratch->used;
        NB_TRY(ones_operand(a, call, layer, NI_RIGHT, &ones, err));
        NB_TRY(bare_numbers(call, dy, &numbers, err));
        NB_TRY(be->ops->multiply(be, &column, &(ni_term){.a = &numbers, .b = &ones}, 1, false, err));
        call->scratch->used = mark;
    } else {
        be->ops->fill_zero(be, sum, sizeof(float) * (size_t)layer->out);
    }
    if (nu)
        be->ops->axpy(be, sum, (double)call->x->rows, nu, layer->out);
    return NB_OK;
}

/* r, [K] */
static nb_status sum_of_x(averis *a, const ni_linear_call *call, const ni_linear *layer, const nb_operand *x,
                          const float **out, nb_error *err) {
    nb_operand ones, numbers;
    float *sum;
    NB_TRY(place_vector(call, layer->in, false, &sum, err));
    const nb_mat row = nb_mat_of(sum, NB_F32, 1, layer->in);
    const size_t mark = call->scratch->used;
    *out = sum;
    NB_TRY(ones_operand(a, call, layer, NI_LEFT, &ones, err));
    NB_TRY(bare_numbers(call, x, &numbers, err));
    NB_TRY(call->be->ops->multiply(call->be, &row, &(ni_term){.a = &ones, .b = &numbers}, 1, false, err));
    call->scratch->used = mark;
    return NB_OK;
}

static nb_status wgrad_terms(averis *a, const ni_linear_call *call, ni_linear *layer, ni_terms *terms, nb_error *err) {
    ni_outer *outer = &a->layers[layer->index].outer[NI_GEMM_WGRAD];
    const nb_operand *dy, *x;
    const float *mu = NULL, *nu = NULL;
    *outer = (ni_outer){.count = 0};
    NB_TRY(wgrad_operands(call, layer, &dy, &x, err));
    if (a->how.x)
        NB_TRY(mean_numbers(a, call, layer, NB_FPROP_X, &mu, err));
    if (a->how.dy)
        NB_TRY(mean_numbers(a, call, layer, NB_DGRAD_DY, &nu, err));
    if (mu) {
        outer->right[outer->count] = mu;
        NB_TRY(sum_of_dy(a, call, layer, dy, nu, &outer->left[outer->count++], err));
    }
    if (nu && (a->how.cross || !mu)) {
        outer->left[outer->count] = nu;
        NB_TRY(sum_of_x(a, call, layer, x, &outer->right[outer->count++], err));
    }
    return ni_add_term(terms, &(ni_term){.outer = outer}, err);
}

static nb_status averis_terms(void *state, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                              nb_error *err) {
    averis *a = state;
    if (!a->how.x && !a->how.dy)
        return NB_OK;
    if (gemm == NI_GEMM_DGRAD && a->how.dy)
        NB_TRY(mean_of_dy(a, call, layer, err));
    if (gemm == NI_GEMM_WGRAD)
        return wgrad_terms(a, call, layer, terms, err);
    return (gemm == NI_GEMM_FPROP ? a->how.x : a->how.dy) ? add_mean_term(a, call, layer, gemm, terms, err) : NB_OK;
}

/* ---- what it says of itself ---- */

static size_t averis_bytes(const void *state) {
    return ((const averis *)state)->bytes;
}

static void averis_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    const averis *a = state;
    const bool x = a->how.x && gemm != NI_GEMM_DGRAD, dy = a->how.dy && gemm != NI_GEMM_FPROP;
    (void)layer;
    if (x || dy)
        snprintf(text, size, "+ mean of %s%s%s in %s", x ? "x" : "", x && dy ? " and " : "", dy ? "dy" : "",
                 a->how.mean == NB_AVERIS_CODED ? "codes" : "bf16");
}

const ni_mechanism ni_mechanism_averis = {
    .name = "averis",
    .rereads = 1U << NB_WGRAD_DY | 1U << NB_WGRAD_X, /* they are decoded for their sums */
    .splits = true,
    .wanted = averis_wanted,
    .attach = averis_attach,
    .detach = averis_detach,
    .observe = averis_observe,
    .prepare_x = averis_prepare_x,
    .prepare_dy = averis_prepare_dy,
    .terms = averis_terms,
    .bytes = averis_bytes,
    .text = averis_text,
};
