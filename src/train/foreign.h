/* foreign.h: Hugging Face folders that nibble did not write: parameters, perhaps a tokenizer, and no run. */
#ifndef NI_TRAIN_FOREIGN_H
#define NI_TRAIN_FOREIGN_H

#include "nibble/train.h"

/* It has a config.json and no nibble.json, nor the optimizer.safetensors of a checkpoint that lost it. */
bool ni_is_foreign(const char *folder);

/* What a run file would say by default of such a folder: its own sizes, its tokenizer where nibble reads it. */
nb_status ni_foreign_info(const char *folder, nb_checkpoint_info *out, nb_error *err);

#endif
