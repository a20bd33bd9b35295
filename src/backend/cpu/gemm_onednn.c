/* gemm_onednn.c: one output tile by oneDNN's BF16 matmul.
 *
 * Making a primitive costs about half a millisecond (code generation), so each shape of tile is made once and kept,
 * with memory objects for each thread that a tile's addresses are put into.
 */
#include "backend/cpu/gemm.h"
#include "backend/cpu/onednn.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MOST_PRIMITIVES = 256, OPERANDS = 4 };

typedef struct shape {
    int64_t m, n, k, stride_a, stride_b, stride_c;
    int32_t trans_a, trans_b, c_bf16, accumulate;
} shape;

typedef struct entry {
    shape shape;
    dnnl_primitive_t primitive;
    ni_onednn_desc a, b, c, scratch;
    dnnl_memory_t (*memory)[OPERANDS]; /* [threads] */
    uint64_t used;                     /* the call that used it last */
} entry;

struct ni_onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    entry entries[MOST_PRIMITIVES];
    int32_t count, threads;
    uint64_t calls;
};

static void free_entry(const ni_onednn *d, entry *e) {
    for (int32_t t = 0; e->memory && t < d->threads; t++)
        for (int i = 0; i < OPERANDS && e->memory[t][i]; i++)
            dnnl_memory_destroy(e->memory[t][i]);
    free(e->memory);
    if (e->primitive)
        dnnl_primitive_destroy(e->primitive);
    ni_onednn_desc_free(&e->a);
    ni_onednn_desc_free(&e->b);
    ni_onednn_desc_free(&e->c);
    ni_onednn_desc_free(&e->scratch);
}

void ni_onednn_free(ni_onednn *d) {
    if (!d)
        return;
    for (int32_t i = 0; i < d->count; i++)
        free_entry(d, &d->entries[i]);
    if (d->stream)
        dnnl_stream_destroy(d->stream);
    if (d->engine)
        dnnl_engine_destroy(d->engine);
    free(d);
}

static nb_status open_library(nb_backend *be, nb_error *err) {
    ni_onednn *d = calloc(1, sizeof *d);
    if (!d)
        return nb_fail(err, NB_NO_MEMORY, "gemm: no memory for oneDNN");
    d->threads = ni_cpu_of(be)->threads;
    if (dnnl_engine_create(&d->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags) != dnnl_success) {
        ni_onednn_free(d);
        return nb_fail(err, NB_INTERNAL, "gemm: oneDNN gives no CPU engine");
    }
    ni_cpu_of(be)->onednn = d;
    return NB_OK;
}

static shape shape_of(const ni_gemm_tile *t) {
    shape s;
    memset(&s, 0, sizeof s); /* compared as bytes */
    s.m = t->c.rows;
    s.n = t->c.cols;
    s.k = t->trans_a ? t->a.rows : t->a.cols;
    s.stride_a = t->a.stride;
    s.stride_b = t->b.stride;
    s.stride_c = t->c.stride;
    s.trans_a = t->trans_a;
    s.trans_b = t->trans_b;
    s.c_bf16 = t->c.dtype == NB_BF16;
    s.accumulate = t->accumulate;
    return s;
}

static entry *find(ni_onednn *d, const shape *s) {
    for (int32_t i = 0; i < d->count; i++)
        if (memcmp(&d->entries[i].shape, s, sizeof *s) == 0)
            return &d->entries[i];
    return NULL;
}

/* [rows, cols] as the product sees it; `transposed` when memory holds [cols, rows]. */
static dnnl_status_t describe(ni_onednn_desc *md, int64_t rows, int64_t cols, int64_t stride, bool transposed,
                              dnnl_data_type_t type) {
    dnnl_dims_t dims = {rows, cols}, strides = {transposed ? 1 : stride, transposed ? stride : 1};
    return ni_onednn_desc_make(md, dims, type, strides);
}

/* Accumulation is a sum post-operation: C is added to the FP32 sum before the one rounding. */
static dnnl_primitive_attr_t make_attributes(bool accumulate) {
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t post;
    if (dnnl_primitive_attr_create(&attr) != dnnl_success)
        return NULL;
    bool good = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success;
    if (good && accumulate) {
        good = dnnl_post_ops_create(&post) == dnnl_success;
        if (good) {
            good = ni_onednn_append_sum(post) == dnnl_success &&
                   dnnl_primitive_attr_set_post_ops(attr, post) == dnnl_success;
            dnnl_post_ops_destroy(post);
        }
    }
    if (good)
        return attr;
    dnnl_primitive_attr_destroy(attr);
    return NULL;
}

static bool make_primitive(ni_onednn *d, entry *e) {
    const shape *s = &e->shape;
    dnnl_data_type_t c_type = s->c_bf16 ? dnnl_bf16 : dnnl_f32;
    if (describe(&e->a, s->m, s->k, s->stride_a, s->trans_a, dnnl_bf16) != dnnl_success ||
        describe(&e->b, s->k, s->n, s->stride_b, s->trans_b, dnnl_bf16) != dnnl_success ||
        describe(&e->c, s->m, s->n, s->stride_c, false, c_type) != dnnl_success)
        return false;
    dnnl_primitive_attr_t attr = make_attributes(s->accumulate);
    if (!attr)
        return false;
    dnnl_primitive_desc_t pd;
    bool good = ni_onednn_matmul_desc(&pd, d->engine, &e->a, &e->b, &e->c, attr) == dnnl_success;
    if (good) {
        good = dnnl_primitive_create(&e->primitive, pd) == dnnl_success &&
               ni_onednn_desc_copy(&e->scratch, dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
        dnnl_primitive_desc_destroy(pd);
    }
    dnnl_primitive_attr_destroy(attr);
    return good;
}

static bool make_memory(const ni_onednn *d, entry *e) {
    const ni_onednn_desc *descs[OPERANDS] = {&e->a, &e->b, &e->c, &e->scratch};
    bool good = (e->memory = calloc((size_t)d->threads, sizeof *e->memory)) != NULL;
    for (int32_t t = 0; good && t < d->threads; t++)
        for (int i = 0; good && i < OPERANDS; i++)
            good = dnnl_memory_create(&e->memory[t][i], ni_onednn_desc_of(descs[i]), d->engine, DNNL_MEMORY_NONE) ==
                   dnnl_success;
    return good;
}

/* A place for a new primitive: a free one, or that of the one longest unused. */
static entry *make_room(ni_onednn *d) {
    if (d->count < MOST_PRIMITIVES)
        return &d->entries[d->count++];
    entry *oldest = &d->entries[0];
    for (int32_t i = 1; i < d->count; i++)
        if (d->entries[i].used < oldest->used)
            oldest = &d->entries[i];
    free_entry(d, oldest);
    return oldest;
}

/* Where memory for its code is not to be had, oneDNN writes through a null pointer: room for it is looked for first.
 * One kernel is below a megabyte; what it compiles at a product's first run comes later and has its share here. */
#define CODE_ROOM ((size_t)24 << 20)

static nb_status look_for_room(nb_error *err) {
    void *room = mmap(NULL, CODE_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return nb_fail(
            err, NB_NO_MEMORY,
            "gemm: no memory for the code of a BF16 product: %zu MiB of addresses are not to be had; hint: a "
            "larger limit (ulimit -v)",
            CODE_ROOM >> 20);
    munmap(room, CODE_ROOM);
    return NB_OK;
}

static nb_status prepare(nb_backend *be, const ni_gemm_tile *t, size_t *scratch, nb_error *err) {
    if (!ni_cpu_of(be)->onednn)
        NB_TRY(open_library(be, err));
    ni_onednn *d = ni_cpu_of(be)->onednn;
    shape s = shape_of(t);
    entry *e = find(d, &s);
    if (!e) {
        entry made = {.shape = s};
        bool made_it = false, held = false;
        NB_TRY(look_for_room(err));
/* oneDNN blocks for the threads that it sees when the primitive is made: one, whatever the program's setting. */
#pragma omp parallel num_threads(1)
        {
            omp_set_num_threads(1);
            made_it = make_primitive(d, &made);
            held = made_it && make_memory(d, &made);
        }
        if (!held)
            free_entry(d, &made);
        if (made_it && !held)
            return nb_fail(err, NB_NO_MEMORY, "gemm: no memory for a BF16 product of oneDNN");
        if (!made_it)
            return nb_fail(err, NB_INTERNAL, "gemm: oneDNN makes no BF16 product of [%lld, %lld] and [%lld, %lld]",
                           (long long)s.m, (long long)s.k, (long long)s.k, (long long)s.n);
        e = make_room(d);
        *e = made;
    }
    e->used = ++d->calls;
    *scratch = (dnnl_memory_desc_get_size(ni_onednn_desc_of(&e->scratch)) + 63) / 64 * 64;
    return NB_OK;
}

static bool run(nb_backend *be, const ni_gemm_tile *t, void *scratch) {
    ni_onednn *d = ni_cpu_of(be)->onednn;
    shape s = shape_of(t);
    entry *e = find(d, &s);
    if (!e)
        return false;
    const int names[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    void *data[OPERANDS] = {t->a.data, t->b.data, t->c.data, scratch};
    dnnl_exec_arg_t args[OPERANDS];
    bool good = true;
    for (int i = 0; i < OPERANDS; i++) {
        args[i] = (dnnl_exec_arg_t){names[i], e->memory[omp_get_thread_num()][i]};
        good = good && dnnl_memory_set_data_handle(args[i].memory, data[i]) == dnnl_success;
    }
    return good && dnnl_primitive_execute(e->primitive, d->stream, OPERANDS, args) == dnnl_success;
}

/* ---- is it the one to take? ---- */

static bool has(dnnl_cpu_isa_t isa) {
    return (dnnl_get_effective_cpu_isa() & isa) == isa;
}

static bool is_intel(void) {
#ifdef NI_X86
    return __builtin_cpu_is("intel");
#else
    return false;
#endif
}

static ni_gemm_fit fit(const ni_cpu *cpu, bool bf16, const char **why) {
    if (!bf16) {
        *why = "it is asked for products of BF16 by BF16 alone";
        return NI_GEMM_CANNOT;
    }
    if (cpu->isa != NB_ISA_AVX512 || !has(dnnl_cpu_isa_avx512_core)) {
        *why = "its BF16 products need AVX-512";
        return NI_GEMM_CANNOT;
    }
    if (has(dnnl_cpu_isa_avx512_core_amx)) {
        *why = "this processor multiplies BF16 in tiles (AMX)";
        return NI_GEMM_FITS;
    }
    /* vdpbf16ps: on AMD as many a cycle as FP32 multiply-adds, which do half as much; on Intel so few that widened
     * products win (both measured: docs/ledger.md). */
    bool fast = has(dnnl_cpu_isa_avx512_core_bf16) && !is_intel();
    *why = fast ? "this processor's BF16 instructions do twice the work of its FP32 ones"
                : "without AMX this processor's BF16 products are slower than widened ones";
    return fast ? NI_GEMM_FITS : NI_GEMM_SLOW;
}

static void sums(char *text, size_t size) {
    const dnnl_version_t *v = dnnl_version();
    bool tiles = has(dnnl_cpu_isa_avx512_core_amx), pairs = has(dnnl_cpu_isa_avx512_core_bf16);
    snprintf(text, size, "onednn %d.%d.%d %s", v->major, v->minor, v->patch,
             tiles   ? "amx"
             : pairs ? "avx512-bf16"
                     : "avx512");
}

const ni_gemm_engine ni_gemm_onednn = {
    .name = "onednn",
    .f32 = "f32 onednn",
    .bf16 = "bf16 onednn",
    .fit = fit,
    .sums = sums,
    .prepare = prepare,
    .run = run,
    .stores_bf16 = true,
};

void ni_onednn_version(char *text, size_t size) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, size, "%d.%d.%d", v->major, v->minor, v->patch);
}
