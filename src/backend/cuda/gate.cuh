/* gate.cuh: sigmoids that neither overflow nor branch, and how the kernels of gates add over rows. */
#ifndef NI_BACKEND_CUDA_GATE_CUH
#define NI_BACKEND_CUDA_GATE_CUH

#include "backend/cuda/norm.cuh"
#include "backend/cuda/swiglu.cuh"

/* exp(-|x|), between 0 and 1, of which both are made. */
static __device__ inline float ni_exp_of_less(float x) {
    return expf(-fabsf(x));
}

/* 1 / (1 + exp(-x)), where `less` is ni_exp_of_less(x): the divisor lies between 1 and 2. */
static __device__ inline float ni_sigmoid_of(float x, float less) {
    return (x < 0.0f ? less : 1.0f) * ni_inverse_of_near(1.0f + less);
}

static __device__ inline float ni_logsigmoid(float x, float less) {
    return (x < 0.0f ? x : 0.0f) - log1pf(less);
}

/* ---- sums over rows ---- */

enum { NI_GATE_BLOCKS = 528 }; /* four a multiprocessor: they wait for memory more than norms do */

static inline int64_t ni_gate_blocks(int64_t n) {
    const int64_t blocks = ni_divide_up(n, NI_WARPS);
    return blocks < NI_GATE_BLOCKS ? blocks : NI_GATE_BLOCKS;
}

/* What a warp has added up in registers, eight columns a lane in chunks of 256, into its row of `sums` [NI_WARPS, dim]. */
template <int CHUNKS>
static __device__ __forceinline__ void ni_leave_registers(float *sums, const float (&own)[CHUNKS][8], int dim) {
    float *row = sums + threadIdx.x / 32 * dim;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        const int c = 8 * (threadIdx.x % 32) + 256 * k;
        if (c >= dim)
            break;
        *(float4 *)(row + c) = make_float4(own[k][0], own[k][1], own[k][2], own[k][3]);
        *(float4 *)(row + c + 4) = make_float4(own[k][4], own[k][5], own[k][6], own[k][7]);
    }
}

/* A kernel that leaves a row of `partial` a block. */
template <class Kernel, class... Arguments>
static int ni_launch_gate_backward(cudaStream_t on, Kernel kernel, int64_t n, int64_t dim, Arguments... arguments) {
    const int code = ni_room_for_sums(kernel, dim);
    if (code == cudaSuccess)
        kernel<<<(unsigned)ni_gate_blocks(n), NI_THREADS, ni_sums_bytes(dim), on>>>(arguments...);
    return code;
}

#endif
