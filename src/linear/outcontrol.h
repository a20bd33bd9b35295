/* outcontrol.h: the state of OutControl and its two halves: which channels leave FP4 (outcontrol.c), and what is
 * multiplied once they have (outcontrol_terms.c).
 */
#ifndef NI_LINEAR_OUTCONTROL_H
#define NI_LINEAR_OUTCONTROL_H

#include "linear/linear.h"

/* The two parts of a matrix whose columns are split. */
enum { NI_OUT_FP8, NI_OUT_FP4, NI_OUT_PARTS };

typedef struct ni_outcontrol_state {
    ni_linear_group *group;
    int32_t index; /* among the group's mechanisms */
    nb_outcontrol how;
    int64_t channels[NI_OUT_PARTS]; /* k8, k4 */
    int64_t widths[NI_OUT_PARTS];   /* the same in whole blocks: columns of zeros fill the last one up */
    float *norms;                   /* F32 [K], summed over the steps so far */
    float *passing;                 /* the same of one micro-batch, and of all of a step once they are summed */
    bool gathers;                   /* this step's micro-batches do */
    int32_t *order;                 /* [K]: the FP8 channels, then the others; descending norms */
    int32_t *lists;  /* each part's channels, in order, from a whole block on; NULL: `order` has them so */
    int32_t *places; /* [K] 0, 1, 2, ...: the columns of a part that are channels; NULL: all are */
    int64_t chosen;  /* 1 once they are; with norms and order kept in checkpoints */
    void *x_memory[NI_OUT_PARTS];
    nb_operand x[NI_OUT_PARTS]; /* of the forward pass at hand */
    bool x_fresh;
    nb_operand w[NI_GROUP_LAYERS][NI_OUT_PARTS];
    ni_parts whole[NI_GROUP_LAYERS];   /* of w, where dgrad.w is made with those of other groups */
    int32_t *places_of_w;              /* [K] ni_parts.places; NULL: it is not */
    uint32_t w_moves[NI_GROUP_LAYERS]; /* 1 + group->moves when they were made; 0: never, or of other numbers */
    /* Of the backward pass at hand; wgrad_x of the first of the layers that read it alike. */
    nb_operand dgrad_w[NI_GROUP_LAYERS], wgrad_dy8[NI_GROUP_LAYERS], wgrad_x[NI_GROUP_LAYERS][NI_OUT_PARTS];
    size_t bytes;
} ni_outcontrol_state;

/* ---- outcontrol_terms.c ---- */

/* What a part of X or of W is quantized to. */
const nb_quantizer *ni_outcontrol_quantizer(const ni_linear *layer, nb_role role, int part);
/* A part of X or of W as an operand without memory. */
nb_operand ni_outcontrol_shape(const ni_outcontrol_state *o, const ni_linear *layer, nb_role role, int part);
/* True where a part does not fill its blocks: zeros are quantized behind its channels. */
bool ni_outcontrol_is_filled_up(const ni_outcontrol_state *o, int part);
/* The list of a part's channels. */
const int32_t *ni_outcontrol_columns(const ni_outcontrol_state *o, int part);

nb_status ni_outcontrol_terms(ni_outcontrol_state *o, const ni_linear_call *call, ni_linear *layer, ni_gemm gemm,
                              ni_terms *terms, nb_error *err);
/* The parts of W that are stale, for a call of many groups (ready.c). */
nb_status ni_outcontrol_list_w(ni_outcontrol_state *o, const ni_linear *layer, const nb_mat *master,
                               ni_weight_list *list, nb_error *err);
/* The parts of W from `first` on, without places. */
void ni_outcontrol_list_parts(const ni_outcontrol_state *o, const ni_linear *layer, int first, ni_parts *out);
/* All of them; NULL where they are not made, or dgrad.w is made when it is read. */
const ni_parts *ni_outcontrol_whole_w(const ni_outcontrol_state *o, const ni_linear *layer);
nb_status ni_outcontrol_decode_w(ni_outcontrol_state *o, ni_linear *layer, const ni_weight_decoding *what,
                                 nb_error *err);
size_t ni_outcontrol_decode_scratch(const ni_outcontrol_state *o, const ni_linear *layer);

#endif
