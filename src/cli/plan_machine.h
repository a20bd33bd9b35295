/* plan_machine.h: a machine as `nibble plan` sees it: how fast it multiplies and moves. */
#ifndef NI_CLI_PLAN_MACHINE_H
#define NI_CLI_PLAN_MACHINE_H

#include "backend/paper/paper.h"
#include "config/keys.h"
#include "nibble/recipe.h"
#include "nibble/train.h"

typedef enum ni_machine_operands { NI_OPERANDS_CPU, NI_OPERANDS_HOPPER } ni_machine_operands;

/* Bytes a second out of a rank, and as many into it; seconds that a message costs besides. */
typedef struct ni_machine_links {
    int32_t near_ranks;                                    /* of one machine, or whatever shares the fast links */
    double near_rate, near_message, far_rate, far_message; /* rates of 0: not known */
} ni_machine_links;

typedef struct ni_machine {
    char name[NB_NAME_SIZE], about[256];
    ni_machine_operands operands;
    nb_isa isa;
    int32_t threads;                  /* 0: as the run file says */
    double bandwidth;                 /* bytes a second, read and written together */
    double one_thread;                /* the same of what one thread does */
    double call;                      /* seconds that a region of threads costs besides, or a kernel */
    double packing;                   /* bytes a second of what products read and write, beside their arithmetic; 0: as
                                         all others they take the longer of the two */
    double rate[NI_PAPER_KIND_COUNT]; /* FLOP/s; 0: not known, counted by bytes alone */
    double adamw;                     /* of AdamW's arithmetic */
    double nvfp4;                     /* FLOP/s of units for four bits; 0: there are none, or the run does without */
    double peak;                      /* FLOP/s that MFU is a share of; 0: rate of BF16 products */
    double memory;                    /* bytes of a rank; 0: not known */
    ni_machine_links links;
} ni_machine;

extern const ni_keys ni_machine_keys; /* over ni_machine */

/* NAME is machines/NAME.yaml, else the path of a file. */
nb_status ni_machine_load(const char *name_or_path, ni_machine *out, nb_error *err);

/* The least time that these calls take: the longer of arithmetic and movement, and what calls cost. `bound` says which
 * is the longer: "arithmetic" or "bytes"; may be NULL. */
double ni_machine_seconds(const ni_machine *machine, const ni_paper_entry *entry, const char **bound);

/* A later step of this run on paper: the least time of all its calls, and what MFU counts as its arithmetic. */
nb_status ni_plan_step(const nb_run_config *config, const ni_machine *machine, double *seconds, double *model_flops,
                       nb_error *err);

/* What this run takes, on paper, beside program and libraries; of one of several ranks what it holds before the first
 * step. `seen` looks at the trainer that was made for it, before any step; NULL: nobody does. */
typedef void ni_plan_seen(void *user, nb_trainer *trainer);
nb_status ni_plan_memory(const nb_run_config *config, nb_ranks *ranks, ni_plan_seen *seen, void *user, double *bytes,
                         nb_error *err);

#endif
