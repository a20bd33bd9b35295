/* operand.c: making operands out of numbers and out of other operands, and multiplying two of them. */
#include "linear/operand.h"
#include "backend/table.h"
#include "lens/lens.h"

static nb_noise noise_of(const nb_pass *pass, const nb_operand_name *name) {
    nb_noise noise = {.seed = pass->rounding_seed, .tensor = name->tensor, .signs = name->signs, .clock = pass->clock};
    return noise;
}

void nb_operand_show(nb_backend *be, const nb_pass *pass, const nb_operand_name *name, const nb_mat *source,
                     const nb_qtensor *requantized_from, bool transposed, const nb_qtensor *quantized,
                     const nb_quantize_stats *stats) {
    if (!pass->lens || !pass->lens->operand)
        return;
    const nb_lens_operand seen = {.be = be,
                                  .pass = pass,
                                  .module = name->module,
                                  .role = name->role,
                                  .source = source,
                                  .requantized_from = requantized_from,
                                  .transposed = transposed,
                                  .quantized = quantized,
                                  .stats = stats};
    pass->lens->operand(pass->lens->context, &seen);
}

/* Where the quantizer is to count, if anybody asked. */
static nb_quantize_stats *counted(const nb_pass *pass, nb_quantize_stats *stats) {
    return pass->lens && pass->lens->counts ? stats : NULL;
}

/* ---- quantizing numbers ---- */

nb_status nb_operand_quantize(nb_backend *be, const nb_pass *pass, const nb_operand_name *name, const nb_quantizer *q,
                              const nb_mat *source, bool transpose, void *memory, nb_layer_operand *out,
                              nb_error *err) {
    int64_t rows = transpose ? source->cols : source->rows;
    int64_t cols = transpose ? source->rows : source->cols;
    *out = (nb_layer_operand){.plain = *source, .transposed = transpose};
    if (nb_quantizer_is_bf16(q)) {
        nb_operand_show(be, pass, name, source, NULL, transpose, NULL, NULL);
        if (source->dtype == be->act)
            return NB_OK;
        out->plain = nb_mat_of(memory, be->act, source->rows, source->cols);
        be->ops->cast(be, memory, be->act, source->data, source->dtype, source->rows * source->cols);
        return NB_OK;
    }
    *out = (nb_layer_operand){.quantized = true, .codes = nb_qtensor_place(q, rows, cols, memory)};
    nb_noise noise = noise_of(pass, name);
    nb_quantize_stats stats = {0};
    NB_TRY(be->ops->quantize(be, &out->codes, source, transpose, &noise, counted(pass, &stats), err));
    nb_operand_show(be, pass, name, source, NULL, transpose, &out->codes, counted(pass, &stats));
    return NB_OK;
}

size_t nb_quantized_bytes(const nb_backend *be, const nb_quantizer *q, nb_dtype source, int64_t rows, int64_t cols) {
    if (!nb_quantizer_is_bf16(q))
        return nb_qtensor_bytes(q, rows, cols).total;
    return source == be->act ? 0 : nb_dtype_size(be->act) * (size_t)(rows * cols);
}

/* ---- taking another role's operand, transposed ---- */

nb_quantizer nb_derived_quantizer(const nb_operand_rule *rule) {
    nb_quantizer q = rule->quantizer;
    if (rule->requantize || nb_quantizer_is_bf16(&q))
        return q;
    if (rule->via == NB_VIA_FOLD) {
        q.scale_type = NB_SCALE_NONE;
        q.rule = NB_RULE_ABSMAX;
        q.block_rows = q.block_cols = NB_BLOCK_ALL;
        return q;
    }
    bool turns = q.scale_type == NB_SCALE_NONE || q.scale_type == NB_SCALE_F32 || q.block_rows == q.block_cols;
    if (!turns)
        return nb_quantizer_bf16();
    q.block_rows = rule->quantizer.block_cols;
    q.block_cols = rule->quantizer.block_rows;
    return q;
}

static nb_status requantize(nb_backend *be, const nb_pass *pass, const nb_operand_name *name, const nb_quantizer *q,
                            const nb_qtensor *source, void *memory, nb_layer_operand *out, nb_error *err) {
    *out = (nb_layer_operand){.quantized = true, .codes = nb_qtensor_place(q, source->cols, source->rows, memory)};
    nb_noise noise = noise_of(pass, name);
    nb_quantize_stats stats = {0};
    NB_TRY(be->ops->requantize(be, &out->codes, source, true, &noise, counted(pass, &stats), err));
    nb_operand_show(be, pass, name, NULL, source, true, &out->codes, counted(pass, &stats));
    return NB_OK;
}

/* The source's codes under the scales that stay with them. */
static nb_qtensor without_folded_scales(const nb_operand_rule *rule, const nb_qtensor *source) {
    nb_qtensor view = *source;
    if (rule->via == NB_VIA_FOLD) {
        view.quantizer = nb_derived_quantizer(rule);
        view.outer_scales = NULL;
    }
    return view;
}

static nb_status take_codes(nb_backend *be, const nb_operand_rule *rule, const nb_qtensor *source, void *memory,
                            nb_layer_operand *out, nb_error *err) {
    nb_quantizer q = nb_derived_quantizer(rule);
    nb_qtensor view = without_folded_scales(rule, source);
    *out = (nb_layer_operand){.quantized = true, .codes = nb_qtensor_place(&q, source->cols, source->rows, memory)};
    return be->ops->transpose_codes(be, &out->codes, &view, err);
}

/* The same codes as numbers, where they are: [contraction, rows]. */
static nb_status decode_codes(nb_backend *be, const nb_operand_rule *rule, const nb_qtensor *source, void *memory,
                              nb_layer_operand *out, nb_error *err) {
    nb_qtensor view = without_folded_scales(rule, source);
    *out = (nb_layer_operand){.plain = nb_mat_of(memory, be->act, source->rows, source->cols), .transposed = true};
    return be->ops->dequantize(be, &out->plain, &view, false, true, err);
}

nb_status nb_operand_derive(nb_backend *be, const nb_pass *pass, const nb_operand_name *name,
                            const nb_operand_rule *rule, bool packed, const nb_layer_operand *source, void *memory,
                            nb_layer_operand *out, nb_error *err) {
    if (!source->quantized) /* the source role is in BF16: its numbers, which the rule may quantize */
        return nb_operand_quantize(be, pass, name, &rule->quantizer, &source->plain, !source->transposed, memory, out,
                                   err);
    if (rule->requantize && !nb_quantizer_is_bf16(&rule->quantizer))
        return requantize(be, pass, name, &rule->quantizer, &source->codes, memory, out, err);
    return packed ? take_codes(be, rule, &source->codes, memory, out, err)
                  : decode_codes(be, rule, &source->codes, memory, out, err);
}

size_t nb_derived_bytes(const nb_backend *be, const nb_operand_rule *rule, bool packed, int64_t rows, int64_t cols) {
    nb_quantizer q = nb_derived_quantizer(rule);
    if (nb_quantizer_is_bf16(&rule->quantizer) && !rule->requantize)
        return 0; /* the source role's own numbers */
    if ((packed || rule->requantize) && !nb_quantizer_is_bf16(&q))
        return nb_qtensor_bytes(&q, rows, cols).total;
    return nb_dtype_size(be->act) * (size_t)(rows * cols);
}

/* ---- products ---- */

bool nb_multiplies_codes(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b) {
    return !nb_quantizer_is_bf16(a) && !nb_quantizer_is_bf16(b) && be->ops->gemm_q && be->ops->gemm_q_kernel &&
           be->ops->gemm_q_kernel(be, a, b);
}

nb_status nb_operand_decode(nb_backend *be, nb_scratch *scratch, const nb_layer_operand *operand, nb_layer_operand *out,
                            nb_error *err) {
    *out = *operand;
    if (!operand->quantized)
        return NB_OK;
    int64_t rows = operand->codes.rows, cols = operand->codes.cols;
    size_t bytes = nb_dtype_size(be->act) * (size_t)(rows * cols);
    void *memory = nb_scratch_take(scratch, bytes);
    if (!memory)
        return nb_scratch_short(scratch, "a decoded operand", bytes, err);
    *out = (nb_layer_operand){.plain = nb_mat_of(memory, be->act, rows, cols)};
    return be->ops->dequantize(be, &out->plain, &operand->codes, false, true, err);
}

nb_status nb_multiply(nb_backend *be, nb_scratch *scratch, const nb_mat *c, const nb_layer_operand *a,
                      const nb_layer_operand *b, bool accumulate, nb_error *err) {
    if (a->quantized && b->quantized && nb_multiplies_codes(be, &a->codes.quantizer, &b->codes.quantizer))
        return be->ops->gemm_q(be, c, &a->codes, &b->codes, accumulate, err);
    size_t mark = scratch->used;
    nb_layer_operand left, right;
    NB_TRY(nb_operand_decode(be, scratch, a, &left, err));
    NB_TRY(nb_operand_decode(be, scratch, b, &right, err));
    NB_TRY(be->ops->gemm(be, c, &left.plain, left.transposed, &right.plain, !right.transposed, accumulate, err));
    scratch->used = mark;
    return NB_OK;
}

size_t nb_multiply_scratch(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b, int64_t m, int64_t n,
                           int64_t k) {
    if (nb_multiplies_codes(be, a, b))
        return 0;
    size_t element = nb_dtype_size(be->act), bytes = 0;
    if (!nb_quantizer_is_bf16(a))
        bytes += nb_scratch_room(element * (size_t)(m * k));
    if (!nb_quantizer_is_bf16(b))
        bytes += nb_scratch_room(element * (size_t)(n * k));
    return bytes;
}
