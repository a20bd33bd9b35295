/* bench_attention.c: `nibble bench attention`: softmax attention of a backend under one order of sums and under any.
 *
 * On a GPU with cuDNN these are two engines, otherwise one kernel twice. Both are run on the same numbers first,
 * forward and backward, and no speed is reported unless they agree within two steps of BF16 at a result's largest
 * number. A timed run queues a pass many times: what the host takes to start one is hidden, as in a training step.
 */
#include "backend/table.h"
#include "cli/bench.h"

#include "base/philox.h"
#include "format/bf16.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct attention_options {
    const char *backend;
    int64_t batch, seq, heads, kv_heads, head_dim, documents;
    double seconds;
} attention_options;

static const ni_option options[] = {
    {"backend", 0, NI_OPTION_TEXT, offsetof(attention_options, backend), "NAME", "cpu, cuda, cuda:1 (default cuda)"},
    {"batch", 0, NI_OPTION_INT, offsetof(attention_options, batch), "N", "sequences (default 16)"},
    {"seq", 0, NI_OPTION_INT, offsetof(attention_options, seq), "N", "positions of one (default 1024)"},
    {"heads", 0, NI_OPTION_INT, offsetof(attention_options, heads), "N", "(default 16)"},
    {"kv-heads", 0, NI_OPTION_INT, offsetof(attention_options, kv_heads), "N",
     "that they share (default: each its own)"},
    {"head-dim", 0, NI_OPTION_INT, offsetof(attention_options, head_dim), "N", "width of a head (default 64)"},
    {"documents", 0, NI_OPTION_INT, offsetof(attention_options, documents), "N",
     "kept apart in a sequence, the i-th i times as long as the first (default 1)"},
    {"seconds", 0, NI_OPTION_FLOAT, offsetof(attention_options, seconds), "S", "for each pass (default 0.2)"},
    {0},
};

static const ni_command_line line = {
    .usage = "[--backend NAME] [--batch N] [--seq N] [--heads N] [--kv-heads N] [--head-dim N] [--documents N]",
    .about = "Causal softmax attention under one order of sums (deterministic: true) and under any (false: cuDNN\n"
             "where a GPU has it), forward and backward: checked against each other, then timed in turns.",
    .options = options,
    .least = 0,
    .most = 0,
};

enum { Q, K, V, DO, O, DQ, DK, DV, BUFFERS, INPUTS = O, PASSES = 20 };

typedef struct problem {
    nb_backend *be;
    nb_attention a;
    void *buffers[BUFFERS], *lse;
    int64_t n[BUFFERS];
    int32_t *bounds; /* of documents: where each position's begins, and where it ends */
    double squares;  /* of the documents' lengths, of one sequence */
    int times;       /* a pass is queued for one run */
} problem;

/* One pass under one rule. */
typedef struct side {
    problem *p;
    bool any_order, backward;
} side;

static nb_status run_side(void *state, nb_error *err) {
    const side *s = state;
    problem *p = s->p;
    void **b = p->buffers;
    const ni_permits permits = {.any_order = s->any_order};
    NB_TRY(p->be->ops->permit(p->be, &permits, err));
    for (int i = 0; i < p->times; i++)
        if (s->backward)
            NB_TRY(p->be->ops->attention_backward(p->be, &p->a, b[DQ], b[DK], b[DV], b[DO], b[O], p->lse, b[Q], b[K],
                                                  b[V], err));
        else
            NB_TRY(p->be->ops->attention_forward(p->be, &p->a, b[O], p->lse, b[Q], b[K], b[V], err));
    return p->be->ops->synchronize(p->be, err);
}

/* Document i of n begins at this position: its end is where the next one begins. */
static int32_t begins(int64_t seq, int64_t i, int64_t n) {
    return (int32_t)(seq * (i * (i + 1)) / (n * (n + 1)));
}

static bool make_documents(const attention_options *o, problem *p) {
    const int64_t rows = o->batch * o->seq;
    int32_t *host = malloc((size_t)rows * 2 * sizeof *host);
    p->squares = 0;
    p->bounds = host ? p->be->ops->alloc(p->be, (size_t)rows * 2 * sizeof *host, "documents") : NULL;
    for (int64_t b = 0; p->bounds && b < o->batch; b++)
        for (int64_t d = 0; d < o->documents; d++) {
            const int32_t from = begins(o->seq, d, o->documents), to = begins(o->seq, d + 1, o->documents);
            for (int32_t t = from; t < to; t++) {
                host[b * o->seq + t] = from;
                host[rows + b * o->seq + t] = to;
            }
            p->squares += (double)(to - from) * (double)(to - from);
        }
    if (p->bounds)
        p->be->ops->upload(p->be, p->bounds, host, (size_t)rows * 2 * sizeof *host);
    free(host);
    if (!p->bounds)
        return false;
    p->squares /= (double)o->batch;
    p->a.doc_start = p->bounds;
    p->a.doc_end = p->bounds + rows;
    p->a.documents = o->batch * o->documents;
    return true;
}

static nb_status make_problem(const attention_options *o, problem *p, nb_error *err) {
    NB_TRY(nb_backend_open(o->backend, NULL, &p->be, err));
    p->a = (nb_attention){.batch = o->batch,
                          .seq = o->seq,
                          .heads = o->heads,
                          .kv_heads = o->kv_heads ? o->kv_heads : o->heads,
                          .head_dim = o->head_dim,
                          .scale = 1 / sqrt((double)o->head_dim)};
    const int64_t rows = o->batch * o->seq, wide = rows * o->heads * o->head_dim,
                  narrow = rows * p->a.kv_heads * o->head_dim, lse = o->batch * o->heads * o->seq;
    uint16_t *host = malloc((size_t)wide * sizeof *host);
    bool enough = host != NULL && p->be->act == NB_BF16;
    for (int i = 0; i < BUFFERS && enough; i++) {
        p->n[i] = i == K || i == V || i == DK || i == DV ? narrow : wide;
        p->buffers[i] = p->be->ops->alloc(p->be, (size_t)p->n[i] * sizeof *host, "attention");
        enough = p->buffers[i] != NULL;
        for (int64_t j = 0; j < p->n[i] && i < INPUTS; j++) {
            const ni_philox_words w = ni_philox((uint32_t)i, 0, (uint32_t)j, 0, 0, 0);
            host[j] = ni_bf16_even(((float)w.w[0] + (float)w.w[1] + (float)w.w[2] - 0x1.8p32f) * 0x1p-31f);
        }
        if (enough && i < INPUTS)
            p->be->ops->upload(p->be, p->buffers[i], host, (size_t)p->n[i] * sizeof *host);
    }
    free(host);
    enough = enough && make_documents(o, p);
    p->lse = enough ? p->be->ops->alloc(p->be, (size_t)lse * sizeof(float), "attention") : NULL;
    return p->lse ? NB_OK : nb_fail(err, NB_NO_MEMORY, "bench attention: no memory; take a smaller --batch");
}

static void free_problem(problem *p) {
    for (int i = 0; p->be && i < BUFFERS; i++)
        p->be->ops->release(p->be, p->buffers[i]);
    if (p->be)
        p->be->ops->release(p->be, p->lse);
    if (p->be && p->bounds)
        p->be->ops->release(p->be, p->bounds);
    nb_backend_free(p->be);
}

/* ---- the check ---- */

static nb_status compare(const char *what, const uint16_t *got, const uint16_t *want, int64_t n, nb_error *err) {
    float most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(ni_bf16_value(want[i])));
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(ni_bf16_value(got[i]) - ni_bf16_value(want[i])) <= most * 0x1p-7f))
            return nb_fail(err, NB_INTERNAL,
                           "bench attention: %s is %g under any order of sums and %g under one; no speed is reported",
                           what, (double)ni_bf16_value(got[i]), (double)ni_bf16_value(want[i]));
    return NB_OK;
}

/* All four results of both rules. */
static nb_status check(problem *p, nb_error *err) {
    static const char *const names[] = {[O] = "o", [DQ] = "dq", [DK] = "dk", [DV] = "dv"};
    uint16_t *host[2][BUFFERS] = {{NULL}};
    nb_status status = NB_OK;
    p->times = 1;
    for (int any = 0; any < 2 && status == NB_OK; any++) {
        side forward = {p, any == 1, false}, backward = {p, any == 1, true};
        status = run_side(&forward, err);
        if (status == NB_OK)
            status = run_side(&backward, err);
        for (int i = O; i < BUFFERS && status == NB_OK; i++) {
            host[any][i] = malloc((size_t)p->n[i] * sizeof **host[any]);
            if (host[any][i])
                p->be->ops->download(p->be, host[any][i], p->buffers[i], (size_t)p->n[i] * sizeof **host[any]);
            else
                status = nb_fail(err, NB_NO_MEMORY, "bench attention: no memory for the check");
        }
    }
    for (int i = O; i < BUFFERS && status == NB_OK; i++)
        status = compare(names[i], host[1][i], host[0][i], p->n[i], err);
    for (int i = O; i < BUFFERS; i++) {
        free(host[0][i]);
        free(host[1][i]);
    }
    return status;
}

/* ---- the table ---- */

/* Products of the squares of scores, halved by causality: two going forward, five coming back. */
static double operations_of(const problem *p, bool backward) {
    const nb_attention *a = &p->a;
    return (backward ? 5 : 2) * (double)(a->batch * a->heads * a->head_dim) * p->squares;
}

static nb_status measure(problem *p, double seconds, nb_error *err) {
    side sides[4];
    ni_contender list[4];
    for (int i = 0; i < 4; i++) {
        sides[i] = (side){p, i >= 2, i % 2 == 1};
        list[i] = (ni_contender){"attention", run_side, &sides[i], 0, NULL};
    }
    p->times = PASSES;
    NB_TRY(ni_bench_rounds(list, 4, seconds, err));
    printf("%-15s %11s %8s %12s %8s  %s\n", "order of sums", "forward, ms", "TFLOP/s", "backward, ms", "TFLOP/s",
           "engine");
    for (int any = 0; any < 2; any++) {
        const double forward = list[2 * any].best / PASSES, backward = list[2 * any + 1].best / PASSES;
        const ni_permits permits = {.any_order = any == 1};
        const char *why = "";
        NB_TRY(p->be->ops->permit(p->be, &permits, err));
        const char *name = p->be->ops->attention_kernel(p->be, &p->a, &why);
        printf("%-15s %11.3f %8.1f %12.3f %8.1f  %s (%s)\n", any ? "any" : "one", forward * 1e3,
               operations_of(p, false) / forward * 1e-12, backward * 1e3, operations_of(p, true) / backward * 1e-12,
               name ? name : "none", why);
    }
    return NB_OK;
}

static nb_status check_options(const attention_options *o, nb_error *err) {
    const int64_t most = 1 << 20, all[] = {o->batch, o->seq, o->heads, o->kv_heads ? o->kv_heads : 1, o->head_dim};
    for (int i = 0; i < 5; i++)
        if (all[i] < 1 || all[i] > most)
            return nb_fail(err, NB_BAD_USAGE, "bench attention: %lld is not a size; expected 1 to %lld",
                           (long long)all[i], (long long)most);
    if (o->documents < 1 || o->documents > o->seq || o->documents * (o->documents + 1) > 2 * o->seq)
        return nb_fail(err, NB_BAD_USAGE,
                       "bench attention: %lld documents; expected 1 or more, and at least N (N + 1) / 2 positions",
                       (long long)o->documents);
    if (o->kv_heads && o->heads % o->kv_heads)
        return nb_fail(err, NB_BAD_USAGE, "bench attention: expected --heads that share --kv-heads evenly");
    return NB_OK;
}

nb_status ni_bench_attention(int argc, char **argv, nb_error *err) {
    attention_options o = {
        .backend = "cuda", .batch = 16, .seq = 1024, .heads = 16, .head_dim = 64, .documents = 1, .seconds = 0.2};
    problem p = {0};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    NB_TRY(check_options(&o, err));
    nb_status status = make_problem(&o, &p, err);
    if (status == NB_OK)
        status = check(&p, err);
    if (status == NB_OK) {
        printf("%s; %lld sequences of %lld in %lld documents, %lld heads of %lld, %lld of keys, causal\n", o.backend,
               (long long)o.batch, (long long)o.seq, (long long)o.documents, (long long)o.heads, (long long)o.head_dim,
               (long long)p.a.kv_heads);
        status = measure(&p, o.seconds, err);
    }
    free_problem(&p);
    return status;
}
