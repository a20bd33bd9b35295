/* gla_gate.cu: the decay gate of gated linear attention, logsigmoid(a + bias) / normalizer, held at `clamp` and above. */
#include "backend/cuda/gate.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/norm.cuh"
#include "backend/cuda/norm_row.cuh"

/* ---- forward ---- */

static __device__ float decay_of(float x, float per, float clamp) {
    const float decay = ni_logsigmoid(x, ni_exp_of_less(x)) * per;
    return decay < clamp ? clamp : decay;
}

static __global__ void gate_forward(float *gate, const uint16_t *a, const float *bias, int64_t n, int64_t dim,
                                    float normalizer, float clamp) {
    const float per = 1.0f / normalizer;
    for (NI_EACH(i, n * dim))
        gate[i] = decay_of(ni_bf16_value(a[i]) + bias[i % dim], per, clamp);
}

/* Eight neighbours a thread, of `eights` in all, `row` of which are one. */
static __global__ void gate_forward_eights(float *gate, const uint16_t *a, const float *bias, uint32_t eights,
                                           uint32_t row, float normalizer, float clamp) {
    const float per = 1.0f / normalizer;
    for (NI_EACH(i, eights)) {
        const ni_eight e = ni_load_eight(a + 8 * i);
        float b[8], decay[8];
        ni_load_factors(b, bias + 8 * ((uint32_t)i % row));
#pragma unroll
        for (int j = 0; j < 8; j++)
            decay[j] = decay_of(e.x[j] + b[j], per, clamp);
        ((float4 *)gate)[2 * i] = make_float4(decay[0], decay[1], decay[2], decay[3]);
        ((float4 *)gate)[2 * i + 1] = make_float4(decay[4], decay[5], decay[6], decay[7]);
    }
}

int ni_cuda_launch_gate_forward(void *stream, float *gate, const uint16_t *a, const float *bias, int64_t n, int64_t dim,
                                float normalizer, float clamp) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t eights = n * dim / 8;
    if (n * dim == 0)
        return cudaSuccess;
    if (dim % 8 == 0 && eights <= INT32_MAX && ni_aligned(gate) && ni_aligned(a) && ni_aligned(bias))
        gate_forward_eights<<<ni_grid(ni_divide_up(eights, NI_THREADS)), NI_THREADS, 0, on>>>(
            gate, a, bias, (uint32_t)eights, (uint32_t)(dim / 8), normalizer, clamp);
    else
        gate_forward<<<ni_grid(ni_divide_up(n * dim, NI_THREADS)), NI_THREADS, 0, on>>>(gate, a, bias, n, dim,
                                                                                        normalizer, clamp);
    return cudaGetLastError();
}

/* ---- backward ---- */

static __device__ float slope_of(float x, float dgate, float per, float clamp) {
    const float less = ni_exp_of_less(x);
    const bool clamped = clamp > -INFINITY && ni_logsigmoid(x, less) * per < clamp;
    return clamped ? 0.0f : dgate * ni_sigmoid_of(-x, less) * per;
}

static __global__ void gate_backward(uint16_t *da, float *partial, const float *dgate, const uint16_t *a,
                                     const float *bias, int64_t n, int64_t dim, float normalizer, float clamp) {
    extern __shared__ float sums[];
    const float per = 1.0f / normalizer;
    float *dbias = ni_clear_sums(sums, dim);
    for (NI_ROWS(r, n))
        for (int64_t c = threadIdx.x % 32; c < dim; c += 32) {
            const float dx = slope_of(ni_bf16_value(a[r * dim + c]) + bias[c], dgate[r * dim + c], per, clamp);
            da[r * dim + c] = ni_bf16_even(dx);
            dbias[c] += dx;
        }
    ni_leave_partial(partial, sums, dim);
}

/* The same sums in the same order, in the registers of who adds them. */
template <int CHUNKS>
static __global__ void __launch_bounds__(NI_THREADS)
    gate_backward_kept(uint16_t *da, float *partial, const float *dgate, const uint16_t *a, const float *bias,
                       int64_t n, int dim, float normalizer, float clamp) {
    extern __shared__ float sums[];
    const int lane = threadIdx.x % 32;
    const float per = 1.0f / normalizer;
    float dbias[CHUNKS][8] = {};
    for (NI_ROWS(r, n)) {
        uint4 row[CHUNKS];
        ni_load_row(row, a + r * dim, dim);
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            const int c = 8 * lane + 256 * k;
            if (c >= dim)
                break;
            ni_eight e = ni_eight_of(row[k]);
            float b[8], d[8];
            ni_load_factors(b, bias + c);
            ni_load_factors(d, dgate + r * dim + c);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                e.x[j] = slope_of(e.x[j] + b[j], d[j], per, clamp);
                dbias[k][j] += e.x[j];
            }
            ni_store_eight(da + r * dim + c, e);
        }
    }
    ni_leave_registers(sums, dbias, dim);
    ni_leave_partial(partial, sums, dim);
}

int ni_cuda_launch_gate_backward(void *stream, uint16_t *da, float *dbias, const float *dgate, const uint16_t *a,
                                 const float *bias, int64_t n, int64_t dim, float normalizer, float clamp,
                                 float *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    const bool aligned = ni_aligned(da) && ni_aligned(dgate) && ni_aligned(a) && ni_aligned(bias);
    int code = cudaSuccess;
    if (n == 0)
        return code;
    switch (aligned ? ni_chunks_of(dim) : 0) {
#define KEPT(CHUNKS)                                                                                                   \
    code = ni_launch_gate_backward(on, gate_backward_kept<CHUNKS>, n, dim, da, partial, dgate, a, bias, n, (int)dim,   \
                                   normalizer, clamp)
        NI_UP_TO_FOUR_CHUNKS(KEPT)
#undef KEPT
    default:
        code =
            ni_launch_gate_backward(on, gate_backward, n, dim, da, partial, dgate, a, bias, n, dim, normalizer, clamp);
    }
    return code == cudaSuccess ? ni_finish_sums(on, dbias, partial, ni_gate_blocks(n), dim) : code;
}
