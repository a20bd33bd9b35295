/* open.c: finds the GPU, makes the backend over it, and says in one line why it cannot. */
#include "backend/cuda/alphas.h"
#include "backend/cuda/coded.h"
#include "backend/cuda/cuda.h"
#include "backend/cuda/maxima.h"

#include "backend/backend.h"
#include "backend/cuda/cudnn_attention.h"
#include "backend/cuda/library.h"
#include "backend/cuda/operand.h"
#include "backend/cuda/parted.h"
#include "backend/cuda/quantize.h"
#include "backend/cuda/rows.h"
#include "backend/ref/operand_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OLDEST = 80, WORKSPACE = 32 << 20, FIRST_SCRATCH = 16 << 20 };

static void destroy(nb_backend *be) {
    ni_cuda *cuda = ni_cuda_of(be);
    ni_cuda_plans_free(cuda->plans);
    ni_cuda_alphas_free(cuda->alphas);
    ni_cuda_turns_free(cuda->turns);
    ni_cuda_maxima_free(cuda->maxima);
    ni_cuda_profile_free(cuda->profile);
    ni_cuda_cudnn_free(cuda->cudnn);
    if (cuda->lt)
        cublasLtDestroy(cuda->lt);
    cudaFree(cuda->workspace);
    cudaFree(cuda->scratch);
    cudaFree(cuda->words);
    cudaFree(cuda->tile_room);
    cudaFree(cuda->parted);
    if (cuda->own)
        cudaStreamDestroy(cuda->own);
    free(cuda);
}

static nb_status count_devices(int *count, nb_error *err) {
    int driver = 0, runtime = 0;
    cudaError_t code = cudaGetDeviceCount(count);
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (code == cudaErrorInsufficientDriver && driver > 0)
        return nb_fail(err, NB_UNSUPPORTED,
                       "cuda: the driver knows CUDA %d.%d, and this build needs %d.%d; hint: a newer driver, or "
                       "backend: cpu",
                       driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (code == cudaErrorInsufficientDriver || driver == 0)
        return nb_fail(err, NB_UNSUPPORTED, "cuda: this machine has no NVIDIA driver; hint: backend: cpu");
    if (code != cudaSuccess || *count == 0)
        return nb_fail(err, NB_UNSUPPORTED, "cuda: no GPU to be seen (%s); hint: CUDA_VISIBLE_DEVICES, or backend: cpu",
                       cudaGetErrorString(code == cudaSuccess ? cudaErrorNoDevice : code));
    return NB_OK;
}

static nb_status look_at(ni_cuda *cuda, int device, nb_error *err) {
    int count = 0;
    struct cudaDeviceProp properties;
    NB_TRY(count_devices(&count, err));
    if (device < 0 || device >= count)
        return nb_fail(err, NB_BAD_USAGE, "cuda: there is no GPU %d; this machine has %d (0 to %d)", device, count,
                       count - 1);
    cudaError_t code = cudaGetDeviceProperties(&properties, device);
    if (code != cudaSuccess)
        return nb_fail(err, NB_UNSUPPORTED, "cuda: GPU %d says: %s", device, cudaGetErrorString(code));
    cuda->device = device;
    cuda->major = properties.major;
    cuda->minor = properties.minor;
    cuda->multiprocessors = properties.multiProcessorCount;
    snprintf(cuda->name, sizeof cuda->name, "%.63s", properties.name);
    if (10 * cuda->major + cuda->minor < OLDEST)
        return nb_fail(err, NB_UNSUPPORTED,
                       "cuda: %s has compute capability %d.%d; expected 8.0 or later (BF16 units); hint: backend: cpu",
                       cuda->name, cuda->major, cuda->minor);
    return NB_OK;
}

static void look_for_cudnn(ni_cuda_facts *facts) {
    ni_cudnn *library = ni_cudnn_open(facts->cudnn_why, sizeof facts->cudnn_why);
    facts->cudnn = library ? library->version : 0;
    ni_cudnn_close(library);
}

__attribute__((visibility("default"))) nb_status ni_cuda_library_describe(int device, ni_cuda_facts *facts,
                                                                          nb_error *err) {
    struct cudaDeviceProp properties;
    ni_cuda cuda = {.device = device};
    *facts = (ni_cuda_facts){.device = device, .cublaslt = cublasLtGetVersion()};
    NB_TRY(look_at(&cuda, device, err));
    cudaGetDeviceCount(&facts->count);
    cudaDriverGetVersion(&facts->driver);
    cudaRuntimeGetVersion(&facts->runtime);
    if (cudaGetDeviceProperties(&properties, device) == cudaSuccess) {
        facts->multiprocessors = properties.multiProcessorCount;
        facts->memory = properties.totalGlobalMem;
    }
    snprintf(facts->name, sizeof facts->name, "%s", cuda.name);
    facts->major = cuda.major;
    facts->minor = cuda.minor;
    look_for_cudnn(facts);
    facts->fp8_units = cuda.major == 9;
    facts->fp4_units = ni_has_fp4_units(cuda.major, cuda.minor);
    return NB_OK;
}

static nb_status take(ni_cuda *cuda, nb_error *err) {
    const float words[NI_CUDA_WORDS] = {[NI_CUDA_ZERO] = 0.0f, [NI_CUDA_ONE] = 1.0f};
    cudaError_t code = cudaSetDevice(cuda->device);
    if (code == cudaSuccess)
        code = cudaStreamCreateWithFlags(&cuda->own, cudaStreamNonBlocking);
    cuda->stream = cuda->own;
    if (code == cudaSuccess)
        code = cudaMalloc(&cuda->workspace, WORKSPACE);
    if (code == cudaSuccess)
        code = cudaMalloc(&cuda->scratch, FIRST_SCRATCH);
    if (code == cudaSuccess)
        code = cudaMemset(cuda->scratch, 0, FIRST_SCRATCH); /* as all memory of a backend is at first */
    if (code == cudaSuccess)
        code = cudaMalloc((void **)&cuda->words, sizeof words);
    if (code == cudaSuccess)
        code = cudaMemcpy(cuda->words, words, sizeof words, cudaMemcpyHostToDevice);
    if (code == cudaSuccess)
        code = cudaMalloc((void **)&cuda->tile_room, NI_PRODUCED_MOST * NI_CUDA_TILE_ROOM);
    if (code == cudaSuccess)
        code = cudaMemset(cuda->tile_room, 0, NI_PRODUCED_MOST * NI_CUDA_TILE_ROOM);
    if (code == cudaSuccess)
        code = cudaMalloc((void **)&cuda->parted, NI_CUDA_PARTED_FLAGS * sizeof *cuda->parted);
    if (code == cudaSuccess)
        code = cudaMemset(cuda->parted, 0, NI_CUDA_PARTED_FLAGS * sizeof *cuda->parted);
    cuda->workspace_bytes = WORKSPACE;
    cuda->scratch_bytes = FIRST_SCRATCH;
    if (code != cudaSuccess)
        return nb_fail(err, code == cudaErrorMemoryAllocation ? NB_NO_MEMORY : NB_UNSUPPORTED,
                       "cuda: %s cannot be used: %s; hint: is another program holding it?", cuda->name,
                       cudaGetErrorString(code));
    cublasStatus_t status = cublasLtCreate(&cuda->lt);
    if (status != CUBLAS_STATUS_SUCCESS)
        return nb_fail(err, NB_UNSUPPORTED, "cuda: cuBLASLt does not start on %s: %s", cuda->name,
                       cublasLtGetStatusString(status));
    return NB_OK;
}

/* Scratch memory is shared by what is queued: the old stream is waited for. */
static nb_status use_stream(nb_backend *be, void *stream, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (cuda->stream == stream)
        return NB_OK;
    NB_TRY(ni_cuda_synchronize(be, err));
    cuda->stream = stream;
    return NB_OK;
}

static void fill(ni_backend_ops *ops) {
#define NI_OP_MEMORY(type, name, arguments) ops->name = ni_cuda_##name;
#define NI_OP_TYPED(type, name, arguments) ops->name = ni_cuda_##name;
#define NI_OP_PLAIN(type, name, arguments) ops->name = ni_cuda_##name;
#include "backend/ops.inc"
}

__attribute__((visibility("default"))) nb_status ni_cuda_library_open(int device, nb_backend **out, nb_error *err) {
    ni_backend_object *object;
    ni_cuda *cuda = calloc(1, sizeof *cuda);
    if (!cuda)
        return nb_fail(err, NB_NO_MEMORY, "cuda: no memory for the backend");
    nb_backend unnamed = {.state = cuda};
    nb_status status = look_at(cuda, device, err);
    if (status == NB_OK)
        status = take(cuda, err);
    if (status == NB_OK)
        status = ni_backend_create("cuda", NB_BF16, NB_F32, cuda, destroy, &object, err);
    if (status != NB_OK) {
        destroy(&unnamed);
        return status;
    }
    fill(&object->ops);
    object->backend.logit_elements = NI_LOGITS_GPU;
    object->backend.wants_amax = true;
    object->backend.takes_kept = ni_cuda_takes_kept;
    object->backend.remakes = ni_remakes_double;
    object->backend.lends_codes = ni_cuda_lends_codes;
    object->backend.multiply_many = ni_cuda_joins(cuda) ? ni_cuda_multiply_many : NULL;
    object->backend.clear_maxima = ni_cuda_clear_maxima;
    object->backend.square_many = ni_cuda_square_many;
    object->backend.clear_many = ni_cuda_clear_many;
    object->backend.makes_gates = true;
    object->backend.profiler = &ni_cuda_profiler;
    object->backend.use_stream = use_stream;
    object->backend.companion = &ni_cuda_companion;
    object->backend.mended = ni_cuda_mended;
    object->backend.left = ni_cuda_left;
    *out = &object->backend;
    return NB_OK;
}
