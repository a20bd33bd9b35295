/* launches.c: around CUDA's run-time in a second libnibble-cuda.so, counts how often each of our kernels is launched
 * (the linker's --wrap, cmake/cuda.cmake), so that scripts/gpu-check can say which kernels no test has launched.
 *     NIBBLE_LAUNCHES=FILE     at the end one line a kernel is added to it: launches, a blank, the kernel's name
 *     NIBBLE_CAPABILITY=8.0    the GPU is described as one of this compute capability with two multiprocessors and,
 * below 9.0, the shared memory that a block has there: kernels for older and smaller GPUs then run on a newer one
 *     NIBBLE_PRODUCTS=none     products of cuBLASLt are not made, and what holds them stays as it was: for a tool that
 * cannot run its kernels (scripts/gpu-check --sanitize racecheck)
 *     NIBBLE_DRIVER=12.4       the driver is described as one that knows CUDA 12.4 and not this one; 0.0: there is none
 */
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_KERNELS = 4096 };

typedef struct kernel {
    const void *host, *handle; /* the two names by which a launch may call it */
    const char *name;
    atomic_long launches;
} kernel;

static kernel kernels[MOST_KERNELS];
static int kernel_count;

char *__cxa_demangle(const char *name, char *to, size_t *size, int *status); /* of the C++ library */

static void count(const void *which) {
    for (int i = 0; i < kernel_count; i++)
        if (kernels[i].host == which || kernels[i].handle == which) {
            atomic_fetch_add(&kernels[i].launches, 1);
            return;
        }
}

__attribute__((destructor)) static void write_launches(void) {
    const char *path = getenv("NIBBLE_LAUNCHES");
    FILE *out = path ? fopen(path, "a") : NULL;
    for (int i = 0; out && i < kernel_count; i++) {
        char *name = __cxa_demangle(kernels[i].name, NULL, NULL, NULL);
        fprintf(out, "%ld %s\n", atomic_load(&kernels[i].launches), name ? name : kernels[i].name);
        free(name);
    }
    if (out)
        fclose(out);
}

/* ---- kernels by name, as nvcc's code calls them when the library is opened ---- */

void __real___cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, void *, void *,
                                   int *);
void __wrap___cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, void *, void *,
                                   int *);
void __wrap___cudaRegisterFunction(void **library, const char *host, char *device, const char *name, int threads,
                                   void *a, void *b, void *c, void *d, int *size) {
    const int ours = !strstr(name, "N3cub");
    if (ours && kernel_count == MOST_KERNELS)
        abort(); /* a list that is not whole would say of a kernel that it is none */
    if (ours)
        kernels[kernel_count++] = (kernel){.host = host, .name = name};
    __real___cudaRegisterFunction(library, host, device, name, threads, a, b, c, d, size);
}

int __real___cudaGetKernel(void **, const void *) __attribute__((weak)); /* CUDA 13 has it, 12.0 has not */
int __wrap___cudaGetKernel(void **, const void *);
int __wrap___cudaGetKernel(void **handle, const void *host) {
    const int status = __real___cudaGetKernel(handle, host);
    for (int i = 0; i < kernel_count && status == 0; i++)
        if (kernels[i].host == host)
            kernels[i].handle = *handle;
    return status;
}

/* ---- launches ---- */

#define LAUNCH(name, weak)                                                                                             \
    cudaError_t __real_##name(const void *, dim3, dim3, void **, size_t, cudaStream_t) weak;                           \
    cudaError_t __wrap_##name(const void *, dim3, dim3, void **, size_t, cudaStream_t);                                \
    cudaError_t __wrap_##name(const void *which, dim3 grid, dim3 block, void **arguments, size_t shared,               \
                              cudaStream_t stream) {                                                                   \
        count(which);                                                                                                  \
        return __real_##name(which, grid, block, arguments, shared, stream);                                           \
    }
LAUNCH(__cudaLaunchKernel, __attribute__((weak)))
LAUNCH(cudaLaunchKernel, )
LAUNCH(cudaLaunchCooperativeKernel, )

cudaError_t __real_cudaLaunchKernelExC(const cudaLaunchConfig_t *, const void *, void **);
cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t *, const void *, void **);
cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *which, void **arguments) {
    count(which);
    return __real_cudaLaunchKernelExC(how, which, arguments);
}

/* ---- products ---- */

#define PRODUCT(prefix)                                                                                                \
    cublasStatus_t prefix##_cublasLtMatmul(                                                                            \
        cublasLtHandle_t lt, cublasLtMatmulDesc_t what, const void *alpha, const void *a, cublasLtMatrixLayout_t la,   \
        const void *b, cublasLtMatrixLayout_t lb, const void *beta, const void *c, cublasLtMatrixLayout_t lc, void *d, \
        cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t bytes,               \
        cudaStream_t stream)
PRODUCT(__real);
PRODUCT(__wrap);
PRODUCT(__wrap) {
    const char *products = getenv("NIBBLE_PRODUCTS");
    if (products && strcmp(products, "none") == 0)
        return CUBLAS_STATUS_SUCCESS;
    return __real_cublasLtMatmul(lt, what, alpha, a, la, b, lb, beta, c, lc, d, ld, algorithm, workspace, bytes,
                                 stream);
}

/* ---- another GPU ---- */

/* "8.6" is 86; -1: nothing is said, all is as it is. */
static int described(const char *what) {
    const char *text = getenv(what);
    int major = 0, minor = 0;
    return text && sscanf(text, "%d.%d", &major, &minor) == 2 ? 10 * major + minor : -1;
}

static int capability(void) {
    return described("NIBBLE_CAPABILITY");
}

cudaError_t __real_cudaDeviceGetAttribute(int *, enum cudaDeviceAttr, int);
cudaError_t __wrap_cudaDeviceGetAttribute(int *, enum cudaDeviceAttr, int);
cudaError_t __wrap_cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device) {
    const cudaError_t status = __real_cudaDeviceGetAttribute(value, which, device);
    const int as = capability(), kib = as == 80 ? 163 : 99; /* the CUDA C++ Programming Guide, compute capabilities */
    if (as < 0 || status != cudaSuccess)
        return status;
    if (which == cudaDevAttrComputeCapabilityMajor)
        *value = as / 10;
    if (which == cudaDevAttrComputeCapabilityMinor)
        *value = as % 10;
    if (which == cudaDevAttrMaxSharedMemoryPerBlockOptin && as < 90 && *value > kib << 10)
        *value = kib << 10;
    return status;
}

/* Under the name that the header gives it, in CUDA 12 another one. */
#define JOINED(a, b) a##b
#define NAMED(a, b) JOINED(a, b)
#define REAL NAMED(__real_, cudaGetDeviceProperties)
#define WRAP NAMED(__wrap_, cudaGetDeviceProperties)
cudaError_t REAL(struct cudaDeviceProp *, int);
cudaError_t WRAP(struct cudaDeviceProp *, int);
cudaError_t WRAP(struct cudaDeviceProp *properties, int device) {
    const cudaError_t status = REAL(properties, device);
    if (status == cudaSuccess && capability() >= 0) {
        properties->major = capability() / 10;
        properties->minor = capability() % 10;
        properties->multiProcessorCount = 2;
    }
    return status;
}

/* ---- another driver ---- */

cudaError_t __real_cudaGetDeviceCount(int *);
cudaError_t __wrap_cudaGetDeviceCount(int *);
cudaError_t __wrap_cudaGetDeviceCount(int *count) {
    return described("NIBBLE_DRIVER") < 0 ? __real_cudaGetDeviceCount(count) : cudaErrorInsufficientDriver;
}

cudaError_t __real_cudaDriverGetVersion(int *);
cudaError_t __wrap_cudaDriverGetVersion(int *);
cudaError_t __wrap_cudaDriverGetVersion(int *version) {
    const int as = described("NIBBLE_DRIVER");
    if (as < 0)
        return __real_cudaDriverGetVersion(version);
    *version = as / 10 * 1000 + as % 10 * 10;
    return cudaSuccess;
}
