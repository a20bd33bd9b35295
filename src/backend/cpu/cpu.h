/* cpu.h: inside the CPU backend: its state, its scratch memory, and the operations that it assembles.
 *
 * To add an operation: give it a row in ops.inc, write the scalar reference in src/backend/ref/ and the fast one here.
 * A fast operation asks ni_cpu_of(be)->isa which code to run, and uses #pragma omp parallel for
 * num_threads(ni_cpu_of(be)->threads) schedule(static) over a partition of the work that does not depend on the number
 * of threads.
 */
#ifndef NI_BACKEND_CPU_CPU_H
#define NI_BACKEND_CPU_CPU_H

#include "backend/table.h"

#if defined(__x86_64__)
#define NI_X86 1
#elif defined(__aarch64__)
#define NI_ARM64 1
#endif

struct ni_onednn;
struct ni_gemm_engine;

/* Working memory of the whole backend, each for one purpose: an operation may call others that use another room. */
typedef enum ni_cpu_room {
    NI_ROOM_SHARED, /* of the innermost operation: ni_cpu_shared */
    NI_ROOM_SOURCE, /* what operands are made of, written out */
    NI_ROOM_PIECE,  /* a piece of an operand before it takes its place */
    NI_ROOM_SUM,    /* a sum of products before it is rounded */
    NI_ROOM_PART,   /* one product of such a sum */
    NI_ROOMS
} ni_cpu_room;

/* One backend serves one calling thread at a time; `threads` is what it may start itself. */
typedef struct ni_cpu {
    int32_t threads;
    nb_isa isa;               /* never AUTO */
    void **scratch;           /* [threads + NI_ROOMS]: one growing buffer a thread, then the rooms */
    size_t *scratch_size;     /* [threads + NI_ROOMS] bytes */
    struct ni_onednn *onednn; /* made by the first product that needs it */
    bool openblas_warm;       /* OpenBLAS's working memory is mapped (gemm_openblas.c) */
    /* Who multiplies: products with F32 in them, BF16 by BF16 (gemm_choice.c). */
    const struct ni_gemm_engine *products[2];

    struct {
        ni_rope how;
        int64_t positions, half;
        float *cosine, *sine; /* [positions, half] each; NULL before the first use */
    } rope;
} ni_cpu;

static inline ni_cpu *ni_cpu_of(nb_backend *be) {
    return be->state;
}

/* Working memory that lives until the next call of the same function with the same thread: 64-byte aligned, not
 * cleared, NULL if there is none. ni_cpu_scratch belongs to `thread` (omp_get_thread_num(), 0 <= thread < threads) and
 * may be called inside a parallel region; ni_cpu_shared belongs to the operation and may not. Both only grow, so a
 * training step allocates nothing once it has run. */
void *ni_cpu_scratch(nb_backend *be, int32_t thread, size_t bytes);
void *ni_cpu_shared(nb_backend *be, size_t bytes);
void *ni_cpu_room_of(nb_backend *be, ni_cpu_room room, size_t bytes); /* the same for each room */

/* Shared bytes that are there from the start: ni_cpu_shared never fails below it, for operations that cannot fail. */
enum { NI_CPU_SHARED_BYTES = 1 << 20 };

size_t ni_cpu_scratch_total(nb_backend *be); /* bytes held now */

/* How many of the backend's threads a call of so many elementary operations is worth: starting a team costs
 * microseconds. */
int32_t ni_cpu_team(nb_backend *be, double operations);

/* Every operation, fast: ni_cpu_NAME. */
#define NI_OP_MEMORY(type, name, arguments)
#define NI_OP_TYPED(type, name, arguments) type ni_cpu_##name arguments;
#define NI_OP_PLAIN(type, name, arguments) type ni_cpu_##name arguments;
#include "backend/ops.inc"

/* True if this processor and operating system run `isa`. */
bool ni_isa_available(nb_isa isa);
nb_isa ni_isa_best(void);

/* True on ARM with SDOT, whose packed products NB_ISA_PORTABLE takes: their bits are those of plain C. */
bool ni_isa_dotprod(void);

/* Threads that the process may use: OMP_NUM_THREADS if set, else the processors of its affinity mask and quota. */
int32_t ni_cpu_default_threads(void);

/* c[M,N] += s[M,K] b[K,N], a sparse term of a sum (multiply.c): the bits of ni_ref_sparse_product. */
void ni_cpu_sparse_product(nb_backend *be, const nb_mat *c, const ni_sparse *s, const nb_mat *b);

#endif
