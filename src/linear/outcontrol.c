/* outcontrol.c: OutControl (arXiv:2510.27527; facts from the authors' code): the input channels of largest norm leave
 * FP4.
 *
 * For some steps the L2 norm of every channel of X is summed over the micro-batches; then the channels are ranked and,
 * for good, the first k8 run in MXFP8 and the others in the recipe's format (K = K4 u K8, channels in order of their
 * norms): Y       = Q(X4) Q(W4)^T + F(X8) F(W8)^T          F: MXFP8, 1x32, scales rounded up, nearest, never rotated dX
 * = Q(dY) Q(Wd)^T                          Wd: both parts decoded, in the order of the channels; all FP4 dW[K4]  =
 * Q(dY^T) Q(Xd4^T)^T dW[K8]  = F(dY^T) F(Xd8^T)^T Until then the layer runs as the recipe says. The second product is
 * added in FP32 and rounded once with the first; the released kernels round it to BF16 on its own.
 */
#include "backend/table.h"
#include "linear/linear.h"

#include <stdio.h>
#include <stdlib.h>

static const nb_quantizer mxfp8 = {.element = NB_ELEMENT_E4M3,
                                   .scale_type = NB_SCALE_E8M0,
                                   .rule = NB_RULE_CEIL,
                                   .block_rows = 1,
                                   .block_cols = 32,
                                   .round = NB_ROUND_EVEN};

/* The two parts of a matrix whose columns are split. */
enum { FP8, FP4, PARTS };

typedef struct outcontrol {
    nb_linear_group *group;
    int32_t index;
    nb_outcontrol how;
    int64_t channels[PARTS]; /* k8, k4 */
    float *norms;            /* F32 [K], summed so far */
    int32_t *order;          /* [K]: the FP8 channels, then the others; descending norms */
    int64_t chosen;          /* 1 once they are; with norms and order kept in checkpoints */
    void *x_memory[PARTS], *w_memory[NB_GROUP_LAYERS][PARTS];
    nb_qtensor x[PARTS], w[NB_GROUP_LAYERS][PARTS]; /* of the forward pass at hand */
    bool x_fresh;
    size_t bytes;
} outcontrol;

static bool out_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_outcontrol && plan->mechanisms.outcontrol.share > 0;
}

/* ---- life ---- */

static void out_detach(void *state) {
    outcontrol *o = state;
    nb_backend *be = o->group->be;
    be->ops->release(be, o->norms);
    be->ops->release(be, o->order);
    for (int part = 0; part < PARTS; part++) {
        be->ops->release(be, o->x_memory[part]);
        for (int32_t i = 0; i < o->group->count; i++)
            be->ops->release(be, o->w_memory[i][part]);
    }
    free(o);
}

static nb_status place(outcontrol *o, size_t bytes, void **memory, nb_error *err) {
    if (bytes == 0)
        return NB_OK;
    *memory = o->group->be->ops->alloc(o->group->be, bytes, "operands and channels of outcontrol");
    o->bytes += bytes;
    return *memory ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory for outcontrol", o->group->input);
}

static const nb_quantizer *quantizer_of(const nb_linear *layer, nb_role role, int part) {
    return part == FP8 ? &mxfp8 : &layer->plan.roles[role].quantizer;
}

static nb_status place_layer(outcontrol *o, int32_t i, nb_error *err) {
    const nb_linear *layer = &o->group->layers[i];
    const nb_quantizer *x = &layer->plan.roles[NB_FPROP_X].quantizer;
    if (nb_quantizer_is_bf16(x) || nb_quantizer_is_bf16(&layer->plan.roles[NB_FPROP_W].quantizer))
        return nb_fail(err, NB_BAD_CONFIG, "%s: outcontrol needs fprop.x and fprop.w quantized", layer->name);
    for (int part = 0; part < PARTS; part++) {
        const nb_quantizer *wq = quantizer_of(layer, NB_FPROP_W, part), *xq = quantizer_of(layer, NB_FPROP_X, part);
        int64_t k = o->channels[part];
        if (k == 0)
            continue;
        if (nb_quantizer_check_shape(xq, o->group->max_rows, k, err) != NB_OK ||
            nb_quantizer_check_shape(wq, layer->out, k, err) != NB_OK)
            return nb_fail_within(err,
                                  "%s: outcontrol leaves %lld of %lld channels in FP4 (change its share or multiple)",
                                  layer->name, (long long)o->channels[FP4], (long long)layer->in);
        NB_TRY(place(o, nb_qtensor_bytes(wq, layer->out, k).total, &o->w_memory[i][part], err));
        o->w[i][part] = nb_qtensor_place(wq, layer->out, k, o->w_memory[i][part]);
        if (!o->x_memory[part])
            NB_TRY(place(o, nb_qtensor_bytes(xq, o->group->max_rows, k).total, &o->x_memory[part], err));
    }
    return NB_OK;
}

/* ceil(int(share K) / multiple) multiples, at most as many as fit. */
static int64_t fp8_channels(const nb_outcontrol *how, int64_t in) {
    int64_t wanted = (int64_t)(how->share * (double)in), multiple = how->multiple > 1 ? how->multiple : 1;
    int64_t rounded = (wanted + multiple - 1) / multiple * multiple, most = in / multiple * multiple;
    return rounded < most ? rounded : most;
}

static nb_status out_attach(nb_linear_group *group, int32_t index, void **state, nb_error *err) {
    if (!group->be->ops->gather_columns || group->be->real != NB_F32)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no outcontrol", group->input, group->be->name);
    outcontrol *o = calloc(1, sizeof *o);
    if (!o)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for outcontrol", group->input);
    o->group = group;
    o->index = index;
    *state = o;
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1)
            o->how = group->layers[i].plan.mechanisms.outcontrol;
    o->channels[FP8] = fp8_channels(&o->how, group->in);
    o->channels[FP4] = group->in - o->channels[FP8];
    NB_TRY(place(o, sizeof(float) * (size_t)group->in, (void **)&o->norms, err));
    NB_TRY(place(o, sizeof(int32_t) * (size_t)group->in, (void **)&o->order, err));
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].mechanisms >> index & 1)
            NB_TRY(place_layer(o, i, err));
    return NB_OK;
}

/* Generous: both passes' pieces at their largest, as if none were given back. */
static size_t out_scratch(const void *state, int64_t rows) {
    const outcontrol *o = state;
    size_t m = (size_t)rows, k = (size_t)o->group->in, n = (size_t)nb_group_widest(o->group), slack = 64 * 64;
    size_t forward = 2 * m * k + 4 * m * n + 4 * n * k + 2 * (m + n) * k;
    size_t backward = 3 * 4 * n * k + 4 * m * n + 2 * m * n + 4 * m * k + 2 * (m * n + m * k + n * k);
    return (forward > backward ? forward : backward) + slack;
}

/* ---- choosing the channels ---- */

typedef struct ranked {
    float norm;
    int32_t channel;
} ranked;

static int loudest_first(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->norm != y->norm)
        return x->norm < y->norm ? 1 : -1;
    return x->channel - y->channel; /* ties go to the lower index */
}

static nb_status choose(outcontrol *o, const nb_outcontrol_times *when, nb_error *err) {
    nb_backend *be = o->group->be;
    size_t in = (size_t)o->group->in;
    float *norms = malloc(in * sizeof *norms);
    ranked *ranks = malloc(in * sizeof *ranks);
    int32_t *order = malloc(in * sizeof *order);
    bool good = norms && ranks && order, silent = false;
    if (good) {
        be->ops->download(be, norms, o->norms, in * sizeof *norms);
        for (size_t c = 0; c < in; c++)
            ranks[c] = (ranked){norms[c], (int32_t)c};
        qsort(ranks, in, sizeof *ranks, loudest_first);
        for (size_t c = 0; c < in; c++)
            order[c] = ranks[c].channel;
        be->ops->upload(be, o->order, order, in * sizeof *order);
        silent = ranks[0].norm == 0;
        o->chosen = !silent;
    }
    free(norms);
    free(ranks);
    free(order);
    if (silent)
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: outcontrol chooses its channels by the norms of steps %lld to %lld, and this run saw none "
                       "of them; hint: a later outcontrol.start, or a checkpoint that knows them",
                       o->group->input, (long long)when->start, (long long)when->choice - 1);
    return good ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory to rank its channels", o->group->input);
}

static nb_status out_observe(void *state, const nb_linear_call *call, nb_error *err) {
    outcontrol *o = state;
    nb_outcontrol_times when = nb_outcontrol_when(&o->how, call->pass->steps);
    o->x_fresh = false;
    if (!call->training || o->chosen || call->pass->step < when.start)
        return NB_OK;
    if (call->pass->step >= when.choice)
        return choose(o, &when, err);
    call->be->ops->column_norms(call->be, o->norms, call->x);
    return NB_OK;
}

/* ---- the split ---- */

static const int32_t *columns_of(const outcontrol *o, int part) {
    return part == FP8 ? o->order : o->order + o->channels[FP8];
}

static nb_status take(nb_scratch *scratch, nb_dtype type, int64_t rows, int64_t cols, nb_mat *out, nb_error *err) {
    size_t bytes = nb_dtype_size(type) * (size_t)(rows * cols);
    *out = nb_mat_of(nb_scratch_take(scratch, bytes), type, rows, cols);
    return out->data ? NB_OK : nb_scratch_short(scratch, "a part of the channels", bytes, err);
}

/* Columns of one part, gathered. */
static nb_status gathered(const outcontrol *o, nb_scratch *scratch, const nb_mat *whole, int part, nb_mat *out,
                          nb_error *err) {
    NB_TRY(take(scratch, whole->dtype, whole->rows, o->channels[part], out, err));
    o->group->be->ops->gather_columns(o->group->be, out, whole, columns_of(o, part));
    return NB_OK;
}

/* The lens names channels by their place in X, so it sees X whole and as it came. */
static nb_status split_x(outcontrol *o, const nb_linear_call *call, const nb_linear *layer, nb_error *err) {
    nb_pass unseen = *call->pass;
    unseen.lens = NULL;
    if (o->x_fresh)
        return NB_OK;
    nb_operand_show(call->be, call->pass, &layer->names[NB_FPROP_X], call->x, NULL, false, NULL, NULL);
    for (int part = 0; part < PARTS; part++) {
        size_t mark = call->scratch->used;
        nb_mat x;
        nb_operand operand;
        if (o->channels[part] == 0)
            continue;
        NB_TRY(gathered(o, call->scratch, call->x, part, &x, err));
        NB_TRY(nb_operand_quantize(call->be, &unseen, &layer->names[NB_FPROP_X], quantizer_of(layer, NB_FPROP_X, part),
                                   &x, false, o->x_memory[part], &operand, err));
        o->x[part] = operand.codes;
        call->scratch->used = mark;
    }
    o->x_fresh = true;
    return NB_OK;
}

static nb_status split_w(const outcontrol *o, nb_scratch *scratch, const nb_mat *w, const nb_qtensor *codes,
                         nb_error *err) {
    nb_backend *be = o->group->be;
    for (int part = 0; part < PARTS; part++) {
        size_t mark = scratch->used;
        nb_mat columns;
        if (o->channels[part] == 0)
            continue;
        NB_TRY(gathered(o, scratch, w, part, &columns, err));
        NB_TRY(be->ops->quantize(be, &codes[part], &columns, false, NULL, NULL, err));
        scratch->used = mark;
    }
    return NB_OK;
}

/* Decodes the parts into their columns of `whole` (F32). */
static nb_status join(const outcontrol *o, nb_scratch *scratch, const nb_qtensor *codes, int first, const nb_mat *whole,
                      nb_error *err) {
    nb_backend *be = o->group->be;
    for (int part = first; part < PARTS; part++) {
        size_t mark = scratch->used;
        nb_mat decoded;
        if (o->channels[part] == 0)
            continue;
        NB_TRY(take(scratch, NB_F32, whole->rows, o->channels[part], &decoded, err));
        NB_TRY(be->ops->dequantize(be, &decoded, &codes[part], false, true, err));
        be->ops->scatter_columns(be, whole, &decoded, columns_of(o, part), false);
        scratch->used = mark;
    }
    return NB_OK;
}

/* Of W the lens sees the columns in FP4, whose bins it follows, in the order of their channels' norms. */
static nb_status show_w(const outcontrol *o, const nb_linear_call *call, const nb_linear *layer, const nb_mat *w,
                        nb_error *err) {
    nb_mat columns;
    if (!call->pass->lens || o->channels[FP4] == 0)
        return NB_OK;
    size_t mark = call->scratch->used;
    NB_TRY(gathered(o, call->scratch, w, FP4, &columns, err));
    nb_operand_show(call->be, call->pass, &layer->names[NB_FPROP_W], &columns, NULL, false, &o->w[layer->index][FP4],
                    NULL);
    call->scratch->used = mark;
    return NB_OK;
}

static nb_operand coded(const nb_qtensor *codes) {
    return (nb_operand){.quantized = true, .codes = *codes};
}

/* ---- the three products ---- */

static nb_status out_fprop(void *state, const nb_linear_call *call, nb_linear *layer, const nb_mat *y, bool *done,
                           nb_error *err) {
    outcontrol *o = state;
    nb_backend *be = call->be;
    nb_mat sum, master = nb_mat_of(nb_linear_master(be, layer), NB_F32, layer->out, layer->in);
    if (!o->chosen)
        return NB_OK;
    NB_TRY(split_x(o, call, layer, err));
    NB_TRY(split_w(o, call->scratch, &master, o->w[layer->index], err));
    NB_TRY(show_w(o, call, layer, &master, err));
    NB_TRY(take(call->scratch, be->real, y->rows, y->cols, &sum, err));
    bool any = false;
    for (int part = PARTS; part-- > 0;) {
        nb_operand x = coded(&o->x[part]), w = coded(&o->w[layer->index][part]);
        if (o->channels[part] == 0)
            continue;
        NB_TRY(nb_multiply(be, call->scratch, &sum, &x, &w, any, err));
        any = true;
    }
    be->ops->cast(be, y->data, y->dtype, sum.data, sum.dtype, y->rows * y->cols);
    *done = true;
    return NB_OK;
}

static nb_status out_dgrad(void *state, const nb_linear_call *call, nb_linear *layer, const nb_mat *dy,
                           const nb_mat *dx, bool accumulate, bool *done, nb_error *err) {
    outcontrol *o = state;
    const nb_quantizer *q = &layer->plan.roles[NB_DGRAD_W].quantizer;
    nb_mat decoded;
    nb_operand a, w;
    if (!o->chosen || call->pass->forward_bf16)
        return NB_OK;
    NB_TRY(take(call->scratch, NB_F32, layer->out, layer->in, &decoded, err));
    NB_TRY(join(o, call->scratch, o->w[layer->index], FP8, &decoded, err));
    size_t bytes = nb_quantized_bytes(call->be, q, NB_F32, layer->in, layer->out);
    void *memory = nb_scratch_take(call->scratch, bytes);
    if (!memory)
        return nb_scratch_short(call->scratch, "dgrad.w", bytes, err);
    NB_TRY(nb_operand_quantize(call->be, call->pass, &layer->names[NB_DGRAD_W], q, &decoded, true, memory, &w, err));
    NB_TRY(nb_dgrad_dy(call, layer, dy, &a, err));
    *done = true;
    return nb_multiply(call->be, call->scratch, dx, &a, &w, accumulate, err);
}

/* X of the FP4 part along the tokens: its codes quantized again, or X itself where the recipe says so. */
static nb_status wgrad_x4(outcontrol *o, const nb_linear_call *call, nb_linear *layer, nb_operand *out, nb_error *err) {
    const nb_operand_rule *rule = &layer->plan.roles[NB_WGRAD_X];
    const nb_operand_name *name = &layer->names[NB_WGRAD_X];
    int64_t k = o->channels[FP4], m = call->x->rows;
    size_t bytes = rule->from ? nb_derived_bytes(call->be, rule, layer->packed[NB_GEMM_WGRAD], k, m)
                              : nb_quantized_bytes(call->be, &rule->quantizer, call->be->act, k, m);
    void *memory = bytes ? nb_scratch_take(call->scratch, bytes) : NULL;
    nb_operand forward = coded(&o->x[FP4]);
    nb_mat x;
    if (bytes && !memory)
        return nb_scratch_short(call->scratch, "wgrad.x", bytes, err);
    if (rule->from)
        return nb_operand_derive(call->be, call->pass, name, rule, layer->packed[NB_GEMM_WGRAD], &forward, memory, out,
                                 err);
    NB_TRY(gathered(o, call->scratch, call->x, FP4, &x, err));
    return nb_operand_quantize(call->be, call->pass, name, &rule->quantizer, &x, true, memory, out, err);
}

/* F(dY^T) and F(Xd8^T), 1x32 along the tokens. */
static nb_status wgrad_fp8(outcontrol *o, const nb_linear_call *call, const nb_mat *dy, nb_operand *a, nb_operand *x,
                           nb_error *err) {
    nb_backend *be = call->be;
    size_t dy_bytes = nb_qtensor_bytes(&mxfp8, dy->cols, dy->rows).total,
           x_bytes = nb_qtensor_bytes(&mxfp8, o->channels[FP8], dy->rows).total;
    void *dy_memory = nb_scratch_take(call->scratch, dy_bytes), *x_memory = nb_scratch_take(call->scratch, x_bytes);
    if (!dy_memory || !x_memory)
        return nb_scratch_short(call->scratch, "wgrad in MXFP8", dy_bytes + x_bytes, err);
    nb_qtensor dy_codes = nb_qtensor_place(&mxfp8, dy->cols, dy->rows, dy_memory);
    nb_qtensor x_codes = nb_qtensor_place(&mxfp8, o->channels[FP8], dy->rows, x_memory);
    NB_TRY(be->ops->quantize(be, &dy_codes, dy, true, NULL, NULL, err));
    NB_TRY(be->ops->requantize(be, &x_codes, &o->x[FP8], true, NULL, NULL, err));
    *a = coded(&dy_codes);
    *x = coded(&x_codes);
    return NB_OK;
}

static nb_status out_wgrad(void *state, const nb_linear_call *call, nb_linear *layer, const nb_mat *dy,
                           const nb_mat *dw, bool *done, nb_error *err) {
    outcontrol *o = state;
    if (!o->chosen || call->pass->forward_bf16)
        return NB_OK;
    for (int part = 0; part < PARTS; part++) {
        size_t mark = call->scratch->used;
        nb_operand a, x;
        nb_mat columns;
        if (o->channels[part] == 0)
            continue;
        NB_TRY(take(call->scratch, NB_F32, layer->out, o->channels[part], &columns, err));
        if (part == FP8) {
            NB_TRY(wgrad_fp8(o, call, dy, &a, &x, err));
        } else {
            NB_TRY(nb_wgrad_dy(call, layer, dy, &a, err));
            NB_TRY(wgrad_x4(o, call, layer, &x, err));
        }
        NB_TRY(nb_multiply(call->be, call->scratch, &columns, &a, &x, false, err));
        call->be->ops->scatter_columns(call->be, dw, &columns, columns_of(o, part), true);
        call->scratch->used = mark;
    }
    *done = true;
    return NB_OK;
}

/* For OsciReset: FP4 columns as the forward pass orders them; FP8 columns stand for themselves. */
static nb_status out_decode_w(void *state, nb_linear *layer, nb_scratch *scratch, const nb_pass *pass, const float *w,
                              float *decoded, float *widths, bool *done, nb_error *err) {
    outcontrol *o = state;
    nb_backend *be = o->group->be;
    (void)pass;
    if (!o->chosen)
        return NB_OK;
    size_t bytes = sizeof(float) * (size_t)(layer->out * layer->in), mark = scratch->used;
    nb_mat whole = nb_mat_of(w, NB_F32, layer->out, layer->in), out = whole, columns;
    out.data = decoded;
    NB_TRY(split_w(o, scratch, &whole, o->w[layer->index], err));
    be->ops->copy(be, decoded, w, bytes);
    NB_TRY(join(o, scratch, o->w[layer->index], FP4, &out, err));
    if (widths)
        be->ops->fill_zero(be, widths, bytes);
    if (widths && o->channels[FP4] > 0) {
        nb_mat wide = nb_mat_of(widths, NB_F32, layer->out, layer->in);
        NB_TRY(take(scratch, NB_F32, layer->out, o->channels[FP4], &columns, err));
        be->ops->bin_widths(be, columns.data, &o->w[layer->index][FP4]);
        be->ops->scatter_columns(be, &wide, &columns, columns_of(o, FP4), false);
    }
    scratch->used = mark;
    *done = true;
    return NB_OK;
}

/* ---- checkpoints, census ---- */

static int32_t out_tensors(void *state, nb_mechanism_tensor *tensors, int32_t most) {
    outcontrol *o = state;
    const nb_mechanism_tensor all[] = {
        {-1, "outcontrol.norms", NB_F32, o->group->in, o->norms, false},
        {-1, "outcontrol.order", NB_I32, o->group->in, o->order, false},
        {-1, "outcontrol.chosen", NB_I32, 2, &o->chosen, true},
    };
    for (int32_t i = 0; i < 3 && i < most; i++)
        tensors[i] = all[i];
    return 3;
}

/* Order and count decide addresses: nothing else may stand there. */
static nb_status out_loaded(void *state, nb_error *err) {
    outcontrol *o = state;
    size_t in = (size_t)o->group->in;
    int32_t *order = malloc(in * sizeof *order);
    bool *seen = calloc(in, sizeof *seen), good = order && seen;
    if (good)
        o->group->be->ops->download(o->group->be, order, o->order, in * sizeof *order);
    for (size_t c = 0; good && o->chosen && c < in; c++) {
        good = order[c] >= 0 && (size_t)order[c] < in && !seen[order[c]];
        if (good)
            seen[order[c]] = true;
    }
    bool memory = order && seen;
    free(order);
    free(seen);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to check outcontrol's channels", o->group->input);
    return good ? NB_OK
                : nb_fail(err, NB_BAD_FILE, "%s: outcontrol.order is not an order of its channels", o->group->input);
}

static size_t out_bytes(const void *state) {
    return ((const outcontrol *)state)->bytes;
}

static void out_text(const void *state, const nb_linear *layer, const char *gemm, char *text, size_t size) {
    const outcontrol *o = state;
    (void)layer;
    if (gemm[0] != 'd')
        snprintf(text, size, "outcontrol mxfp8 %lld of %lld%s", (long long)o->channels[FP8], (long long)o->group->in,
                 o->chosen ? "" : " later");
}

const nb_mechanism nb_mechanism_outcontrol = {
    .name = "outcontrol",
    .wanted = out_wanted,
    .attach = out_attach,
    .detach = out_detach,
    .scratch = out_scratch,
    .observe = out_observe,
    .decode_w = out_decode_w,
    .fprop = out_fprop,
    .dgrad = out_dgrad,
    .wgrad = out_wgrad,
    .tensors = out_tensors,
    .loaded = out_loaded,
    .bytes = out_bytes,
    .text = out_text,
};
