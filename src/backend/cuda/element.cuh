/* element.cuh: numbers and codes on the device, by the very functions of src/format that the CPU compiles.
 *
 * Element format and rounding are arguments here and not template parameters: they are the same for all threads of a
 * launch, so the branches cost little, and one kernel serves every format.
 */
#ifndef NI_BACKEND_CUDA_ELEMENT_CUH
#define NI_BACKEND_CUDA_ELEMENT_CUH

#include "format/bf16.h"
#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/e5m2.h"
#include "format/e8m0.h"
#include "format/hif4.h"
#include "format/int4.h"
#include "format/s1p2.h"
#include "nibble/format.h"

static __device__ inline float ni_element_max(nb_element element) {
    switch (element) {
    case NB_ELEMENT_E2M1:
        return 6.0f;
    case NB_ELEMENT_INT4:
        return 7.0f;
    case NB_ELEMENT_E4M3:
        return 448.0f;
    case NB_ELEMENT_S1P2:
        return 1.75f;
    default:
        return 57344.0f;
    }
}

static __host__ __device__ inline bool ni_element_is_4bit(nb_element element) {
    return element == NB_ELEMENT_E2M1 || element == NB_ELEMENT_INT4 || element == NB_ELEMENT_S1P2;
}

static __device__ inline uint8_t ni_element_encode(nb_element element, nb_rounding round, float y, float u) {
    switch (element) {
    case NB_ELEMENT_E2M1:
        return round == NB_ROUND_STOCHASTIC ? ni_e2m1_stochastic(y, u)
               : round == NB_ROUND_UP       ? ni_e2m1_up(y)
                                            : ni_e2m1_even(y);
    case NB_ELEMENT_INT4:
        return round == NB_ROUND_STOCHASTIC ? ni_int4_stochastic(y, u)
               : round == NB_ROUND_UP       ? ni_int4_up(y)
                                            : ni_int4_even(y);
    case NB_ELEMENT_E4M3:
        return round == NB_ROUND_STOCHASTIC ? ni_e4m3_stochastic(y, u)
               : round == NB_ROUND_UP       ? ni_e4m3_up(y)
                                            : ni_e4m3_even(y);
    case NB_ELEMENT_S1P2:
        return round == NB_ROUND_STOCHASTIC ? ni_s1p2_stochastic(y, u)
               : round == NB_ROUND_UP       ? ni_s1p2_up(y)
               : round == NB_ROUND_AWAY     ? ni_s1p2_away(y)
                                            : ni_s1p2_even(y);
    default:
        return round == NB_ROUND_STOCHASTIC ? ni_e5m2_stochastic(y, u)
               : round == NB_ROUND_UP       ? ni_e5m2_up(y)
                                            : ni_e5m2_even(y);
    }
}

static __device__ inline float ni_element_value(nb_element element, uint8_t code) {
    switch (element) {
    case NB_ELEMENT_E2M1:
        return ni_e2m1_value(code);
    case NB_ELEMENT_INT4:
        return ni_int4_value(code);
    case NB_ELEMENT_E4M3:
        return ni_e4m3_value(code);
    case NB_ELEMENT_S1P2:
        return ni_s1p2_value(code);
    default:
        return ni_e5m2_value(code);
    }
}

/* ---- reading the canonical layout (nb_qtensor, its pointers in device memory) ---- */

static __device__ inline uint8_t ni_code_of(const nb_qtensor &t, int64_t r, int64_t c) {
    if (!ni_element_is_4bit(t.quantizer.element))
        return t.codes[r * t.cols + c];
    return t.codes[r * ((t.cols + 1) / 2) + c / 2] >> (4 * (c % 2)) & 15u;
}

/* The part of the scale that stays outside of a product's sum counts as 1 where `outer` is false. */
static __device__ inline float ni_scale_of(const nb_qtensor &t, int64_t r, int64_t c, bool outer) {
    const nb_quantizer &q = t.quantizer;
    float tensor = outer && t.tensor_scale ? *t.tensor_scale : 1.0f;
    switch (q.scale_type) {
    case NB_SCALE_E4M3: {
        float s8 = ni_e4m3_value(t.scales[r * (t.cols / 16) + c / 16]);
        return ni_f32_mul(s8, t.outer_scales ? t.outer_scales[r * (t.cols / 128) + c / 128] : tensor);
    }
    case NB_SCALE_E8M0:
        return ni_f32_mul(ni_e8m0_value(t.scales[r * (t.cols / 32) + c / 32]), tensor);
    case NB_SCALE_HIF4:
        return ni_hif4_decode(t.scales + (r * t.cols + c) / NI_HIF4_GROUP * NI_HIF4_BYTES, (int)(c % NI_HIF4_GROUP));
    case NB_SCALE_F32:
        if (!t.outer_scales)
            return tensor;
        if (q.block_rows != 1)
            return t.outer_scales[c];
        return outer ? t.outer_scales[r] : 1.0f;
    case NB_SCALE_NONE:
        break;
    }
    return 1.0f;
}

static __device__ inline float ni_decoded(const nb_qtensor &t, int64_t r, int64_t c, bool outer) {
    return ni_f32_mul(ni_element_value(t.quantizer.element, ni_code_of(t, r, c)), ni_scale_of(t, r, c, outer));
}

#endif
