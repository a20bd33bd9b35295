/* cases_loss.c: cross entropy with z-loss. lse: x - max is off by its size, the sum by at most vocab additions, the log
 * by its own value. */
#include "trial.h"

static const int64_t ROWS[][2] = {{1, 16}, {3, 5}, {33, 100}, {130, 270}, {3, 32000}};
enum { SHAPES = sizeof ROWS / sizeof *ROWS };
static const double SCALE = 0.125, Z_LOSS = 1e-2;

/* Every fourth row is not scored. */
static int32_t *targets_of(int64_t rows, int64_t vocab) {
    int32_t *targets = integers(rows, (int32_t)vocab);
    for (int64_t r = 3; r < rows; r += 4)
        targets[r] = -1;
    return targets;
}

static void run(trial *t) {
    const int64_t rows = ROWS[t->shape][0], vocab = ROWS[t->shape][1], n = rows * vocab;
    nb_backend *be = t->be;
    void *logits = input_act(t, 1, n, 4), *in_place = input_act(t, 1, n, 4);
    const int32_t *targets = upload(t, targets_of(rows, vocab), (size_t)rows * sizeof(int32_t));
    void *loss = output(t, "loss", be->real, rows), *z = output(t, "z", be->real, rows);
    void *dlogits = output(t, "dlogits", be->act, n), *alone = output(t, "loss alone", be->real, rows);
    be->ops->cross_entropy(be, loss, z, dlogits, logits, targets, rows, vocab, SCALE, Z_LOSS);
    be->ops->cross_entropy(be, alone, NULL, NULL, logits, targets, rows, vocab, SCALE, Z_LOSS);
    be->ops->cross_entropy(be, alone, NULL, in_place, in_place, targets, rows, vocab, SCALE, Z_LOSS);
    keep(t, "dlogits in place", in_place, be->act, n, false);
}

static double *work(const trial *want, int index) {
    const int64_t rows = ROWS[want->shape][0], vocab = ROWS[want->shape][1];
    double *w = zeros(want->results[index].n), *x = normals_in(NB_BF16, 1, rows * vocab, 0, 4);
    const double *z = want->results[1].bytes;
    const int32_t *targets = targets_of(rows, vocab);
    for (int64_t r = 0; r < rows; r++) {
        double largest = 0;
        for (int64_t c = 0; c < vocab; c++)
            largest = fmax(largest, fabs(x[r * vocab + c]));
        const double lse = (double)vocab + 8 + 3 * largest + 2 * fabs(z[r]), slope = 1 + 2 * Z_LOSS * fabs(z[r]);
        if (index < 2 || index == 3)
            w[r] = lse + (index == 1 ? 0 : 2 * largest);
        for (int64_t c = 0; (index == 2 || index == 4) && targets[r] >= 0 && c < vocab; c++) {
            const double p = exp(x[r * vocab + c] - z[r]), away = fabs(x[r * vocab + c] - z[r]);
            w[r * vocab + c] = SCALE * (slope * p * (2 * lse + away + 8) + (c == targets[r] ? 4 : 0));
        }
    }
    return w;
}

/* All logits far below zero: lanes beyond the last column must not pass for logits of 0; then a NaN. */
static void run_low(trial *t) {
    enum { VOCAB = 19 };
    double x[2 * VOCAB];
    for (int i = 0; i < 2 * VOCAB; i++)
        x[i] = i == VOCAB + 3 ? NAN : -1000;
    const int32_t targets[2] = {4, 4};
    t->be->ops->cross_entropy(t->be, output(t, "loss", t->be->real, 2), output(t, "z", t->be->real, 2), NULL,
                              input(t, t->be->act, x, 2 * VOCAB), upload(t, targets, sizeof targets), 2, VOCAB, 1, 0);
}

static double *work_low(const trial *want, int index) {
    (void)want, (void)index;
    double *w = zeros(2);
    w[0] = w[1] = 6000;
    return w;
}

static const test_case LOSSES[] = {
    {"cross_entropy", "z-loss, unscored rows, in place", DOUBLE, SHAPES, run, work, NULL},
    {"cross_entropy", "low logits, a NaN", DOUBLE, 1, run_low, work_low, NULL}};
const case_list loss_cases = {LOSSES, sizeof LOSSES / sizeof *LOSSES};
