/* paper.h: a backend that computes nothing and counts what it is asked for: memory by purpose, bytes that move, FLOPs
 * by kind, calls, working memory. Its addresses lie in pages that nobody may touch.
 *
 *     nb_backend_open("paper", &options, &be, &err);      what the CPU backend would be asked for
 *     nb_backend_open("paper:hopper", NULL, &be, &err);   an NVIDIA Hopper GPU
 *     ... a training step over `be` ...
 *     const nb_paper *counted = nb_paper_of(be);
 *
 * Each input of an operation is read once and each output written once: what caches and tiles do is not on paper.
 */
#ifndef NB_BACKEND_PAPER_PAPER_H
#define NB_BACKEND_PAPER_PAPER_H

#include "backend/cpu/cpu.h"
#include "backend/table.h"

/* Every operation of the table. */
typedef enum nb_paper_row {
#define NB_OP_MEMORY(type, name, arguments) NB_PAPER_ROW_##name,
#define NB_OP_TYPED(type, name, arguments) NB_PAPER_ROW_##name,
#define NB_OP_PLAIN(type, name, arguments) NB_PAPER_ROW_##name,
#include "backend/ops.inc"
    NB_PAPER_ROWS
} nb_paper_row;

/* Which units do the arithmetic: what a machine has a rate for. name, what it is. */
#define NB_PAPER_KINDS(X)                                                                                              \
    X(moves, "bytes alone")                                                                                            \
    X(work, "FP32 arithmetic outside of products")                                                                     \
    X(f32, "products of FP32 numbers")                                                                                 \
    X(bf16, "products of BF16 numbers, and of codes that are decoded to them")                                         \
    X(blocks, "products of codes with a scale a block")                                                                \
    X(whole, "products of codes with a scale a row or a tensor")                                                       \
    X(attention, "softmax attention")                                                                                  \
    X(scan, "gated linear attention")

typedef enum nb_paper_kind {
#define NB_PAPER_KIND(name, help) NB_PAPER_##name,
    NB_PAPER_KINDS(NB_PAPER_KIND)
#undef NB_PAPER_KIND
        NB_PAPER_KIND_COUNT
} nb_paper_kind;

const char *nb_paper_row_name(nb_paper_row row);    /* "multiply" */
const char *nb_paper_kind_name(nb_paper_kind kind); /* "bf16" */

/* Calls of one operation on operands of one kind. */
typedef struct nb_paper_entry {
    nb_paper_row row;
    nb_paper_kind kind;
    char formats[64]; /* of a product: "nvfp4 1x16 x nvfp4 16x16"; else "" */
    int64_t calls;
    double read, written; /* bytes */
    double flops;         /* one for each addition and each multiplication; FP32 work: rounding, comparison and
                             exponential too */
} nb_paper_entry;

/* Memory of one purpose. */
typedef struct nb_paper_purpose {
    const char *what; /* as alloc was told */
    int64_t pieces;
    size_t bytes, peak; /* now; the most at one time */
} nb_paper_purpose;

enum { NB_PAPER_ENTRIES = 512, NB_PAPER_PURPOSES = 128 };

typedef struct nb_paper {
    bool hopper;        /* operands as Hopper keeps them: BF16 values and words; else as the CPU does */
    nb_cpu cpu;         /* what the CPU backend would be: its threads and instruction set decide sizes and names */
    nb_backend machine; /* `cpu` as a backend, for functions that ask one; it has no table */

    nb_paper_entry entries[NB_PAPER_ENTRIES];
    int32_t entry_count;
    nb_paper_purpose purposes[NB_PAPER_PURPOSES];
    int32_t purpose_count;
    size_t bytes, peak; /* of all purposes together */

    size_t thread_bytes;    /* most that a thread of the CPU works in */
    size_t rooms[NB_ROOMS]; /* most that the CPU backend would hold of each room */

    struct nb_paper_block *blocks; /* what is allocated */
    int64_t block_count, block_capacity;
} nb_paper;

void nb_paper_free(nb_paper *p);
/* NULL where `be` is no paper. */
nb_paper *nb_paper_of(nb_backend *be);

/* Forgets calls, bytes, FLOPs; memory and working memory stay. */
void nb_paper_start_over(nb_paper *paper);

/* Working memory of the CPU backend (threads and rooms) so far; 0 on Hopper. */
size_t nb_paper_working_bytes(const nb_paper *paper);

/* ---- for the rows ---- */

typedef struct nb_paper_cost {
    double read, written; /* bytes */
    nb_paper_kind kind;
    double flops;
    const char *formats; /* NULL: none */
} nb_paper_cost;

void nb_paper_note(nb_backend *be, nb_paper_row row, nb_paper_cost cost);

/* One call of the operation `name` on `be`. */
#define NB_PAPER_NOTE(name, read, written, kind, flops)                                                                \
    nb_paper_note(be, NB_PAPER_ROW_##name, (nb_paper_cost){read, written, kind, flops, NULL})

static inline double nb_paper_bytes(int64_t n, nb_dtype dtype) {
    return (double)n * (double)nb_dtype_size(dtype);
}

static inline double nb_paper_mat_bytes(const nb_mat *m) {
    return nb_paper_bytes(m->rows * m->cols, m->dtype);
}

/* The CPU backend would take that much for one thread, or of a room. */
void nb_paper_thread(nb_backend *be, double bytes);
void nb_paper_room(nb_backend *be, nb_cpu_room room, double bytes);

/* Every operation: nb_paper_NAME. */
#define NB_OP_MEMORY(type, name, arguments) type nb_paper_##name arguments;
#define NB_OP_TYPED(type, name, arguments) type nb_paper_##name arguments;
#define NB_OP_PLAIN(type, name, arguments) type nb_paper_##name arguments;
#include "backend/ops.inc"

#endif
