/* export_tokenizer.c: the tokenizer of a checkpoint or folder goes along into what is exported from it. */
#include "cli/serve.h"
#include "data/tokenizer.h"
#include "data/tokenizer_kept.h"

#include <stdio.h>

/* With what it lacks for transformers where nibble reads it, else as its files are. */
nb_status ni_cli_copy_tokenizer(const char *from, const char *to, nb_error *err) {
    ni_tokenizer *tokenizer;
    if (ni_tokenizer_load(from, &tokenizer, NULL) == NB_OK) {
        nb_status status = ni_tokenizer_save(tokenizer, to, err);
        ni_tokenizer_free(tokenizer);
        return status;
    }
    ni_tokenizer_kept kept = {0};
    nb_status status = ni_kept_read(from, &kept, err);
    if (status == NB_OK)
        status = ni_kept_write(&kept, to, err);
    if (status == NB_OK && ni_kept_count(&kept) == 0)
        fprintf(stderr, "note: %s has no tokenizer files; none are written\n", from);
    ni_kept_free(&kept);
    return status;
}
