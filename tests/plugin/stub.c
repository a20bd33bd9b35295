/* stub.c: a libnibble-cuda.so without a GPU: the CPU's operations under the name cuda, and faults as a GPU has them.
 *
 * NIBBLE_STUB in the environment says which:
 *     version    it was built for another program
 *     driver     there is no driver
 *     alloc:N    the N-th allocation finds no memory
 *     alloc:N,bytes:M    and the GPU has M bytes of it
 *     left:M     of its memory M bytes are left
 *     lost:N     the N-th synchronize and all after find the GPU gone; what was downloaded since the last is not so
 *     apart      no rank reaches the memory of another
 *     mistaken   it sees zeroes there
 *     refused    a look at it is refused, and a copy from there ends the process
 *     half       so it is for rank 1 alone
 *     choices    its library chose kernels for two shapes, which it takes back; not others
 *     cudnn:N    there is cuDNN, of version N
 *     mended:N   N rows of operands went to FP32 whenever somebody asks
 */
#include "backend/backend.h"
#include "backend/cuda/library.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

static size_t bytes_of_memory(void) {
    const char *bytes = strstr(asked(), ",bytes:");
    return bytes ? (size_t)strtoll(bytes + strlen(",bytes:"), NULL, 10) : (size_t)3 << 30;
}

/* What others have of it: left:BYTES is what there is for this process. */
static bool stub_left(nb_backend *be, size_t *left, size_t *all) {
    const char *bytes = strstr(asked(), "left:");
    (void)be;
    *all = bytes_of_memory();
    *left = bytes ? (size_t)strtoll(bytes + strlen("left:"), NULL, 10) : *all;
    return true;
}

static nb_status broken(nb_error *err) {
    return nb_fail(err, NB_INTERNAL, "cuda: an operation of the GPU: GPU 0 (stub) is lost");
}

/* ---- memory that another process may read lies in a file that has no name ---- */

enum { LENDABLE = 4 };
static struct {
    void *memory;
    size_t bytes;
    int file;
} lendable[LENDABLE];

static void *lendable_alloc(size_t bytes) {
    int i = 0;
    while (i < LENDABLE && lendable[i].memory)
        i++;
    const int file = i < LENDABLE ? memfd_create("gradients", 0) : -1;
    if (file < 0 || ftruncate(file, (off_t)bytes) != 0)
        return NULL;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED)
        return NULL;
    lendable[i].memory = memory;
    lendable[i].bytes = bytes;
    lendable[i].file = file;
    return memory;
}

static bool lend(nb_backend *be, void *memory, ni_lent *out) {
    (void)be;
    for (int i = 0; i < LENDABLE; i++)
        if (lendable[i].memory == memory) {
            snprintf(out->words, sizeof out->words, "%zu /proc/%d/fd/%d", lendable[i].bytes, (int)getpid(),
                     lendable[i].file);
            return true;
        }
    return false;
}

static bool is_refused(void) {
    const char *rank = getenv("RANK");
    return strcmp(asked(), "refused") == 0 || (strcmp(asked(), "half") == 0 && rank && strcmp(rank, "1") == 0);
}

/* A borrowed range begins behind a page that says how long it is. */
enum { PAGE = 4096 };

static void *borrow(nb_backend *be, const ni_lent *lent) {
    char *path;
    const size_t bytes = strtoul(lent->words, &path, 10), all = bytes + PAGE;
    (void)be;
    if (strcmp(asked(), "apart") == 0)
        return NULL;
    if (strcmp(asked(), "mistaken") == 0) {
        size_t *nothing = calloc(1, all);
        return nothing ? (char *)nothing + PAGE : NULL;
    }
    const int file = open(path + 1, O_RDONLY);
    char *room = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (file < 0 || room == MAP_FAILED ||
        mmap(room + PAGE, bytes, is_refused() ? PROT_NONE : PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
        return NULL;
    close(file);
    memcpy(room, &all, sizeof all);
    return room + PAGE;
}

static bool peek(nb_backend *be, void *to, const void *borrowed, size_t bytes) {
    (void)be;
    if (is_refused())
        return false;
    memcpy(to, borrowed, bytes);
    return true;
}

static void give_back(nb_backend *be, void *borrowed) {
    char *room = (char *)borrowed - PAGE;
    size_t all;
    (void)be;
    memcpy(&all, room, sizeof all);
    if (all)
        munmap(room, all);
    else
        free(room);
}

static void *stub_alloc(nb_backend *be, size_t bytes, const char *what) {
    if (the_stub.alloc && ++the_stub.calls == the_stub.fails_at)
        return NULL;
    const bool read_by_others = strcmp(what, "gradients") == 0 || strcmp(what, "rows of gradients") == 0 ||
                                strcmp(what, "weights for other ranks") == 0;
    return read_by_others ? lendable_alloc(bytes) : the_stub.inside->ops->alloc(be, bytes, what);
}

static void stub_release(nb_backend *be, void *memory) {
    for (int i = 0; i < LENDABLE; i++)
        if (lendable[i].memory == memory && memory) {
            munmap(memory, lendable[i].bytes);
            close(lendable[i].file);
            lendable[i].memory = NULL;
            return;
        }
    the_stub.inside->ops->release(be, memory);
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

static const char CHOSEN[] = "64 x 32 x 16: kernel 7\n32 x 32 x 64: kernel 3, split \"k\"\n";

static char *choices(nb_backend *be) {
    char *text = calloc(1, sizeof CHOSEN);
    (void)be;
    return text ? memcpy(text, CHOSEN, sizeof CHOSEN) : NULL;
}

static nb_status choose(nb_backend *be, const char *asked_for, nb_error *err) {
    (void)be;
    return strcmp(asked_for, CHOSEN) == 0 ? NB_OK
                                          : nb_fail(err, NB_UNSUPPORTED, "cuda: kernels are not those that ran");
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

static void follow(nb_backend *be, void *at) {
    (void)be;
    free(at);
}

static const ni_companion companion = {.open = open_worker,
                                       .enter = enter,
                                       .mark = mark,
                                       .await = await,
                                       .forget = free,
                                       .follow = follow,
                                       .lend = lend,
                                       .borrow = borrow,
                                       .peek = peek,
                                       .give_back = give_back};

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
                             .memory = bytes_of_memory(),
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
    object->ops.release = stub_release;
    object->ops.synchronize = stub_synchronize;
    object->ops.download = stub_download;
    object->backend.companion = &companion;
    object->backend.mended = mended;
    object->backend.left = stub_left;
    if (strcmp(asked(), "choices") == 0) {
        object->ops.gemm_choices = choices;
        object->ops.gemm_choose = choose;
    }
    *out = &object->backend;
    return NB_OK;
}

DOOR ni_cuda_library_fit ni_cuda_library_fits(void) {
    const ni_cuda_library_fit ours = NI_CUDA_LIBRARY_FIT, none = {0};
    return strcmp(asked(), "version") == 0 ? none : ours;
}
