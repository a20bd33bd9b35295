/* linear.h: the quantized linear layer. Three GEMMs under a plan (X [M,K], W [N,K], dY [M,N]):
 *
 *     fprop   Y  = X W^T      [M, N]    fprop.c
 *     dgrad   dX = dY W       [M, K]    dgrad.c
 *     wgrad   dW = dY^T X     [N, K]    wgrad.c
 *
 * Layers that read the same X (q, k, v; gate, up) form a group: X is quantized once for all that want it alike, and
 * their input gradients are summed in `real` and rounded once. Where a role's operand comes from is in input.c (X) and
 * weight.c (W); what a mechanism can change is in mechanism.h.
 *
 * Random bits are keyed by names: X by the group's input, dY and W by the layer; fresh Hadamard signs by the input in
 * fprop and wgrad and by the layer in dgrad, so that both operands of a GEMM share them.
 */
#ifndef NB_LINEAR_LINEAR_H
#define NB_LINEAR_LINEAR_H

#include "backend/table.h"
#include "linear/mechanism.h"
#include "nibble/pass.h"
#include "nibble/recipe.h"

#define NB_GROUP_LAYERS 8
#define NB_GROUP_MECHANISMS 8

typedef enum nb_gemm { NB_GEMM_FPROP, NB_GEMM_DGRAD, NB_GEMM_WGRAD, NB_GEMM_COUNT } nb_gemm;
const char *nb_gemm_name(nb_gemm gemm); /* "fprop", ... */

/* What W becomes, made when first needed after the master changed. */
typedef struct nb_weight_cache {
    void *plain; /* act [N, K]; NULL if no GEMM of the plan reads W in BF16, or if act is real */
    bool plain_fresh;
    void *memory[2]; /* fprop.w, dgrad.w; NULL where the role has no codes, or makes them anew each time */
    nb_layer_operand operand[2];
    bool fresh[2];
    bool random[2]; /* draws bits: made anew for each micro-batch */
    bool shown[2];  /* the lens has seen it in this pass */
    uint32_t made;  /* how often fprop.w was made: what is derived from it can tell whether it is old */
} nb_weight_cache;

/* Where a master that is kept in few bits is decoded: one for all layers of a model. */
typedef struct nb_master_room {
    void *data;        /* real, as large as the largest of them */
    const void *holds; /* the master (nb_scaled.data) that lies in it now; NULL = none */
} nb_master_room;

typedef struct nb_linear {
    char name[NB_NAME_SIZE];
    int32_t index;   /* in its group */
    int64_t out, in; /* N, K */
    nb_plan plan;
    void *master;     /* real [N, K], backend memory; its owner tells of changes. NULL: kept in few bits */
    nb_scaled narrow; /* those; read either by nb_linear_master */
    nb_master_room *room;
    void *grad;                 /* real [N, K]; NULL unless training */
    bool grad_written;          /* dW is added to it; else it is written */
    bool packed[NB_GEMM_COUNT]; /* both operands multiply as codes */
    uint32_t mechanisms;        /* bit i: group->mechanisms[i] works on this layer */
    int32_t fprop_x, wgrad_x;   /* which shared operands of the group it reads */
    nb_operand_name names[NB_ROLE_COUNT];
    nb_weight_cache weight;
} nb_linear;

/* X, quantized once for all layers of the group that want it alike. */
typedef struct nb_shared_operand {
    nb_operand_rule rule;
    uint32_t mechanisms; /* those that prepare X for it */
    int32_t layer;       /* a layer that reads it: its plan, names and mechanisms stand for all */
    void *memory;        /* for what must live from forward to backward; NULL = scratch */
    nb_layer_operand operand;
    bool fresh;
} nb_shared_operand;

typedef struct nb_attached_mechanism {
    const nb_mechanism *table;
    void *state;
} nb_attached_mechanism;

typedef struct nb_linear_group {
    nb_backend *be;
    char input[NB_NAME_SIZE]; /* names X: "layers.0.self_attn.input" */
    int64_t max_rows;         /* most tokens of a pass */
    int64_t in;               /* K */
    bool training;
    int32_t count;
    nb_linear layers[NB_GROUP_LAYERS];
    int32_t fprop_x_count, wgrad_x_count;
    nb_shared_operand fprop_x[NB_GROUP_LAYERS], wgrad_x[NB_GROUP_LAYERS];
    int32_t mechanism_count;
    nb_attached_mechanism mechanisms[NB_GROUP_MECHANISMS];
    size_t scratch_bytes; /* what forward and backward take at most */
    size_t bytes;         /* backend memory that the group holds: quantized weights and inputs */
} nb_linear_group;

/* ---- making a group ---- */

typedef struct nb_linear_spec {
    const char *name; /* "layers.0.self_attn.q_proj" */
    int64_t out;
    const nb_plan *plan; /* copied */
    void *master, *grad;
    nb_scaled narrow;     /* read where master is NULL */
    nb_master_room *room; /* for narrow */
} nb_linear_spec;

typedef struct nb_group_spec {
    const char *input;
    int64_t in, max_rows;
    bool training;
    const nb_linear_spec *layers;
    int32_t count;
    const nb_mechanism *const *mechanisms; /* offered to each plan; ends with NULL; NULL = nb_mechanisms */
} nb_group_spec;

/* Fails where the plan cannot be honoured on this backend or at these sizes, and says why. */
nb_status nb_linear_group_create(nb_backend *be, const nb_group_spec *spec, nb_linear_group **out, nb_error *err);
void nb_linear_group_free(nb_linear_group *group);

/* ---- running it. `scratch` must hold group->scratch_bytes ---- */

/* y[i] = X W_i^T for each layer i; x act [M, K], y act [M, N_i]; M <= max_rows. `training`: a backward will follow. */
nb_status nb_linear_group_forward(nb_linear_group *group, const nb_pass *pass, nb_scratch *scratch, bool training,
                                  const nb_mat *x, const nb_mat *y, nb_error *err);

/* dx = sum_i dY_i W_i (written); grads += dY_i^T X, or written (nb_linear_group_begin_gradients). `x` is that of the
 * forward pass before, unchanged. */
nb_status nb_linear_group_backward(nb_linear_group *group, const nb_pass *pass, nb_scratch *scratch, const nb_mat *x,
                                   const nb_mat *dy, const nb_mat *dx, nb_error *err);

/* True if amaxes of its X, or with `gradients` of its dY, are worth having: a tensor scale is made from one, of numbers
 * that are not rotated first. */
bool nb_linear_group_wants_amax(const nb_linear_group *group, bool gradients);

/* What its gradients hold is past: the next backward pass writes them, those after it add to them. */
void nb_linear_group_begin_gradients(nb_linear_group *group);

/* The largest N of its layers. */
int64_t nb_group_widest(const nb_linear_group *group);

/* The masters changed. */
void nb_linear_group_changed(nb_linear_group *group);
/* An optimizer step was taken: mechanisms may move the masters. */
nb_status nb_linear_group_after_step(nb_linear_group *group, const nb_pass *pass, nb_scratch *scratch, nb_error *err);

/* ---- the three GEMMs, and the operands that they and the mechanisms read ---- */

nb_status nb_fprop(const nb_linear_call *call, nb_linear *layer, const nb_mat *y, nb_error *err);
nb_status nb_dgrad(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, const nb_mat *dx, bool accumulate,
                   nb_error *err);
nb_status nb_wgrad(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_error *err);
size_t nb_fprop_scratch(const nb_linear_group *group, const nb_linear *layer);
size_t nb_dgrad_scratch(const nb_linear_group *group, const nb_linear *layer);
size_t nb_wgrad_scratch(const nb_linear_group *group, const nb_linear *layer);

/* input.c: X in the role fprop.x or wgrad.x, as the layer reads it; made at the first call of a pass. */
nb_status nb_input_operand(const nb_linear_call *call, nb_linear *layer, nb_role role, nb_layer_operand *out,
                           nb_error *err);
nb_status nb_input_layout(nb_linear_group *group, nb_error *err); /* finds the shared operands, places their memory */
size_t nb_input_scratch(const nb_linear_group *group, nb_role role);

/* weight.c: the master in real, [N, K]: in place, or decoded and good until another layer's is asked for. */
const void *nb_linear_master(nb_backend *be, const nb_linear *layer);

/* weight.c: W in the role fprop.w or dgrad.w; the BF16 copy; made at the first call after a change. */
nb_status nb_weight_operand(const nb_linear_call *call, nb_linear *layer, nb_role role, nb_layer_operand *out,
                            nb_error *err);
nb_status nb_weight_plain(const nb_linear_call *call, nb_linear *layer, nb_mat *out, nb_error *err);
void nb_show_plain_weight(const nb_linear_call *call, nb_linear *layer, nb_role role); /* to the lens: W in BF16 */
nb_status nb_weight_layout(nb_linear_group *group, nb_linear *layer, nb_error *err);
/* Decodes fprop.w as it would be made from the numbers `w` (F32 [N, K]); see decode_w in mechanism.h. */
nb_status nb_weight_decode(nb_linear_group *group, nb_linear *layer, nb_scratch *scratch, const nb_pass *pass,
                           const float *w, float *decoded, float *widths, nb_error *err);
size_t nb_weight_decode_scratch(const nb_linear *layer);
size_t nb_weight_scratch(const nb_linear_group *group, const nb_linear *layer, nb_role role);

/* dgrad.c, wgrad.c: dY in its two roles. */
nb_status nb_dgrad_dy(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_layer_operand *out,
                      nb_error *err);
nb_status nb_wgrad_dy(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, nb_layer_operand *out,
                      nb_error *err);

/* check.c: can this plan run at these sizes on this backend? */
nb_status nb_linear_check(const nb_linear_group *group, const nb_linear *layer, nb_error *err);

/* The quantizer whose codes a GEMM reads in this role; BF16 where it reads plain numbers. */
nb_quantizer nb_role_quantizer(const nb_plan *plan, nb_role role);
nb_gemm nb_role_gemm(nb_role role);

/* ---- what it says of itself (census.c) ---- */

/* Formats of both operands ("nvfp4 1x16 x nvfp4 16x16"), the kernel that multiplies them, and why. */
void nb_linear_census(const nb_linear_group *group, const nb_linear *layer, nb_gemm gemm, char *formats, size_t size,
                      const char **kernel, const char **reason);

#endif
