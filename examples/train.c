/* train.c: the first steps of a run file, from a program of one's own.
 *
 *     cc -std=c11 train.c $(pkg-config --cflags --libs nibble) -o train
 *     ./train RUN.yaml $(pkg-config --variable=datadir nibble)
 */
#include <nibble/train.h>

#include <stdio.h>

enum { STEPS = 5 };

static nb_status train(nb_backend *be, const nb_run_config *config, const char *datadir, nb_error *err) {
    char recipes[NB_PATH_SIZE], models[NB_PATH_SIZE];
    snprintf(recipes, sizeof recipes, "%s/recipes", datadir);
    snprintf(models, sizeof models, "%s/models", datadir);
    const nb_trainer_options options = {.recipes_dir = recipes, .models_dir = models};
    nb_trainer *trainer;
    NB_TRY(nb_trainer_create(be, config, &options, &trainer, err));
    nb_status status = NB_OK;
    for (int i = 0; i < STEPS && status == NB_OK; i++) {
        nb_step_report report;
        status = nb_trainer_step(trainer, &report, err);
        if (status == NB_OK)
            printf("step %d  loss %.4f  norm %.3f\n", (int)report.step, report.loss, report.norm);
    }
    nb_trainer_free(trainer);
    return status;
}

int main(int argc, char **argv) {
    nb_error err = {0};
    nb_run_config config;
    nb_backend *be;
    if (argc != 3) {
        fprintf(stderr, "usage: train RUN.yaml DATADIR\n");
        return 2;
    }
    nb_status status = nb_run_config_load(argv[1], NULL, 0, &config, &err);
    const nb_backend_options options = {.threads = config.threads, .isa = config.isa};
    if (status == NB_OK)
        status = nb_backend_open("cpu", &options, &be, &err);
    if (status == NB_OK) {
        status = train(be, &config, argv[2], &err);
        nb_backend_free(be);
    }
    if (status != NB_OK)
        fprintf(stderr, "train: %s\n", err.message);
    return status != NB_OK;
}
