/* linear.h: the quantized linear layer. Three GEMMs under a plan (X [M,K], W [N,K], dY [M,N]):
 *
 *     fprop   Y  = X W^T      [M, N]
 *     dgrad   dX = dY W       [M, K]
 *     wgrad   dW = dY^T X     [N, K]
 *
 * Layers that read the same X (q, k, v; gate, up) form a group: X is quantized once for all that want it alike, and dX
 * is one sum of the products of all layers, rounded once. Where to look:
 *
 *     group.c        making a group
 *     operand.h, .c  its operands: X, W and dY in their roles, made when they are stale
 *     weight.c       the masters behind W
 *     ready.c        W of all groups, made at once
 *     handed.c       W on its way to ranks that lack its master
 *     pass.c         a pass: which terms, which operands, which products
 *     produced.c     an X or dY that is not there yet, and operands in its place
 *     mechanism.h    what a mechanism can change
 *     alone.c        a group without a model, for programs outside (nibble/linear.h)
 *
 * Random bits are keyed by names: X by the group's input, dY and W by the layer; fresh Hadamard signs by the input in
 * fprop and wgrad and by the layer in dgrad, so that both operands of a GEMM share them.
 */
#ifndef NI_LINEAR_LINEAR_H
#define NI_LINEAR_LINEAR_H

#include "backend/table.h"
#include "linear/mechanism.h"
#include "nibble/linear.h"
#include "nibble/pass.h"
#include "nibble/recipe.h"

#define NI_GROUP_LAYERS NB_LINEAR_LAYERS
#define NI_GROUP_MECHANISMS 8

/* Where a master that is kept in few bits is decoded: one for all layers of a model. */
typedef struct ni_master_room {
    void *data;        /* real, as large as the largest of them */
    const void *holds; /* the master (ni_scaled.data) that lies in it now; NULL = none */
} ni_master_room;

typedef struct ni_linear {
    char name[NB_NAME_SIZE];
    int32_t index;   /* in its group */
    int64_t out, in; /* N, K */
    nb_plan plan;
    void *master;   /* real [N, K], backend memory; its owner tells of changes. NULL: kept in few bits, or elsewhere */
    bool elsewhere; /* another rank has it, and hands over what is read of it (handed.c) */
    ni_scaled narrow; /* few bits; read either by ni_linear_master */
    ni_master_room *room;
    /* [1] backend memory: largest magnitude of the master, left by the optimizer as it moves it; NULL: nobody does. It
     * is `found` from the update on until the change is told, and `known` from there on until the next. */
    uint32_t *maximum;
    bool maximum_found, maximum_known;
    void *grad;                 /* real [N, K]; NULL unless training */
    bool grad_written;          /* holds gradients of this micro-batch, to which more are added */
    bool packed[NI_GEMM_COUNT]; /* both operands multiply as codes */
    uint32_t mechanisms;        /* bit i: group->mechanisms[i] works on this layer */
    ni_operand_name names[NB_ROLE_COUNT];
    ni_cached_operand *operands[NB_ROLE_COUNT]; /* X: the group's; W and dY: its own. NULL where not quantized */
    ni_cached_operand own[NB_ROLE_COUNT];       /* of which X's are not used */
    nb_operand plain[NB_ROLE_COUNT];            /* of a product in BF16 */
    void *weight; /* W in act [N, K]; NULL if no GEMM of the plan reads it so, or if act is real */
    bool weight_fresh;
    bool weight_found; /* as `maximum_found`: the optimizer left it here as it moved the master */
    bool weight_lies;  /* in somebody else's memory (ni_weight_lay) */
} ni_linear;

typedef struct ni_attached_mechanism {
    const ni_mechanism *table;
    void *state;
} ni_attached_mechanism;

typedef struct ni_linear_group {
    nb_backend *be;
    char input[NB_NAME_SIZE]; /* names X: "layers.0.self_attn.input" */
    int64_t max_rows;         /* most tokens of a pass */
    int64_t in;               /* K */
    bool training;
    bool early_wgrad_x; /* wgrad.x is made beside fprop.x where both are made of X */
    bool hands_codes;   /* codes of W go to other ranks (handed.c): they stay */
    int32_t count;
    ni_linear layers[NI_GROUP_LAYERS];
    int32_t x_count;
    ni_cached_operand x[2 * NI_GROUP_LAYERS]; /* fprop.x and wgrad.x, one for all layers that want it alike */
    int32_t mechanism_count;
    ni_attached_mechanism mechanisms[NI_GROUP_MECHANISMS];
    uint32_t moves;       /* how often the masters changed */
    size_t scratch_bytes; /* what forward, backward and after_step take at most */
    size_t bytes;         /* backend memory that the group holds: operands of weights and inputs */
    bool lays_early;      /* the owner gives that room */
    size_t early_bytes;   /* room that ni_linear_group_lay_early wants */
} ni_linear_group;

/* ---- making a group ---- */

typedef struct ni_linear_spec {
    const char *name; /* "layers.0.self_attn.q_proj" */
    int64_t out;
    const nb_plan *plan; /* copied */
    void *master, *grad;
    ni_scaled narrow;     /* read where master is NULL */
    ni_master_room *room; /* for narrow */
} ni_linear_spec;

typedef struct ni_group_spec {
    const char *input;
    int64_t in, max_rows;
    bool training;
    bool early_wgrad_x; /* one reading of X in the forward pass makes fprop.x and wgrad.x; the latter's memory is held
                           until the backward pass. For backends on which reading X again costs more than that. */
    bool lays_early;    /* ni_linear_group_lay_early follows */
    bool hands_codes;
    const ni_linear_spec *layers;
    int32_t count;
    const ni_mechanism *const *mechanisms; /* offered to each plan; ends with NULL; NULL = ni_mechanisms */
} ni_group_spec;

/* Fails where the plan cannot be honoured on this backend or at these sizes, and says why. */
nb_status ni_linear_group_create(nb_backend *be, const ni_group_spec *spec, ni_linear_group **out, nb_error *err);
void ni_linear_group_free(ni_linear_group *group);

/* ---- running it. `scratch` must hold group->scratch_bytes ---- */

/* y[i] = X W_i^T for each layer i; x act [M, K], y act [M, N_i]; M <= max_rows. `training`: a backward will follow. */
nb_status ni_linear_group_forward(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch, bool training,
                                  const nb_mat *x, const nb_mat *y, nb_error *err);

/* The same once more, before the backward pass of a micro-batch that trains: to the same bits; mechanisms and the lens,
 * which saw it, are not told. */
nb_status ni_linear_group_again(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch, const nb_mat *x,
                                const nb_mat *y, nb_error *err);

/* Both with an X that `from` is to write first, or at once into what is made of it: who does not read its numbers
 * elsewhere need not find them in `x` afterwards, which is the backward pass's all the same. */
typedef enum ni_forward_kind { NI_FORWARD_ALONE, NI_FORWARD_TRAINING, NI_FORWARD_AGAIN } ni_forward_kind;
nb_status ni_linear_group_forward_of(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                     ni_forward_kind kind, const ni_producer *from, const nb_mat *x, const nb_mat *y,
                                     nb_error *err);

/* The gradients of a new micro-batch begin: what is there is written over, whatever it holds. */
void ni_linear_group_begin_gradients(ni_linear_group *group);

/* Which maxima of X (`gradients`: of dY) a quantizer of the group would take from whoever writes it, on a backend that
 * asks for them: the largest magnitude, for a tensor scale without rotation; that of turned columns
 * (nb_mat.turned_amax). */
typedef struct ni_wanted_amaxes {
    bool plain, turned;
} ni_wanted_amaxes;
ni_wanted_amaxes ni_linear_group_wants(const ni_linear_group *group, bool gradients);

/* dx = sum_i dY_i W_i (written); grads = dY_i^T X the first time since they began, += afterwards. `x` is that of the
 * forward pass before, unchanged. */
nb_status ni_linear_group_backward(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch, const nb_mat *x,
                                   const nb_mat *dy, const nb_mat *dx, nb_error *err);

/* The same with a dY of all layers that `from` is to write first. */
nb_status ni_linear_group_backward_of(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                      const ni_producer *from, const nb_mat *x, const nb_mat *dy, const nb_mat *dx,
                                      nb_error *err);

/* The masters changed. Maxima that the optimizer left with this change hold from here on. */
void ni_linear_group_changed(ni_linear_group *group);
/* What is stale of the weights of these groups is made by few calls, as far as every pass will read it; the rest when
 * it is read. All groups are of one backend; no weight is on its way from another rank. */
nb_status ni_linear_groups_ready(ni_linear_group *const *groups, int32_t count, const nb_pass *pass, nb_error *err);
/* Right before the backward passes of these groups: what they read of weights that draws bits is made by few calls,
 * where the backend gains by it and there is room; the rest when it is read. */
nb_status ni_linear_groups_ready_back(ni_linear_group *const *groups, int32_t count, const nb_pass *pass,
                                      nb_error *err);
/* early_bytes of backend memory as that room, once, before the first pass. It is the groups' from that call on until
 * their backward passes end, and anybody's between. */
void ni_linear_group_lay_early(ni_linear_group *group, void *room);
/* An optimizer step was taken: mechanisms may move the masters. */
nb_status ni_linear_group_after_step(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch, nb_error *err);

/* An update of a calibration was taken; see `calibrate` in mechanism.h. */
nb_status ni_linear_group_calibrate(ni_linear_group *group, const nb_pass *pass, int32_t taken, ni_scratch *scratch,
                                    nb_error *err);
/* Whether the optimizer has a pace of its own for each element of the layer's weight: sum, steps and period of *out. */
bool ni_linear_ramp(const ni_linear_group *group, const ni_linear *layer, ni_ramped *out);

/* produced.c: what call->from writes, and what is made of it at once. */
nb_status ni_produce(const ni_linear_call *call, nb_error *err);

/* pass.c: what both directions take at most, by a walk over them that computes nothing. */
nb_status ni_measure_scratch(ni_linear_group *group, size_t *bytes, nb_error *err);

/* ---- weight.c ---- */

/* The master in real, [N, K]: in place, or decoded and good until another layer's is asked for. */
const void *ni_linear_master(nb_backend *be, const ni_linear *layer);
nb_mat ni_master_of(nb_backend *be, const ni_linear *layer);
/* The master as it is kept. */
ni_scaled ni_linear_kept(nb_backend *be, const ni_linear *layer);

/* W in act, for a product in BF16; made at the first call after a change. */
nb_status ni_weight_numbers(const ni_linear_call *call, ni_linear *layer, bool until_pass_ends, nb_mat *out,
                            nb_error *err);
/* What W is quantized from: its master, or that in BF16 where the recipe says so. */
nb_status ni_weight_source(const ni_linear_call *call, ni_linear *layer, nb_mat *out, nb_error *err);
nb_status ni_weight_layout(ni_linear_group *group, ni_linear *layer, nb_error *err);
nb_status ni_show_plain_weight(const ni_linear_call *call, ni_linear *layer, nb_role role, nb_error *err);

/* Decodes fprop.w as it would be made from the numbers `w` (F32 [N, K]); see decode_w in mechanism.h. */
nb_status ni_weight_decode(ni_linear_group *group, ni_linear *layer, ni_scratch *scratch, const nb_pass *pass,
                           const float *w, float *decoded, float *widths, nb_error *err);
size_t ni_weight_decode_scratch(const ni_linear_group *group, const ni_linear *layer);

/* ---- handed.c: W as another rank reads it, which has no master that is up to date ---- */

/* NI_HANDED_MASTER: something reads the master itself; *why: what. Else every use of W until it moves is of BF16
 * numbers, or of codes that do not depend on a micro-batch and of what is made of these. */
typedef enum ni_handed { NI_HANDED_MASTER, NI_HANDED_NUMBERS, NI_HANDED_CODES } ni_handed;
ni_handed ni_weight_handed(const ni_linear_group *group, const ni_linear *layer, const char **why);
size_t ni_weight_handed_bytes(const ni_linear_group *group, const ni_linear *layer); /* 0: the master */

/* What is handed, made if it is stale, to `parcel` (backend memory, 64-byte aligned); and from there into a layer,
 * which then has what it would have made of the master. */
nb_status ni_weight_put(ni_linear_group *group, ni_linear *layer, const nb_pass *pass, ni_scratch *scratch,
                        void *parcel, nb_error *err);
nb_status ni_weight_take(ni_linear_group *group, ni_linear *layer, void *parcel, nb_error *err);

/* From here on W in act, where it is handed as numbers, lies at `place`, which outlives all passes: a parcel that is
 * put or taken there moves no byte. */
void ni_weight_lay(ni_linear_group *group, ni_linear *layer, void *place);

/* The layer's own operand of X or of W, made if it is stale. */
nb_status ni_input_operand(const ni_linear_call *call, ni_linear *layer, nb_role role, nb_operand *out, nb_error *err);
nb_status ni_weight_operand(const ni_linear_call *call, ni_linear *layer, nb_role role, nb_operand *out, nb_error *err);

/* check.c: can this plan run at these sizes on this backend? */
nb_status ni_linear_check(const ni_linear_group *group, const ni_linear *layer, nb_error *err);

/* ---- what it says of itself (census.c) ---- */

/* Formats of both operands ("nvfp4 1x16 x nvfp4 16x16"), the kernel that multiplies them, and why. */
void ni_linear_census(const ni_linear_group *group, const ni_linear *layer, ni_gemm gemm, char *formats, size_t size,
                      const char **kernel, const char **reason);

/* ---- what its mechanisms keep and say (state.c): each returns how many there are, and writes at most `most` ---- */

int32_t ni_linear_group_state(const ni_linear_group *group, nb_state_tensor *tensors, int32_t most);
int32_t ni_linear_group_combined(const ni_linear_group *group, ni_combine how, ni_mechanism_tensor *out, int32_t most);
int32_t ni_linear_group_census(const ni_linear_group *group, nb_census_row *rows, int32_t most);
int32_t ni_linear_group_doubts(const ni_linear_group *group, char *text, size_t size);
nb_status ni_linear_group_loaded(ni_linear_group *group, nb_error *err); /* the tensors were written */

#endif
