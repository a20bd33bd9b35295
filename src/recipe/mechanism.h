/* mechanism.h: what the recipe room knows of a mechanism: the keys of its section and when it acts. Both stand in the
 * mechanism's own file, src/linear/NAME.c, beside what it does (docs/new-mechanism.md). */
#ifndef NI_RECIPE_MECHANISM_H
#define NI_RECIPE_MECHANISM_H

#include "config/keys.h"
#include "nibble/recipe.h"

typedef struct ni_mechanism_section {
    ni_keys keys;
    /* Of a mechanism that leaves the first steps of a run as they are; NULL: it acts from the first step on. `how` is
     * its record in nb_mechanism_set. */
    int64_t (*first)(const void *how, int64_t steps);                  /* first step that it looks at */
    int64_t (*acts)(const void *how, int64_t steps);                   /* first step that it changes */
    const char *act;                                                   /* "choose its channels" */
    nb_status (*check)(const void *how, int64_t steps, nb_error *err); /* whether the run suits it; may be NULL */
} ni_mechanism_section;

#define NI_SECTION(name, about) extern const ni_mechanism_section ni_##name##_section;
NB_MECHANISMS(NI_SECTION)
#undef NI_SECTION

/* A mechanism in the set. */
typedef struct ni_mechanism_row {
    const char *name;             /* NULL ends the list */
    size_t present, offset, size; /* in nb_mechanism_set: the bool that says whether it is there, and its record */
    const ni_mechanism_section *section;
} ni_mechanism_row;
extern const ni_mechanism_row ni_mechanism_rows[];

/* A point in time: a share of the run, or a whole number of steps. */
nb_status ni_check_steps(const ni_yaml_node *node, const char *path, double steps, nb_error *err);

static inline int64_t ni_least_one(int64_t steps) {
    return steps < 1 ? 1 : steps;
}

#endif
