/* test_observer.c: planted troubles that the lens must name: hot channels, an oscillating weight, an underflowing
 * layer. */
#include "backend/table.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "files/file.h"
#include "files/folder.h"
#include "lens/channels.h"
#include "lens/operand_metrics.h"
#include "lens/oscillation.h"
#include "lens/series.h"
#include "lens/tiles.h"
#include "lens_case.h"
#include <dirent.h>
#include <math.h>
#include <stdio.h>

typedef struct fixture {
    nb_backend *be;
    char folder[64], path[96];
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    strcpy(f->folder, "/tmp/nibble-lens-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->path, sizeof f->path, "%s/series.nbs", f->folder);
    assert_int_equal(nb_backend_open("cpu", NULL, &f->be, NULL), NB_OK);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    nb_backend_free(f->be);
    ni_folder_remove(f->folder, NULL);
    free(f);
    return 0;
}

static ni_series_point last(const ni_series_reader *r, const char *name) {
    int32_t id = ni_series_find(r, name);
    if (id < 0)
        fail_msg("%s was not recorded", name);
    return ni_series_at(r, id, ni_series_points(r, id) - 1);
}

/* Channels 5 and 40 are hot for good; channel 20 is at step 0, channel 60 from step 10 on. */
static void hot_channels_are_named(void **state) {
    fixture *f = *state;
    ni_observer_options options = ni_observer_defaults();
    options.every = 10;
    options.window = 0;
    options.hot_channels = 3;
    nb_error err = {0};
    for (int64_t step = 0; step <= 20; step += 10) { /* a new observer each time: resuming must not forget */
        ni_observer *o;
        static uint16_t x[TOKENS * WIDTH];
        plant_hot_channels(x, (const int[]){5, 40, step == 0 ? 20 : 60, -1}, (uint32_t)step);
        nb_mat source = nb_mat_of(x, NB_BF16, TOKENS, WIDTH);
        assert_int_equal(ni_observer_create(&options, f->folder, step, &o, &err), NB_OK);
        assert_null(ni_observer_lens(o, step + 1)->operand); /* only mechanisms are heard */
        const nb_lens *lens = ni_observer_lens(o, step);
        assert_non_null(lens);
        show(f->be, lens, "planted", NB_FPROP_X, &source, 1);
        assert_int_equal(ni_observer_end_step(o, step, &err), NB_OK);
        ni_observer_free(o);
    }
    ni_series_reader *r;
    assert_int_equal(ni_series_read(f->path, &r, NULL, &err), NB_OK);
    ni_series_point hot = last(r, "planted/fprop.x/hot"), since = last(r, "planted/fprop.x/hot_since");
    assert_int_equal(hot.count, 3);
    assert_true(hot.values[0] == 5 && hot.values[1] == 40 && hot.values[2] == 60);
    assert_true(since.values[0] == 0 && since.values[1] == 0 && since.values[2] == 10);
    int32_t overlap = ni_series_find(r, "planted/fprop.x/hot_overlap");
    assert_int_equal(ni_series_points(r, overlap), 2);
    int32_t died = ni_series_find(r, "planted/fprop.x/hot_died");
    assert_true(ni_series_at(r, died, 0).values[0] == 1 && ni_series_at(r, died, 1).values[0] == 0);
    assert_true(fabsf(ni_series_at(r, overlap, 0).values[0] - 2.0f / 3) < 1e-6f);
    assert_true(ni_series_at(r, overlap, 1).values[0] == 1);
    assert_true(last(r, "planted/fprop.x/kurtosis").values[0] > 10); /* three loud channels of 64 */
    assert_true(last(r, "planted/fprop.x/snr_db").values[0] > 15);
    ni_series_reader_free(r);
}

/* What was recorded of a weight that was shown at each step of a window, as `plant` left it there. */
static ni_series_reader *followed(fixture *f, int32_t window, void (*plant)(float *w, int64_t step)) {
    static float w[16 * WIDTH];
    ni_observer_options options = ni_observer_defaults();
    options.every = 100;
    options.window = window;
    nb_error err = {0};
    ni_observer *o;
    assert_int_equal(ni_observer_create(&options, f->folder, 0, &o, &err), NB_OK);
    for (int64_t step = 0; step <= window; step++) {
        const nb_lens *lens = ni_observer_lens(o, step);
        assert_non_null(lens);
        plant(w, step);
        nb_mat source = nb_mat_of(w, NB_F32, 16, WIDTH);
        show(f->be, lens, "planted", NB_FPROP_W, &source, 16);
        assert_int_equal(ni_observer_end_step(o, step, &err), NB_OK);
    }
    assert_null(ni_observer_lens(o, window + 1)->operand);
    ni_observer_free(o);
    ni_series_reader *r;
    assert_int_equal(ni_series_read(f->path, &r, NULL, &err), NB_OK);
    return r;
}

/* Weights that grow together, and zeros that change their sign. */
static void plant_drift(float *w, int64_t step) {
    static const float levels[] = {0.5f, 1, 1.5f, 2, 3, 4, 6, 0};
    for (int i = 0; i < 16 * WIDTH; i++)
        w[i] = levels[i % 8] * (step % 2 && i % 8 == 7 ? -1.0f : 1.0f) * (1 + (float)step / 1000);
}

static void plant_no_numbers(float *w, int64_t step) {
    static const float bad[] = {INFINITY, -INFINITY, NAN, 3e38f};
    for (int i = 0; i < 16 * WIDTH; i++)
        w[i] = i % 97 == 5 ? bad[i % 4] : 1 + 0.01f * (float)((i + step) % 7);
}

/* Weights that grow together: every q follows its scale at every step, and no code changes. */
static void drifting_scales_flip_nothing(void **state) {
    ni_series_reader *r = followed(*state, 10, plant_drift);
    assert_true(last(r, "planted/fprop.w/flip_rate").values[0] == 0);
    assert_true(last(r, "planted/fprop.w/ratios").values[0] == 0.125f); /* all but the zeros have moved */
    ni_series_reader_free(r);
}

/* Whatever stands in a weight, the lens goes on, and what it says are shares. */
static void weights_that_are_not_finite_stop_nothing(void **state) {
    ni_series_reader *r = followed(*state, 4, plant_no_numbers);
    static const char *const names[] = {"planted/fprop.w/bin_distances", "planted/fprop.w/ratios"};
    for (int n = 0; n < 2; n++) {
        ni_series_point shares = last(r, names[n]);
        float sum = 0;
        for (int64_t i = 0; i < shares.count; i++) {
            assert_true(shares.values[i] >= 0 && shares.values[i] <= 1);
            sum += shares.values[i];
        }
        /* a tensor scale made from Inf leaves no bin at all; W still moves or does not */
        assert_true(fabsf(sum - 1) < 1e-5f || (n == 0 && sum == 0));
    }
    ni_series_reader_free(r);
}

static void oscillating_weight_is_named(void **state) {
    ni_series_reader *r = followed(*state, 20, plant_oscillation);
    ni_series_point ratios = last(r, "planted/fprop.w/ratios");
    assert_int_equal(ratios.step, 20);
    assert_int_equal(ratios.count, NI_RATIO_COUNTS);
    /* |q| jumps 1/2 while w moves 0.01: R = 50, in (32, 64]; one of 1024 elements */
    assert_true(ratios.values[8] == 1.0f / (16 * WIDTH));
    assert_true(ratios.values[0] == 1 - 1.0f / (16 * WIDTH));
    assert_true(last(r, "planted/fprop.w/ratio_above_16").values[0] == 1.0f / (16 * WIDTH));
    assert_true(fabsf(last(r, "planted/fprop.w/flip_rate").values[0] * 16 * WIDTH - 1) < 1e-6f);
    assert_int_equal(last(r, "planted/fprop.w/bin_distances").count, 10);
    ni_series_reader_free(r);
}

/* How often a message of a tag and a histogram (field 5) stands in the folder's event file. */
static int histograms_of(const char *folder, const char *tag) {
    char path[512], wanted[128];
    char *bytes;
    size_t size;
    int found = 0;
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    *path = 0;
    for (struct dirent *e; (e = readdir(entries));)
        if (strstr(e->d_name, "tfevents"))
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    closedir(entries);
    assert_int_equal(ni_file_read(path, 1 << 20, &bytes, &size, NULL), NB_OK);
    const size_t length = (size_t)snprintf(wanted, sizeof wanted, "%c%s\x2a", (int)strlen(tag), tag);
    for (size_t at = 0; at + length <= size; at++)
        found += memcmp(bytes + at, wanted, length) == 0;
    free(bytes);
    return found;
}

static void underflow_is_named(void **state) {
    fixture *f = *state;
    ni_observer_options options = ni_observer_defaults();
    nb_error err = {0};
    ni_observer *o;
    static uint16_t dy[TOKENS * WIDTH];
    plant_underflow(dy);
    nb_mat source = nb_mat_of(dy, NB_BF16, TOKENS, WIDTH);
    assert_int_equal(ni_observer_create(&options, f->folder, 0, &o, &err), NB_OK);
    show(f->be, ni_observer_lens(o, 0), "planted", NB_DGRAD_DY, &source, 1);
    assert_int_equal(ni_observer_end_step(o, 0, &err), NB_OK);
    ni_observer_free(o);
    ni_series_reader *r;
    assert_int_equal(ni_series_read(f->path, &r, NULL, &err), NB_OK);
    double blocks = TOKENS * WIDTH / 16.0, lost = blocks / 2 - 1; /* -0 is no loss */
    assert_true(fabs(last(r, "planted/dgrad.dy/zero_scales").values[0] - lost / blocks) < 1e-6);
    assert_true(last(r, "planted/dgrad.dy/flushed").values[0] > 0.99f);
    assert_true(last(r, "planted/dgrad.dy/rho").values[0] > 100); /* the giant is exact */
    ni_series_point scales = last(r, "planted/dgrad.dy/scales");
    assert_true(fabs(scales.values[0] - (blocks - 1) / blocks) < 1e-6 && scales.values[15] > 0);
    ni_series_reader_free(r);
    assert_int_equal(histograms_of(f->folder, "planted/dgrad.dy/scales"), 1);
    assert_int_equal(histograms_of(f->folder, "planted/dgrad.dy/flushed"), 0);
}

/* What does not apply is said, once an operand, with the reason and where it was first met. */
static void skipped_is_told(void **state) {
    fixture *f = *state;
    ni_observer_options options = ni_observer_defaults();
    options.every = 1;
    nb_error err = {0};
    ni_observer *o;
    static float w[16 * WIDTH];
    assert_int_equal(ni_observer_create(&options, f->folder, 0, &o, &err), NB_OK);
    nb_mat source = nb_mat_of(w, NB_F32, 16, WIDTH);
    for (int64_t step = 0; step < 3; step++) {
        const nb_lens *lens = ni_observer_lens(o, step);
        nb_pass pass = {.lens = lens};
        for (int i = 0; i < 2; i++) {
            nb_lens_operand seen = {
                .be = f->be, .pass = &pass, .module = i ? "second" : "first", .role = NB_FPROP_W, .source = &source};
            lens->operand(lens->context, &seen);
        }
        assert_int_equal(ni_observer_end_step(o, step, &err), NB_OK);
    }
    ni_observer_free(o);
    char path[96], text[512] = "";
    snprintf(path, sizeof path, "%s/skipped.txt", f->folder);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t read = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    assert_true(read > 0);
    assert_string_equal(text, "error and scales: this product runs in BF16 (2 operands, the first first/fprop.w)\n"
                              "oscillation: the weight is not quantized (2 operands, the first first/fprop.w)\n");
}

/* W and X enter two products; the second does not measure them again, another tensor of that name it does. */
static void known_sources_are_measured_once(void **state) {
    fixture *f = *state;
    ni_observer_options options = ni_observer_defaults();
    nb_error err = {0};
    ni_observer *o;
    static uint16_t x[TOKENS * WIDTH], other[TOKENS * WIDTH];
    plant_hot_channels(x, (const int[]){-1}, 1);
    plant_hot_channels(other, (const int[]){-1}, 2);
    nb_mat source = nb_mat_of(x, NB_BF16, TOKENS, WIDTH), another = nb_mat_of(other, NB_BF16, TOKENS, WIDTH);
    assert_int_equal(ni_observer_create(&options, f->folder, 0, &o, &err), NB_OK);
    const nb_lens *lens = ni_observer_lens(o, 0);
    show(f->be, lens, "same", NB_FPROP_X, &source, 1);
    show(f->be, lens, "same", NB_WGRAD_X, &source, 1);
    show(f->be, lens, "other", NB_FPROP_X, &source, 1);
    show(f->be, lens, "other", NB_WGRAD_X, &another, 1);
    assert_int_equal(ni_observer_end_step(o, 0, &err), NB_OK);
    ni_observer_free(o);
    ni_series_reader *r;
    assert_int_equal(ni_series_read(f->path, &r, NULL, &err), NB_OK);
    assert_true(ni_series_find(r, "same/wgrad.x/amax") < 0);
    last(r, "same/fprop.x/amax");
    last(r, "same/wgrad.x/snr_db");
    last(r, "other/wgrad.x/amax");
    ni_series_reader_free(r);
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Of 16 x 16 tiles: the largest, and the one at rank 252 of 255. */
static void crests_are_ranked(void **state) {
    fixture *f = *state;
    enum { SIDE = 256, TILES = SIDE / 16 * (SIDE / 16) };
    ni_observer_options options = ni_observer_defaults();
    nb_error err = {0};
    ni_observer *o;
    static float x[SIDE * SIDE], crests[TILES];
    ni_moments moments;
    for (uint32_t i = 0; i < SIDE * SIDE; i++)
        x[i] = normal(i);
    nb_mat source = nb_mat_of(x, NB_F32, SIDE, SIDE);
    assert_int_equal(ni_observer_create(&options, f->folder, 0, &o, &err), NB_OK);
    show(f->be, ni_observer_lens(o, 0), "planted", NB_FPROP_X, &source, 1);
    assert_int_equal(ni_observer_end_step(o, 0, &err), NB_OK);
    ni_observer_free(o);
    f->be->ops->measure(f->be, &source, &moments, NULL, crests);
    qsort(crests, TILES, sizeof *crests, ascending);
    ni_series_reader *r;
    assert_int_equal(ni_series_read(f->path, &r, NULL, &err), NB_OK);
    assert_true(last(r, "planted/fprop.x/crest_max").values[0] == crests[TILES - 1]);
    assert_true(last(r, "planted/fprop.x/crest_p99").values[0] == crests[252]);
    ni_series_reader_free(r);
}

static void top_channels_break_ties_downwards(void **state) {
    (void)state;
    const float amax[6] = {1, 3, 2, 3, 0, 2};
    int32_t got[4];
    assert_int_equal(ni_top_channels(amax, 6, 3, got), 3);
    assert_true(got[0] == 1 && got[1] == 2 && got[2] == 3);
    assert_int_equal(ni_top_channels(amax, 2, 4, got), 2);
}

/* What a layer gives, by hand: the kurtosis of a planted outlier among ones, and which channel it is in; and channels
 * of W and dY, which are named as those of X are. */
static void outputs_and_channels_of_all_operands(void **state) {
    fixture *f = *state;
    ni_observer_options options = ni_observer_defaults();
    ni_observer *o;
    ni_series_reader *r;
    nb_error err = {0};
    static uint16_t y[TOKENS * WIDTH], w[TOKENS * WIDTH];
    const double n = TOKENS * WIDTH;
    for (int i = 0; i < TOKENS * WIDTH; i++)
        y[i] = ni_bf16_even(i % 2 ? 1 : -1);
    y[7 * WIDTH + 33] = ni_bf16_even(64);
    plant_hot_channels(w, (const int[]){9, 11, -1}, 5);
    nb_mat out = nb_mat_of(y, NB_BF16, TOKENS, WIDTH), source = nb_mat_of(w, NB_BF16, TOKENS, WIDTH);
    assert_int_equal(ni_observer_create(&options, f->folder, 0, &o, &err), NB_OK);
    const nb_lens *lens = ni_observer_lens(o, 0);
    lens->output(lens->context, f->be, "layers.0.mlp.up_proj", &out);
    lens->output(lens->context, f->be, "lm_head", &out);
    show(f->be, lens, "planted", NB_FPROP_W, &source, 1);
    show(f->be, lens, "planted", NB_DGRAD_DY, &source, 1);
    assert_int_equal(ni_observer_end_step(o, 0, &err), NB_OK);
    ni_observer_free(o);
    assert_int_equal(ni_series_read(f->path, &r, NULL, &err), NB_OK);
    double mean = (64 - 1) / n + 0.0, squares = 0, fourth = 0;
    for (int i = 0; i < TOKENS * WIDTH; i++) {
        double d = (double)ni_bf16_value(y[i]) - mean;
        squares += d * d / n;
        fourth += d * d * d * d / n;
    }
    double kurtosis = last(r, "layers.0.mlp.up_proj/output/kurtosis").values[0];
    assert_true(fabs(kurtosis / (fourth / (squares * squares) - 3) - 1) < 1e-3);
    assert_true(last(r, "layers.0.mlp.up_proj/output/amax").values[0] == 64);
    ni_series_point channels = last(r, "layers.0.mlp.up_proj/output/channels");
    assert_true(channels.count == WIDTH && channels.values[33] == 64 && channels.values[32] == 1);
    assert_int_equal(ni_series_find(r, "lm_head/output/amax"), -1);
    static const char *const roles[] = {"planted/fprop.w/hot", "planted/dgrad.dy/hot"};
    for (int i = 0; i < 2; i++) {
        ni_series_point hot = last(r, roles[i]);
        bool nine = false, eleven = false;
        for (int64_t k = 0; k < hot.count; k++) {
            nine |= hot.values[k] == 9;
            eleven |= hot.values[k] == 11;
        }
        assert_true(hot.count == 16 && nine && eleven);
    }
    ni_series_reader_free(r);
}

/* One giant in tile (2, 3) of a matrix of 4 x 4 tiles, of whose module alone the map is asked for. */
static void maps_of_tiles_are_kept(void **state) {
    fixture *f = *state;
    ni_observer_options options = ni_observer_defaults();
    options.tiles = "planted/*";
    nb_error err = {0};
    ni_observer *o;
    static uint16_t x[TOKENS * WIDTH];
    plant_hot_channels(x, (const int[]){-1}, 1);
    x[37 * WIDTH + 50] = ni_bf16_even(300);
    nb_mat source = nb_mat_of(x, NB_BF16, TOKENS, WIDTH);
    assert_int_equal(ni_observer_create(&options, f->folder, 0, &o, &err), NB_OK);
    const nb_lens *lens = ni_observer_lens(o, 0);
    show(f->be, lens, "planted", NB_FPROP_X, &source, 1);
    show(f->be, lens, "other", NB_FPROP_X, &source, 1);
    lens->output(lens->context, f->be, "planted", &source);
    assert_int_equal(ni_observer_end_step(o, 0, &err), NB_OK);
    ni_observer_free(o);
    ni_series_reader *r;
    assert_int_equal(ni_series_read(f->path, &r, NULL, &err), NB_OK);
    assert_int_equal(ni_series_find(r, "other/fprop.x/tiles"), -1);
    for (int output = 0; output < 2; output++) {
        ni_series_point map = last(r, output ? "planted/output/tiles" : "planted/fprop.x/tiles");
        const float *cells = map.values + NI_TILE_HEAD;
        assert_int_equal(map.count, NI_TILE_HEAD + 16);
        assert_true(map.values[0] == 1 && map.values[1] == 1 && map.values[2] == 4);
        for (int i = 0; i < 16; i++) {
            float largest = 0, squares = 0; /* by hand */
            for (int r16 = 0; r16 < 16; r16++)
                for (int c16 = 0; c16 < 16; c16++) {
                    float v = ni_bf16_value(x[(i / 4 * 16 + r16) * WIDTH + i % 4 * 16 + c16]);
                    largest = fmaxf(largest, fabsf(v));
                    squares += v * v;
                }
            assert_true(fabsf(cells[i] / (largest / sqrtf(squares / 256)) - 1) < 1e-5f);
            assert_true((cells[i] > 15) == (i == 2 * 4 + 3));
        }
    }
    ni_series_reader_free(r);
}

/* 130 x 257 tiles: three rows and two columns of them share a cell, which has the largest. */
static void large_maps_are_pooled(void **state) {
    (void)state;
    enum { HIGH = 130, WIDE = 257 };
    float *crests = calloc(HIGH * WIDE, sizeof *crests), *map = malloc(sizeof *map * (NI_TILE_HEAD + 64 * 256));
    crests[129 * WIDE + 256] = 9;
    crests[4 * WIDE + 3] = 5;
    crests[5 * WIDE + 2] = 7;
    assert_int_equal(ni_tile_map(map, crests, 16 * HIGH, 16 * WIDE - 7), NI_TILE_HEAD + 44 * 129);
    assert_true(map[0] == 3 && map[1] == 2 && map[2] == 129);
    for (int i = 0; i < 44 * 129; i++)
        assert_true(map[NI_TILE_HEAD + i] == (i == 44 * 129 - 1 ? 9 : i == 129 + 1 ? 7 : 0));
    free(crests);
    free(map);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hot_channels_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(outputs_and_channels_of_all_operands, setup, teardown),
        cmocka_unit_test_setup_teardown(oscillating_weight_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(drifting_scales_flip_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(weights_that_are_not_finite_stop_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(underflow_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(skipped_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(known_sources_are_measured_once, setup, teardown),
        cmocka_unit_test_setup_teardown(crests_are_ranked, setup, teardown),
        cmocka_unit_test_setup_teardown(maps_of_tiles_are_kept, setup, teardown),
        cmocka_unit_test(large_maps_are_pooled),
        cmocka_unit_test(top_channels_break_ties_downwards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
