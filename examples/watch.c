/* watch.c: the first steps of a run file, watched: the largest |X| that enters each group of linear layers.
 *
 *     cc -std=c11 watch.c $(pkg-config --cflags --libs nibble) -o watch
 *     ./watch RUN.yaml $(pkg-config --variable=datadir nibble)
 */
#include <nibble/lens.h>
#include <nibble/train.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 3 };

/* Activations are BF16: the upper half of a float. */
static float widen(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static nb_status find_largest(nb_backend *be, const nb_mat *x, float *most, nb_error *err) {
    size_t bytes = (size_t)x->cols * sizeof(uint16_t), row_bytes = (size_t)x->stride * sizeof(uint16_t);
    uint16_t *row = malloc(bytes);
    nb_status status = row ? NB_OK : nb_fail(err, NB_NO_MEMORY, "no memory for a row of %zu bytes", bytes);
    *most = 0;
    for (int64_t r = 0; r < x->rows && status == NB_OK; r++) {
        status = nb_backend_read(be, row, (const char *)x->data + (size_t)r * row_bytes, bytes, err);
        for (int64_t c = 0; c < x->cols && status == NB_OK; c++)
            *most = fmaxf(*most, fabsf(widen(row[c])));
    }
    free(row);
    return status;
}

/* What was seen, and what went wrong on the way: a callback has no way to fail. */
typedef struct watch {
    int steps;
    nb_status status;
    nb_error err;
} watch;

static void on_operand(void *context, const nb_lens_operand *seen) {
    watch *w = context;
    float most;
    if (seen->role != NB_FPROP_X || !seen->source || seen->source->dtype != NB_BF16 || w->status != NB_OK)
        return;
    w->steps = (int)seen->pass->step + 1;
    w->status = find_largest(seen->be, seen->source, &most, &w->err);
    if (w->status == NB_OK)
        printf("step %d  %-24s %.4g\n", w->steps, seen->module, most);
}

static nb_status train(nb_backend *be, const nb_run_config *config, const char *datadir, nb_error *err) {
    char recipes[NB_PATH_SIZE], models[NB_PATH_SIZE];
    snprintf(recipes, sizeof recipes, "%s/recipes", datadir);
    snprintf(models, sizeof models, "%s/models", datadir);
    watch watched = {0};
    const nb_lens lens = {.context = &watched, .operand = on_operand};
    const nb_trainer_options options = {.recipes_dir = recipes, .models_dir = models, .lens = &lens};
    nb_trainer *trainer;
    NB_TRY(nb_trainer_create(be, config, &options, &trainer, err));
    nb_status status = NB_OK;
    for (int i = 0; i < STEPS && status == NB_OK; i++) {
        nb_step_report report;
        status = nb_trainer_step(trainer, &report, err);
        if (status == NB_OK && watched.status != NB_OK) {
            status = watched.status;
            *err = watched.err;
        }
    }
    nb_trainer_free(trainer);
    printf("%d steps were watched\n", watched.steps);
    return status;
}

int main(int argc, char **argv) {
    nb_error err = {0};
    nb_run_config config;
    nb_backend *be;
    if (argc != 3) {
        fprintf(stderr, "usage: watch RUN.yaml DATADIR\n");
        return 2;
    }
    nb_status status = nb_run_config_load(argv[1], NULL, 0, &config, &err);
    const nb_backend_options options = {.threads = config.threads, .isa = config.isa};
    if (status == NB_OK)
        status = nb_backend_open(config.backend, &options, &be, &err);
    if (status == NB_OK) {
        status = train(be, &config, argv[2], &err);
        nb_backend_free(be);
    }
    if (status != NB_OK)
        fprintf(stderr, "watch: %s\n", err.message);
    return status != NB_OK;
}
