/* mechanism_keys.h: the keys of each mechanism's section of a recipe file, and when it acts. */
#ifndef NB_RECIPE_MECHANISM_KEYS_H
#define NB_RECIPE_MECHANISM_KEYS_H

#include "config/keys.h"
#include "nibble/recipe.h"

extern const nb_keys nb_dge_keys, nb_occ_keys, nb_hcp_keys, nb_outcontrol_keys, nb_oscireset_keys, nb_qema_keys;

/* A mechanism that leaves the first steps of a run as they are. `how` is its record in the set. */
typedef struct nb_late_mechanism {
    const char *name;             /* NULL ends the list */
    size_t present, offset, size; /* in nb_mechanism_set: the bool that says whether it is there, and its record */
    int64_t (*first)(const void *how, int64_t steps);                  /* first step that it looks at */
    int64_t (*acts)(const void *how, int64_t steps);                   /* first step that it changes */
    const char *act;                                                   /* "choose its channels" */
    nb_status (*check)(const void *how, int64_t steps, nb_error *err); /* whether the run suits it; may be NULL */
} nb_late_mechanism;
extern const nb_late_mechanism nb_late_mechanisms[];

#endif
