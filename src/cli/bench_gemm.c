/* bench_gemm.c: `nibble bench gemm`: packed products of every kind beside OpenBLAS and oneDNN.
 *
 * Before a speed is printed, patches at the corners, the edges and in the middle of C are compared bit by bit with the
 * scalar reference.
 */
#include "backend/backend.h"
#include "backend/table.h"
#include "cli/bench.h"
#include "cli/bench_peers.h"

#include "backend/cpu/cpu.h"
#include "backend/ref/gemm_q.h"
#include "base/philox.h"
#include "format/bf16.h"
#include "format/element.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct gemm_options {
    ni_texts shapes;
    const char *isa, *out;
    int64_t threads;
    double seconds;
    bool peers, alone;
} gemm_options;

static const ni_option options[] = {
    {"shape", 0, NI_OPTION_TEXTS, offsetof(gemm_options, shapes), "MxNxK", "C[M,N] = A[M,K] B[N,K]^T; may be repeated"},
    {"isa", 0, NI_OPTION_TEXT, offsetof(gemm_options, isa), "NAME", "auto, scalar, portable, avx2 or avx512"},
    {"threads", 0, NI_OPTION_INT, offsetof(gemm_options, threads), "N", "0: all that the process may use"},
    {"out", 0, NI_OPTION_TEXT, offsetof(gemm_options, out), "TYPE", "of C: bf16 (default) or f32"},
    {"seconds", 0, NI_OPTION_FLOAT, offsetof(gemm_options, seconds), "S", "for each contender and shape (default 0.5)"},
    {"alone", 0, NI_OPTION_FLAG, offsetof(gemm_options, alone), NULL,
     "one thread, processor time: for machines that are busy with other work"},
    {"no-peers", 0, NI_OPTION_FLAG, offsetof(gemm_options, peers), NULL, "only our products"},
    {0},
};

static const ni_command_line line = {
    .usage = "[--shape MxNxK]... [--isa NAME] [--threads N]",
    .about =
        "Products of packed 4-bit operands: bits checked against the scalar reference, then the best of many runs,\n"
        "in turns with OpenBLAS sgemm and oneDNN bf16 and int8.",
    .options = options,
    .least = 0,
    .most = 0,
};

/* Without --shape: the square, then linear layers of small models (tokens x out x in). */
static const char *const usual_shapes[] = {"2048x2048x2048", "1024x256x256",   "1024x768x768",  "2048x2048x768",
                                           "2048x768x2048",  "4096x1024x1024", "1024x4096x4096"};
enum { USUAL_SHAPES = sizeof usual_shapes / sizeof *usual_shapes };

/* The pairs that recipes multiply. */
typedef struct pair {
    const char *name, *family;
    int32_t tile_rows_b; /* rows of a block of B; 0: as the family has it */
    int32_t multiple;    /* of K */
} pair;

static const pair pairs[] = {{"nvfp4 1x16 by 1x16", "nvfp4", 0, 16},
                             {"nvfp4 1x16 by 16x16", "nvfp4", 16, 16},
                             {"mxfp4 1x32 by 1x32", "mxfp4", 0, 32},
                             {"e2m1 row by row", "e2m1", 0, 1}};
enum { PAIRS = sizeof pairs / sizeof *pairs };

typedef struct product {
    nb_backend *be;
    nb_operand a, b; /* of B codes alone: every product packs them, as the peers pack theirs */
    nb_mat c;
} product;

/* Plain products of both types: what the backend takes, and our kernel where it takes another. */
typedef struct plain_kind {
    const char *name;
    nb_dtype type;
    const char *sums; /* NULL: what the backend takes */
} plain_kind;

static const plain_kind plain_kinds[] = {{"bf16 by bf16", NB_BF16, NULL},
                                         {"bf16 by bf16, our kernel", NB_BF16, "fma chain"},
                                         {"f32 by f32", NB_F32, NULL},
                                         {"f32 by f32, our kernel", NB_F32, "fma chain"}};
enum { PLAINS = sizeof plain_kinds / sizeof *plain_kinds };

typedef struct plain {
    nb_backend *be;
    nb_mat a, b, c;
    char sums[64]; /* by which this one multiplies */
} plain;

/* ---- operands ---- */

static nb_status quantize_numbers(nb_backend *be, const float *values, nb_operand *out, nb_error *err) {
    const size_t bytes = (size_t)(out->rows * out->cols) * sizeof *values;
    void *memory;
    NB_TRY(ni_backend_take(be, bytes, "numbers", &memory, err));
    be->ops->upload(be, memory, values, bytes);
    const nb_mat numbers = nb_mat_of(memory, NB_F32, out->rows, out->cols);
    const ni_source source = {.numbers = &numbers};
    nb_status status = be->ops->make_operands(be, &source, &(ni_making){.out = out}, 1, err);
    be->ops->release(be, memory);
    return status;
}

/* Quantizes noise: numbers with a spread of magnitudes, as activations have. */
static nb_status make_operand(nb_backend *be, const nb_quantizer *q, const nb_quantizer *other, int64_t rows,
                              int64_t cols, uint32_t key, nb_operand *out, nb_error *err) {
    *out = (nb_operand){.quantizer = *q, .other = *other, .rows = rows, .cols = cols, .side = NI_LEFT, .reread = true};
    NB_TRY(ni_backend_take(be, be->ops->operand_bytes(be, out), "operands", &out->memory, err));
    float *values = malloc((size_t)(rows * cols) * sizeof *values);
    if (!values)
        return nb_fail(err, NB_NO_MEMORY, "bench gemm: no memory for an operand of %lld x %lld", (long long)rows,
                       (long long)cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        ni_philox_words w = ni_philox(key, 0, (uint32_t)i, (uint32_t)(i >> 32), 0, 0);
        float x = (float)(int32_t)w.w[0] * 0x1p-31f;
        values[i] = x * x * x;
    }
    nb_status status = quantize_numbers(be, values, out, err);
    free(values);
    return status;
}

static void free_product(product *p) {
    if (!p->be)
        return;
    nb_backend_release(p->be, p->a.memory);
    nb_backend_release(p->be, p->b.memory);
    nb_backend_release(p->be, p->c.data);
}

static nb_status make_product(nb_backend *be, const pair *kind, const int64_t shape[3], nb_dtype type, product *p,
                              nb_error *err) {
    nb_quantizer a = ni_format_family_find(kind->family)->defaults, b = a;
    b.block_rows = kind->tile_rows_b ? kind->tile_rows_b : b.block_rows;
    p->be = be;
    NB_TRY(make_operand(be, &a, &b, shape[0], shape[2], 1, &p->a, err));
    NB_TRY(make_operand(be, &b, &a, shape[1], shape[2], 2, &p->b, err));
    p->c = nb_mat_of(NULL, type, shape[0], shape[1]);
    return ni_backend_take(be, (size_t)(shape[0] * shape[1]) * nb_dtype_size(type), "the result", &p->c.data, err);
}

static nb_status run_product(void *state, nb_error *err) {
    product *p = state;
    const ni_term term = {.a = &p->a, .b = &p->b};
    NB_TRY(p->be->ops->multiply(p->be, &p->c, &term, 1, false, err));
    return p->be->ops->synchronize(p->be, err);
}

static void free_plain(plain *p) {
    if (!p->be)
        return;
    p->be->ops->release(p->be, p->a.data);
    p->be->ops->release(p->be, p->b.data);
    p->be->ops->release(p->be, p->c.data);
}

/* Bytes that are one moderate number in either type, its value in *value. */
static nb_status fill(nb_backend *be, nb_mat *m, double *value, nb_error *err) {
    size_t bytes = (size_t)(m->rows * m->cols) * nb_dtype_size(m->dtype);
    float sample;
    char *host = malloc(bytes);
    m->data = be->ops->alloc(be, bytes, "operands");
    if (host && m->data) {
        memset(host, 0x3c, bytes);
        be->ops->upload(be, m->data, host, bytes);
    }
    bool good = host && m->data;
    free(host);
    memset(&sample, 0x3c, sizeof sample);
    *value = m->dtype == NB_BF16 ? 0x1.78p-7 : (double)sample;
    return good ? NB_OK : nb_fail(err, NB_NO_MEMORY, "bench gemm: no memory for plain operands");
}

/* Every element of C is K times the square: within the bound of K sums and the rounding to C's type. */
static nb_status check_plain(plain *p, double value, nb_error *err) {
    double want = value * value * (double)p->a.cols, bound = want * ((double)p->a.cols * 0x1p-24 + 0x1p-8);
    for (int corner = 0; corner < 4; corner++) {
        int64_t at = (corner & 1 ? p->c.rows - 1 : 0) * p->c.stride + (corner & 2 ? p->c.cols - 1 : 0);
        union {
            float f32;
            uint16_t bf16;
        } got;
        size_t size = nb_dtype_size(p->c.dtype);
        p->be->ops->download(p->be, &got, (const char *)p->c.data + (size_t)at * size, size);
        float one = p->c.dtype == NB_F32 ? got.f32 : ni_bf16_value(got.bf16);
        if (!(fabs((double)one - want) <= bound))
            return nb_fail(err, NB_INTERNAL,
                           "bench gemm: a plain product holds %g where %g is right; no speed is reported", (double)one,
                           want);
    }
    return NB_OK;
}

static nb_status run_plain(void *state, nb_error *err) {
    plain *p = state;
    char taken[sizeof p->sums]; /* by the backend, and for the next shape again */
    p->be->ops->gemm_sums(p->be, p->a.dtype, p->b.dtype, taken, sizeof taken);
    NB_TRY(p->be->ops->gemm_take(p->be, p->a.dtype, p->b.dtype, p->sums, err));
    NB_TRY(p->be->ops->gemm(p->be, &p->c, &p->a, false, &p->b, true, false, err));
    NB_TRY(p->be->ops->gemm_take(p->be, p->a.dtype, p->b.dtype, taken, err));
    return p->be->ops->synchronize(p->be, err);
}

static nb_status make_plain(nb_backend *be, nb_dtype operands, const int64_t shape[3], nb_dtype type, plain *p,
                            nb_error *err) {
    double value;
    p->be = be;
    p->a = nb_mat_of(NULL, operands, shape[0], shape[2]);
    p->b = nb_mat_of(NULL, operands, shape[1], shape[2]);
    p->c = nb_mat_of(NULL, type, shape[0], shape[1]);
    NB_TRY(fill(be, &p->a, &value, err));
    NB_TRY(fill(be, &p->b, &value, err));
    p->c.data = be->ops->alloc(be, (size_t)(shape[0] * shape[1]) * nb_dtype_size(type), "result");
    if (!p->c.data)
        return nb_fail(err, NB_NO_MEMORY, "bench gemm: no memory for the result");
    NB_TRY(run_plain(p, err));
    return check_plain(p, value, err);
}

/* Whether this kind is another than what the backend takes anyway, and runs here. */
static bool sums_of(nb_backend *be, const plain_kind *kind, char *sums, size_t size) {
    be->ops->gemm_sums(be, kind->type, kind->type, sums, size);
    if (!kind->sums)
        return true;
    char taken[64];
    snprintf(taken, sizeof taken, "%s", sums);
    if (strcmp(taken, kind->sums) == 0 || be->ops->gemm_take(be, kind->type, kind->type, kind->sums, NULL) != NB_OK)
        return false;
    snprintf(sums, size, "%s", kind->sums);
    return be->ops->gemm_take(be, kind->type, kind->type, taken, NULL) == NB_OK;
}

/* ---- the check ---- */

enum { PATCH = 4 };

/* What the check looks at, fetched from the backend: the codes of both operands, and C. */
typedef struct fetched {
    nb_qtensor a, b;
    char *c;
    void *memory[3];
} fetched;

static void free_fetched(fetched *f) {
    for (int i = 0; i < 3; i++)
        free(f->memory[i]);
}

static nb_status fetch_codes(nb_backend *be, const nb_operand *from, nb_qtensor *out, void **host, nb_error *err) {
    size_t bytes = nb_qtensor_bytes(&from->quantizer, from->rows, from->cols).total, room = bytes;
    void *codes;
    *host = ni_host_reserve(&room);
    if (!*host)
        return nb_fail(err, NB_NO_MEMORY, "bench gemm: no memory for the check");
    NB_TRY(ni_backend_take(be, bytes, "codes", &codes, err));
    const nb_qtensor there = nb_qtensor_place(&from->quantizer, from->rows, from->cols, codes);
    nb_status status = be->ops->canonical(be, &there, from, err);
    be->ops->download(be, *host, codes, bytes);
    be->ops->release(be, codes);
    *out = nb_qtensor_place(&from->quantizer, from->rows, from->cols, *host);
    return status;
}

static nb_status fetch(const product *p, fetched *f, nb_error *err) {
    const size_t bytes = (size_t)(p->c.rows * p->c.stride) * nb_dtype_size(p->c.dtype);
    NB_TRY(fetch_codes(p->be, &p->a, &f->a, &f->memory[0], err));
    NB_TRY(fetch_codes(p->be, &p->b, &f->b, &f->memory[1], err));
    f->c = f->memory[2] = malloc(bytes);
    if (!f->c)
        return nb_fail(err, NB_NO_MEMORY, "bench gemm: no memory for the check");
    p->be->ops->download(p->be, f->c, p->c.data, bytes);
    return NB_OK;
}

/* A few rows of codes, as codes of their own. */
static nb_qtensor rows_of(const nb_qtensor *t, int64_t first, int64_t rows) {
    nb_qtensor part = *t;
    part.rows = rows;
    part.codes += first * ((t->cols + 1) / 2);
    if (t->scales)
        part.scales += first * ni_scale_bytes(&t->quantizer, t->cols);
    if (t->outer_scales)
        part.outer_scales += first;
    return part;
}

static nb_status check_patch(const nb_mat *c, const fetched *f, int64_t row, int64_t col, nb_error *err) {
    float want[PATCH * PATCH];
    int64_t rows = c->rows - row < PATCH ? c->rows - row : PATCH;
    int64_t cols = c->cols - col < PATCH ? c->cols - col : PATCH;
    nb_mat view = nb_mat_of(want, c->dtype, rows, cols);
    nb_qtensor a = rows_of(&f->a, row, rows), b = rows_of(&f->b, col, cols);
    NB_TRY(ni_ref_gemm_q(NULL, &view, &a, &b, false, err));
    size_t size = nb_dtype_size(c->dtype);
    for (int64_t i = 0; i < rows; i++) {
        const char *got = f->c + (size_t)((row + i) * c->stride + col) * size;
        if (memcmp(got, (const char *)view.data + (size_t)(i * cols) * size, (size_t)cols * size) != 0)
            return nb_fail(err, NB_INTERNAL,
                           "bench gemm: row %lld, columns %lld to %lld differ from the scalar reference; no speed is "
                           "reported",
                           (long long)(row + i), (long long)col, (long long)(col + cols - 1));
    }
    return NB_OK;
}

static nb_status check_product(product *p, nb_error *err) {
    fetched f = {.c = NULL};
    nb_status status = run_product(p, err);
    if (status == NB_OK)
        status = fetch(p, &f, err);
    for (int64_t i = 0; i < 9 && status == NB_OK; i++)
        status = check_patch(&p->c, &f, (p->c.rows - 1) * (i / 3) / 2 / PATCH * PATCH,
                             (p->c.cols - 1) * (i % 3) / 2 / PATCH * PATCH, err);
    free_fetched(&f);
    return status;
}

/* ---- the table ---- */

typedef struct contest {
    ni_contender list[PAIRS + PLAINS + NI_PEER_COUNT + NI_ROOFS]; /* ours packed, ours plain, the peers, the roofs */
    int32_t packed, ours, peers, count;                           /* packed: of ours */
    double operations;                                            /* of a product */
    ni_roofline roofs[NI_ROOFS];
} contest;

static void print_ratio(const ni_contender *peer, const ni_contender *ours) {
    if (peer->missing)
        printf(" %7s", "-");
    else
        printf(" %6.2fx", peer->best / ours->best);
}

/* Operations a second that the processor has for contender `of`: for codes and bytes, or for F32 numbers (BF16 is
 * widened to them). */
static double roof_of(const contest *c, int32_t of) {
    const int32_t first = c->ours + c->peers;
    const bool codes = of < c->packed || of == c->ours + NI_PEER_INT8;
    const ni_roof roof = codes ? NI_ROOF_CODES : NI_ROOF_NUMBERS;
    return c->count > first ? c->roofs[roof].operations / c->list[first + roof].best : 0;
}

static void print_contest(const contest *c, const char *shape) {
    const int32_t products = c->ours + c->peers;
    const bool roof = c->count > products;
    printf("\n%-30s %9s %8s%s%s\n", shape, "ms", "GOP/s", roof ? " of roofline" : "",
           c->peers ? "   sgemm    bf16    int8" : "");
    for (int32_t i = 0; i < products; i++) {
        if (c->list[i].missing) {
            printf("  %-28s %9s %8s   %s\n", c->list[i].name, "-", "-", c->list[i].missing);
            continue;
        }
        double rate = c->operations / c->list[i].best;
        printf("  %-28s %9.3f %8.1f", c->list[i].name, c->list[i].best * 1e3, rate * 1e-9);
        if (roof)
            printf("   %7.1f %%", 100 * rate / roof_of(c, i));
        for (int32_t p = c->ours; p < products && i < c->ours; p++)
            print_ratio(&c->list[p], &c->list[i]);
        printf("\n");
    }
    for (int32_t i = products; i < c->count; i++)
        printf("  %-28s %9s %8.1f\n", c->list[i].name, "", c->roofs[i - products].operations / c->list[i].best * 1e-9);
    fflush(stdout);
}

/* Our products of one shape; the packed ones are checked. */
static nb_status enter_ours(nb_backend *be, const int64_t shape[3], nb_dtype type, product products[PAIRS],
                            plain plains[PLAINS], contest *c, nb_error *err) {
    for (int i = 0; i < PAIRS; i++) {
        if (shape[2] % pairs[i].multiple)
            continue;
        NB_TRY(make_product(be, &pairs[i], shape, type, &products[i], err));
        NB_TRY(check_product(&products[i], err));
        c->list[c->ours++] = (ni_contender){pairs[i].name, run_product, &products[i], 0, NULL};
    }
    c->packed = c->ours;
    for (int i = 0; i < PLAINS; i++) {
        if (!sums_of(be, &plain_kinds[i], plains[i].sums, sizeof plains[i].sums))
            continue;
        NB_TRY(make_plain(be, plain_kinds[i].type, shape, type, &plains[i], err));
        c->list[c->ours++] = (ni_contender){plain_kinds[i].name, run_plain, &plains[i], 0, NULL};
    }
    return NB_OK;
}

static nb_status enter_peers(const ni_cpu *cpu, const int64_t shape[3], bool wanted, ni_peers **peers, contest *c,
                             nb_error *err) {
    if (wanted) {
        NB_TRY(ni_peers_create(shape[0], shape[1], shape[2], cpu->threads, peers, err));
        ni_peers_contenders(*peers, c->list + c->ours);
        c->peers = NI_PEER_COUNT;
    }
    c->count = c->ours + c->peers;
    for (int roof = 0; roof < NI_ROOFS; roof++)
        c->count += ni_roofline_contender((ni_roof)roof, cpu->isa, cpu->threads, &c->roofs[roof], &c->list[c->count]);
    return NB_OK;
}

static nb_status run_shape(nb_backend *be, const gemm_options *o, const char *text, nb_error *err) {
    int64_t shape[3];
    NB_TRY(ni_bench_shape(text, shape, err));
    product products[PAIRS] = {{0}};
    plain plains[PLAINS] = {{0}};
    ni_peers *peers = NULL;
    contest c = {.operations = 2.0 * (double)shape[0] * (double)shape[1] * (double)shape[2]};
    nb_status status = enter_ours(be, shape, strcmp(o->out, "f32") == 0 ? NB_F32 : NB_BF16, products, plains, &c, err);
    if (status == NB_OK)
        status = enter_peers(ni_cpu_of(be), shape, o->peers, &peers, &c, err);
    if (status == NB_OK)
        status = (o->alone ? ni_bench_rounds_alone : ni_bench_rounds)(c.list, c.count, o->seconds, err);
    if (status == NB_OK)
        print_contest(&c, text);
    for (int i = 0; i < PAIRS; i++)
        free_product(&products[i]);
    for (int i = 0; i < PLAINS; i++)
        free_plain(&plains[i]);
    ni_peers_free(peers);
    return status;
}

static void print_head(nb_backend *be, const gemm_options *o) {
    char processor[128];
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    const char *coretype = getenv("OPENBLAS_CORETYPE");
    printf("%s, %d threads, %s\n", ni_bench_processor(processor, sizeof processor), (int)ni_cpu_of(be)->threads,
           be->ops->product_kernel(be, &q, &q));
    printf("C in %s; patches of every packed C equal the scalar reference bit by bit, plain ones are near; best of "
           "runs in turns%s\n",
           o->out, o->alone ? ", in processor time" : "");
    if (coretype)
        printf("OPENBLAS_CORETYPE is set to %s: sgemm may not be at its best\n", coretype);
    else if (o->peers)
        printf("OPENBLAS_CORETYPE is not set\n");
}

nb_status ni_bench_gemm(int argc, char **argv, nb_error *err) {
    gemm_options o = {.isa = "auto", .out = "bf16", .seconds = 0.5};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    o.peers = !o.peers; /* the flag is --no-peers */
    if (strcmp(o.out, "f32") != 0 && strcmp(o.out, "bf16") != 0)
        return nb_fail(err, NB_BAD_USAGE, "--out %.40s: expected bf16 or f32", o.out);
    if (o.alone && o.threads > 1)
        return nb_fail(err, NB_BAD_USAGE, "--alone measures one thread: leave out --threads %lld",
                       (long long)o.threads);
    o.threads = o.alone ? 1 : o.threads;
    nb_isa isa;
    NB_TRY(ni_bench_isa(o.isa, &isa, err));
    const nb_backend_options cpu = {ni_cli_threads(o.threads), isa};
    nb_backend *be;
    NB_TRY(nb_backend_open("cpu", &cpu, &be, err));
    print_head(be, &o);
    nb_status status = NB_OK;
    for (int32_t i = 0; i < o.shapes.count && status == NB_OK; i++)
        status = run_shape(be, &o, o.shapes.items[i], err);
    for (int i = 0; i < USUAL_SHAPES && !o.shapes.count && status == NB_OK; i++)
        status = run_shape(be, &o, usual_shapes[i], err);
    nb_backend_free(be);
    return status;
}
