/* trial.c: memory, runs and comparisons of trial.h. */
#include "trial.h"

#include "format/bf16.h"
#include "format/hadamard.h"
#include "format/noise.h"

enum { GUARD_SIZE = 64 };

struct held {
    held *next;
    uint8_t *base; /* guard, bytes, guard */
    size_t bytes;
};

static uint8_t *hold(trial *t, size_t bytes) {
    held *h = calloc(1, sizeof *h);
    assert_non_null(h);
    h->base = t->be->ops->alloc(t->be, bytes + 2 * GUARD_SIZE, "a trial");
    if (!h->base)
        fail_msg("%s: no memory for a trial: %zu bytes", t->be->name, bytes);
    h->bytes = bytes;
    h->next = t->memory;
    t->memory = h;
    return h->base;
}

static void *fill(trial *t, const void *from, size_t bytes) {
    uint8_t *base = hold(t, bytes), *image = malloc(bytes + 2 * GUARD_SIZE);
    assert_non_null(image);
    memset(image, GUARD, bytes + 2 * GUARD_SIZE);
    if (from)
        memcpy(image + GUARD_SIZE, from, bytes);
    else
        memset(image + GUARD_SIZE, 0xff, bytes);
    t->be->ops->upload(t->be, base, image, bytes + 2 * GUARD_SIZE);
    free(image);
    return base + GUARD_SIZE;
}

void *upload(trial *t, const void *from, size_t bytes) {
    return fill(t, from, bytes);
}

void *scratch(trial *t, size_t bytes) {
    return fill(t, NULL, bytes);
}

void *input(trial *t, nb_dtype type, const double *x, int64_t n) {
    double *y = poisoned((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++)
        y[i] = t->absolute ? fabs(x[i]) : x[i];
    return fill(t, put(type, y, n), (size_t)n * nb_dtype_size(type));
}

void *input_act(trial *t, uint32_t stream, int64_t n, double std) {
    return input(t, t->be->act, normals_in(NB_BF16, stream, n, 0, std), n);
}

void *input_real(trial *t, uint32_t stream, int64_t n, double mean, double std) {
    return input(t, t->be->real, normals_in(NB_F32, stream, n, mean, std), n);
}

nb_mat input_mat(trial *t, const nb_mat *host) {
    const int64_t n = host->rows * host->stride;
    nb_mat m = *host;
    if (t->absolute)
        m.data = input(t, host->dtype, get(host->dtype, host->data, n), n);
    else
        m.data = upload(t, host->data, (size_t)n * nb_dtype_size(host->dtype));
    return m;
}

/* ---- results ---- */

static result *add(trial *t, const char *what, nb_dtype type, int64_t n, bool exact) {
    if (t->count == t->room) {
        t->room = t->room ? 2 * t->room : 16;
        t->results = realloc(t->results, (size_t)t->room * sizeof *t->results);
        assert_non_null(t->results);
    }
    result *r = &t->results[t->count++];
    *r = (result){.type = type, .n = n, .exact = exact};
    snprintf(r->what, sizeof r->what, "%s", what);
    r->bytes = malloc((size_t)n * nb_dtype_size(type) + 1);
    assert_non_null(r->bytes);
    return r;
}

void *output(trial *t, const char *what, nb_dtype type, int64_t n) {
    void *device = scratch(t, (size_t)n * nb_dtype_size(type));
    add(t, what, type, n, false)->device = device;
    return device;
}

void *output_exact(trial *t, const char *what, nb_dtype type, int64_t n) {
    void *device = output(t, what, type, n);
    t->results[t->count - 1].exact = true;
    return device;
}

void keep(trial *t, const char *what, const void *device, nb_dtype type, int64_t n, bool exact) {
    add(t, what, type, n, exact)->device = (void *)device;
}

void record(trial *t, const char *what, const void *host, nb_dtype type, int64_t n, bool exact) {
    memcpy(add(t, what, type, n, exact)->bytes, host, (size_t)n * nb_dtype_size(type));
}

void fail_trial(trial *t, const char *what, nb_status status, const nb_error *err) {
    if (status == NB_UNSUPPORTED && !t->refusal[0])
        snprintf(t->refusal, sizeof t->refusal, "%.390s", err->message);
    else if (status != NB_UNSUPPORTED && !t->failure[0])
        snprintf(t->failure, sizeof t->failure, "%.120s: status %d: %.200s", what, (int)status, err->message);
}

nb_mat asking(trial *t, void *data, nb_dtype type, int64_t rows, int64_t cols) {
    nb_mat m = nb_mat_of(data, type, rows, cols);
    m.amax = scratch(t, sizeof *m.amax);
    return m;
}

/* Numbers of a view, row after row. */
static double *dense(trial *t, const nb_mat *m) {
    const int64_t n = (m->rows - 1) * m->stride + m->cols;
    void *copy = poisoned((size_t)n * nb_dtype_size(m->dtype));
    double *x = zeros(m->rows * m->cols);
    t->be->ops->download(t->be, copy, m->data, (size_t)n * nb_dtype_size(m->dtype));
    for (int64_t i = 0; i < m->rows * m->cols; i++)
        x[i] = element(copy, m->dtype, i / m->cols * m->stride + i % m->cols);
    return x;
}

static void expect_word(trial *t, const char *what, const nb_mat *m, const uint32_t *word, uint32_t want) {
    uint32_t got;
    t->be->ops->download(t->be, &got, word, sizeof got);
    if (got != want && !t->failure[0] && !t->refusal[0])
        snprintf(t->failure, sizeof t->failure, "the amax of %s of a [%lld, %lld] is %08x, expected %08x", what,
                 (long long)m->rows, (long long)m->cols, got, want);
}

void expect_amax(trial *t, const nb_mat *m) {
    const double *x = dense(t, m);
    uint32_t want = 0;
    for (int64_t i = 0; i < m->rows * m->cols; i++) {
        const uint32_t bits = ni_f32_magnitude((float)x[i]);
        want = bits > want ? bits : want;
    }
    expect_word(t, "all", m, m->amax, want);
}

nb_mat asking_both(trial *t, void *data, nb_dtype type, int64_t rows, int64_t cols) {
    nb_mat m = asking(t, data, type, rows, cols);
    m.turned_amax = scratch(t, sizeof *m.turned_amax);
    return m;
}

void expect_both(trial *t, const nb_mat *m) {
    const ni_noise_key none = {0};
    const ni_sign_mask signs = ni_signs_of(NB_SIGNS_FIXED, &none);
    const double *x = dense(t, m);
    uint32_t want = 0;
    expect_amax(t, m);
    if (m->dtype != NB_BF16 || m->rows % 16 != 0 || !t->be->wants_amax)
        return;
    for (int64_t r = 0; r < m->rows; r += 16)
        for (int64_t c = 0; c < m->cols; c++) {
            float column[16];
            for (int i = 0; i < 16; i++)
                column[i] = (float)x[(r + i) * m->cols + c];
            ni_hadamard(column, 16, signs);
            for (int i = 0; i < 16; i++) {
                const uint32_t bits = ni_f32_magnitude(ni_bf16_round(column[i]));
                want = bits > want ? bits : want;
            }
        }
    expect_word(t, "turned columns", m, m->turned_amax, want);
}

double *numbers_of(const trial *t, int index) {
    const result *r = &t->results[index];
    return get(r->type, r->bytes, r->n);
}

nb_qtensor new_codes(trial *t, const nb_quantizer *q, int64_t rows, int64_t cols) {
    return nb_qtensor_place(q, rows, cols, scratch(t, nb_qtensor_bytes(q, rows, cols).total));
}

/* Each buffer apart: what lies between them is nobody's. */
void keep_codes(trial *t, const char *what, const nb_qtensor *codes) {
    const nb_qtensor_size n = nb_qtensor_bytes(&codes->quantizer, codes->rows, codes->cols);
    const void *parts[] = {codes->codes, codes->scales, codes->outer_scales, codes->tensor_scale};
    const size_t bytes[] = {n.codes, n.scales, n.outer_scales, n.tensor_scale};
    static const char *const names[] = {"codes", "scales", "outer scales", "tensor scale"};
    for (int i = 0; i < 4; i++) {
        char name[320];
        snprintf(name, sizeof name, "%.280s: %s", what, names[i]);
        if (bytes[i])
            keep(t, name, parts[i], i < 2 ? NB_U8 : NB_F32, (int64_t)(i < 2 ? bytes[i] : bytes[i] / 4), true);
    }
}

/* ---- a run ---- */

void run_trial(const test_case *c, trial *t) {
    c->run(t);
    fetch_results(t);
}

void fetch_results(trial *t) {
    EXPECT_OK(t, t->be->ops->synchronize(t->be, &err));
    for (int i = 0; i < t->count; i++) {
        result *r = &t->results[i];
        if (r->device)
            t->be->ops->download(t->be, r->bytes, r->device, (size_t)r->n * nb_dtype_size(r->type));
        r->device = NULL;
    }
    while (t->memory) {
        held *h = t->memory;
        uint8_t guards[2 * GUARD_SIZE];
        t->be->ops->download(t->be, guards, h->base, GUARD_SIZE);
        t->be->ops->download(t->be, guards + GUARD_SIZE, h->base + GUARD_SIZE + h->bytes, GUARD_SIZE);
        for (int i = 0; i < 2 * GUARD_SIZE; i++)
            if (guards[i] != GUARD && !t->failure[0])
                snprintf(t->failure, sizeof t->failure, "a buffer of %zu bytes was written %s", h->bytes,
                         i < GUARD_SIZE ? "before its beginning" : "beyond its end");
        t->be->ops->release(t->be, h->base);
        t->memory = h->next;
        free(h);
    }
}

void end_trial(trial *t) {
    for (int i = 0; i < t->count; i++)
        free(t->results[i].bytes);
    free(t->results);
    t->results = NULL;
    t->count = t->room = 0;
}

/* ---- comparisons ---- */

static bool floating(nb_dtype type) {
    return type == NB_F32 || type == NB_BF16 || type == NB_F64;
}

/* Bits of every NaN are as good as those of another. */
static double difference_in_bits(const result *got, const result *want, int64_t *where) {
    const size_t size = nb_dtype_size(got->type);
    for (int64_t i = 0; i < got->n; i++) {
        const uint8_t *a = (const uint8_t *)got->bytes + (size_t)i * size;
        const uint8_t *b = (const uint8_t *)want->bytes + (size_t)i * size;
        if (memcmp(a, b, size) == 0)
            continue;
        if (floating(got->type) && isnan(element(got->bytes, got->type, i)) &&
            isnan(element(want->bytes, want->type, i)))
            continue;
        *where = i;
        return INFINITY;
    }
    return 0;
}

static double in_units_of_bound(const result *got, const double *want, const double *work, int64_t *where) {
    double worst = 0;
    for (int64_t i = 0; i < got->n; i++) {
        const double x = element(got->bytes, got->type, i), error = fabs(x - want[i]);
        const double bound = (got->type == NB_BF16 ? B * fabs(want[i]) + (1 + B) * U * work[i] : U * work[i]) + TINY;
        const double ratio = isnan(x) && isnan(want[i]) ? 0 : error / bound;
        if (!(ratio <= worst)) {
            worst = isnan(ratio) ? INFINITY : ratio;
            *where = i;
        }
    }
    return worst;
}

static double of_result(const test_case *c, const trial *got, const trial *want, const trial *magnitudes, int i,
                        int64_t *where) {
    const result *r = &got->results[i];
    if (c->by == BITS || r->exact)
        return difference_in_bits(r, &want->results[i], where);
    double *exact = numbers_of(want, i), *work;
    if (c->by == DOUBLE)
        return in_units_of_bound(r, exact, c->work(want, i), where);
    work = numbers_of(magnitudes, i);
    const double *lost = c->by == CODES && c->work ? c->work(got, i) : zeros(r->n);
    for (int64_t k = 0; k < r->n; k++)
        work[k] = c->roundings(got) * fabs(work[k]) + lost[k] +
                  (c->by == CODES && r->type == NB_BF16 ? B / U * fabs(exact[k]) : 0); /* the reference rounded too */
    return in_units_of_bound(r, exact, work, where);
}

static double value(const result *r, int64_t i) {
    switch (r->type) {
    case NB_I32:
        return ((const int32_t *)r->bytes)[i];
    case NB_F32:
    case NB_BF16:
    case NB_F64:
        return element(r->bytes, r->type, i);
    default:
        return ((const uint8_t *)r->bytes)[(size_t)i * nb_dtype_size(r->type)];
    }
}

double compare_trials(const test_case *c, const trial *got, const trial *want, const trial *magnitudes, char *what,
                      size_t size) {
    what[0] = '\0';
    if (got->failure[0] || got->count != want->count) {
        snprintf(what, size, "%s", got->failure[0] ? got->failure : "not as many results as the reference has");
        return INFINITY;
    }
    double worst = 0;
    for (int i = 0; i < got->count; i++) {
        int64_t at = 0;
        const double ratio = of_result(c, got, want, magnitudes, i, &at);
        if (!(ratio <= worst)) {
            const result *r = &got->results[i], *w = &want->results[i];
            worst = ratio;
            snprintf(what, size, "%s[%lld of %lld] = %.9g, expected %.9g", r->what, (long long)at, (long long)r->n,
                     value(r, at), value(w, at));
        }
    }
    return worst;
}
