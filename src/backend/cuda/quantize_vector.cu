/* quantize_vector.cu: one FP32 scale a row or a tensor, from BF16 or FP32 numbers straight into codes and values, rounded
 * to nearest or up. A block takes a row: for scales of rows it finds the maximum first, and reads again what the first
 * level of the cache still holds. Bits are those of quantize.cu.
 */
#include "backend/cuda/element.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/quantize.h"
#include "format/scale.h"

static __device__ ni_eight load_eight(const uint16_t *from) {
    return ni_load_eight(from);
}

static __device__ ni_eight load_eight(const float *from) {
    const float4 a = *(const float4 *)from, b = *(const float4 *)(from + 4);
    return (ni_eight){{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

static __device__ uint32_t largest_of(const ni_eight &e) {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 8; i++)
        largest = max(largest, ni_f32_magnitude(e.x[i]));
    return largest;
}

/* The maximum of a row, for all threads of its block. */
template <typename T> static __device__ uint32_t amax_of_row(const T *row, int64_t cols) {
    __shared__ uint32_t parts[NI_THREADS / 32];
    uint32_t largest = 0;
    for (int64_t c = 8 * threadIdx.x; c < cols; c += 8 * blockDim.x)
        largest = max(largest, largest_of(load_eight(row + c)));
    largest = ni_warp_max(largest);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = largest;
    __syncthreads();
    for (unsigned i = 0; i < blockDim.x / 32; i++)
        largest = max(largest, parts[i]);
    return largest;
}

template <nb_element ELEMENT> static __device__ void store_codes(uint8_t *codes, int64_t at, const uint32_t *code) {
    if (ni_element_is_4bit(ELEMENT)) {
        uint32_t word = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            word |= code[i] << (4 * i);
        *(uint32_t *)(codes + at / 2) = word;
        return;
    }
    *(uint2 *)(codes + at) = make_uint2(code[0] | code[1] << 8 | code[2] << 16 | code[3] << 24, code[4] | code[5] << 8 | code[6] << 16 | code[7] << 24);
}

template <typename T, nb_element ELEMENT, nb_rounding ROUND>
static __global__ void __launch_bounds__(NI_THREADS) quantize_rows(const T *from, int64_t stride, int64_t cols, const __grid_constant__ ni_cuda_vector v) {
    const int64_t r = blockIdx.x;
    const T *row = from + r * stride;
    float multiplier = 1.0f, decode = 1.0f;
    if (v.quantizer.scale_type == NB_SCALE_F32) {
        const uint32_t amax = v.amax ? *v.amax : amax_of_row(row, cols);
        multiplier = ni_vector_encode(v.quantizer.rule, ni_element_max(ELEMENT), ni_f32_from(amax));
        decode = ni_vector_decode(multiplier);
        if (threadIdx.x == 0 && !v.amax)
            v.row_scales[r] = decode;
        else if (threadIdx.x == 0 && r == 0)
            *v.tensor_scale = decode;
    }
    const float inner = v.whole ? decode : 1.0f;
    for (int64_t c = 8 * threadIdx.x; c < cols; c += 8 * blockDim.x) {
        const ni_eight in = load_eight(row + c);
        ni_eight out;
        uint32_t code[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            code[i] = ni_element_encode(ELEMENT, ROUND, ni_f32_mul(in.x[i], multiplier), 0.0f);
            out.x[i] = ni_f32_mul(ni_element_value(ELEMENT, (uint8_t)code[i]), inner);
        }
        ni_store_eight(v.values + r * cols + c, out);
        if (v.codes)
            store_codes<ELEMENT>(v.codes, r * cols + c, code);
    }
}

template <typename T, nb_element ELEMENT> static void launch(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    const unsigned threads = s->cols >= 8 * NI_THREADS ? NI_THREADS : s->cols > 8 * 64 ? 128 : 64, grid = (unsigned)s->rows;
    if (v->quantizer.round == NB_ROUND_UP)
        quantize_rows<T, ELEMENT, NB_ROUND_UP><<<grid, threads, 0, on>>>((const T *)s->numbers, s->stride, s->cols, *v);
    else
        quantize_rows<T, ELEMENT, NB_ROUND_EVEN><<<grid, threads, 0, on>>>((const T *)s->numbers, s->stride, s->cols, *v);
}

template <typename T> static void launch_element(cudaStream_t on, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    switch (v->quantizer.element) {
    case NB_ELEMENT_E2M1:
        launch<T, NB_ELEMENT_E2M1>(on, s, v);
        break;
    case NB_ELEMENT_INT4:
        launch<T, NB_ELEMENT_INT4>(on, s, v);
        break;
    case NB_ELEMENT_E4M3:
        launch<T, NB_ELEMENT_E4M3>(on, s, v);
        break;
    default:
        launch<T, NB_ELEMENT_E5M2>(on, s, v);
        break;
    }
}

int ni_cuda_quantize_vector(void *stream, const ni_cuda_double_source *s, const ni_cuda_vector *v) {
    s->wide ? launch_element<float>((cudaStream_t)stream, s, v) : launch_element<uint16_t>((cudaStream_t)stream, s, v);
    return cudaGetLastError();
}

/* ---- and back: four bits under a scale a row ---- */

static __global__ void __launch_bounds__(NI_THREADS) decode_rows(uint16_t *to, int64_t stride, const __grid_constant__ nb_qtensor t) {
    const uint32_t eights = (uint32_t)(t.cols / 8);
    for (NI_EACH(i, t.rows *eights)) {
        const uint32_t r = (uint32_t)i / eights, c = ((uint32_t)i - r * eights) * 8;
        const uint32_t codes = *(const uint32_t *)(t.codes + ((int64_t)r * t.cols + c) / 2);
        const float scale = t.outer_scales[r];
        ni_eight e;
#pragma unroll
        for (int k = 0; k < 8; k++)
            e.x[k] = ni_f32_mul(ni_element_value(NB_ELEMENT_E2M1, codes >> (4 * k) & 15u), scale);
        ni_store_eight(to + r * stride + c, e);
    }
}

int ni_cuda_decode_rows(void *stream, const nb_mat *out, const nb_qtensor *from) {
    decode_rows<<<ni_grid(ni_divide_up(from->rows * from->cols / 8, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>((uint16_t *)out->data, out->stride, *from);
    return cudaGetLastError();
}
