/* coded.c: which products keep their codes, and what the library gets for them. */
#include "backend/cuda/coded.h"

#include "backend/cuda/kernels.h"
#include "backend/cuda/mx_bytes.h"
#include "backend/cuda/pow2_bytes.h"
#include "backend/cuda/rows.h"
#include "format/swizzle.h"
#include "format/vector_scales.h"

/* ---- which units ---- */

ni_units ni_cuda_units_of(const ni_cuda *cuda, const nb_quantizer *a, const nb_quantizer *b) {
    return ni_units_of(cuda->major, cuda->minor, &cuda->permits, a, b);
}

ni_units ni_cuda_units_for(const ni_cuda *cuda, const nb_qtensor *a, const nb_qtensor *b) {
    const ni_units units = ni_cuda_units_of(cuda, &a->quantizer, &b->quantizer);
    return ni_units_take(units, b->rows, a->cols) && a->rows > 0 ? units : NI_UNITS_BF16;
}

const char *ni_cuda_units_text(ni_units units) {
    static const char *const names[] = {
        [NI_UNITS_BF16] = "bf16 cublaslt",
        [NI_UNITS_FP8] = "fp8 cublaslt, codes exact, no fast accumulation",
        [NI_UNITS_FP8_MX] = "fp8 cublaslt, mxfp4 codes exact, sums cut; rows too wide in fp32",
        [NI_UNITS_FP8_POW2] = "fp8 cublaslt, powers of two in e4m3's exponents, sums cut; those too far apart in fp32",
        [NI_UNITS_NVFP4] = "nvfp4 native cublaslt (never run on its hardware)",
        [NI_UNITS_MXFP4] = "mxfp4 native cublaslt (never run on its hardware)",
    };
    return names[units];
}

const char *ni_cuda_bf16_text(const ni_cuda *cuda, const nb_quantizer *a, const nb_quantizer *b) {
    const bool mxfp4 = ni_is_in_blocks(a, NB_SCALE_E8M0, 32) && ni_is_in_blocks(b, NB_SCALE_E8M0, 32),
               nvfp4 = ni_is_in_blocks(a, NB_SCALE_E4M3, 16) && ni_is_in_blocks(b, NB_SCALE_E4M3, 16);
    if (nb_quantizer_is_bf16(a) || nb_quantizer_is_bf16(b))
        return "bf16 cublaslt, operands exact";
    if ((mxfp4 || nvfp4) && ni_has_fp4_units(cuda->major, cuda->minor))
        return "bf16 cublaslt, operands exact (native_fp4: false)";
    if (cuda->major != 9)
        return "bf16 cublaslt, operands exact (on this GPU codes have no units)";
    if (mxfp4)
        return "bf16 cublaslt, operands exact (no fp8_units: mxfp4)";
    if (!ni_is_scaled_outside(a) || !ni_is_scaled_outside(b))
        return "bf16 cublaslt, operands exact (scales of blocks: no FP8 units)";
    if (a->element == NB_ELEMENT_E5M2 && b->element == NB_ELEMENT_E5M2)
        return "bf16 cublaslt, operands exact (the library has no E5M2 by E5M2)";
    return cuda->permits.no_fp8 ? "bf16 cublaslt, operands exact (fp8_units: none)"
                                : "bf16 cublaslt, operands exact (fp8_units: exact, not of 8-bit codes)";
}

/* ---- scratch ---- */

static size_t rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

static int64_t blocks_of(const nb_qtensor *t) {
    return t->cols / t->quantizer.block_cols;
}

static size_t side_bytes(ni_units units, const nb_qtensor *t) {
    if (units == NI_UNITS_NVFP4 || units == NI_UNITS_MXFP4)
        return rounded(ni_swizzled_bytes(t->rows, blocks_of(t)));
    if (units == NI_UNITS_FP8_MX)
        return ni_cuda_mx_bytes(t->rows, t->cols);
    return (ni_is_4bit(&t->quantizer) ? rounded((size_t)(t->rows * t->cols)) : 0) +
           rounded((size_t)t->rows * sizeof(float));
}

size_t ni_cuda_coded_bytes(ni_units units, const nb_qtensor *a, const nb_qtensor *b) {
    return units == NI_UNITS_BF16 || units == NI_UNITS_FP8_POW2 ? 0 : side_bytes(units, a) + side_bytes(units, b);
}

/* ---- one side ---- */

typedef struct side {
    nb_mat numbers;
    const void *scale;
} side;

/* Codes as bytes; a scale a row where either side has one (`rows`), else a word. */
static int fp8_side(const ni_cuda *cuda, const ni_cuda_coded *from, bool rows, char **at, side *out) {
    const nb_qtensor *const t = &from->codes;
    const nb_dtype type = t->quantizer.element == NB_ELEMENT_E5M2 ? NB_E5M2 : NB_E4M3;
    const float *word = ni_has_tensor_scale(&t->quantizer) ? t->tensor_scale : cuda->words + NI_CUDA_ONE;
    int code = 0;
    out->numbers = nb_mat_of(t->codes, type, t->rows, t->cols);
    if (from->bytes) {
        out->numbers.data = (void *)from->bytes;
    } else if (ni_is_4bit(&t->quantizer)) {
        out->numbers.data = *at;
        *at += rounded((size_t)(t->rows * t->cols));
        code = ni_cuda_launch_fp8(cuda->stream, out->numbers.data, t);
    }
    out->scale = ni_has_row_scales(&t->quantizer) ? t->outer_scales : word;
    if (rows && !ni_has_row_scales(&t->quantizer) && !code) {
        code = ni_cuda_launch_spread(cuda->stream, (float *)(void *)*at, word, t->rows);
        out->scale = *at;
        *at += rounded((size_t)t->rows * sizeof(float));
    }
    return code;
}

static int fp4_side(const ni_cuda *cuda, const nb_qtensor *t, char **at, side *out) {
    out->numbers = nb_mat_of(t->codes, NB_U8, t->rows, t->cols); /* two codes a byte; `scaling` says so */
    out->scale = *at;
    *at += rounded(ni_swizzled_bytes(t->rows, blocks_of(t)));
    return ni_cuda_launch_swizzle(cuda->stream, (uint8_t *)out->scale, t->scales, t->rows, blocks_of(t));
}

/* What the product reads of it stands with the operand, or is made now. */
static int mx_side(const ni_cuda *cuda, const ni_cuda_coded *from, char **at, ni_cuda_mx_rows *out) {
    const nb_qtensor *const t = &from->codes;
    *out = ni_cuda_mx_place(from->bytes ? (void *)from->bytes : *at, t->rows, t->cols);
    if (from->bytes)
        return cudaSuccess;
    *at += ni_cuda_mx_bytes(t->rows, t->cols);
    const ni_cuda_mx_making making = {*out, *t, false};
    return ni_cuda_launch_mx_bytes(cuda->stream, &making, 1);
}

/* ---- the product ---- */

/* The rows that E4M3 does not hold exactly are added behind it. */
static nb_status multiply_mx(nb_backend *be, const nb_mat *c, const ni_cuda_coded *a, const ni_cuda_coded *b,
                             bool accumulate, void *scratch, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    ni_cuda_mend m = {
        .c = *c, .a = a->codes, .b = b->codes, .mended = (uint32_t *)(void *)(cuda->words + NI_CUDA_MENDED)};
    char *at = scratch;
    int code = mx_side(cuda, a, &at, &m.of_a);
    if (!code)
        code = mx_side(cuda, b, &at, &m.of_b);
    if (code || !a->bytes || !b->bytes)
        NB_TRY(ni_cuda_status(be, code, "bytes of MXFP4", err));
    const ni_cuda_product p = {.a = nb_mat_of(m.of_a.bytes, NB_E4M3, m.a.rows, m.a.cols),
                               .b = nb_mat_of(m.of_b.bytes, NB_E4M3, m.b.rows, m.b.cols),
                               .c = *c,
                               .trans_b = true,
                               .beta = accumulate ? cuda->words + NI_CUDA_ONE : NULL,
                               .scaling = NI_CUDA_SCALING_ROWS,
                               .a_scale = m.of_a.scales,
                               .b_scale = m.of_b.scales};
    NB_TRY(ni_cuda_multiply_plain(be, &p, err));
    return ni_cuda_status(be, ni_cuda_launch_mend(cuda->stream, &m, cuda->multiprocessors),
                          "multiply: rows too wide for FP8", err);
}

nb_status ni_cuda_multiply_coded(nb_backend *be, ni_units units, const nb_mat *c, const ni_cuda_coded *a,
                                 const ni_cuda_coded *b, bool accumulate, void *scratch, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    const nb_qtensor *const left = &a->codes, *const right = &b->codes;
    const bool fp8 = units == NI_UNITS_FP8,
               rows = ni_has_row_scales(&left->quantizer) || ni_has_row_scales(&right->quantizer);
    char *at = scratch;
    side x, y;
    if (units == NI_UNITS_FP8_MX)
        return multiply_mx(be, c, a, b, accumulate, scratch, err);
    int code = fp8 ? fp8_side(cuda, a, rows, &at, &x) : fp4_side(cuda, left, &at, &x);
    if (!code)
        code = fp8 ? fp8_side(cuda, b, rows, &at, &y) : fp4_side(cuda, right, &at, &y);
    ni_cuda_product p = {.c = *c, .trans_b = true, .beta = accumulate ? cuda->words + NI_CUDA_ONE : NULL};
    p.scaling = units == NI_UNITS_NVFP4   ? NI_CUDA_SCALING_16
                : units == NI_UNITS_MXFP4 ? NI_CUDA_SCALING_32
                : rows                    ? NI_CUDA_SCALING_ROWS
                                          : NI_CUDA_SCALING_WORD;
    if (!code && !fp8 && (left->tensor_scale || right->tensor_scale)) {
        p.alpha = cuda->words + NI_CUDA_ALPHA;
        code = ni_cuda_launch_multiply_words(cuda->stream, cuda->words + NI_CUDA_ALPHA, left->tensor_scale,
                                             right->tensor_scale);
    }
    NB_TRY(ni_cuda_status(be, code, "a product of codes", err));
    p.a = x.numbers;
    p.b = y.numbers;
    p.a_scale = x.scale;
    p.b_scale = y.scale;
    return ni_cuda_multiply_plain(be, &p, err);
}

int64_t ni_cuda_mended(nb_backend *be) {
    ni_cuda *cuda = ni_cuda_of(be);
    uint32_t *const word = (uint32_t *)(void *)(cuda->words + NI_CUDA_MENDED), count = 0;
    if (!cuda->permits.mxfp4_fp8 && (cuda->permits.no_fp8 || cuda->permits.exact_fp8))
        return 0;
    ni_cuda_download(be, &count, word, sizeof count);
    ni_cuda_fill_zero(be, word, sizeof *word);
    return count;
}
