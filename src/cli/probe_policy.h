/* probe_policy.h: `nibble probe --policy`: a recipe that gives every layer the cheapest format within a budget. */
#ifndef NI_CLI_PROBE_POLICY_H
#define NI_CLI_PROBE_POLICY_H

#include "nibble/train.h"

typedef struct ni_policy_probe {
    const char *folder;  /* the checkpoint */
    const char *base;    /* recipe whose rounding and rotation the layers take; NULL: nvfp4 */
    const char *formats; /* separated by commas or blanks outside of braces; NULL: mxfp4, nvfp4, mxfp8 */
    const char *out;     /* the recipe file */
    double budget;       /* largest relative error of a product */
    int64_t steps;       /* of training under BF16 that are watched */
} ni_policy_probe;

nb_status ni_cli_probe_policy(nb_backend *be, const ni_policy_probe *how, nb_error *err);

#endif
