/* plan_ranks.h: a step of many ranks on paper: what goes over which link, and what the step comes to. */
#ifndef NI_CLI_PLAN_RANKS_H
#define NI_CLI_PLAN_RANKS_H

#include "cli/plan_machine.h"
#include "nibble/train.h"

enum { NI_MOST_RANKS = 65536 };

/* The exchange of gradients, for one rank. */
typedef struct ni_exchange_cost {
    double near_bytes, far_bytes; /* out of the rank; as many come in */
    double near_messages, far_messages;
    double seconds;
} ni_exchange_cost;

/* `bytes` of gradients summed over `ranks` as src/train/reduce.h does it: inside of machines and then between them
 * where they have a power of two of ranks, else each rank with each. */
ni_exchange_cost ni_exchange_of(const ni_machine_links *links, double bytes, int64_t ranks);

/* What each rank has of `bytes`, to all, as src/train/share.h does it: each rank with each. */
ni_exchange_cost ni_gather_of(const ni_machine_links *links, double bytes, int64_t ranks);

/* Prints what follows from a step of one rank that takes `seconds`, of which the backward pass of its last micro-batch
 * could hide the exchange. */
typedef struct ni_ranks_plan {
    int64_t ranks, micro_batches; /* of a rank */
    double seconds;               /* of the rank's own arithmetic */
    double backward;              /* of its last micro-batch */
    double gradients, weights;    /* bytes; weights: that go to all, 0 unless something is shared out */
    double parcels;               /* bytes of the room through which they go */
    bool weights_behind;          /* the forward pass */
    bool owned;                   /* sums go to owners alone */
    const char *share;            /* what is: "none", "moments", "gradients" */
    double flops, tokens;         /* of the model's formula, and of the whole step */
    double memory;                /* bytes of a rank that has everything */
    double moments, masters;      /* those of moments among them, and those of masters that no other rank needs */
    double kept; /* what sharing gradients out leaves of them; 0: they are narrow, and not shared out */
} ni_ranks_plan;
void ni_print_ranks(const ni_machine *machine, const ni_ranks_plan *plan);

/* NB_BAD_CONFIG where ranks are not spread evenly over machines, or a link that is needed has no rate. */
nb_status ni_check_links(const ni_machine *machine, int64_t ranks, nb_error *err);

#endif
