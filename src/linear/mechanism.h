/* mechanism.h: what a recipe adds to a linear layer beyond quantizers, as one file each.
 *
 * A mechanism is a table of hooks. For each group of layers that share an input, an instance of it is attached if the
 * plan of at least one layer wants it; its state is its own. Every hook may be NULL, and a NULL hook costs nothing.
 * Hooks run in the order of the table in mechanism.c. How the published ones use them:
 *
 *     delayed     prepare_dy rounds dY under a scale of the steps before                            (2310.18313)
 *     dge         after_wgrad: dW *= f'(W * scale)                                            (arXiv:2501.17116, 3.1)
 *     occ         prepare_x (make_x) clamps; terms appends the sparse residual, or puts codes of decoded + residual in
 *                 X's place; wgrad_x gives decoded + residual                                         (3.2)
 *     hcp         observe gathers what is known of the channels, after_step chooses the hot ones; terms widens the
 *                 operands by their residuals                                                 (arXiv:2602.02047)
 *     outcontrol  observe sums channel norms, after_step chooses; terms splits K from then on       (2510.27527)
 *     averis      prepare_x and prepare_dy take means off; terms puts their products back          (2603.10444)
 *     oscireset   after_step moves oscillating masters to their bin centre                          (2510.27527)
 *     quest       after_dgrad and after_wgrad mask gradients and rotate them back                     (2505.14669)
 *     qema        quantize_w rounds by a moving average, which after_step advances                  (2502.20853)
 *     outer       after_step keeps the largest magnitudes that the next step's scales are made from
 *     qramping    calibrate finds how often the optimizer moves each weight, which it asks by ramp   (2502.20853)
 *
 * Two mechanisms of one layer may not both edit its products, nor replace the same operand: attaching them fails.
 * Passes whose direction runs in BF16 (late switch) call no hook of that direction.
 *
 * The same hooks run while scratch is measured (call->measuring, over a backend that does nothing): they take what they
 * would take at most, and leave their state alone.
 */
#ifndef NI_LINEAR_MECHANISM_H
#define NI_LINEAR_MECHANISM_H

#include "linear/operand.h"

struct ni_linear;
struct ni_linear_group;

/* One forward or backward of one group. */
typedef struct ni_linear_call {
    struct ni_linear_group *group;
    nb_backend *be;
    const nb_pass *pass;
    ni_scratch *scratch;     /* what a hook takes from the front is taken back once the layer's products are done */
    const nb_mat *x;         /* act [M, K]: the input as the model gave it */
    bool training;           /* a backward pass will follow or runs: observe; else leave state alone */
    const nb_mat *dy;        /* backward: act [M, N_i] of each layer; forward: NULL */
    const ni_producer *from; /* what is to write x (backward: dy) first; NULL: it is there (produced.c) */
    bool measuring;
    bool again; /* a forward pass that was here already: observe is not called, and nothing is shown */
} ni_linear_call;

/* The terms of one product of one layer: C (+)= their sum, in order. */
enum { NI_MOST_TERMS = 4 };
typedef struct ni_terms {
    ni_term list[NI_MOST_TERMS];
    int32_t count;
    ni_beside beside; /* an operand among them that is placed and not made yet */
} ni_terms;
nb_status ni_add_term(ni_terms *terms, const ni_term *term, nb_error *err);

/* Makings of weights, of many groups, for one call of make_many, and then one of what is made anew of their codes, and
 * one of turn_many (ready.c). */
enum { NI_LISTED_MAKINGS = 96, NI_LISTED_OF_LAYER = 9 /* at most */ };
typedef struct ni_weight_list {
    int32_t count, layers, turns, recodings;
    ni_source sources[NI_LISTED_MAKINGS];
    ni_making makings[NI_LISTED_MAKINGS];
    nb_mat masters[NI_LISTED_MAKINGS]; /* one a layer, and one of its numbers */
    nb_operand *turned[NI_LISTED_MAKINGS];
    const nb_operand *from[NI_LISTED_MAKINGS];
    ni_source coded[NI_LISTED_MAKINGS];
    ni_making recoded[NI_LISTED_MAKINGS];
    nb_noise noises[NI_LISTED_MAKINGS]; /* theirs, where they draw bits */
} ni_weight_list;
nb_status ni_list_making(ni_weight_list *list, const ni_source *source, const ni_making *making, nb_error *err);

/* How the micro-batches of a step, which may be those of many ranks, come to one state. Every tensor says. */
typedef enum ni_combine {
    NI_COMBINE_UNSAID,
    NI_COMBINE_SUM, /* each micro-batch writes it anew, F32 in the backend's memory; after_step reads the sum of all, in
                       the tree of train/accumulate.h. Of one step: no checkpoint holds it */
    NI_COMBINE_SAME, /* a function of masters, schedule and sums: every rank has it already */
    NI_COMBINE_FIRST /* made from micro-batch 0: after after_step rank 0's, which the others take over whole where words
                        that are `on_host` changed, and whose `loaded` is called */
} ni_combine;

/* An array of state that a checkpoint holds, or ranks combine. */
typedef struct ni_mechanism_tensor {
    int32_t layer;    /* of the group; -1 = belongs to the input */
    const char *name; /* "norms"; static or as long-lived as the state */
    nb_dtype dtype;
    int64_t elements;
    void *data; /* SUM: NULL in a step that gathers nothing */
    bool on_host;
    ni_combine combine;
} ni_mechanism_tensor;

/* What a forward pass would make of a weight; see decode_w. */
typedef struct ni_weight_decoding {
    ni_scratch *scratch;
    const nb_pass *pass;
    const float *w; /* F32 [N, K] */
    float *decoded;
    float *widths; /* NULL: not asked for */
} ni_weight_decoding;

#define NI_CALIBRATED "qramping.period"

typedef struct ni_mechanism {
    const char *name; /* "hcp" */
    uint32_t rereads; /* bit `role` set: it decodes the layer's operand of this role, makes others of it, or puts plain
                         numbers in the place of the codes that it meets */
    uint32_t (*rereads_by)(
        const nb_plan *plan); /* the same, where it depends on how the layer is made; NULL: it does not */

    bool splits; /* prepare_x and prepare_dy hand over a part of what came: the lens is shown that part, of which the
                    codes are made, and not the whole */

    /* ---- life. attach makes the state for group->layers[i] whose mask has bit `index` set ---- */
    bool (*wanted)(const nb_plan *plan); /* asked for quantized layers only */
    nb_status (*attach)(struct ni_linear_group *group, int32_t index, void **state, nb_error *err);
    void (*detach)(void *state);

    /* ---- operands ---- */
    /* Once a forward pass, before anything else, whether or not it runs in BF16: the place to watch X. */
    nb_status (*observe)(void *state, const ni_linear_call *call, nb_error *err);
    /* Before X is quantized for the layers that want the mechanism. `prepared` comes in as X and may be pointed to
     * other numbers of the same shape and type, taken with ni_scratch_keep or owned by the state. Asked again in the
     * backward pass where wgrad.x is quantized from X: must then give the same numbers. */
    nb_status (*prepare_x)(void *state, const ni_linear_call *call, nb_mat *prepared, nb_error *err);
    /* With prepare_x, where no other mechanism prepares X and no lens looks: the operand of what it prepares. */
    nb_status (*make_x)(void *state, const ni_linear_call *call, const ni_making *making, nb_error *err);
    /* Before dY is quantized: `prepared` comes in as dY, and may be pointed to other numbers as above. */
    nb_status (*prepare_dy)(void *state, const ni_linear_call *call, struct ni_linear *layer, nb_mat *prepared,
                            nb_error *err);
    /* Replaces quantizing the master into `out` (role fprop.w), or leaves *done false. */
    nb_status (*quantize_w)(void *state, const ni_linear_call *call, struct ni_linear *layer, nb_operand *out,
                            bool *done, nb_error *err);
    /* Decodes what the forward pass multiplies in the place of the numbers `w`: `decoded` and, if asked for, the width
     * of each element's bin, both F32; a part that is not in FP4 is decoded to itself with a width of 0. For mechanisms
     * that reorder or split W. */
    nb_status (*decode_w)(void *state, struct ni_linear *layer, const ni_weight_decoding *what, bool *done,
                          nb_error *err);
    size_t (*decode_scratch)(const void *state, const struct ni_linear *layer); /* most that decode_w takes */
    /* How many elements of W are in the format of fprop.w; NULL: all. */
    int64_t (*fp4_elements)(const void *state, const struct ni_linear *layer);
    /* Replaces the operand wgrad.x by plain numbers [M, K] in act (ni_scratch_keep, or the state's own); made once a
     * backward for all layers that read it alike. */
    nb_status (*wgrad_x)(void *state, const ni_linear_call *call, struct ni_linear *layer, nb_mat *x, bool *done,
                         nb_error *err);

    /* ---- products ---- */
    /* `terms` comes in as the one product of the layer's own operands, which are made afterwards if they are still in
     * it; the hook appends, changes, or takes out. Operands of its own it makes here: in scratch, those of dgrad with
     * ni_scratch_keep, for the products of all layers are summed at the end; those of wgrad hold as long, if not
     * one_layer. One that is made of dY as it came may be left to `beside`. */
    nb_status (*terms)(void *state, const ni_linear_call *call, struct ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                       nb_error *err);
    /* With `terms`: the layer's own operands of W are read all the same (see replaces_w), and *list gets what else is
     * made of the master, if it is stale, which is up to date once the list is made; `master` lives as long. NULL: the
     * layer's weights are made when they are read. At most six makings. */
    nb_status (*list_w)(void *state, const ni_linear_call *call, struct ni_linear *layer, const nb_mat *master,
                        ni_weight_list *list, nb_error *err);
    bool (*replaces_w)(const void *state); /* what list_w lists is read in the place of the layer's own operands of W;
                                              NULL: never */
    /* With replaces_w: W in the parts that the forward pass made, of which its dgrad.w is made anew; NULL: they are not
     * there, or it is made when it is read. */
    const ni_parts *(*parts_of_w)(const void *state, const struct ni_linear *layer);
    bool reads_codes; /* in the place of list_w: of W nothing is read but the layer's own operands */
    bool one_layer; /* what `terms` makes for wgrad holds until those of the next layer: its dW is multiplied before */
    /* The sum of dX over the layers that want it, act [M, K]; the terms of the others are added afterwards. */
    nb_status (*after_dgrad)(void *state, const ni_linear_call *call, const nb_mat *dx, nb_error *err);
    /* dW of this micro-batch alone, before it is added to the gradients. */
    nb_status (*after_wgrad)(void *state, const ni_linear_call *call, struct ni_linear *layer,
                             const nb_mat *dw /* real [N, K] */, nb_error *err);

    /* ---- between steps ---- */
    bool keeps_masters; /* after_step moves none */
    nb_status (*after_step)(void *state, struct ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                            nb_error *err);
    size_t (*scratch)(const void *state, int64_t rows); /* most that after_step or calibrate takes */
    /* After update `taken` (0, 1, ...) of a calibration: plain AdamW on data of its own. What it moved is undone
     * afterwards, the state of all mechanisms too, but for tensors whose name is NI_CALIBRATED. */
    nb_status (*calibrate)(void *state, struct ni_linear_group *group, const nb_pass *pass, int32_t taken,
                           ni_scratch *scratch, nb_error *err);
    /* The pace at which the optimizer moves the layer's weight: sum, steps and period of *out. */
    void (*ramp)(void *state, const struct ni_linear *layer, ni_ramped *out);
    int32_t (*tensors)(void *state, ni_mechanism_tensor *tensors, int32_t most); /* returns how many there are */
    nb_status (*loaded)(void *state, nb_error *err); /* the tensors were written from a checkpoint */

    /* ---- what it says of itself ---- */
    size_t (*bytes)(const void *state);
    /* A few words for the census ("hcp 64 of 1024 channels"); may depend on the GEMM. */
    void (*text)(const void *state, const struct ni_linear *layer, ni_gemm gemm, char *text, size_t size);
    /* True, and why, where the recipe asks for it in vain ("hcp patches no channel of ...: ..."): a run warns. */
    bool (*doubt)(const void *state, char *text, size_t size);
} ni_mechanism;

/* Every mechanism that a recipe can ask for, in the order in which their hooks run; ends with NULL. */
extern const ni_mechanism *const ni_mechanisms[];

#endif
