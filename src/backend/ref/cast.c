/* cast.c: numbers from one type to another, as they are or scaled by row and column. */
#include "backend/ref/ref.h"
#include "format/bf16.h"

#include <string.h>

/* One rounding, not two: the double is first cut to FP32 with its lost bits kept as a sticky last bit. */
static uint16_t bf16_from_double(double value) {
    float cut = (float)value;
    uint32_t bits;
    memcpy(&bits, &cut, sizeof bits);
    if ((double)cut != value && cut == cut) {
        double magnitude = value < 0 ? -value : value, kept = cut < 0 ? -(double)cut : (double)cut;
        if (kept > magnitude)
            bits -= 1;
        bits |= 1;
        memcpy(&cut, &bits, sizeof cut);
    }
    return ni_bf16_even(cut);
}

static double load(const void *from, nb_dtype type, int64_t i) {
    switch (type) {
    case NB_F32:
        return ((const float *)from)[i];
    case NB_BF16:
        return ni_bf16_value(((const uint16_t *)from)[i]);
    default:
        return ((const double *)from)[i];
    }
}

static void store(void *to, nb_dtype type, int64_t i, double value) {
    switch (type) {
    case NB_F32:
        ((float *)to)[i] = (float)value;
        break;
    case NB_BF16:
        ((uint16_t *)to)[i] = bf16_from_double(value);
        break;
    default:
        ((double *)to)[i] = value;
        break;
    }
}

void ni_ref_cast(nb_backend *be, void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n) {
    (void)be;
    for (int64_t i = 0; i < n; i++)
        store(to, to_type, i, load(from, from_type, i));
}

void ni_ref_scale(nb_backend *be, const nb_mat *out, const nb_mat *in, const float *row_scale, const float *col_scale) {
    (void)be;
    bool in_double = out->dtype == NB_F64 || in->dtype == NB_F64;
    for (int64_t r = 0; r < in->rows; r++) {
        for (int64_t c = 0; c < in->cols; c++) {
            double x = load(in->data, in->dtype, r * in->stride + c);
            float row = row_scale ? row_scale[r] : 1, col = col_scale ? col_scale[c] : 1;
            double y = in_double ? x * (double)row * (double)col : (double)((float)x * row * col);
            store(out->data, out->dtype, r * out->stride + c, y);
        }
    }
}
