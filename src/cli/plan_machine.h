/* plan_machine.h: a machine as `nibble plan` sees it: how fast it multiplies and moves. */
#ifndef NB_CLI_PLAN_MACHINE_H
#define NB_CLI_PLAN_MACHINE_H

#include "backend/paper/paper.h"
#include "config/keys.h"
#include "nibble/recipe.h"

typedef enum nb_machine_operands { NB_OPERANDS_CPU, NB_OPERANDS_HOPPER } nb_machine_operands;

typedef struct nb_machine {
    char name[NB_NAME_SIZE], about[256];
    nb_machine_operands operands;
    nb_isa isa;
    int32_t threads;                  /* 0: as the run file says */
    double bandwidth;                 /* bytes a second, read and written together */
    double call;                      /* seconds that a call costs besides */
    double rate[NB_PAPER_KIND_COUNT]; /* FLOP/s; 0: not known, counted by bytes alone */
} nb_machine;

extern const nb_keys nb_machine_keys; /* over nb_machine */

/* NAME is machines/NAME.yaml, else the path of a file. */
nb_status nb_machine_load(const char *name_or_path, nb_machine *out, nb_error *err);

/* The least time that these calls take: the longer of arithmetic and movement, and what calls cost. `bound` says which
 * is the longer: "arithmetic" or "bytes"; may be NULL. */
double nb_machine_seconds(const nb_machine *machine, const nb_paper_entry *entry, const char **bound);

#endif
