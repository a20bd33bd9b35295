/* follow.cuh: a kernel that begins while the one before it runs still (programmatic dependent launch, compute capability 9.0
 * on): behind a kernel of one block, the time that it takes and that a launch takes are gone.
 *
 * Until a thread has waited, it reads nothing that the kernel before it writes, and writes nothing that that one touches.
 * A kernel lets another follow when it has waited itself: what came before both is done then. It may do so earlier if
 * one of its blocks waits before it ends, and the next kernel waits before it touches anything: a kernel is done when its
 * last block is, and so the next one waits for both. Who reads or writes anything before its wait follows a kernel that
 * is fixed, in the same function: what else may stand before it is not known.
 */
#ifndef NI_BACKEND_CUDA_FOLLOW_CUH
#define NI_BACKEND_CUDA_FOLLOW_CUH

#include <cuda_runtime.h>

/* The next kernel may begin, if it is launched so. */
static __device__ inline void ni_let_follow(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* The kernel before is done, and all that it wrote is there. */
static __device__ inline void ni_wait_for_it(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* A kernel that waits, if it was compiled for a GPU that can; as an ordinary launch else. */
template <typename... Parameters, typename... Arguments>
static int ni_launch_following(cudaStream_t on, void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared,
                               const Arguments &...arguments) {
    cudaFuncAttributes compiled;
    const cudaError_t code = cudaFuncGetAttributes(&compiled, kernel);
    if (code != cudaSuccess)
        return code;
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = grid;
    how.blockDim = threads;
    how.dynamicSmemBytes = shared;
    how.stream = on;
    how.attrs = &early;
    how.numAttrs = compiled.ptxVersion >= 90;
    return cudaLaunchKernelEx(&how, kernel, Parameters(arguments)...);
}

#endif
