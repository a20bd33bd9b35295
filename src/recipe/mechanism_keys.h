/* mechanism_keys.h: the keys of each mechanism's section of a recipe file, and when it acts. */
#ifndef NI_RECIPE_MECHANISM_KEYS_H
#define NI_RECIPE_MECHANISM_KEYS_H

#include "config/keys.h"
#include "nibble/recipe.h"

extern const ni_keys ni_dge_keys, ni_occ_keys, ni_hcp_keys, ni_outcontrol_keys, ni_oscireset_keys, ni_qema_keys;

/* A mechanism that leaves the first steps of a run as they are. `how` is its record in the set. */
typedef struct ni_late_mechanism {
    const char *name;             /* NULL ends the list */
    size_t present, offset, size; /* in nb_mechanism_set: the bool that says whether it is there, and its record */
    int64_t (*first)(const void *how, int64_t steps);                  /* first step that it looks at */
    int64_t (*acts)(const void *how, int64_t steps);                   /* first step that it changes */
    const char *act;                                                   /* "choose its channels" */
    nb_status (*check)(const void *how, int64_t steps, nb_error *err); /* whether the run suits it; may be NULL */
} ni_late_mechanism;
extern const ni_late_mechanism ni_late_mechanisms[];

#endif
