/* foreign.c: what is assumed of a folder that says nothing of how it was trained. */
#include "foreign.h"

#include "data/tokenizer.h"
#include "manifest.h"
#include "model/hf.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define FILE_PATH_SIZE (2 * NB_PATH_SIZE)
#define MOST_SEQ 1024 /* tokens of a sequence where the model could take more */

/* What cannot be looked at is not absent. */
static bool is_absent(const char *path) {
    return access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR);
}

bool ni_is_foreign(const char *folder) {
    char ours[FILE_PATH_SIZE], theirs[FILE_PATH_SIZE], moments[FILE_PATH_SIZE];
    snprintf(ours, sizeof ours, "%s/%s", folder, NI_MANIFEST_NAME);
    snprintf(theirs, sizeof theirs, "%s/config.json", folder);
    snprintf(moments, sizeof moments, "%s/%s", folder, NI_OPTIMIZER_NAME);
    return is_absent(ours) && is_absent(moments) && access(theirs, F_OK) == 0;
}

nb_status ni_foreign_info(const char *folder, nb_checkpoint_info *out, nb_error *err) {
    nb_model_config model;
    ni_tokenizer *tokenizer;
    NB_TRY(ni_hf_config_read(folder, &model, err));
    out->step = 0;
    NB_TRY(nb_run_config_defaults(&out->config, err));
    out->config.steps = 1;
    out->config.seq = model.max_seq < MOST_SEQ ? model.max_seq : MOST_SEQ;
    snprintf(out->config.model, sizeof out->config.model, "%s", folder);
    if (ni_tokenizer_load(folder, &tokenizer, NULL) == NB_OK) {
        snprintf(out->config.data.tokenizer, sizeof out->config.data.tokenizer, "%s", folder);
        ni_tokenizer_free(tokenizer);
    }
    return NB_OK;
}
