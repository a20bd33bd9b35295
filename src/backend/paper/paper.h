/* paper.h: a backend that computes nothing and counts what it is asked for: memory by purpose, bytes that move, FLOPs
 * by kind, calls, working memory. Its addresses lie in pages that nobody may touch.
 *
 *     nb_backend_open("paper", &options, &be, &err);      what the CPU backend would be asked for
 *     nb_backend_open("paper:hopper", NULL, &be, &err);   an NVIDIA Hopper GPU
 *     ... a training step over `be` ...
 *     const ni_paper *counted = ni_paper_of(be);
 *
 * Each input of an operation is read once and each output written once: what caches and tiles do is not on paper.
 */
#ifndef NI_BACKEND_PAPER_PAPER_H
#define NI_BACKEND_PAPER_PAPER_H

#include "backend/cpu/cpu.h"
#include "backend/table.h"

/* Every operation of the table. */
typedef enum ni_paper_row {
#define NI_OP_MEMORY(type, name, arguments) NI_PAPER_ROW_##name,
#define NI_OP_TYPED(type, name, arguments) NI_PAPER_ROW_##name,
#define NI_OP_PLAIN(type, name, arguments) NI_PAPER_ROW_##name,
#include "backend/ops.inc"
    NI_PAPER_ROWS
} ni_paper_row;

/* Which units do the arithmetic: what a machine has a rate for. name, what it is. */
#define NI_PAPER_KINDS(X)                                                                                              \
    X(moves, "bytes alone")                                                                                            \
    X(work, "FP32 arithmetic outside of products")                                                                     \
    X(stages, "numbers through stages of quantizers")                                                                  \
    X(functions, "exponentials, logarithms, quotients")                                                                \
    X(sparse, "products of the entries of a sparse operand")                                                           \
    X(f32, "products of FP32 numbers")                                                                                 \
    X(bf16, "products of BF16 numbers")                                                                                \
    X(decoded, "products of codes that are decoded to BF16 numbers")                                                   \
    X(blocks, "products of codes with a scale a block")                                                                \
    X(whole, "products of codes with a scale a row or a tensor")                                                       \
    X(fp8, "products of codes by units for 8 bits")                                                                    \
    X(attention, "softmax attention")                                                                                  \
    X(scan, "gated linear attention")

typedef enum ni_paper_kind {
#define NI_PAPER_KIND(name, help) NI_PAPER_##name,
    NI_PAPER_KINDS(NI_PAPER_KIND)
#undef NI_PAPER_KIND
        NI_PAPER_KIND_COUNT
} ni_paper_kind;

const char *ni_paper_row_name(ni_paper_row row);    /* "multiply" */
const char *ni_paper_kind_name(ni_paper_kind kind); /* "bf16" */

/* Calls of one operation on operands of one kind. */
typedef struct ni_paper_entry {
    ni_paper_row row;
    ni_paper_kind kind;
    char formats[64];       /* of a product: "nvfp4 1x16 x nvfp4 16x16"; else "" */
    int64_t calls, regions; /* regions: how often threads of a processor are started and waited for */
    double read, written;   /* bytes */
    double flops;           /* one for each addition and each multiplication; other kinds as rows.c counts them */
    ni_paper_kind beside;   /* what it does besides, and how much */
    double also;
} ni_paper_entry;

/* Memory of one purpose. */
typedef struct ni_paper_purpose {
    const char *what; /* as alloc was told */
    int64_t pieces;
    size_t bytes, peak; /* now; the most at one time */
} ni_paper_purpose;

enum { NI_PAPER_ENTRIES = 512, NI_PAPER_PURPOSES = 128 };

typedef struct ni_paper {
    bool hopper;        /* operands as Hopper keeps them: BF16 values and words, or bytes; else as the CPU does */
    ni_permits permits; /* on Hopper: which products units for 8 bits multiply (backend/units.h) */
    ni_cpu cpu;         /* what the CPU backend would be: its threads and instruction set decide sizes and names */
    nb_backend machine; /* `cpu` as a backend, for functions that ask one; it has no table */

    ni_paper_entry entries[NI_PAPER_ENTRIES];
    int32_t entry_count;
    ni_paper_purpose purposes[NI_PAPER_PURPOSES];
    int32_t purpose_count;
    size_t bytes, peak; /* of all purposes together */

    size_t thread_bytes;    /* most that a thread of the CPU works in */
    size_t rooms[NI_ROOMS]; /* most that the CPU backend would hold of each room */

    struct ni_paper_block *blocks; /* what is allocated */
    int64_t block_count, block_capacity;
} ni_paper;

void ni_paper_free(ni_paper *p);
/* NULL where `be` is no paper. */
ni_paper *ni_paper_of(nb_backend *be);

/* Forgets calls, bytes, FLOPs; memory and working memory stay. */
void ni_paper_start_over(ni_paper *paper);

/* Working memory of the CPU backend (threads and rooms) so far; 0 on Hopper. */
size_t ni_paper_working_bytes(const ni_paper *paper);

/* ---- for the rows ---- */

typedef struct ni_paper_cost {
    double read, written; /* bytes */
    ni_paper_kind kind;
    double flops;
    const char *formats; /* NULL: none */
    ni_paper_kind beside;
    double also;     /* of that kind */
    int64_t regions; /* 0: one, or none where there is little to do */
} ni_paper_cost;

void ni_paper_note(nb_backend *be, ni_paper_row row, ni_paper_cost cost);

/* One call of the operation `name` on `be`. */
#define NI_PAPER_NOTE(name, read, written, kind, flops)                                                                \
    ni_paper_note(be, NI_PAPER_ROW_##name, (ni_paper_cost){read, written, kind, flops, NULL, NI_PAPER_moves, 0, 0})
/* The same, with FP32 arithmetic besides. */
#define NI_PAPER_NOTE_WORK(name, read, written, kind, flops, work)                                                     \
    ni_paper_note(be, NI_PAPER_ROW_##name, (ni_paper_cost){read, written, kind, flops, NULL, NI_PAPER_work, work, 0})

/* Of what was noted of `row`, so many bytes stay in a kernel that does more. */
void ni_paper_unwritten(nb_backend *be, ni_paper_row row, double bytes);

static inline double ni_paper_bytes(int64_t n, nb_dtype dtype) {
    return (double)n * (double)nb_dtype_size(dtype);
}

static inline double ni_paper_mat_bytes(const nb_mat *m) {
    return ni_paper_bytes(m->rows * m->cols, m->dtype);
}

/* The CPU backend would take that much for one thread, or of a room. */
void ni_paper_thread(nb_backend *be, double bytes);
void ni_paper_room(nb_backend *be, ni_cpu_room room, double bytes);

/* Every operation: ni_paper_NAME. */
#define NI_OP_MEMORY(type, name, arguments) type ni_paper_##name arguments;
#define NI_OP_TYPED(type, name, arguments) type ni_paper_##name arguments;
#define NI_OP_PLAIN(type, name, arguments) type ni_paper_##name arguments;
#include "backend/ops.inc"
nb_status ni_paper_multiply_many(nb_backend *be, const ni_sum *products, int32_t count, nb_error *err);

#endif
