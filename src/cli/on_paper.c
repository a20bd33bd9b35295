/* on_paper.c: a run without its numbers: checked, and planned by others. */
#include "cli/on_paper.h"

#include "cli/cli.h"

#include <string.h>

const char *ni_paper_name(const nb_run_config *config) {
    return strncmp(config->backend, "cuda", 4) == 0 ? "paper:hopper" : "paper";
}

nb_status ni_cli_trainer_on_paper(nb_backend *paper, const nb_run_config *config, nb_ranks *ranks, nb_trainer **out,
                                  nb_error *err) {
    char recipes[NB_PATH_SIZE], models[NB_PATH_SIZE];
    NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
    NB_TRY(ni_cli_folder("models", models, sizeof models, err));
    const nb_trainer_options how = {.recipes_dir = recipes, .models_dir = models, .ranks = ranks, .on_paper = true};
    return nb_trainer_create(paper, config, &how, out, err);
}

nb_status ni_cli_check_on_paper(const nb_run_config *config, nb_error *err) {
    const nb_backend_options how = {.threads = config->threads, .isa = config->isa};
    nb_backend *paper;
    nb_trainer *trainer;
    NB_TRY(nb_backend_open(ni_paper_name(config), &how, &paper, err));
    nb_status status = ni_cli_trainer_on_paper(paper, config, NULL, &trainer, err);
    if (status == NB_OK)
        nb_trainer_free(trainer);
    nb_backend_free(paper);
    return status;
}
