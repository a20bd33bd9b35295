/* cpu.h: inside the CPU backend: its state, its scratch memory, and the operations that it assembles.
 *
 * To add an operation: give it a row in ops.inc, write the scalar reference in src/backend/ref/ and the fast one here.
 * A fast operation asks nb_cpu_of(be)->isa which code to run, and uses #pragma omp parallel for
 * num_threads(nb_cpu_of(be)->threads) schedule(static) over a partition of the work that does not depend on the number
 * of threads.
 */
#ifndef NB_BACKEND_CPU_CPU_H
#define NB_BACKEND_CPU_CPU_H

#include "backend/table.h"

#if defined(__x86_64__)
#define NB_X86 1
#endif

struct nb_onednn;
struct nb_gemm_library;

/* Working memory of the whole backend, each for one purpose: an operation may call others that use another room. */
typedef enum nb_cpu_room {
    NB_ROOM_SHARED, /* of the innermost operation: nb_cpu_shared */
    NB_ROOM_SOURCE, /* what operands are made of, written out */
    NB_ROOM_PIECE,  /* a piece of an operand before it takes its place */
    NB_ROOM_SUM,    /* a sum of products before it is rounded */
    NB_ROOM_PART,   /* one product of such a sum */
    NB_ROOMS
} nb_cpu_room;

/* One backend serves one calling thread at a time; `threads` is what it may start itself. */
typedef struct nb_cpu {
    int32_t threads;
    nb_isa isa;               /* never AUTO */
    void **scratch;           /* [threads + NB_ROOMS]: one growing buffer a thread, then the rooms */
    size_t *scratch_size;     /* [threads + NB_ROOMS] bytes */
    struct nb_onednn *onednn; /* made by the first product that needs it */
    bool openblas_warm;       /* OpenBLAS's working memory is mapped (gemm_openblas.c) */
    /* Who multiplies: products with F32 in them, BF16 by BF16 (gemm_choice.c). */
    const struct nb_gemm_library *products[2];

    struct {
        double theta;
        int64_t positions, half;
        float *cosine, *sine; /* [positions, half] each; NULL before the first use */
    } rope;
} nb_cpu;

static inline nb_cpu *nb_cpu_of(nb_backend *be) {
    return be->state;
}

/* Working memory that lives until the next call of the same function with the same thread: 64-byte aligned, not
 * cleared, NULL if there is none. nb_cpu_scratch belongs to `thread` (omp_get_thread_num(), 0 <= thread < threads) and
 * may be called inside a parallel region; nb_cpu_shared belongs to the operation and may not. Both only grow, so a
 * training step allocates nothing once it has run. */
void *nb_cpu_scratch(nb_backend *be, int32_t thread, size_t bytes);
void *nb_cpu_shared(nb_backend *be, size_t bytes);
void *nb_cpu_room_of(nb_backend *be, nb_cpu_room room, size_t bytes); /* the same for each room */

/* Shared bytes that are there from the start: nb_cpu_shared never fails below it, for operations that cannot fail. */
enum { NB_CPU_SHARED_BYTES = 1 << 20 };

size_t nb_cpu_scratch_total(nb_backend *be); /* bytes held now */

/* How many of the backend's threads a call of so many elementary operations is worth: starting a team costs
 * microseconds. */
int32_t nb_cpu_team(nb_backend *be, double operations);

/* Every operation, fast: nb_cpu_NAME. */
#define NB_OP_MEMORY(type, name, arguments)
#define NB_OP_TYPED(type, name, arguments) type nb_cpu_##name arguments;
#define NB_OP_PLAIN(type, name, arguments) type nb_cpu_##name arguments;
#include "backend/ops.inc"

/* True if this processor and operating system run `isa`. */
bool nb_isa_available(nb_isa isa);
nb_isa nb_isa_best(void);

/* Threads that the process may use: OMP_NUM_THREADS if set, else the processors of its affinity mask and quota. */
int32_t nb_cpu_default_threads(void);

#endif
