/* norm_gated.cu: the gated RMSNorm of GLA: a warp takes a row. */
#include "backend/cuda/gate.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/norm_row.cuh"
#include "backend/cuda/tile.cuh"

size_t ni_cuda_partial_bytes(int64_t n, int64_t dim) {
    return (size_t)(ni_gate_blocks(n) * dim) * sizeof(float);
}

static __device__ float sigmoid(float x) {
    return ni_sigmoid_of(x, ni_exp_of_less(x));
}

static __global__ void gated_norm_forward(uint16_t *y, uint32_t *amax, float *rstd, const uint16_t *o,
                                          const uint16_t *g, const float *w, int64_t n, int64_t dim, float eps) {
    const int lane = threadIdx.x % 32;
    uint32_t largest = 0;
    for (NI_ROWS(r, n)) {
        float rs = ni_row_rstd(o + r * dim, dim, eps, false);
        if (lane == 0)
            rstd[r] = rs;
        for (int64_t c = lane; c < dim; c += 32) {
            float gate = ni_bf16_value(g[r * dim + c]);
            float out = ni_bf16_round(ni_bf16_value(o[r * dim + c]) * rs * w[c] * gate * sigmoid(gate));
            largest = max(largest, ni_f32_magnitude(out));
            y[r * dim + c] = ni_bf16_even(out);
        }
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

/* The same for rows in the registers of a warp. */
template <int CHUNKS>
static __global__ void gated_norm_forward_kept(uint16_t *y, uint32_t *amax, float *rstd, const uint16_t *o,
                                               const uint16_t *g, const float *w, int64_t n, int dim, float eps) {
    const int lane = threadIdx.x % 32;
    uint32_t pairs = 0;
    for (NI_ROWS(r, n)) {
        uint4 row[CHUNKS], gates[CHUNKS];
        ni_load_row(row, o + r * dim, dim);
        ni_load_row(gates, g + r * dim, dim);
        const float rs = ni_kept_rstd(row, dim, eps);
        if (lane == 0)
            rstd[r] = rs;
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            const int c = 8 * lane + 256 * k;
            if (c >= dim)
                break;
            ni_eight e = ni_eight_of(row[k]);
            const ni_eight gate = ni_eight_of(gates[k]);
            float factor[8];
            ni_load_factors(factor, w + c);
#pragma unroll
            for (int j = 0; j < 8; j++)
                e.x[j] = e.x[j] * rs * factor[j] * gate.x[j] * sigmoid(gate.x[j]);
            const uint4 word = ni_packed(e);
            pairs = ni_larger_of_four(pairs, word);
            *(uint4 *)(y + r * dim + c) = word;
        }
    }
    __syncwarp();
    ni_join_amax(amax, ni_larger_half(pairs));
}

int ni_cuda_launch_gated_norm_forward(void *stream, uint16_t *y, uint32_t *amax, float *rstd, const uint16_t *o,
                                      const uint16_t *g, const float *w, int64_t n, int64_t dim, float eps) {
    cudaStream_t on = (cudaStream_t)stream;
    if (amax)
        cudaMemsetAsync(amax, 0, sizeof *amax, on);
    if (n == 0)
        return cudaSuccess;
    const unsigned grid = ni_grid(ni_divide_up(n, NI_WARPS));
    const bool aligned = ni_aligned(y) && ni_aligned(o) && ni_aligned(g) && ni_aligned(w);
    switch (aligned ? ni_chunks_of(dim) : 0) {
#define KEPT(CHUNKS)                                                                                                   \
    gated_norm_forward_kept<CHUNKS><<<grid, NI_THREADS, 0, on>>>(y, amax, rstd, o, g, w, n, (int)dim, eps)
        NI_UP_TO_FOUR_CHUNKS(KEPT)
#undef KEPT
    default:
        gated_norm_forward<<<grid, NI_THREADS, 0, on>>>(y, amax, rstd, o, g, w, n, dim, eps);
    }
    return cudaGetLastError();
}

static __global__ void gated_norm_backward(uint16_t *do_, uint16_t *dg, uint32_t *dg_amax, float *partial,
                                           const uint16_t *dy, const uint16_t *o, const uint16_t *g, const float *w,
                                           const float *rstd, int64_t n, int64_t dim) {
    extern __shared__ float sums[];
    const int lane = threadIdx.x % 32;
    float *dw = ni_clear_sums(sums, dim);
    uint32_t largest = 0;
    for (NI_ROWS(r, n)) {
        float rs = rstd[r], mean = 0;
        for (int64_t c = lane; c < dim; c += 32) {
            float gate = ni_bf16_value(g[r * dim + c]);
            mean += ni_bf16_value(o[r * dim + c]) * rs * w[c] * ni_bf16_value(dy[r * dim + c]) * gate * sigmoid(gate);
        }
        mean = ni_warp_sum(mean) / (float)dim;
        for (int64_t c = lane; c < dim; c += 32) {
            float gate = ni_bf16_value(g[r * dim + c]), s = sigmoid(gate), d = ni_bf16_value(dy[r * dim + c]);
            float normed = ni_bf16_value(o[r * dim + c]) * rs;
            dw[c] += d * normed * gate * s;
            float slope = ni_bf16_round(d * w[c] * normed * s * (1.0f + gate * (1.0f - s)));
            largest = max(largest, ni_f32_magnitude(slope));
            dg[r * dim + c] = ni_bf16_even(slope);
            do_[r * dim + c] = ni_bf16_even(rs * (w[c] * d * gate * s - normed * mean));
        }
    }
    __syncwarp();
    ni_join_amax(dg_amax, largest);
    ni_leave_partial(partial, sums, dim);
}

/* The same sums in the same order, rows and sums in registers. dg needs no sum over the row, so it is stored at once. */
template <int CHUNKS>
static __global__ void __launch_bounds__(NI_THREADS)
    gated_norm_backward_kept(uint16_t *do_, uint16_t *dg, uint32_t *dg_amax, float *partial, const uint16_t *dy,
                             const uint16_t *o, const uint16_t *g, const float *w, const float *rstd, int64_t n,
                             int dim) {
    extern __shared__ float sums[];
    const int lane = threadIdx.x % 32;
    float dw[CHUNKS][8] = {};
    uint32_t pairs = 0;
    for (NI_ROWS(r, n)) {
        uint4 row[CHUNKS], gates[CHUNKS], from[CHUNKS];
        ni_load_row(row, o + r * dim, dim);
        ni_load_row(gates, g + r * dim, dim);
        ni_load_row(from, dy + r * dim, dim);
        const float rs = rstd[r];
        float through[CHUNKS][8], mean = 0; /* dy w g sigmoid(g) */
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            const int c = 8 * lane + 256 * k;
            if (c >= dim)
                break;
            const ni_eight e = ni_eight_of(row[k]), gate = ni_eight_of(gates[k]), d = ni_eight_of(from[k]);
            ni_eight slope;
            float factor[8];
            ni_load_factors(factor, w + c);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float s = sigmoid(gate.x[j]), normed = e.x[j] * rs, swish = d.x[j] * gate.x[j] * s;
                dw[k][j] += swish * normed;
                through[k][j] = factor[j] * swish;
                mean += normed * through[k][j];
                slope.x[j] = d.x[j] * factor[j] * normed * s * (1.0f + gate.x[j] * (1.0f - s));
            }
            const uint4 word = ni_packed(slope);
            pairs = ni_larger_of_four(pairs, word);
            *(uint4 *)(dg + r * dim + c) = word;
        }
        mean = ni_warp_sum(mean) / (float)dim;
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            const int c = 8 * lane + 256 * k;
            if (c >= dim)
                break;
            ni_eight e = ni_eight_of(row[k]);
#pragma unroll
            for (int j = 0; j < 8; j++)
                e.x[j] = rs * (through[k][j] - e.x[j] * rs * mean);
            ni_store_eight(do_ + r * dim + c, e);
        }
    }
    __syncwarp();
    ni_join_amax(dg_amax, ni_larger_half(pairs));
    ni_leave_registers(sums, dw, dim);
    ni_leave_partial(partial, sums, dim);
}

int ni_cuda_launch_gated_norm_backward(void *stream, uint16_t *do_, uint16_t *dg, uint32_t *dg_amax, float *dw,
                                       const uint16_t *dy, const uint16_t *o, const uint16_t *g, const float *w,
                                       const float *rstd, int64_t n, int64_t dim, float *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    int code = cudaSuccess;
    if (dg_amax)
        cudaMemsetAsync(dg_amax, 0, sizeof *dg_amax, on);
    if (n == 0)
        return code;
    const bool aligned = ni_aligned(do_) && ni_aligned(dg) && ni_aligned(dy) && ni_aligned(o) && ni_aligned(g);
    switch (aligned && ni_aligned(w) ? ni_chunks_of(dim) : 0) {
#define KEPT(CHUNKS)                                                                                                   \
    code = ni_launch_gate_backward(on, gated_norm_backward_kept<CHUNKS>, n, dim, do_, dg, dg_amax, partial, dy, o, g,  \
                                   w, rstd, n, (int)dim)
        NI_UP_TO_FOUR_CHUNKS(KEPT)
#undef KEPT
    default:
        code = ni_launch_gate_backward(on, gated_norm_backward, n, dim, do_, dg, dg_amax, partial, dy, o, g, w, rstd, n,
                                       dim);
    }
    return code == cudaSuccess ? ni_finish_sums(on, dw, partial, ni_gate_blocks(n), dim) : code;
}
