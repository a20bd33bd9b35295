/* stub.c: a libnibble-cuda.so without a GPU: the CPU's operations under the name cuda, and faults as a GPU has them.
 *
 * NIBBLE_STUB in the environment says which:
 *     version    it was built for another program
 *     driver     there is no driver
 *     alloc:N    the N-th allocation finds no memory
 *     lost:N     the N-th synchronize and all after it find the GPU gone, and what was downloaded since the one before
 * is not what was there
 *     cudnn:N    there is cuDNN, of version N
 *     mended:N   N rows of operands went to FP32 whenever somebody asks
 */
#include "backend/backend.h"
#include "backend/cuda/library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOOR __attribute__((visibility("default")))

typedef struct stub {
    nb_backend *inside;
    long fails_at, calls;
    bool alloc, lost;
} stub;

/* One at a time: the object that the program frees holds no room for more. */
static stub the_stub;

static const char *asked(void) {
    const char *text = getenv("NIBBLE_STUB");
    return text ? text : "";
}

static long number_of(const char *what) {
    const size_t length = strlen(what);
    return strncmp(asked(), what, length) == 0 ? strtol(asked() + length, NULL, 10) : 0;
}

static nb_status broken(nb_error *err) {
    return nb_fail(err, NB_INTERNAL, "cuda: an operation of the GPU: GPU 0 (stub) is lost");
}

static void *stub_alloc(nb_backend *be, size_t bytes, const char *what) {
    if (the_stub.alloc && ++the_stub.calls == the_stub.fails_at)
        return NULL;
    return the_stub.inside->ops->alloc(be, bytes, what);
}

static nb_status stub_synchronize(nb_backend *be, nb_error *err) {
    (void)be;
    if (the_stub.lost && ++the_stub.calls >= the_stub.fails_at)
        return broken(err);
    return NB_OK;
}

static void stub_download(nb_backend *be, void *to_host, const void *from, size_t bytes) {
    if (the_stub.lost && the_stub.calls + 1 >= the_stub.fails_at)
        memset(to_host, 0x3c, bytes);
    else
        the_stub.inside->ops->download(be, to_host, from, bytes);
}

static int64_t mended(nb_backend *be) {
    (void)be;
    return number_of("mended:");
}

/* ---- its companion: another CPU backend. What is asked for is done at once, so a mark says nothing. ---- */

static nb_status open_worker(nb_backend *be, nb_backend **worker, nb_error *err) {
    const nb_backend_options one = {.threads = 1};
    (void)be;
    return nb_backend_open("cpu", &one, worker, err);
}

static nb_status enter(nb_backend *worker, nb_error *err) {
    (void)worker;
    (void)err;
    return NB_OK;
}

static void *mark(nb_backend *be) {
    (void)be;
    return malloc(1);
}

static nb_status await(nb_backend *worker, void *at, nb_error *err) {
    (void)worker;
    const bool set = at;
    free(at);
    return set ? NB_OK : broken(err);
}

static const ni_companion companion = {
    .open = open_worker, .enter = enter, .mark = mark, .await = await, .forget = free};

static void destroy(nb_backend *be) {
    (void)be;
    nb_backend_free(the_stub.inside);
    the_stub.inside = NULL;
}

static nb_status no_driver(nb_error *err) {
    return nb_fail(err, NB_UNSUPPORTED, "cuda: this machine has no NVIDIA driver; hint: backend: cpu");
}

DOOR nb_status ni_cuda_library_describe(int device, ni_cuda_facts *facts, nb_error *err) {
    *facts = (ni_cuda_facts){.name = "Stub of a GPU",
                             .count = 1,
                             .device = device,
                             .major = 9,
                             .multiprocessors = 2,
                             .memory = (size_t)3 << 30,
                             .driver = 13000,
                             .runtime = 13000,
                             .cublaslt = 130001,
                             .cudnn = (size_t)number_of("cudnn:"),
                             .cudnn_why = "no libcudnn.so.9 on the path of libraries",
                             .fp8_units = true};
    return strcmp(asked(), "driver") == 0 ? no_driver(err) : NB_OK;
}

DOOR nb_status ni_cuda_library_open(int device, nb_backend **out, nb_error *err) {
    const nb_backend_options one = {.threads = 1};
    if (strcmp(asked(), "driver") == 0)
        return no_driver(err);
    if (device != 0)
        return nb_fail(err, NB_BAD_USAGE, "cuda: there is no GPU %d; this machine has 1", device);
    the_stub = (stub){.alloc = number_of("alloc:") > 0, .lost = number_of("lost:") > 0};
    the_stub.fails_at = the_stub.alloc ? number_of("alloc:") : number_of("lost:");
    NB_TRY(nb_backend_open("cpu", &one, &the_stub.inside, err));
    ni_backend_object *object;
    const nb_status status = ni_backend_create("cuda", NB_BF16, NB_F32, the_stub.inside->state, destroy, &object, err);
    if (status != NB_OK) {
        destroy(NULL);
        return status;
    }
    object->ops = *the_stub.inside->ops;
    object->ops.alloc = stub_alloc;
    object->ops.synchronize = stub_synchronize;
    object->ops.download = stub_download;
    object->backend.companion = &companion;
    object->backend.mended = mended;
    *out = &object->backend;
    return NB_OK;
}

DOOR ni_cuda_library_fit ni_cuda_library_fits(void) {
    const ni_cuda_library_fit ours = NI_CUDA_LIBRARY_FIT, none = {0};
    return strcmp(asked(), "version") == 0 ? none : ours;
}
