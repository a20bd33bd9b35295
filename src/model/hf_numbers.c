/* hf_numbers.c: the number types of tensor files. */
#include "hf_numbers.h"
#include "format/bf16.h"

#include <math.h>

/*  15  14..10    9......0
 *  s   exponent  mantissa    bias 15 */
float nb_f16_value(uint16_t code) {
    uint32_t sign = (uint32_t)(code >> 15) << 31, exponent = (code >> 10) & 31u, mantissa = code & 0x3ffu;
    if (exponent == 31)
        return nb_f32_from(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        float magnitude = ldexpf((float)mantissa, -24);
        return sign ? -magnitude : magnitude;
    }
    return nb_f32_from(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t nb_f16_even(float x) {
    uint32_t bits = nb_f32_bits(x), magnitude = bits & NB_F32_MAGNITUDE;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    if (magnitude > NB_F32_INF_BITS)
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x47800000u) /* 65536 and up, Inf */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) /* below 2^-14: a multiple of 2^-24, rounded by the addition */
        return (uint16_t)(sign | (nb_f32_bits(nb_f32_from(magnitude) + 0.5f) - nb_f32_bits(0.5f)));
    return (uint16_t)(sign | ((magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

bool nb_hf_is_real(nb_tensor_dtype dtype) {
    return dtype == NB_ST_F64 || dtype == NB_ST_F32 || dtype == NB_ST_F16 || dtype == NB_ST_BF16;
}

static double read_one(nb_tensor_dtype dtype, const void *at) {
    uint16_t half;
    float single;
    double wide;
    switch (dtype) {
    case NB_ST_F64:
        memcpy(&wide, at, sizeof wide);
        return wide;
    case NB_ST_F32:
        memcpy(&single, at, sizeof single);
        return (double)single;
    case NB_ST_BF16:
        memcpy(&half, at, sizeof half);
        return (double)nb_bf16_value(half);
    default: /* NB_ST_F16: callers ask nb_hf_is_real first */
        memcpy(&half, at, sizeof half);
        return (double)nb_f16_value(half);
    }
}

void nb_hf_numbers_read(nb_tensor_dtype dtype, const void *from, size_t count, nb_dtype to_type, void *to) {
    size_t size = nb_tensor_dtype_size(dtype);
    if (dtype == NB_ST_F32 && to_type == NB_F32) {
        memcpy(to, from, count * size);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        double value = read_one(dtype, (const char *)from + i * size);
        if (to_type == NB_F64)
            ((double *)to)[i] = value;
        else
            ((float *)to)[i] = (float)value;
    }
}

static void write_one(nb_tensor_dtype dtype, double value, void *at) {
    float single = (float)value;
    uint16_t half = dtype == NB_ST_BF16 ? nb_bf16_even(single) : nb_f16_even(single);
    if (dtype == NB_ST_F64)
        memcpy(at, &value, sizeof value);
    else if (dtype == NB_ST_F32)
        memcpy(at, &single, sizeof single);
    else
        memcpy(at, &half, sizeof half);
}

void nb_hf_numbers_write(nb_tensor_dtype dtype, nb_dtype from_type, const void *from, size_t count, void *to) {
    size_t size = nb_tensor_dtype_size(dtype);
    if (dtype == NB_ST_F32 && from_type == NB_F32) {
        memcpy(to, from, count * size);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        double value = from_type == NB_F64 ? ((const double *)from)[i] : (double)((const float *)from)[i];
        write_one(dtype, value, (char *)to + i * size);
    }
}
