/* test_qramping.c: Q-Ramping (arXiv:2502.20853) against the paper's rule written out by hand: the update that waits,
 * the paces that a calibration finds, and that it leaves nothing else behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "train_case.h"

#include "backend/table.h"
#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>

/* ---- the update of one element ---- */

enum { PACES = 5, UPDATES = 13 };

/* As the authors' code has it: torch's form of AdamW, gradients of a window averaged, the rate times their number. */
typedef struct element {
    double p, m, v, sum;
    int waited;
} element;

static void by_hand(element *e, double g, int pace, int step, double lr, double decay) {
    e->p *= 1 - lr * decay;
    e->sum += g;
    e->waited++;
    if (e->waited % pace)
        return;
    const double mean = e->sum / e->waited;
    e->m = 0.9 * e->m + 0.1 * mean;
    e->v = 0.95 * e->v + 0.05 * mean * mean;
    const double denominator = sqrt(e->v) / sqrt(1 - pow(0.95, step)) + 1e-8;
    e->p -= e->m / denominator * (lr * e->waited / (1 - pow(0.9, step)));
    e->sum = 0;
    e->waited = 0;
}

/* Paces 1 to 5; before the eighth update those of 4 and 5 become 3, in the middle of their windows. */
static void updates_wait(void **state) {
    (void)state;
    nb_backend *be;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    float p[PACES], m[PACES] = {0}, v[PACES] = {0}, g[PACES], sum[PACES] = {0}, alone[3][PACES];
    int32_t steps[PACES] = {0}, period[PACES];
    element want[PACES] = {{0}};
    for (int i = 0; i < PACES; i++) {
        p[i] = 0.3f + 0.1f * (float)i;
        want[i].p = p[i];
        period[i] = i + 1;
        alone[0][i] = p[i];
        alone[1][i] = alone[2][i] = 0;
    }
    const ni_ramped r = {p, m, v, g, sum, steps, period, PACES, 0.1};
    for (int t = 1; t <= UPDATES; t++) {
        const ni_adamw step = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.5, .step = t};
        for (int i = 0; i < PACES; i++) {
            g[i] = (float)sin(3.0 * t + i) + 0.2f;
            period[i] = t >= 8 && i >= 3 ? 3 : i + 1;
            by_hand(&want[i], 0.5 * (double)g[i], period[i], t, 0.01, 0.1);
        }
        be->ops->adamw_ramped(be, &r, &step);
        const ni_adamw_tensor plain = ni_adamw_plain(NB_F32, alone[0], alone[1], alone[2], g, PACES, 0.1);
        be->ops->adamw(be, &plain, 1, &step);
        assert_true(p[0] == alone[0][0] && m[0] == alone[1][0] && v[0] == alone[2][0]); /* a pace of 1 is AdamW */
        for (int i = 0; i < PACES; i++) {
            assert_float_equal(p[i], want[i].p, 1e-6);
            assert_float_equal(m[i], want[i].m, 1e-6);
            assert_float_equal(v[i], want[i].v, 1e-6);
            assert_int_equal(steps[i], want[i].waited);
        }
    }
    assert_true(fabs((double)p[4] - (double)alone[0][4]) > 1e-3);
    nb_backend_free(be);
}

static void paces_by_hand(void **state) {
    (void)state;
    static const struct {
        float moved_q, moved_w;
        double k2;
        int32_t most, want;
    } cases[] = {
        {0, 0, 5, 100, 1},                                      /* nothing moved */
        {1.59f, 0.1f, 5, 100, 1},                               /* R = 15.9 */
        {1.61f, 0.1f, 5, 100, 6},                               /* 16.1 */
        {4.81f, 0.1f, 5, 100, 16},                              /* 48.1 */
        {4.81f, 0.1f, 5, 12, 12},  {4.81f, 0.1f, 3.5, 100, 11}, /* 11.5 */
        {1, 0, 5, 1251, 1251},                                  /* a bin that moved under a weight that did not */
    };
    nb_backend *be;
    assert_int_equal(nb_backend_open("cpu", NULL, &be, NULL), NB_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t period = -1;
        be->ops->ramp_periods(be, &period, &cases[i].moved_q, &cases[i].moved_w, 1, 16, cases[i].k2, cases[i].most);
        assert_int_equal(period, cases[i].want);
    }
    nb_backend_free(be);
}

/* ---- a calibration, step by step ---- */

enum { EVERY = 4, WINDOW = 3 };
#define RAMPING "base: tetrajet-v1-ramping\nname: ramping\nqramping: {every: 4, window: 3, k1: 2, k2: 3, most: 9}\n"

static void put(void **state, const char *name, const char *text) {
    nb_error err = {0};
    if (ni_file_write(in_folder(state, name), text, strlen(text), &err) != NB_OK)
        fail_msg("%s", err.message);
}

static nb_run_config config_of(void **state, const char *out, const char *recipe) {
    char key[700];
    snprintf(key, sizeof key, "recipe=%s/%s", (char *)*state, recipe);
    const char *seq = strncmp(out, "wide", 4) == 0 ? "seq=64" : "seq=16"; /* blocks of 128 tokens */
    return case_config(state, out, key, seq, "clip=0", "optimizer.lr=0.02", "schedule.warmup=1", NULL);
}

static nb_trainer *trainer_of(nb_backend *be, const nb_run_config *config, int steps) {
    nb_trainer *t;
    nb_error err = {0};
    nb_step_report report;
    if (case_create(be, config, NULL, &t, &err) != NB_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < steps; i++)
        if (nb_trainer_step(t, &report, &err) != NB_OK)
            fail_msg("%s", err.message);
    return t;
}

/* MXFP4 with scales rounded up: groups of 32 along the row, 2^ceil(log2(amax / 6)), ties to the even code. */
static void quantized(float *q, const float *w, int64_t n) {
    static const double grid[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    for (int64_t g = 0; g < n; g += 32) {
        double amax = 0;
        for (int64_t i = g; i < g + 32; i++)
            amax = fmax(amax, fabs((double)w[i]));
        const double scale = amax > 0 ? exp2(ceil(log2(amax / 6))) : 1;
        for (int64_t i = g; i < g + 32; i++) {
            const double a = fabs((double)w[i]) / scale;
            int best = 0;
            for (int c = 1; c < 8; c++)
                if (fabs(a - grid[c]) < fabs(a - grid[best]) ||
                    (fabs(a - grid[c]) == fabs(a - grid[best]) && c % 2 == 0))
                    best = c;
            q[i] = (float)(copysign(grid[best], (double)w[i]) * scale);
        }
    }
}

typedef struct by_hand_run {
    float *p, *m, *v, *w_before, *q_before, *q, *moved_w, *moved_q; /* [all elements] */
} by_hand_run;

static float *copy_of(const void *from, int64_t n) {
    float *to = calloc((size_t)n + 1, sizeof *to);
    assert_non_null(to);
    if (from)
        memcpy(to, from, (size_t)n * sizeof *to);
    return to;
}

static void adamw_by_hand(const nb_trainer *t, by_hand_run *r, const float *g, float lr, int64_t step) {
    const nb_run_config *c = &t->config;
    for (int32_t k = 0; k < nb_model_param_count(t->model); k++) {
        const nb_param *param = nb_model_param(t->model, k);
        const bool decayed = param->rank == 2 && (!param->embedding || c->optimizer.decay_embeddings);
        const float keep = (float)(1 - (double)lr * (decayed ? c->optimizer.weight_decay : 0));
        const float b1 = (float)c->optimizer.beta1, b2 = (float)c->optimizer.beta2;
        const float rate = (float)((double)lr / (1 - pow(c->optimizer.beta1, (double)step)));
        const float correction = (float)(1 / (1 - pow(c->optimizer.beta2, (double)step)));
        for (int64_t i = param->offset; i < param->offset + param->rows * param->cols; i++) {
            const float mean = g[i] * (float)(1.0 / (double)c->accumulation);
            r->m[i] = b1 * r->m[i] + (float)(1 - c->optimizer.beta1) * mean;
            r->v[i] = b2 * r->v[i] + (float)(1 - c->optimizer.beta2) * (mean * mean);
            r->p[i] = keep * r->p[i] - rate * r->m[i] / (sqrtf(r->v[i] * correction) + (float)c->optimizer.eps);
        }
    }
}

/* Distances of every matrix that is quantized; the others' are not looked at. */
static void distances_by_hand(const nb_trainer *t, by_hand_run *r, bool first) {
    for (int32_t k = 0; k < nb_model_param_count(t->model); k++) {
        const nb_param *param = nb_model_param(t->model, k);
        const int64_t n = param->rows * param->cols;
        if (param->rank != 2)
            continue;
        quantized(r->q + param->offset, r->p + param->offset, n);
        for (int64_t i = param->offset; i < param->offset + n; i++) {
            r->moved_w[i] += first ? 0 : fabsf(r->p[i] - r->w_before[i]);
            r->moved_q[i] += first ? 0 : fabsf(r->q[i] - r->q_before[i]);
            r->w_before[i] = r->p[i];
            r->q_before[i] = r->q[i];
        }
    }
}

static const nb_param *param_of(const nb_trainer *t, const char *state_name) {
    char weight[2 * NB_NAME_SIZE];
    snprintf(weight, sizeof weight, "%.*s.weight", (int)strcspn(state_name, "/"), state_name);
    for (int32_t k = 0; k < nb_model_param_count(t->model); k++)
        if (strstr(nb_model_param(t->model, k)->name, weight))
            return nb_model_param(t->model, k);
    fail_msg("%s belongs to no parameter", state_name);
    return NULL;
}

static bool ends_with(const char *name, const char *end) {
    return strlen(name) > strlen(end) && strcmp(name + strlen(name) - strlen(end), end) == 0;
}

/* Runs the calibration before step EVERY on `t`, by formulas alone but for the model's gradients. */
static by_hand_run calibrate_by_hand(nb_trainer *t) {
    const int64_t n = t->optimizer.m.elements, batch = t->config.micro_batch * t->config.accumulation;
    const float *params = nb_model_params(t->model),
                lr = (float)(t->config.optimizer.lr * nb_schedule_factor(&t->config.schedule, EVERY, t->steps));
    by_hand_run r = {copy_of(params, n),
                     copy_of(t->optimizer.m.data, n),
                     copy_of(t->optimizer.v.data, n),
                     copy_of(NULL, n),
                     copy_of(NULL, n),
                     copy_of(NULL, n),
                     copy_of(NULL, n),
                     copy_of(NULL, n)};
    for (int i = 0; i <= WINDOW; i++) {
        nb_error err = {0};
        t->calibration =
            (ni_calibration){i + 1, ((int64_t)1 << 24) * ni_dataset_sequences(t->train) / batch + 1 + (WINDOW + 1) + i};
        if (ni_trainer_accumulate(t, NULL, &err) != NB_OK)
            fail_msg("%s", err.message);
        adamw_by_hand(t, &r, ni_model_gradients(t->model)->data, lr, EVERY + 1 + i);
        distances_by_hand(t, &r, i == 0);
        memcpy(nb_model_params(t->model), r.p, (size_t)n * sizeof(float));
        nb_model_params_changed(t->model);
    }
    return r;
}

static void forget(by_hand_run *r) {
    float *const all[] = {r->p, r->m, r->v, r->w_before, r->q_before, r->q, r->moved_w, r->moved_q};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* The paces are those of the rule, and the next step moves each weight at its own: those that wait are decayed and no
 * more, those that wait for nothing move. */
static void a_calibration_by_hand(void **state) {
    put(state, "ramping.yaml", RAMPING);
    const nb_run_config config = config_of(state, "a", "ramping.yaml");
    nb_backend *be = case_backend(&config);
    nb_trainer *one = trainer_of(be, &config, EVERY), *other = trainer_of(be, &config, EVERY);
    float *before = copy_of(nb_model_params(one->model), one->optimizer.m.elements);
    by_hand_run r = calibrate_by_hand(other);
    nb_error err = {0};
    nb_step_report report;
    assert_int_equal(nb_trainer_step(one, &report, &err), NB_OK);
    const int32_t count = nb_model_state(one->model, NULL, 0);
    nb_state_tensor *tensors = calloc((size_t)count, sizeof *tensors);
    assert_non_null(tensors);
    nb_model_state(one->model, tensors, count);
    int64_t elements = 0, slow[10] = {0};
    for (int32_t s = 0; s < count; s++) {
        if (!ends_with(tensors[s].name, "/qramping.qramping.period"))
            continue;
        const nb_param *param = param_of(one, tensors[s].name);
        const int32_t *period = tensors[s].data, *waited = tensors[s + 1].data;
        const float *p = (const float *)nb_model_params(one->model) + param->offset;
        assert_true(ends_with(tensors[s + 1].name, "/qramping.qramping.steps"));
        for (int64_t i = 0; i < tensors[s].elements; i++) {
            const int64_t at = param->offset + i;
            const double steps = 3 * floor((double)(r.moved_q[at] / 2.0f) / (double)(r.moved_w[at] + 1e-8f)) + 1;
            const int32_t want = steps < 9 ? (int32_t)steps : 9;
            if (period[i] != want)
                fail_msg("%s, element %lld: a pace of %d, expected %d", tensors[s].name, (long long)i, period[i], want);
            const float kept = before[at] * (float)(1 - report.lr * config.optimizer.weight_decay);
            if ((waited[i] > 0) != (p[i] == kept))
                fail_msg("%s, element %lld: has waited %d steps and is %g, decayed it was %g", tensors[s].name,
                         (long long)i, waited[i], (double)p[i], (double)kept);
            slow[want]++;
            elements++;
        }
    }
    assert_true(slow[1] > elements / 2 && slow[4] > 10 && slow[9] > 10);
    free(tensors);
    free(before);
    forget(&r);
    nb_trainer_free(one);
    nb_trainer_free(other);
    nb_backend_free(be);
}

/* ---- what it leaves behind ---- */

static void same_run(void **state, const char *a, const char *b) {
    char *x = case_metrics(state, a), *y = case_metrics(state, b);
    assert_string_equal(x, y);
    free(x);
    free(y);
}

static void run_of(void **state, const char *out, const char *recipe, nb_start start, case_log *log, nb_status want) {
    const nb_run_config config = config_of(state, out, recipe);
    nb_error err = {0};
    const nb_status status = case_run(&config, start, NULL, log, &err);
    if (status != want)
        fail_msg("%s: %s", out, err.message);
}

/* With k2 = 0 every pace is 1: the run is that of the recipe without it, to the bit, whatever its calibrations did to
 * parameters, moments, sums, windows and random bits. */
static void a_calibration_leaves_no_trace(void **state) {
    static const char wide[] = "name: case\nfamily: llama\nvocab: 64\nhidden: 128\nlayers: 1\nheads: 2\nkv_heads: 2\n"
                               "head_dim: 64\nintermediate: 256\nmax_seq: 64\ntied: false\n";
    static const char awake[] = "outcontrol: {start: 2, window: 4}\n"
                                "oscireset: {start: 0, period: 6, window: 3, threshold: 2}\n";
    char text[512];
    put(state, "without.yaml", "base: tetrajet-v1\nname: test\nqema: null\n");
    put(state, "with.yaml",
        "base: tetrajet-v1\nname: test\nqema: null\nqramping: {every: 3, window: 2, k1: 2, k2: 0}\n");
    run_of(state, "a", "without.yaml", NB_START_NEW, NULL, NB_OK);
    run_of(state, "b", "with.yaml", NB_START_NEW, NULL, NB_OK);
    same_run(state, "a", "b");
    put(state, "case.yaml", wide);
    snprintf(text, sizeof text, "base: tetrajet-v2\nname: test\n%s", awake);
    put(state, "without.yaml", text);
    snprintf(text, sizeof text, "base: tetrajet-v2\nname: test\n%sqramping: {every: 5, window: 1, k1: 2, k2: 0}\n",
             awake);
    put(state, "with.yaml", text);
    run_of(state, "wide-a", "without.yaml", NB_START_NEW, NULL, NB_OK);
    run_of(state, "wide-b", "with.yaml", NB_START_NEW, NULL, NB_OK);
    same_run(state, "wide-a", "wide-b");
}

/* Stopped in the middle of a window of waiting, and in the middle of a calibration (the first micro-batch that is asked
 * for after step 8 is one of its own). */
static void a_stop_changes_no_bit(void **state) {
    put(state, "ramping.yaml", RAMPING);
    put(state, "without.yaml", "base: tetrajet-v1\nname: ramping\nqema: null\n");
    run_of(state, "straight", "ramping.yaml", NB_START_NEW, NULL, NB_OK);
    for (int64_t stop = 6; stop <= 8; stop += 2) {
        char out[16];
        case_log log = {.stop_after = stop};
        snprintf(out, sizeof out, "stop-%d", (int)stop);
        run_of(state, out, "ramping.yaml", NB_START_NEW, &log, NB_INTERRUPTED);
        run_of(state, out, "ramping.yaml", NB_START_RESUME, NULL, NB_OK);
        same_run(state, "straight", out);
    }
    run_of(state, "other", "without.yaml", NB_START_NEW, NULL, NB_OK);
    char *x = case_metrics(state, "straight"), *y = case_metrics(state, "other");
    assert_string_not_equal(x, y);
    free(x);
    free(y);
}

/* ---- what it cannot be with ---- */

static void refusals(void **state) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"base: tetrajet-v1\nqramping: {}\n", "with qema"},
        {"base: tetrajet-v1-ramping\noptimizer_state: {m: e4m3}\n", "expected optimizer_state and gradients in fp32"},
        {"base: tetrajet-v1-ramping\nqramping: {window: 0}\n", "window"},
        {"base: tetrajet-v1-ramping\nqramping: {every: 1.5}\n", "every"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nb_recipe recipe;
        nb_error err = {0};
        put(state, "bad.yaml", cases[i].text);
        assert_int_equal(nb_recipe_load(in_folder(state, "bad.yaml"), NI_TEST_SOURCE "/recipes", &recipe, &err),
                         NB_BAD_CONFIG);
        if (!strstr(err.message, cases[i].says))
            fail_msg("%s does not say %s", err.message, cases[i].says);
    }
}

/* k and v as wide as a block of 32. */
static int folder(void **state) {
    if (case_folder(state) != 0)
        return -1;
    put(state, "case.yaml",
        "name: case\nfamily: llama\nvocab: 64\nhidden: 32\nlayers: 2\nheads: 2\nkv_heads: 2\nhead_dim: 16\n"
        "intermediate: 64\nmax_seq: 32\ntied: false\n");
    return 0;
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_wait),      cmocka_unit_test(paces_by_hand), CASE(a_calibration_by_hand),
        CASE(a_calibration_leaves_no_trace), CASE(a_stop_changes_no_bit),     CASE(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
