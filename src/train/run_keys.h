/* run_keys.h: the table of keys of a run file. */
#ifndef NI_TRAIN_RUN_KEYS_H
#define NI_TRAIN_RUN_KEYS_H

#include "config/keys.h"
#include "nibble/train.h"

/* Of one run: rounding noise counts steps in 32 bits. */
#define NI_MOST_STEPS ((int64_t)UINT32_MAX)

extern const ni_keys ni_run_keys;

/* Keys that may differ between a checkpoint and the run that resumes it: they change no bit of the result.
 * The first other key that differs is written to `key` (its path); false if there is none. */
bool ni_run_config_differs(const nb_run_config *a, const nb_run_config *b, char *key, size_t size);

#endif
