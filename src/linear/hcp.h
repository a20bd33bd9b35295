/* hcp.h: the state of the Hot-Channel Patch (arXiv:2602.02047) and its two halves: which channels are hot
 * (hcp_channels.c), and what is multiplied beside the base operands (hcp_operand.c). hcp.c puts them into the GEMMs.
 */
#ifndef NB_LINEAR_HCP_H
#define NB_LINEAR_HCP_H

#include "linear/linear.h"

/* The patch of one layer. */
typedef struct nb_hcp_layer {
    int32_t *channels; /* [k] backend memory, ascending */
    float *scores;     /* [K] host: moving average over the refreshes */
    void *w_memory;    /* the weight's side, kept until weight or channels change */
    nb_layer_operand w;
    uint32_t w_made; /* layer->weight.made that it comes from */
    bool w_fresh;
} nb_hcp_layer;

typedef struct nb_hcp_state {
    nb_linear_group *group;
    int32_t index; /* among the group's mechanisms */
    nb_hcp how;
    int64_t k;         /* channels patched; 0: too few for a block of 16 */
    int32_t refreshed; /* 1 + the step of the last choice; 0: none yet, nothing is patched */
    float x_amax;      /* of the forward pass at hand */
    nb_hcp_layer layers[NB_GROUP_LAYERS];
    size_t bytes;
} nb_hcp_state;

/* ---- hcp_channels.c ---- */

/* Chooses channels anew if this pass is one that does. */
nb_status nb_hcp_refresh(nb_hcp_state *h, const nb_linear_call *call, nb_error *err);
size_t nb_hcp_refresh_scratch(const nb_hcp_state *h, int64_t rows);

/* ---- hcp_operand.c ---- */

/* One operand of the forward GEMM: its numbers, and what the base GEMM reads of them. */
typedef struct nb_hcp_source {
    const nb_mat *numbers; /* [rows, K], act or F32 */
    const nb_qtensor *codes;
    float amax;  /* of the numbers: what the codes' tensor scale was made from */
    bool weight; /* W's side of the patch, else X's */
} nb_hcp_source;

/* The columns that are multiplied: those of the base first where how.kernel is single, then one block of k for each
 * first-order term. Codes under the base's tensor scale (copy: requantize), or decoded numbers without tensor scales,
 * which are exact in BF16 (copy: exact). */
nb_status nb_hcp_operand(const nb_hcp_state *h, nb_scratch *scratch, const nb_hcp_source *source,
                         const int32_t *channels, void *memory, nb_layer_operand *out, nb_error *err);
size_t nb_hcp_operand_bytes(const nb_hcp_state *h, const nb_quantizer *base, int64_t rows);
size_t nb_hcp_operand_scratch(const nb_hcp_state *h, int64_t rows);
int64_t nb_hcp_columns(const nb_hcp_state *h); /* of the operand */

/* residual = source - decoded on the channels, F32 [rows, k] in `out`. */
nb_status nb_hcp_residual(const nb_hcp_state *h, nb_scratch *scratch, const nb_mat *numbers, const nb_qtensor *codes,
                          const int32_t *channels, nb_mat *out, nb_error *err);

/* A matrix in scratch. */
nb_status nb_hcp_take(nb_scratch *scratch, nb_dtype type, int64_t rows, int64_t cols, nb_mat *out, nb_error *err);

/* The same quantizer with blocks of 1x16: residuals of W have them even where W itself has 16x16 tiles, whose scales
 * are stored for each row and so can stand beside them. */
nb_quantizer nb_hcp_rows(const nb_quantizer *q);

#endif
