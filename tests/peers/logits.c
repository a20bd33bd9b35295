/* logits.c: the logits of a checkpoint as float32 on standard output, for scripts/peers.
 *   logits CHECKPOINT RECIPES_DIR RECIPE TOKEN... */
#include "nibble/train.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 256 };

static nb_status run(int argc, char **argv, nb_error *err) {
    int32_t tokens[MOST], targets[MOST], positions[MOST], starts[MOST] = {0};
    const int32_t count = argc - 4 < MOST ? argc - 4 : MOST;
    nb_backend *be;
    nb_recipe recipe;
    nb_loaded loaded;
    for (int32_t i = 0; i < count; i++) {
        tokens[i] = atoi(argv[4 + i]);
        targets[i] = -1;
        positions[i] = i;
    }
    NB_TRY(nb_recipe_load(argv[3], argv[2], &recipe, err));
    NB_TRY(nb_backend_open("cpu", NULL, &be, err));
    NB_TRY(nb_load_checkpoint(be, argv[1], &recipe, 1, count, &loaded, err));
    const size_t n = (size_t)count * (size_t)nb_model_get_config(loaded.model)->vocab;
    float *logits = malloc(n * sizeof *logits);
    const nb_batch batch = {1, count, tokens, targets, positions, starts};
    const nb_pass pass = {.steps = 1};
    nb_status status = logits ? nb_model_logits(loaded.model, &batch, &pass, logits, err) : NB_NO_MEMORY;
    if (status == NB_OK && fwrite(logits, sizeof *logits, n, stdout) != n)
        status = NB_IO_ERROR;
    free(logits);
    nb_loaded_free(&loaded);
    nb_backend_free(be);
    return status;
}

int main(int argc, char **argv) {
    nb_error err = {0};
    if (argc < 5)
        return 2;
    if (run(argc, argv, &err) == NB_OK)
        return 0;
    fprintf(stderr, "logits: %s\n", err.message);
    return 1;
}
