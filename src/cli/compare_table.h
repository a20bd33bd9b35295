/* compare_table.h: what a comparison came to, as a table and as compare.json. */
#ifndef NI_CLI_COMPARE_TABLE_H
#define NI_CLI_COMPARE_TABLE_H

#include "nibble/status.h"

#include <stdint.h>

/* One recipe: the validation loss at the last step under each seed; NaN: there is none. */
typedef struct ni_compared {
    const char *name;
    const double *losses;
    const char *branched_from; /* the recipe whose first steps it shares; NULL: none */
    int64_t branched_at;
} ni_compared;

/* The twin, to whose losses the gaps are, stands first. */
typedef struct ni_compared_all {
    const ni_compared *rows;
    int32_t count, seeds;
    int64_t steps;
    const char *from; /* the checkpoint from which all began; NULL: from step 0 */
} ni_compared_all;

void ni_compare_print(const ni_compared_all *all);

/* Adds "order", the recipes as they were asked for, to FOLDER/compare.json or begins one: a comparison that is
 * interrupted has no table yet, and its runs are shown in this order all the same. */
nb_status ni_compare_write_order(const ni_compared_all *all, const char *folder, nb_error *err);

/* FOLDER/compare.json. */
nb_status ni_compare_write(const ni_compared_all *all, const char *folder, nb_error *err);

#endif
