/* bench_ops.c: `nibble bench ops`: every operation of a training step that is not a product of matrices, beside the
 * speed at which this machine copies memory.
 *
 * Before anything is timed, each operation runs on a small problem with the fast and with the scalar code, and all
 * their buffers are compared.
 */
#include "backend/backend.h"
#include "backend/table.h"
#include "cli/bench.h"

#include "backend/cpu/cpu.h"
#include "base/philox.h"
#include "format/bf16.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct ops_options {
    const char *isa;
    int64_t threads, tokens, seq, heads, kv_heads, head_dim, vocab;
    double seconds;
} ops_options;

static const ni_option options[] = {
    {"tokens", 0, NI_OPTION_INT, offsetof(ops_options, tokens), "N", "of a micro-batch (default 2048)"},
    {"seq", 0, NI_OPTION_INT, offsetof(ops_options, seq), "N", "positions of a sequence (default 512)"},
    {"heads", 0, NI_OPTION_INT, offsetof(ops_options, heads), "N", "of attention (default 8)"},
    {"kv-heads", 0, NI_OPTION_INT, offsetof(ops_options, kv_heads), "N", "that they share (default 4)"},
    {"head-dim", 0, NI_OPTION_INT, offsetof(ops_options, head_dim), "N", "width of a head, even (default 64)"},
    {"vocab", 0, NI_OPTION_INT, offsetof(ops_options, vocab), "N", "(default 8192)"},
    {"isa", 0, NI_OPTION_TEXT, offsetof(ops_options, isa), "NAME", "auto, scalar, portable, avx2 or avx512"},
    {"threads", 0, NI_OPTION_INT, offsetof(ops_options, threads), "N", "0: all that the process may use"},
    {"seconds", 0, NI_OPTION_FLOAT, offsetof(ops_options, seconds), "S", "for each operation (default 0.2)"},
    {0},
};

static const ni_command_line line = {
    .usage = "[--tokens N] [--seq N] [--heads N] [--head-dim N] [--vocab N] [--isa NAME] [--threads N]",
    .about = "Operations on rows and elements against the speed of a copy, attention in operations a second: checked\n"
             "against the scalar reference, then the best of many runs, in turns.",
    .options = options,
    .least = 0,
    .most = 0,
};

/* ---- a step's worth of buffers ---- */

enum { ACTS = 6, REALS = 4, INDICES = 4, BUFFERS = ACTS + 2 + REALS + INDICES };
enum { SQUARES = ACTS + 2 + 2, GATES = ACTS + 2 + 3 };

typedef struct problem {
    nb_backend *be;
    int64_t tokens, hidden, inner, vocab, params;
    nb_attention attention;
    ni_gla gla;
    void *act[ACTS];        /* BF16 [tokens, inner], of which narrower operations use a part */
    void *logits, *dlogits; /* BF16 [tokens, vocab] */
    void *real[REALS];      /* F32 [params], each at least [tokens, hidden] and [vocab, hidden] */
    int32_t *tokens_in, *positions, *doc_start, *targets;
    size_t bytes[BUFFERS];
} problem;

static void **buffer_of(problem *p, int i) {
    if (i < ACTS)
        return &p->act[i];
    if (i < ACTS + 2)
        return i == ACTS ? &p->logits : &p->dlogits;
    if (i < ACTS + 2 + REALS)
        return &p->real[i - ACTS - 2];
    int32_t **index[INDICES] = {&p->tokens_in, &p->positions, &p->doc_start, &p->targets};
    return (void **)index[i - ACTS - 2 - REALS];
}

static bool is_bf16(int i) {
    return i < ACTS + 2;
}

static int64_t numbers_of(const problem *p, int buffer) {
    return (int64_t)p->bytes[buffer] / (is_bf16(buffer) ? 2 : 4);
}

/* Noise of about one; with the signs of second moments and of gates where these are read. */
static void make_numbers(const problem *p, int buffer, void *host) {
    for (int64_t j = 0; j < numbers_of(p, buffer); j++) {
        ni_philox_words w = ni_philox((uint32_t)buffer, 0, (uint32_t)j, 0, 0, 0);
        float x = ((float)w.w[0] + (float)w.w[1] + (float)w.w[2] - 0x1.8p32f) * 0x1p-31f;
        if (is_bf16(buffer))
            ((uint16_t *)host)[j] = ni_bf16_even(x);
        else
            ((float *)host)[j] = buffer == GATES ? -0.05f * fabsf(x) : buffer == SQUARES ? fabsf(x) : x;
    }
}

/* One document a sequence. */
static void make_indices(const problem *p, int which, int32_t *host) {
    for (int64_t t = 0; t < p->tokens; t++) {
        ni_philox_words w = ni_philox(99, 0, (uint32_t)t, 0, 0, 0);
        const int32_t all[INDICES] = {(int32_t)(w.w[0] % (uint32_t)p->vocab), (int32_t)(t % p->attention.seq), 0,
                                      (int32_t)(w.w[1] % (uint32_t)p->vocab)};
        host[t] = all[which];
    }
}

static nb_status fill(problem *p, nb_error *err) {
    size_t most = 0;
    for (int i = 0; i < BUFFERS; i++)
        most = p->bytes[i] > most ? p->bytes[i] : most;
    void *host = malloc(most);
    if (!host)
        return nb_fail(err, NB_NO_MEMORY, "bench ops: no memory for %zu bytes of numbers", most);
    for (int i = 0; i < BUFFERS; i++) {
        if (i < BUFFERS - INDICES)
            make_numbers(p, i, host);
        else
            make_indices(p, i - (BUFFERS - INDICES), host);
        p->be->ops->upload(p->be, *buffer_of(p, i), host, p->bytes[i]);
    }
    free(host);
    return NB_OK;
}

static void free_problem(problem *p) {
    for (int i = 0; p->be && i < BUFFERS; i++)
        p->be->ops->release(p->be, *buffer_of(p, i));
    nb_backend_free(p->be);
}

static int64_t largest(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static nb_status make_problem(const ops_options *o, const nb_backend_options *cpu, problem *p, nb_error *err) {
    NB_TRY(nb_backend_open("cpu", cpu, &p->be, err));
    p->tokens = o->tokens;
    p->vocab = o->vocab;
    p->hidden = o->heads * o->head_dim;
    p->inner = (p->hidden * 8 / 3 + 31) / 32 * 32;
    p->params = largest(p->hidden * p->inner, p->hidden * largest(p->tokens, p->vocab));
    int64_t bytes[BUFFERS];
    for (int i = 0; i < BUFFERS; i++) {
        bytes[i] = i < ACTS                ? 2 * p->tokens * p->inner
                   : is_bf16(i)            ? 2 * p->tokens * p->vocab
                   : i < BUFFERS - INDICES ? 4 * p->params
                                           : 4 * p->tokens;
        p->bytes[i] = (size_t)bytes[i];
        *buffer_of(p, i) = p->be->ops->alloc(p->be, p->bytes[i], "operands");
        if (!*buffer_of(p, i))
            return nb_fail(err, NB_NO_MEMORY,
                           "bench ops: no memory for %lld bytes; take fewer --tokens or a smaller --vocab",
                           (long long)bytes[i]);
    }
    p->attention = (nb_attention){.batch = o->tokens / o->seq,
                                  .seq = o->seq,
                                  .heads = o->heads,
                                  .kv_heads = o->kv_heads,
                                  .head_dim = o->head_dim,
                                  .scale = 1 / sqrt((double)o->head_dim),
                                  .doc_start = p->doc_start};
    p->gla = (ni_gla){.batch = o->tokens / o->seq,
                      .seq = o->seq,
                      .heads = o->heads,
                      .key_dim = o->head_dim / 2,
                      .value_dim = o->head_dim,
                      .scale = 1 / sqrt((double)o->head_dim / 2),
                      .doc_start = p->doc_start};
    return fill(p, err);
}

/* ---- the operations ---- */

/* One statement over the problem `p` and its table `ops`, as a function that ni_bench_rounds can call. */
#define OPERATION(name, ...)                                                                                           \
    static nb_status name(void *state, nb_error *err) {                                                                \
        problem *p = state;                                                                                            \
        const ni_backend_ops *ops = p->be->ops;                                                                        \
        __VA_ARGS__;                                                                                                   \
        return ops->synchronize(p->be, err);                                                                           \
    }

OPERATION(add, ops->add(p->be, p->act[2], p->act[0], p->act[1], p->tokens * p->hidden))
OPERATION(cast, ops->cast(p->be, p->act[2], NB_BF16, p->real[0], NB_F32, p->tokens * p->hidden))
OPERATION(rmsnorm, const nb_mat y = nb_mat_of(p->act[1], NB_BF16, p->tokens, p->hidden);
          ops->rmsnorm_forward(p->be, &y, p->real[1], p->act[0], p->real[0], 1e-5))
OPERATION(rmsnorm_add, const nb_mat y = nb_mat_of(p->act[1], NB_BF16, p->tokens, p->hidden);
          ops->add_rmsnorm_forward(p->be, p->act[3], &y, p->real[1], p->act[0], p->act[2], p->real[0], 1e-5))
OPERATION(rmsnorm_back, const nb_mat y = nb_mat_of(p->act[1], NB_BF16, 1, p->hidden);
          ops->rmsnorm_forward(p->be, &y, p->real[1], p->act[0], p->real[0], 1e-5);
          const nb_mat dx = nb_mat_of(p->act[2], NB_BF16, p->tokens, p->hidden);
          ops->rmsnorm_backward(p->be, &dx, p->real[2], p->act[1], p->act[0], p->real[0], p->real[1]))
OPERATION(rmsnorm_back_add, const nb_mat y = nb_mat_of(p->act[1], NB_BF16, 1, p->hidden);
          ops->rmsnorm_forward(p->be, &y, p->real[1], p->act[0], p->real[0], 1e-5);
          const nb_mat dout = nb_mat_of(p->act[2], NB_BF16, p->tokens, p->hidden);
          ops->rmsnorm_backward_add(p->be, &dout, p->real[2], p->act[1], p->act[0], p->real[0], p->real[1]))
OPERATION(rope, const nb_mat x = nb_mat_of(p->act[0], NB_BF16, p->tokens, p->attention.heads * p->attention.head_dim);
          ops->rope(p->be, &x, p->positions, p->attention.heads, &(ni_rope){.theta = 1e4}, false))
OPERATION(swiglu, const nb_mat y = nb_mat_of(p->act[2], NB_BF16, p->tokens, p->inner);
          ops->swiglu_forward(p->be, &y, p->act[0], p->act[1]))
OPERATION(swiglu_amax, nb_mat y = nb_mat_of(p->act[2], NB_BF16, p->tokens, p->inner); y.amax = p->real[1];
          ops->swiglu_forward(p->be, &y, p->act[0], p->act[1]))
OPERATION(swiglu_back, const nb_mat dgate = nb_mat_of(p->act[3], NB_BF16, p->tokens, p->inner);
          const nb_mat dup = nb_mat_of(p->act[4], NB_BF16, p->tokens, p->inner);
          ops->swiglu_backward(p->be, &dgate, &dup, p->act[2], p->act[0], p->act[1]))
OPERATION(embed, ops->embed_forward(p->be, p->act[0], p->real[0], p->tokens_in, p->tokens, p->hidden))
OPERATION(embed_back, ops->embed_backward(p->be, p->real[1], p->act[0], p->tokens_in, p->tokens, p->hidden, p->vocab))
OPERATION(cross_entropy,
          ops->cross_entropy(p->be, p->real[0], NULL, p->dlogits, p->logits, p->targets, p->tokens, p->vocab, 1.0, 0))
OPERATION(adamw, const ni_adamw step = {.lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1, .grad_scale = 1, .step = 9};
          const ni_adamw_tensor all = ni_adamw_plain(NB_F32, p->real[0], p->real[1], p->real[2], p->real[3], p->params,
                                                     0);
          ops->adamw(p->be, &all, 1, &step))
OPERATION(sum_squares, ops->sum_squares(p->be, (double *)p->real[1], p->real[0], p->params))
OPERATION(attention, NB_TRY(ops->attention_forward(p->be, &p->attention, p->act[3], p->real[0], p->act[0], p->act[1],
                                                   p->act[2], err)))
OPERATION(attention_back,
          NB_TRY(ops->attention_backward(p->be, &p->attention, p->act[3], p->act[4], p->act[5], p->act[0], p->act[1],
                                         p->real[0], p->act[0], p->act[1], p->act[2], err)))
OPERATION(gla, NB_TRY(ops->gla_forward(p->be, &p->gla, p->act[3], p->act[0], p->act[1], p->act[2], p->real[3], err)))
OPERATION(gla_back, NB_TRY(ops->gla_backward(p->be, &p->gla, p->act[3], p->act[4], p->act[5], p->real[0], p->act[2],
                                             p->act[0], p->act[1], p->act[2], p->real[3], err)))

/* What an operation moves through memory, or computes. */
typedef struct row {
    const char *name;
    nb_status (*run)(void *state, nb_error *err);
    double bytes, flops;
} row;

enum { MOST_ROWS = 24 };

/* Products inside attention: two of a score square going forward, five coming back, halved by causality. The scan: two
 * of a state a position going forward, five coming back. */
static int list_rows(const problem *p, row list[MOST_ROWS]) {
    const double narrow = (double)(p->tokens * p->hidden), wide = (double)(p->tokens * p->inner);
    const double logits = (double)(p->tokens * p->vocab), params = (double)p->params;
    const double square = narrow * (double)p->attention.seq, scan = narrow * (double)p->gla.key_dim * 2;
    const row rows[] = {
        {"add", add, 6 * narrow, 0},
        {"cast f32 to bf16", cast, 6 * narrow, 0},
        {"rmsnorm", rmsnorm, 4 * narrow, 0},
        {"add + rmsnorm", rmsnorm_add, 8 * narrow, 0},
        {"rmsnorm backward", rmsnorm_back, 6 * narrow, 0},
        {"rmsnorm backward + add", rmsnorm_back_add, 8 * narrow, 0},
        {"rope", rope, 4 * narrow, 0},
        {"swiglu", swiglu, 6 * wide, 0},
        {"swiglu with amax", swiglu_amax, 6 * wide, 0},
        {"swiglu backward", swiglu_back, 10 * wide, 0},
        {"embedding", embed, 6 * narrow, 0},
        {"embedding backward", embed_back, 10 * narrow, 0},
        {"cross entropy, both ways", cross_entropy, 4 * logits, 0},
        {"adamw", adamw, 28 * params, 0},
        {"sum of squares", sum_squares, 4 * params, 0},
        {"attention", attention, 0, 2 * square},
        {"attention backward", attention_back, 0, 5 * square},
        {"gla", gla, 0, 2 * scan},
        {"gla backward", gla_back, 0, 5 * scan},
    };
    memcpy(list, rows, sizeof rows);
    return (int)(sizeof rows / sizeof *rows);
}

/* ---- the check ---- */

static float number(const void *host, int buffer, int64_t i) {
    return is_bf16(buffer) ? ni_bf16_value(((const uint16_t *)host)[i]) : ((const float *)host)[i];
}

static nb_status compare_numbers(const char *name, int buffer, const void *got, const void *want, int64_t n,
                                 nb_error *err) {
    float most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(number(want, buffer, i)));
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(number(got, buffer, i) - number(want, buffer, i)) <= most * 0x1p-7f))
            return nb_fail(err, NB_INTERNAL,
                           "bench ops: %s gives %g where the scalar reference gives %g; no speed is reported", name,
                           (double)number(got, buffer, i), (double)number(want, buffer, i));
    return NB_OK;
}

/* Every buffer of the two, within a step of BF16 at its largest number. */
static nb_status compare(const char *name, problem *got, problem *want, nb_error *err) {
    nb_status status = NB_OK;
    for (int b = 0; b < ACTS + 2 + REALS && status == NB_OK; b++) {
        char *host = malloc(2 * got->bytes[b]);
        if (!host)
            return nb_fail(err, NB_NO_MEMORY, "bench ops: no memory for the check");
        got->be->ops->download(got->be, host, *buffer_of(got, b), got->bytes[b]);
        want->be->ops->download(want->be, host + got->bytes[b], *buffer_of(want, b), got->bytes[b]);
        status = compare_numbers(name, b, host, host + got->bytes[b], numbers_of(got, b), err);
        free(host);
    }
    return status;
}

static nb_status check(const ops_options *o, const nb_backend_options *cpu, nb_error *err) {
    ops_options small = *o;
    small.seq = o->seq < 80 ? o->seq : 80;
    small.tokens = 2 * small.seq;
    small.vocab = o->vocab < 1000 ? o->vocab : 1000;
    const nb_backend_options scalar = {1, NB_ISA_SCALAR};
    problem fast = {0}, slow = {0};
    nb_status status = make_problem(&small, cpu, &fast, err);
    if (status == NB_OK)
        status = make_problem(&small, &scalar, &slow, err);
    row rows[MOST_ROWS];
    int count = status == NB_OK ? list_rows(&fast, rows) : 0;
    for (int i = 0; i < count && status == NB_OK; i++) {
        status = fill(&fast, err);
        if (status == NB_OK)
            status = fill(&slow, err);
        if (status == NB_OK)
            status = rows[i].run(&fast, err);
        if (status == NB_OK)
            status = rows[i].run(&slow, err);
        if (status == NB_OK)
            status = compare(rows[i].name, &fast, &slow, err);
    }
    free_problem(&fast);
    free_problem(&slow);
    return status;
}

/* ---- the table ---- */

/* The bandwidth that the others are held against: the threads copy a piece of two buffers of the host's that no cache
 * holds, the next piece each time. */
typedef struct copying {
    char *from, *to;
    int64_t next;
    int threads;
} copying;

enum { COPY_BUFFER = 128 << 20, COPY_PIECE = 16 << 20, COPY_STEP = 1 << 20 };

static nb_status run_copy(void *state, nb_error *err) {
    (void)err;
    copying *c = state;
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t at = c->next; at < c->next + COPY_PIECE; at += COPY_STEP)
        memcpy(c->to + at, c->from + at, COPY_STEP);
    c->next = (c->next + COPY_PIECE) % COPY_BUFFER;
    return NB_OK;
}

static void print_rows(const row *rows, int count, const ni_contender *list, double copy_rate) {
    printf("%-26s %10s %8s %9s %8s\n", "", "ms", "GB/s", "of copy", "GFLOP/s");
    for (int i = 0; i < count; i++) {
        printf("%-26s %10.3f", rows[i].name, list[i].best * 1e3);
        if (rows[i].bytes > 0)
            printf(" %8.1f %7.0f %%\n", rows[i].bytes / list[i].best * 1e-9,
                   100 * rows[i].bytes / list[i].best / copy_rate);
        else
            printf(" %27.1f\n", rows[i].flops / list[i].best * 1e-9);
    }
}

static nb_status measure(problem *p, double seconds, nb_error *err) {
    row rows[MOST_ROWS];
    ni_contender list[MOST_ROWS + 1];
    int count = list_rows(p, rows);
    for (int i = 0; i < count; i++)
        list[i] = (ni_contender){rows[i].name, rows[i].run, p, 0, NULL};
    size_t bytes = COPY_BUFFER;
    copying copy = {ni_host_reserve(&bytes), ni_host_reserve(&bytes), 0, ni_cpu_of(p->be)->threads};
    if (copy.from)
        memset(copy.from, 1, COPY_BUFFER); /* pages that are there */
    list[count] = (ni_contender){"copy", run_copy, &copy, 0, NULL};
    nb_status status = copy.from && copy.to ? ni_bench_rounds(list, count + 1, seconds, err)
                                            : nb_fail(err, NB_NO_MEMORY, "bench ops: no memory for a copy");
    if (status == NB_OK) {
        double rate = 2.0 * COPY_PIECE / list[count].best;
        printf("copy: %.1f GB/s read and written; what fits in the caches may be faster\n\n", rate * 1e-9);
        print_rows(rows, count, list, rate);
    }
    free(copy.from);
    free(copy.to);
    return status;
}

static nb_status check_options(const ops_options *o, nb_error *err) {
    const int64_t most = 1 << 20;
    const int64_t all[] = {o->tokens, o->seq, o->heads, o->kv_heads, o->head_dim, o->vocab};
    for (int i = 0; i < 6; i++)
        if (all[i] < 1 || all[i] > most)
            return nb_fail(err, NB_BAD_USAGE, "bench ops: %lld is not a size; expected 1 to %lld", (long long)all[i],
                           (long long)most);
    if (o->tokens % o->seq || o->heads % o->kv_heads || o->head_dim % 2)
        return nb_fail(
            err, NB_BAD_USAGE,
            "bench ops: expected --tokens in whole sequences of --seq, --heads that share --kv-heads evenly, "
            "an even --head-dim");
    return NB_OK;
}

nb_status ni_bench_ops(int argc, char **argv, nb_error *err) {
    ops_options o = {.isa = "auto",
                     .tokens = 2048,
                     .seq = 512,
                     .heads = 8,
                     .kv_heads = 4,
                     .head_dim = 64,
                     .vocab = 8192,
                     .seconds = 0.2};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    NB_TRY(check_options(&o, err));
    nb_backend_options cpu = {ni_cli_threads(o.threads), NB_ISA_AUTO};
    NB_TRY(ni_bench_isa(o.isa, &cpu.isa, err));
    NB_TRY(check(&o, &cpu, err));
    problem p = {0};
    nb_status status = make_problem(&o, &cpu, &p, err);
    if (status == NB_OK) {
        char processor[128];
        printf("%s, %d threads, %s; %lld tokens in sequences of %lld, hidden %lld, inner %lld, vocabulary %lld\n",
               ni_bench_processor(processor, sizeof processor), (int)ni_cpu_of(p.be)->threads,
               nb_isa_name(ni_cpu_of(p.be)->isa), (long long)p.tokens, (long long)o.seq, (long long)p.hidden,
               (long long)p.inner, (long long)p.vocab);
        status = measure(&p, o.seconds, err);
    }
    free_problem(&p);
    return status;
}
