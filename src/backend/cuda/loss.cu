/* loss.cu: cross entropy, a block a row: one read for the maximum and the sum of exponentials, one for the gradients. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

/* A maximum and the sum of exp(x - maximum) under it. */
typedef struct tail {
    float largest, sum;
} tail;

static __device__ tail joined(tail a, tail b) {
    float largest = fmaxf(a.largest, b.largest);
    if (largest == -INFINITY)
        return a;
    tail t = {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
    return t;
}

static __device__ tail block_tail(tail mine, tail *room) {
    for (int lane = 16; lane; lane /= 2) {
        tail other = {__shfl_xor_sync(~0u, mine.largest, lane), __shfl_xor_sync(~0u, mine.sum, lane)};
        mine = threadIdx.x % 32 & lane ? joined(other, mine) : joined(mine, other);
    }
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = mine;
    __syncthreads();
    tail all = room[0];
    for (int i = 1; i < NI_WARPS; i++)
        all = joined(all, room[i]);
    return all;
}

static __global__ void cross_entropy(float *loss, float *z, uint16_t *dlogits, const uint16_t *logits, const int32_t *targets,
                                     int64_t vocab, float grad_scale, float z_loss) {
    __shared__ tail room[NI_WARPS];
    const int64_t r = blockIdx.x;
    const uint16_t *x = logits + r * vocab;
    const int32_t target = targets[r];
    const float at_target = target >= 0 ? ni_bf16_value(x[target]) : 0.0f; /* before dlogits overwrites it */
    tail mine = {-INFINITY, 0.0f};
    bool nan = false;
    for (int64_t c = threadIdx.x; c < vocab; c += blockDim.x) {
        tail one = {ni_bf16_value(x[c]), 1.0f};
        nan |= one.largest != one.largest;
        mine = joined(mine, one);
    }
    nan = __syncthreads_or(nan);
    tail all = block_tail(mine, room);
    const float lse = nan ? NAN : all.largest + logf(all.sum);
    if (threadIdx.x == 0) {
        loss[r] = target >= 0 ? lse - at_target : 0.0f;
        if (z)
            z[r] = lse;
    }
    for (int64_t c = threadIdx.x; dlogits && c < vocab; c += blockDim.x) {
        float slope = (1.0f + 2.0f * z_loss * lse) * expf(ni_bf16_value(x[c]) - lse) - (c == target ? 1.0f : 0.0f);
        dlogits[r * vocab + c] = ni_bf16_even(target >= 0 ? grad_scale * slope : 0.0f);
    }
}

int ni_cuda_launch_cross_entropy(void *stream, float *loss, float *z, uint16_t *dlogits, const uint16_t *logits, const int32_t *targets,
                                 int64_t n, int64_t vocab, float grad_scale, float z_loss) {
    if (n > 0)
        cross_entropy<<<(unsigned)n, NI_THREADS, 0, (cudaStream_t)stream>>>(loss, z, dlogits, logits, targets, vocab, grad_scale, z_loss);
    return cudaGetLastError();
}
