/* hcp.h: the state of the Hot-Channel Patch (arXiv:2602.02047) and its two halves: which channels are hot
 * (hcp_channels.c), and what is multiplied beside the base operands (hcp_operand.c). hcp.c puts them into the GEMMs.
 */
#ifndef NI_LINEAR_HCP_H
#define NI_LINEAR_HCP_H

#include "linear/linear.h"

/* The patch of one layer. */
typedef struct ni_hcp_layer {
    int32_t *channels; /* [k] backend memory, ascending */
    float *scores;     /* [K] backend memory: moving average over the choices */
    double *facts;     /* [4, K] backend memory: of micro-batch 0, for hot_scores */
    void *w_memory;    /* the weight's side, kept until weight or channels change */
    nb_operand w;
    uint32_t w_made; /* what fprop.w had been made when w was */
    bool w_fresh;
    nb_operand x, dgrad_w, wgrad_x; /* of the pass at hand: X's side, and the residuals that dgrad and wgrad multiply */
} ni_hcp_layer;

typedef struct ni_hcp_state {
    ni_linear_group *group;
    int32_t index; /* among the group's mechanisms */
    nb_hcp how;
    int64_t k;         /* channels patched; 0: too few for a block of 16 */
    int32_t gathered;  /* 1 + the step whose facts are there; 0: none */
    int32_t refreshed; /* 1 + the step after which channels were last chosen; 0: none yet, nothing is patched */
    int32_t choices;   /* so far */
    ni_hcp_layer layers[NI_GROUP_LAYERS];
    size_t bytes;
} ni_hcp_state;

/* ---- hcp_channels.c ---- */

/* Gathers what is known of the channels if this pass is the first of a step that ends with a choice. */
nb_status ni_hcp_gather(ni_hcp_state *h, const ni_linear_call *call, nb_error *err);
size_t ni_hcp_gather_scratch(const ni_hcp_state *h, int64_t rows);
/* Chooses channels anew where the step just taken has gathered for it: they are patched from the next step on. */
nb_status ni_hcp_choose(ni_hcp_state *h, const nb_pass *pass, ni_scratch *scratch, nb_error *err);
size_t ni_hcp_choice_scratch(const ni_hcp_state *h);
/* How many blocks of 16 neighbours, which share a scale, the chosen channels of a layer come from; 0: none are. */
int64_t ni_hcp_blocks(const ni_hcp_state *h, const ni_linear *layer);

/* ---- hcp_operand.c ---- */

/* One side of the forward product: its numbers, and what the base product reads of them. */
typedef struct ni_hcp_source {
    const nb_mat *numbers; /* [rows, K], act or F32 */
    const nb_quantizer *quantizer;
    const nb_operand *base; /* NULL where the columns of the base are made anew: how.kernel single, copy: requantize */
    bool weight;            /* W's side of the patch, else X's */
} ni_hcp_source;

/* The columns that are multiplied: those of the base first where how.kernel is single, then one block of k for each
 * first-order term. Codes under the base's tensor scale (copy: requantize), or decoded numbers without tensor scales,
 * which are exact in BF16 (copy: exact). `out` has its shape already. */
nb_operand ni_hcp_shape(const ni_hcp_state *h, const ni_linear *layer, int64_t rows, bool weight);
size_t ni_hcp_operand_bytes(const ni_hcp_state *h, const nb_operand *shape);
nb_status ni_hcp_operand(const ni_hcp_state *h, const ni_linear_call *call, const ni_hcp_source *from,
                         const int32_t *channels, void *memory, nb_operand *out, nb_error *err);
/* The same where codes are made, not yet made: its makings, of `from`. */
enum { NI_HCP_MAKINGS = 3 };
int32_t ni_hcp_makings(const ni_hcp_state *h, const ni_hcp_source *from, const int32_t *channels, nb_operand *out,
                       ni_source sources[NI_HCP_MAKINGS], ni_making makings[NI_HCP_MAKINGS]);
/* F32 [rows, K] in scratch: the base with the residuals added on its patched columns, which is what stands for the
 * numbers where the other side is exact. False in *there if no term has residuals of this side. */
nb_status ni_hcp_stand_in(const ni_hcp_state *h, const ni_linear_call *call, const ni_hcp_source *from,
                          const int32_t *channels, nb_mat *out, bool *there, nb_error *err);
int64_t ni_hcp_columns(const ni_hcp_state *h); /* of the operand */

/* A matrix in scratch. */
nb_status ni_hcp_take(ni_scratch *scratch, nb_dtype type, int64_t rows, int64_t cols, nb_mat *out, nb_error *err);

/* The same quantizer with blocks of 1x16: residuals of W have them even where W itself has 16x16 tiles, whose scales
 * are stored for each row and so can stand beside them. */
nb_quantizer ni_hcp_rows(const nb_quantizer *q);

#endif
