/* test_quartet_public.c: Quartet's quantizers and its mask beside the public code, executed by Triton's interpreter
 * (scripts/golden_quartet.py). Theirs multiplies by a matrix where ours rotates in stages, so that a number may differ
 * in its last bits: where that decides, at the middle of two codes, at 6, or in a scale whose logarithm is a whole
 * number, the neighbour is right too. All else is equal to the bit. */
#include "files/safetensors.h"
#include "quantize_cases.h"

#include "backend/ref/quantize.h"
#include "backend/ref/ref.h"

enum { ROWS = 16, COLS = 64, COUNT = ROWS * COLS };
static const char *const NAMES[] = {"normal", "sizes", "heavy", "shifted", "integers"};
enum { CASES = sizeof NAMES / sizeof *NAMES };

static ni_safetensors *open_golden(void) {
    ni_safetensors *file;
    nb_error err = {0};
    if (ni_safetensors_open(NI_TEST_GOLDEN "/quartet.safetensors", &file, &err) != NB_OK)
        fail_msg("%s", err.message);
    return file;
}

static const void *tensor(const ni_safetensors *file, const char *name, const char *what) {
    char full[64];
    snprintf(full, sizeof full, "%s/%s", name, what);
    const ni_file_tensor *t = ni_safetensors_find(file, full);
    if (!t)
        fail_msg("there is no %s", full);
    return t->data;
}

static nb_mat input_of(const ni_safetensors *file, const char *name) {
    nb_mat x = data_matrix(DATA_NORMAL, NB_F32, ROWS, COLS, COLS);
    memcpy(x.data, tensor(file, name, "x"), COUNT * sizeof(float));
    return x;
}

static nb_quantizer mxfp4(nb_scale_rule rule) {
    nb_quantizer q = ni_format_family_find("mxfp4")->defaults;
    q.rule = rule;
    q.hadamard_size = 32;
    q.hadamard_signs = NB_SIGNS_NONE;
    return q;
}

/* What ours decodes to, and the unit that each number counts in. */
static void ours_of(const nb_mat *x, nb_scale_rule rule, float *decoded, float *units) {
    const nb_quantizer q = mxfp4(rule);
    nb_qtensor t = new_operand(&q, ROWS, COLS);
    const nb_mat out = nb_mat_of(decoded, NB_F32, ROWS, COLS);
    nb_error err = {0};
    assert_int_equal(ni_ref_quantize(NULL, &t, x, false, NULL, NULL, &err), NB_OK);
    assert_int_equal(ni_ref_dequantize(NULL, &out, &t, false, true, &err), NB_OK);
    for (int64_t i = 0; i < COUNT; i++)
        units[i] = ldexpf(rule == NB_RULE_THREE_QUARTERS ? 4.0f / 3 : 1.0f, t.scales[i / 32] - 127);
}

/* The rotated numbers in double. */
static double *rotated(const nb_mat *x) {
    double *y = zeros(COUNT);
    for (int64_t i = 0; i < COUNT; i++)
        for (int64_t k = 0; k < 32; k++)
            y[i] += (__builtin_parity((unsigned)(i % 32 & k)) ? -1 : 1) *
                    (double)((const float *)x->data)[i / 32 * 32 + k] / sqrt(32);
    return y;
}

static bool near_any(double x, const double *of, int count) {
    for (int i = 0; i < count; i++)
        if (fabs(fabs(x) - of[i]) < 1e-5 * of[i])
            return true;
    return false;
}

static const double MIDDLES[] = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5};

/* Returns how many numbers stand at a middle, and so are not compared. */
static int compare(const char *name, const float *ours, const float *units, const float *theirs, const double *y) {
    int ties = 0;
    for (int64_t i = 0; i < COUNT; i++) {
        const bool tie = near_any(y[i] / units[i], MIDDLES, 7);
        const float least = 0x1p-23f * fabsf(ours[i]); /* 4/3 is rounded at another place */
        ties += tie;
        if (!tie && !(fabsf(ours[i] - theirs[i]) <= least))
            fail_msg("%s[%d]: ours %.9g, theirs %.9g, of %.9g", name, (int)i, (double)ours[i], (double)theirs[i], y[i]);
        if (tie && !(fabs(ours[i] - y[i]) <= fabs(theirs[i] - y[i]) * 1.0001))
            fail_msg("%s[%d]: ours %.9g is farther than %.9g from %.9g", name, (int)i, (double)ours[i],
                     (double)theirs[i], y[i]);
    }
    return ties;
}

static void forward_values(void **state) {
    (void)state;
    ni_safetensors *file = open_golden();
    int ties = 0;
    for (int c = 0; c < CASES; c++) {
        const nb_mat x = input_of(file, NAMES[c]);
        float ours[COUNT], units[COUNT];
        ours_of(&x, NB_RULE_QUEST, ours, units);
        ties += compare(NAMES[c], ours, units, tensor(file, NAMES[c], "quest"), rotated(&x));
    }
    assert_true(ties < 10);
    ni_safetensors_close(file);
}

static void backward_values(void **state) {
    (void)state;
    ni_safetensors *file = open_golden();
    int up = 0, ties = 0;
    for (int c = 0; c < CASES; c++) {
        const nb_mat x = input_of(file, NAMES[c]);
        const double *y = rotated(&x);
        const float *drawn = tensor(file, NAMES[c], "drawn");
        float ours[COUNT], units[COUNT];
        ours_of(&x, NB_RULE_THREE_QUARTERS, ours, units);
        ties += compare(NAMES[c], ours, units, tensor(file, NAMES[c], "three-quarters"), y);
        for (int64_t i = 0; i < COUNT; i++) { /* one of the two neighbours under our unit */
            static const double grid[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
            const double a = fabs(y[i] / units[i]), q = fabs((double)drawn[i] / units[i]);
            int below = 0;
            while (below < 6 && grid[below + 1] <= a)
                below++;
            up += fabs(q - grid[below + 1]) < 1e-5;
            assert_true(fabs(q - grid[below]) < 1e-5 || fabs(q - grid[below + 1]) < 1e-5 || near_any(a, grid + 1, 7));
            assert_true(q < 1e-5 || (drawn[i] < 0) == (y[i] < 0));
        }
    }
    assert_true(ties < 10);
    assert_in_range(up, CASES * COUNT / 3, CASES * COUNT * 2 / 3);
    ni_safetensors_close(file);
}

static void mask_and_gradients(void **state) {
    (void)state;
    static const double six[] = {6};
    ni_safetensors *file = open_golden();
    int clipped = 0;
    for (int c = 0; c < CASES; c++) {
        const nb_mat x = input_of(file, NAMES[c]);
        const uint8_t *mask = tensor(file, NAMES[c], "mask");
        const float *dx = tensor(file, NAMES[c], "dx");
        const double *y = rotated(&x);
        const nb_quantizer q = mxfp4(NB_RULE_QUEST);
        float ours[COUNT], units[COUNT], g[COUNT];
        const nb_mat gradient = nb_mat_of(g, NB_F32, ROWS, COLS);
        memcpy(g, tensor(file, NAMES[c], "g"), sizeof g);
        ours_of(&x, NB_RULE_QUEST, ours, units);
        ni_ref_quest_backward(NULL, &gradient, &x, &q);
        for (int64_t i = 0; i < COUNT; i++) {
            clipped += !mask[i];
            assert_false(near_any(y[i] / units[i], six, 1)); /* nothing here is left to the last bit */
            assert_int_equal(mask[i], fabs(y[i]) < 6 * (double)units[i]);
            if (!(fabsf(g[i] - dx[i]) < 1e-6f * 32))
                fail_msg("%s[%d]: gradient %.9g, theirs %.9g", NAMES[c], (int)i, (double)g[i], (double)dx[i]);
        }
    }
    assert_true(clipped > COUNT / 10);
    ni_safetensors_close(file);
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {CASE(forward_values), CASE(backward_values), CASE(mask_and_gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
