/* bench_quantize.c: `nibble bench quantize`: what a training step does to the operands of one linear layer, beside a
 * copy.
 *
 * Before a speed is printed, codes and scales are compared with the scalar reference, all of them, bit by bit.
 */
#include "backend/backend.h"
#include "backend/table.h"
#include "cli/bench.h"

#include "backend/cpu/cpu.h"
#include "backend/ref/quantize.h"
#include "base/philox.h"
#include "recipe/quantizer_yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct quantize_options {
    ni_texts shapes;
    const char *isa;
    int64_t threads;
    double seconds;
} quantize_options;

static const ni_option options[] = {
    {"shape", 0, NI_OPTION_TEXTS, offsetof(quantize_options, shapes), "RxC", "rows and columns of the source"},
    {"isa", 0, NI_OPTION_TEXT, offsetof(quantize_options, isa), "NAME", "auto, scalar, portable, avx2 or avx512"},
    {"threads", 0, NI_OPTION_INT, offsetof(quantize_options, threads), "N", "0: all that the process may use"},
    {"seconds", 0, NI_OPTION_FLOAT, offsetof(quantize_options, seconds), "S", "for each row and shape (default 0.3)"},
    {0},
};

static const ni_command_line line = {
    .usage = "[--shape RxC]... [--isa NAME] [--threads N]",
    .about = "Quantizes as the layers of recipes do: bits checked against the scalar reference, then the best of many\n"
             "runs, in turns with a copy of a BF16 matrix of the same shape. GB/s count the source once and what is\n"
             "written; where a tensor scale needs a first pass for the amax, its time is in.",
    .options = options,
    .least = 0,
    .most = 0,
};

static const char *const usual_shapes[] = {"1024x768", "2048x2048", "4096x4096"};
enum { USUAL_SHAPES = sizeof usual_shapes / sizeof *usual_shapes };

/* What the recipes ask for. */
typedef struct kind {
    const char *name, *quantizer;
    nb_dtype source;
    bool transpose;
} kind;

#define NI_ROTATED "hadamard: {size: 16, signs: fixed, round_bf16: true}}"
static const kind kinds[] = {
    {"nvfp4 fprop.x", "nvfp4", NB_BF16, false},
    {"nvfp4 fprop.w 16x16", "nvfp4-2d", NB_F32, false},
    {"nvfp4 dgrad.dy stochastic", "{format: nvfp4, block: 1x16, round: stochastic}", NB_BF16, false},
    {"nvfp4 wgrad.dy rotated, stoch.", "{format: nvfp4, block: 1x16, round: stochastic, " NI_ROTATED, NB_BF16, true},
    {"nvfp4 wgrad.x rotated", "{format: nvfp4, block: 1x16, " NI_ROTATED, NB_BF16, true},
    {"nvfp4 1x128 fprop.x", "nvfp4-outer128", NB_BF16, false},
    {"mxfp4", "mxfp4", NB_BF16, false},
    {"mxfp8", "mxfp8", NB_BF16, false},
    {"e2m1 row", "fp4-row", NB_BF16, false},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

typedef struct task {
    nb_backend *be;
    const kind *kind;
    nb_mat src;
    nb_operand out;
    size_t bytes; /* read once and written */
} task;

static const nb_noise noise = {.seed = 1, .tensor = 2, .signs = 3};

static nb_status run_task(void *state, nb_error *err) {
    task *t = state;
    const ni_making making = {.out = &t->out, .transpose = t->kind->transpose, .noise = &noise};
    NB_TRY(t->be->ops->make_operands(t->be, &(ni_source){.numbers = &t->src}, &making, 1, err));
    return t->be->ops->synchronize(t->be, err);
}

/* The operand as the scalar reference makes it, all of it: both in `host`, which has room for the source and twice for
 * the codes. They are placed alike, with padding zeroed; `codes` is room for them on the backend. */
static nb_status compare(task *t, char *host, size_t source, void *codes, size_t bytes, nb_error *err) {
    nb_mat src = t->src;
    src.data = host;
    t->be->ops->download(t->be, host, t->src.data, (size_t)(src.rows * src.cols) * nb_dtype_size(src.dtype));
    nb_qtensor want = nb_qtensor_place(&t->out.quantizer, t->out.rows, t->out.cols, host + source);
    nb_qtensor got = nb_qtensor_place(&t->out.quantizer, t->out.rows, t->out.cols, codes);
    NB_TRY(ni_ref_quantize(NULL, &want, &src, t->kind->transpose, &noise, NULL, err));
    NB_TRY(run_task(t, err));
    NB_TRY(t->be->ops->canonical(t->be, &got, &t->out, err));
    t->be->ops->download(t->be, host + source + bytes, codes, bytes);
    if (memcmp(host + source, host + source + bytes, bytes) == 0)
        return NB_OK;
    return nb_fail(err, NB_INTERNAL, "bench quantize: %s differs from the scalar reference; no speed is reported",
                   t->kind->name);
}

static nb_status check_task(task *t, nb_error *err) {
    const size_t codes = nb_qtensor_bytes(&t->out.quantizer, t->out.rows, t->out.cols).total;
    const size_t numbers = (size_t)(t->src.rows * t->src.cols) * nb_dtype_size(t->src.dtype);
    const size_t source = (numbers + 63) / 64 * 64;
    void *on_device;
    NB_TRY(ni_backend_take(t->be, codes, "codes", &on_device, err));
    char *host = calloc(1, source + 2 * codes);
    nb_status status = host ? compare(t, host, source, on_device, codes, err)
                            : nb_fail(err, NB_NO_MEMORY, "bench quantize: no memory for the check");
    free(host);
    t->be->ops->release(t->be, on_device);
    return status;
}

static nb_status make_task(nb_backend *be, const kind *k, const nb_mat sources[2], task *t, nb_error *err) {
    nb_quantizer q;
    NB_TRY(nb_quantizer_parse(k->quantizer, &q, err));
    t->kind = k;
    t->src = sources[k->source == NB_BF16];
    int64_t rows = k->transpose ? t->src.cols : t->src.rows, cols = k->transpose ? t->src.rows : t->src.cols;
    NB_TRY(nb_quantizer_check_shape(&q, rows, cols, err));
    nb_qtensor_size n = nb_qtensor_bytes(&q, rows, cols);
    t->bytes = n.codes + n.scales + n.outer_scales + (size_t)(rows * cols) * nb_dtype_size(t->src.dtype);
    t->be = be;
    t->out = (nb_operand){.quantizer = q, .other = q, .rows = rows, .cols = cols, .side = NI_LEFT, .reread = true};
    NB_TRY(ni_backend_take(be, be->ops->operand_bytes(be, &t->out), "an operand", &t->out.memory, err));
    return check_task(t, err);
}

/* ---- the copy ---- */

/* The processor's own, between two buffers of the host's. */
typedef struct copying {
    int32_t threads;
    char *from, *to;
    int64_t rows;
    size_t row_bytes;
} copying;

static nb_status make_copy(int32_t threads, int64_t rows, int64_t cols, copying *c, nb_error *err) {
    c->threads = threads;
    c->rows = rows;
    c->row_bytes = (size_t)cols * sizeof(uint16_t);
    size_t bytes = (size_t)rows * c->row_bytes;
    c->from = ni_host_reserve(&bytes);
    c->to = ni_host_reserve(&bytes);
    if (!c->from || !c->to)
        return nb_fail(err, NB_NO_MEMORY, "bench quantize: no memory for a copy");
    memset(c->from, 1, bytes); /* pages that are there */
    return NB_OK;
}

static nb_status run_copy(void *state, nb_error *err) {
    copying *c = state;
    (void)err;
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t r = 0; r < c->rows; r++)
        memcpy(c->to + (size_t)r * c->row_bytes, c->from + (size_t)r * c->row_bytes, c->row_bytes);
    return NB_OK;
}

/* ---- the table ---- */

typedef struct contest {
    nb_mat sources[2]; /* F32, BF16 */
    task tasks[KINDS];
    int32_t count;
    copying copy;
    ni_contender list[KINDS + 1];
} contest;

static void print_contest(const contest *c, const char *shape, double numbers) {
    const ni_contender *copy = &c->list[c->count];
    double copy_rate = 2 * (double)c->copy.rows * (double)c->copy.row_bytes / copy->best;
    printf("\n%-34s %9s %9s %7s %8s\n", shape, "ms", "Gnum/s", "GB/s", "of copy");
    for (int32_t i = 0; i < c->count; i++) {
        double rate = (double)c->tasks[i].bytes / c->list[i].best;
        printf("  %-32s %9.3f %9.2f %7.2f %6.0f %%\n", c->list[i].name, c->list[i].best * 1e3,
               numbers / c->list[i].best * 1e-9, rate * 1e-9, 100 * rate / copy_rate);
    }
    printf("  %-32s %9.3f %9.2f %7.2f\n", copy->name, copy->best * 1e3, numbers / copy->best * 1e-9, copy_rate * 1e-9);
    fflush(stdout);
}

static nb_status make_sources(nb_backend *be, int64_t rows, int64_t cols, contest *c, nb_error *err) {
    size_t n = (size_t)(rows * cols);
    float *x = be->ops->alloc(be, n * sizeof *x, "numbers");
    uint16_t *half = be->ops->alloc(be, n * sizeof *half, "numbers");
    c->sources[0] = nb_mat_of(x, NB_F32, rows, cols);
    c->sources[1] = nb_mat_of(half, NB_BF16, rows, cols);
    NB_TRY(make_copy(ni_cpu_of(be)->threads, rows, cols, &c->copy, err));
    if (!x || !half)
        return nb_fail(err, NB_NO_MEMORY, "bench quantize: no memory for %lld x %lld numbers", (long long)rows,
                       (long long)cols);
    float *host = malloc(n * sizeof *host);
    for (size_t i = 0; host && i < n; i++) { /* a spread of magnitudes, as activations have */
        ni_philox_words w = ni_philox(1, 0, (uint32_t)i, (uint32_t)(i >> 32), 0, 0);
        float u = (float)(int32_t)w.w[0] * 0x1p-31f;
        host[i] = u * u * u;
    }
    if (!host)
        return nb_fail(err, NB_NO_MEMORY, "bench quantize: no memory for numbers");
    be->ops->upload(be, x, host, n * sizeof *host);
    free(host);
    be->ops->cast(be, half, NB_BF16, x, NB_F32, rows * cols);
    return NB_OK;
}

static nb_status measure(nb_backend *be, const quantize_options *o, const char *text, contest *c, nb_error *err) {
    int rows, cols, end = 0;
    if (sscanf(text, "%dx%d%n", &rows, &cols, &end) != 2 || text[end] || rows < 1 || cols < 1)
        return nb_fail(err, NB_BAD_USAGE, "--shape %.40s: expected RxC, as 2048x2048", text);
    NB_TRY(make_sources(be, rows, cols, c, err));
    for (int i = 0; i < KINDS; i++) {
        NB_TRY(make_task(be, &kinds[i], c->sources, &c->tasks[i], err));
        c->list[c->count++] = (ni_contender){kinds[i].name, run_task, &c->tasks[i], 0, NULL};
    }
    c->list[c->count] = (ni_contender){"copy, bf16", run_copy, &c->copy, 0, NULL};
    NB_TRY(ni_bench_rounds(c->list, c->count + 1, o->seconds, err));
    print_contest(c, text, (double)rows * (double)cols);
    return NB_OK;
}

static nb_status run_shape(nb_backend *be, const quantize_options *o, const char *text, nb_error *err) {
    contest c = {.count = 0};
    nb_status status = measure(be, o, text, &c, err);
    for (int i = 0; i < KINDS; i++)
        nb_backend_release(be, c.tasks[i].out.memory);
    nb_backend_release(be, c.sources[0].data);
    nb_backend_release(be, c.sources[1].data);
    free(c.copy.from);
    free(c.copy.to);
    return status;
}

nb_status ni_bench_quantize(int argc, char **argv, nb_error *err) {
    quantize_options o = {.isa = "auto", .seconds = 0.3};
    char processor[128];
    int32_t count;
    nb_isa isa;
    nb_backend *be;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    NB_TRY(ni_bench_isa(o.isa, &isa, err));
    const nb_backend_options cpu = {ni_cli_threads(o.threads), isa};
    NB_TRY(nb_backend_open("cpu", &cpu, &be, err));
    printf("%s, %d threads, %s; every bit checked against the scalar reference; best of runs taken in turns\n",
           ni_bench_processor(processor, sizeof processor), (int)ni_cpu_of(be)->threads,
           nb_isa_name(ni_cpu_of(be)->isa));
    nb_status status = NB_OK;
    for (int32_t i = 0; i < o.shapes.count && status == NB_OK; i++)
        status = run_shape(be, &o, o.shapes.items[i], err);
    for (int i = 0; i < USUAL_SHAPES && !o.shapes.count && status == NB_OK; i++)
        status = run_shape(be, &o, usual_shapes[i], err);
    nb_backend_free(be);
    return status;
}
