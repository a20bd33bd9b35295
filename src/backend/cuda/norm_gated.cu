/* norm_gated.cu: the gated RMSNorm and the decay gate of GLA: a warp takes a row. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/norm.cuh"

size_t ni_cuda_partial_bytes(int64_t n, int64_t dim) {
    return (size_t)(ni_norm_blocks(n) * dim) * sizeof(float);
}

static __device__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
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

int ni_cuda_launch_gated_norm_forward(void *stream, uint16_t *y, uint32_t *amax, float *rstd, const uint16_t *o,
                                      const uint16_t *g, const float *w, int64_t n, int64_t dim, float eps) {
    cudaStream_t on = (cudaStream_t)stream;
    if (amax)
        cudaMemsetAsync(amax, 0, sizeof *amax, on);
    if (n > 0)
        gated_norm_forward<<<ni_grid(ni_divide_up(n, NI_WARPS)), NI_THREADS, 0, on>>>(y, amax, rstd, o, g, w, n, dim,
                                                                                      eps);
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

int ni_cuda_launch_gated_norm_backward(void *stream, uint16_t *do_, uint16_t *dg, uint32_t *dg_amax, float *dw,
                                       const uint16_t *dy, const uint16_t *o, const uint16_t *g, const float *w,
                                       const float *rstd, int64_t n, int64_t dim, float *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    int code = ni_room_for_sums(gated_norm_backward, dim);
    if (dg_amax)
        cudaMemsetAsync(dg_amax, 0, sizeof *dg_amax, on);
    if (n == 0 || code != cudaSuccess)
        return code;
    gated_norm_backward<<<(unsigned)ni_norm_blocks(n), NI_THREADS, ni_sums_bytes(dim), on>>>(do_, dg, dg_amax, partial,
                                                                                             dy, o, g, w, rstd, n, dim);
    return ni_finish_sums(on, dw, partial, ni_norm_blocks(n), dim);
}

/* ---- the decay gate of GLA ---- */

static __device__ float logsigmoid(float x) {
    return (x < 0.0f ? x : 0.0f) - log1pf(expf(-fabsf(x)));
}

static __global__ void gate_forward(float *gate, const uint16_t *a, const float *bias, int64_t n, int64_t dim,
                                    float normalizer, float clamp) {
    for (NI_EACH(i, n * dim)) {
        float decay = logsigmoid(ni_bf16_value(a[i]) + bias[i % dim]) / normalizer;
        gate[i] = decay < clamp ? clamp : decay;
    }
}

int ni_cuda_launch_gate_forward(void *stream, float *gate, const uint16_t *a, const float *bias, int64_t n, int64_t dim,
                                float normalizer, float clamp) {
    if (n * dim > 0)
        gate_forward<<<ni_grid(ni_divide_up(n * dim, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
            gate, a, bias, n, dim, normalizer, clamp);
    return cudaGetLastError();
}

static __global__ void gate_backward(uint16_t *da, float *partial, const float *dgate, const uint16_t *a,
                                     const float *bias, int64_t n, int64_t dim, float normalizer, float clamp) {
    extern __shared__ float sums[];
    float *dbias = ni_clear_sums(sums, dim);
    for (NI_ROWS(r, n))
        for (int64_t c = threadIdx.x % 32; c < dim; c += 32) {
            float x = ni_bf16_value(a[r * dim + c]) + bias[c];
            bool clamped = logsigmoid(x) / normalizer < clamp;
            float dx = clamped ? 0.0f : dgate[r * dim + c] * sigmoid(-x) / normalizer;
            da[r * dim + c] = ni_bf16_even(dx);
            dbias[c] += dx;
        }
    ni_leave_partial(partial, sums, dim);
}

int ni_cuda_launch_gate_backward(void *stream, uint16_t *da, float *dbias, const float *dgate, const uint16_t *a,
                                 const float *bias, int64_t n, int64_t dim, float normalizer, float clamp,
                                 float *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    int code = ni_room_for_sums(gate_backward, dim);
    if (n == 0 || code != cudaSuccess)
        return code;
    gate_backward<<<(unsigned)ni_norm_blocks(n), NI_THREADS, ni_sums_bytes(dim), on>>>(da, partial, dgate, a, bias, n,
                                                                                       dim, normalizer, clamp);
    return ni_finish_sums(on, dbias, partial, ni_norm_blocks(n), dim);
}
