/* loss.cu: cross entropy, a block a row: one reading for the maximum and the sum of exponentials, one, out of the L2,
 * that turns the logits into their gradients where they stand.
 *
 *     lse = max + log(sum exp(x - max))      dx = grad_scale ((1 + 2 z lse) exp(x - lse) - [target])
 *
 * A thread takes eight columns at a time where rows begin at whole 16 bytes, else one. Its maximum and its sum go
 * together; threads, then warps, are joined in the order of their numbers.
 */
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

/* Some columns of a row: eight, or one. */
template <int N> struct piece { float x[N]; };

static __device__ piece<8> load(const uint16_t *from, piece<8> *) {
    const ni_eight e = ni_load_eight(from);
    piece<8> p;
#pragma unroll
    for (int i = 0; i < 8; i++)
        p.x[i] = e.x[i];
    return p;
}

static __device__ piece<1> load(const uint16_t *from, piece<1> *) {
    piece<1> p = {{ni_bf16_value(*from)}};
    return p;
}

static __device__ void store(uint16_t *to, const piece<8> &p) {
    ni_eight e;
#pragma unroll
    for (int i = 0; i < 8; i++)
        e.x[i] = p.x[i];
    ni_store_eight(to, e);
}

static __device__ void store(uint16_t *to, const piece<1> &p) {
    *to = ni_bf16_even(p.x[0]);
}

template <int N> static __device__ tail with(tail t, const piece<N> &p) {
    float largest = t.largest;
#pragma unroll
    for (int i = 0; i < N; i++)
        largest = fmaxf(largest, p.x[i]);
    if (largest == -INFINITY)
        return t;
    float sum = t.sum * expf(t.largest - largest);
#pragma unroll
    for (int i = 0; i < N; i++)
        sum += expf(p.x[i] - largest);
    tail joint = {largest, sum};
    return joint;
}

/* f(first column, columns) of a thread's pieces in order; several are asked for before the first is waited for. */
template <int N, typename F> static __device__ __forceinline__ void each_piece(const uint16_t *x, int64_t vocab, F f) {
    enum { AT_ONCE = 4, STEP = N * NI_THREADS };
    for (int64_t c = N * threadIdx.x; c < vocab; c += AT_ONCE * STEP) {
        piece<N> p[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (c + i * STEP < vocab)
                p[i] = load(x + c + i * STEP, (piece<N> *)NULL);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (c + i * STEP < vocab)
                f(c + i * STEP, p[i]);
    }
}

template <int N>
static __global__ void __launch_bounds__(NI_THREADS)
    cross_entropy(float *loss, float *z, uint16_t *dlogits, const uint16_t *logits, const int32_t *targets,
                  int64_t vocab, float grad_scale, float z_loss) {
    __shared__ tail room[NI_WARPS];
    const int64_t r = blockIdx.x;
    const uint16_t *x = logits + r * vocab;
    const int32_t target = targets[r];
    const float at_target = target >= 0 ? ni_bf16_value(x[target]) : 0.0f; /* before dlogits overwrites it */
    tail mine = {-INFINITY, 0.0f};
    bool nan = false;
    each_piece<N>(x, vocab, [&](int64_t, const piece<N> &p) {
#pragma unroll
        for (int i = 0; i < N; i++)
            nan |= p.x[i] != p.x[i];
        mine = with(mine, p);
    });
    nan = __syncthreads_or(nan);
    const tail all = block_tail(mine, room);
    const float lse = nan ? NAN : all.largest + logf(all.sum);
    if (threadIdx.x == 0) {
        loss[r] = target >= 0 ? lse - at_target : 0.0f;
        if (z)
            z[r] = lse;
    }
    const float slope = 1.0f + 2.0f * z_loss * lse;
    if (!dlogits)
        return;
    each_piece<N>(x, vocab, [&](int64_t c, piece<N> &p) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float d = slope * expf(p.x[i] - lse) - (c + i == target ? 1.0f : 0.0f);
            p.x[i] = target >= 0 ? grad_scale * d : 0.0f;
        }
        store(dlogits + r * vocab + c, p);
    });
}

int ni_cuda_launch_cross_entropy(void *stream, float *loss, float *z, uint16_t *dlogits, const uint16_t *logits,
                                 const int32_t *targets, int64_t n, int64_t vocab, float grad_scale, float z_loss) {
    const bool wide = vocab % 8 == 0 && ni_aligned(logits) && ni_aligned(dlogits);
    if (n > 0)
        (wide ? cross_entropy<8> : cross_entropy<1>)<<<(unsigned)n, NI_THREADS, 0, (cudaStream_t)stream>>>(
            loss, z, dlogits, logits, targets, vocab, grad_scale, z_loss);
    return cudaGetLastError();
}
