/* hf_numbers.c: the number types of tensor files. */
#include "hf_numbers.h"
#include "format/bf16.h"
#include "format/fp16.h"

bool ni_hf_is_real(ni_tensor_dtype dtype) {
    return dtype == NI_ST_F64 || dtype == NI_ST_F32 || dtype == NI_ST_F16 || dtype == NI_ST_BF16;
}

static double read_one(ni_tensor_dtype dtype, const void *at) {
    uint16_t half;
    float single;
    double wide;
    switch (dtype) {
    case NI_ST_F64:
        memcpy(&wide, at, sizeof wide);
        return wide;
    case NI_ST_F32:
        memcpy(&single, at, sizeof single);
        return (double)single;
    case NI_ST_BF16:
        memcpy(&half, at, sizeof half);
        return (double)ni_bf16_value(half);
    default: /* NI_ST_F16: callers ask ni_hf_is_real first */
        memcpy(&half, at, sizeof half);
        return (double)ni_fp16_value(half);
    }
}

void ni_hf_numbers_read(ni_tensor_dtype dtype, const void *from, size_t count, nb_dtype to_type, void *to) {
    size_t size = ni_tensor_dtype_size(dtype);
    if (dtype == NI_ST_F32 && to_type == NB_F32) {
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

static void write_one(ni_tensor_dtype dtype, double value, void *at) {
    float single = (float)value;
    uint16_t half = dtype == NI_ST_BF16 ? ni_bf16_even(single) : ni_fp16_even(single);
    if (dtype == NI_ST_F64)
        memcpy(at, &value, sizeof value);
    else if (dtype == NI_ST_F32)
        memcpy(at, &single, sizeof single);
    else
        memcpy(at, &half, sizeof half);
}

void ni_hf_numbers_write(ni_tensor_dtype dtype, nb_dtype from_type, const void *from, size_t count, void *to) {
    size_t size = ni_tensor_dtype_size(dtype);
    if (dtype == NI_ST_F32 && from_type == NB_F32) {
        memcpy(to, from, count * size);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        double value = from_type == NB_F64 ? ((const double *)from)[i] : (double)((const float *)from)[i];
        write_one(dtype, value, (char *)to + i * size);
    }
}
