/* recipe.h: a recipe file, checked and resolved.
 *
 * A recipe says for each of the six GEMM operands ("roles") of a linear layer how it is quantized, which layers stay in
 * BF16, and which mechanisms run. A plan is a recipe resolved for one linear layer of one model.
 */
#ifndef NIBBLE_RECIPE_H
#define NIBBLE_RECIPE_H

#include "backend.h"
#include "format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The six operands. Shapes as the GEMM consumes them, contraction last; X [M, K], W [N, K], dY [M, N]. */
typedef enum nb_role {
    NB_FPROP_X,  /* X     [M, K]   Y  = X W^T   */
    NB_FPROP_W,  /* W     [N, K]                */
    NB_DGRAD_DY, /* dY    [M, N]   dX = dY W    */
    NB_DGRAD_W,  /* W^T   [K, N]                */
    NB_WGRAD_DY, /* dY^T  [N, M]   dW = dY^T X  */
    NB_WGRAD_X,  /* X^T   [K, M]                */
    NB_ROLE_COUNT
} nb_role;
NB_API const char *nb_role_name(nb_role role); /* "fprop.x", ... */

/* What to do with scales that lie on the contraction axis (row scales in dgrad and wgrad). */
typedef enum nb_via {
    NB_VIA_NONE, /* scales do not lie on the contraction */
    NB_VIA_FOLD, /* fold them into the other operand before that is quantized */
    NB_VIA_BF16  /* decode and round the operand to BF16 */
} nb_via;

/* The rule for one role. */
typedef struct nb_operand_rule {
    bool from;         /* the value comes from another role's quantized operand, transposed where needed */
    nb_role source;    /* read when from */
    bool requantize;   /* from only: quantize the decoded operand again with `quantizer`; else the same codes */
    nb_via via;        /* from without requantize only */
    bool shared_noise; /* stochastic rounding draws the bits of the GEMM, not of the operand: element e of both
                          operands gets the same (the released code of arXiv:2510.27527) */
    int32_t headroom;  /* `outer: delayed`: the tensor scale is made from so many times the largest magnitude of the
                          step before; 0: from the largest magnitude of the tensor itself */
    nb_quantizer quantizer; /* for `from` alone: the source's */
} nb_operand_rule;

#define NB_KEEP_MODULES 16
#define NB_NAME_SIZE 128

/* Which linear layers stay in BF16. Block counts below 1 are shares of the depth and round up; else they are counts. */
typedef struct nb_keep {
    char modules[NB_KEEP_MODULES][NB_NAME_SIZE]; /* patterns (fnmatch) over module names, as "*.o_proj" or "lm_head" */
    int32_t module_count;
    double first_blocks, last_blocks;
} nb_keep;

/* Layers in formats of their own (nibble probe --policy). "mlp.up_proj 0012" gives that linear layer of block 0 and 1
 * the first of `formats` in all six operands, that of block 2 the second, and so on; '.' and blocks beyond leave the
 * recipe's own. Rounding by random bits and rotation are the recipe's; its mechanisms do not run there. */
#define NB_POLICY_FORMATS 10
#define NB_POLICY_LAYERS 16
typedef struct nb_policy {
    char formats[NB_POLICY_FORMATS][NB_NAME_SIZE]; /* of the recipe grammar, as "mxfp4" or "{format: nvfp4}" */
    int32_t format_count;
    char layers[NB_POLICY_LAYERS][NB_NAME_SIZE];
    int32_t layer_count;
} nb_policy;

/* From share `at` of the run on, forward and/or backward GEMMs run in BF16 (1.0 = never). */
typedef struct nb_late_switch {
    double at;
    bool forward, backward;
    /* Below a ratio of rms(dY) to the rms of its rounding error of sqrt(3) gradients in four bits stop helping
     * (arXiv:2505.19115). Where it is below `rho` for more than the share `layers` of dY operands, dgrad and wgrad run
     * in BF16 from the next step on, for good. */
    double rho;    /* 0: nobody looks */
    double layers; /* of all that are quantized */
    int64_t every; /* steps from look to look */
} nb_late_switch;

/* Mechanisms: what a recipe adds to the three GEMMs beyond quantizers; src/linear/NAME.c carries each out. Points in
 * time and lengths below 1 are shares of the run, rounded up; else 0-based optimizer steps. */

/* Differentiable gradient estimator (arXiv:2501.17116 section 3.1): dW *= f'(W * scale). */
typedef struct nb_dge {
    double k;   /* power of f */
    double cap; /* largest f' */
} nb_dge;

/* Outlier clamping and compensation (arXiv:2501.17116 section 3.2): X is clamped to its alpha quantiles before it is
 * quantized; what was cut off is added back. */
typedef enum nb_occ_scope { NB_OCC_TOKEN, NB_OCC_TENSOR } nb_occ_scope;
typedef enum nb_occ_rest {
    NB_OCC_SPARSE, /* rounded to BF16, a sparse product beside the quantized one */
    NB_OCC_DENSE,  /* added to the decoded X, all rounded to E4M3, one product (the authors' research code) */
    NB_OCC_NONE,   /* lost (the public code) */
    NB_OCC_EXACT   /* as SPARSE, in FP32: not rounded */
} nb_occ_rest;
typedef struct nb_occ {
    double alpha;
    nb_occ_scope scope;
    nb_occ_rest rest;
} nb_occ;

/* Hot-channel patch (arXiv:2602.02047): the residuals of the k worst input channels are multiplied too. */
typedef enum nb_hcp_side { NB_HCP_BOTH, NB_HCP_ACTIVATION, NB_HCP_WEIGHT } nb_hcp_side;
typedef enum nb_hcp_kernel { NB_HCP_SINGLE, NB_HCP_DUAL } nb_hcp_kernel;
typedef enum nb_hcp_score { NB_HCP_ABSOLUTE, NB_HCP_NORMALIZED } nb_hcp_score;
typedef enum nb_hcp_copy { NB_HCP_REQUANTIZE, NB_HCP_EXACT } nb_hcp_copy;
typedef enum nb_hcp_form { NB_HCP_CANCEL, NB_HCP_PRINTED } nb_hcp_form;
typedef struct nb_hcp {
    double share;  /* of the input channels; k is rounded to whole blocks of 16 */
    int32_t order; /* 2: both first-order terms; 1: one of them */
    nb_hcp_side side;
    nb_hcp_kernel kernel; /* one concatenated GEMM or two */
    nb_hcp_score score;
    nb_hcp_copy copy;  /* regrouped channels: quantized again, or their codes and scales decoded exactly */
    nb_hcp_form form;  /* the stacks that cancel the first-order terms, or those that the notes print */
    int64_t refresh;   /* steps between choices of channels */
    double ema;        /* of the scores from choice to choice */
    double freeze;     /* from then on the channels stay */
    bool dgrad, wgrad; /* patch these products too */
} nb_hcp;

/* OutControl (arXiv:2510.27527): the input channels of largest norm run in MXFP8 in fprop and wgrad. */
typedef struct nb_outcontrol {
    double share;     /* of the input channels */
    int32_t multiple; /* their number is rounded up to this, or down to what fits */
    double start;     /* the first step whose norms count */
    double window;    /* steps that norms are summed over */
} nb_outcontrol;

/* OsciReset (arXiv:2510.27527): masters that oscillate around a bin's edge are set to the bin's centre. */
typedef enum nb_osci_variant { NB_OSCI_RATIO, NB_OSCI_RATIO_TOP, NB_OSCI_BIN_EDGE } nb_osci_variant;
typedef struct nb_oscireset {
    nb_osci_variant variant;
    double start;         /* steps: aligned up to a whole period; a share: to the nearest */
    double period;        /* from reset to reset */
    double window;        /* part of a period that distances are summed over */
    double threshold;     /* reset where dist_Q / dist_W reaches it */
    bool scale_threshold; /* times 50 / window: a short window has few steps to hop in */
    int32_t flips;        /* and q went to another bin at least so often; 0: whatever it did */
    double top;           /* ratio-top: share of the elements followed */
    double edge;          /* bin-edge: reset beyond this distance from the centre, in bins */
} nb_oscireset;

/* Q-EMA (arXiv:2502.20853): forward weights are rounded to whichever neighbour their moving average is nearer to. */
typedef struct nb_qema {
    double beta;
    int64_t warmup; /* updates of the average before it is used */
} nb_qema;

/* Q-Ramping (arXiv:2502.20853): the optimizer moves a weight that oscillates once in N steps, by the mean of their
 * gradients. N is found by steps that are taken on data of their own and undone. */
typedef struct nb_qramping {
    double every;   /* steps from calibration to calibration */
    int32_t window; /* calibration steps that distances are summed over; one more is taken before them */
    double k1, k2;  /* N = k2 floor(dist_Q / dist_W / k1) + 1 */
    int64_t most;   /* N at most; 0: `every` */
} nb_qramping;

/* Quartet (arXiv:2505.14669): gradients come from the operands of the forward pass, which were rotated and clipped:
 * what was clipped gets none, and they are rotated back. */
typedef struct nb_quest {
    bool mask; /* false: what was clipped gets its gradient all the same */
} nb_quest;

/* Delayed scaling (arXiv:2310.18313's code): dY is rounded under a scale made from its largest magnitudes in the steps
 * before. */
typedef struct nb_delayed {
    int32_t window; /* steps */
} nb_delayed;

/* All mechanisms in the order in which their hooks run: the name of the section of a recipe, of its record nb_NAME and
 * of its file src/linear/NAME.c; what it is. */
#define NB_MECHANISMS(X)                                                                                               \
    X(occ, "outlier clamping and compensation")                                                                        \
    X(hcp, "hot-channel patch")                                                                                        \
    X(outcontrol, "outlier channels in MXFP8")                                                                         \
    X(qema, "weights rounded by their moving average")                                                                 \
    X(delayed, "dY under a scale of the steps before")                                                                 \
    X(dge, "differentiable gradient estimator")                                                                        \
    X(oscireset, "reset of oscillating weights")                                                                       \
    X(qramping, "weights that oscillate are updated less often")                                                       \
    X(quest, "gradients through the rotation and the clipping of the forward pass")

/* A flag says which are there: has_occ, occ, has_hcp, hcp, ... */
typedef struct nb_mechanism_set {
#define NB_MECHANISM_MEMBERS(name, about)                                                                              \
    bool has_##name;                                                                                                   \
    nb_##name name;
    NB_MECHANISMS(NB_MECHANISM_MEMBERS)
#undef NB_MECHANISM_MEMBERS
} nb_mechanism_set;

/* What lives between steps, and in which numbers (arXiv:2310.18313 section 2; arXiv:2501.17116 section 4.1). Types that
 * do not reach as far as F32 have a scale a tensor. */
typedef struct nb_optimizer_state {
    nb_dtype m, v;       /* AdamW's moments: m any of F32 BF16 F16 E4M3 E5M2, v one of the first three */
    nb_dtype master;     /* of the weights of linear layers: F32 BF16 F16; all other parameters stay in F32 */
    nb_scale_rule scale; /* ABSMAX or POW2 */
} nb_optimizer_state;

/* How ranks sum gradients of 8 bits. */
typedef enum nb_exchange_rule {
    NB_EXCHANGE_OWN,   /* each sum under a scale made from it: the bits of any number of ranks are those of one */
    NB_EXCHANGE_FP8_LM /* under one scale for all ranks, with a factor mu that follows what saturates (arXiv:2310.18313)
                        */
} nb_exchange_rule;
typedef struct nb_exchange {
    nb_exchange_rule rule;
    double mu;        /* at the first sum; 0: 1 / sqrt(ranks) */
    double saturated; /* share of a sum's numbers above which mu is halved */
    int64_t steps;    /* in which it doubles elsewhere */
} nb_exchange;
typedef struct nb_gradient_store {
    nb_dtype format; /* of a micro-batch and of their sums; F32 BF16 F16 E4M3 E5M2 */
    nb_scale_rule scale;
    nb_exchange exchange;
} nb_gradient_store;

typedef struct nb_recipe {
    char name[NB_NAME_SIZE];
    char family[NB_NAME_SIZE]; /* the work that it belongs to, "TetraJet" */
    char about[256];
    char paper[NB_NAME_SIZE];
    nb_keep keep;
    nb_late_switch late_switch;
    nb_policy policy;
    nb_operand_rule roles[NB_ROLE_COUNT];
    nb_dtype quantize_from; /* what W's operands are made of: F32, the masters; BF16, a copy of them */
    nb_mechanism_set mechanisms;
    nb_optimizer_state optimizer_state;
    nb_gradient_store gradients;
    nb_attention_rule attention; /* nibble/backend.h */
} nb_recipe;

/* One linear layer's part of a recipe. */
typedef struct nb_plan {
    bool quantized;     /* false: all three GEMMs in BF16 */
    const char *reason; /* why it is not: "recipe is bf16", "keep.modules: lm_head", "keep.last_blocks", ...; static */
    nb_operand_rule roles[NB_ROLE_COUNT]; /* resolved: `from` without requantize carries the source's quantizer */
    nb_dtype quantize_from;               /* as the recipe's */
    nb_mechanism_set mechanisms;          /* none where not quantized */
} nb_plan;

/* Reads a recipe by name (searched in `recipes_dir`) or by path. Messages carry file and line. */
NB_API nb_status nb_recipe_load(const char *name_or_path, const char *recipes_dir, nb_recipe *out, nb_error *err);

/* Every GEMM in BF16. */
NB_API nb_recipe nb_recipe_bf16(void);

/* The same for programs that do not lay out the record themselves (other languages): in memory of the library, to be
 * given back by nb_recipe_close (NULL is allowed). */
NB_API nb_status nb_recipe_open(const char *name_or_path, const char *recipes_dir, nb_recipe **out, nb_error *err);
NB_API void nb_recipe_close(nb_recipe *recipe);

/* Writes the recipe with every default as a recipe file, at most `size` bytes with the final 0; returns how long the
 * text is without it, as snprintf does; 0 where memory ran out. */
NB_API size_t nb_recipe_text(const nb_recipe *recipe, char *text, size_t size);

/* Reads "{format: nvfp4, block: 16x16, round: stochastic}", as nb_quantizer_text writes it, or an alias: bf16, nvfp4,
 * nvfp4-2d, nvfp4-outer128, mxfp4, mxfp8, fp4-row, fp4-tensor. What is not said takes the format's default. */
NB_API nb_status nb_quantizer_parse(const char *text, nb_quantizer *out, nb_error *err);

/* What the operand of a role is quantized by: of `from` alone the source's. */
NB_API nb_quantizer nb_recipe_quantizer(const nb_recipe *recipe, nb_role role);

/* Resolves it for the module `name` ("layers.3.self_attn.q_proj", "lm_head") of block `block` (-1: outside the blocks)
 * in a model of `blocks` blocks. */
NB_API nb_status nb_recipe_plan(const nb_recipe *recipe, const char *name, int32_t block, int32_t blocks, nb_plan *out,
                                nb_error *err);

/* Points in time: what a recipe means in a run of `steps` optimizer steps. */

/* A share below 1 becomes a step, rounded up; anything else is one. */
NB_API int64_t nb_step_of(double point, int64_t steps);

typedef struct nb_outcontrol_times {
    int64_t start;  /* first step whose norms count */
    int64_t choice; /* first step that runs with chosen channels: they are chosen right after the one before it */
} nb_outcontrol_times;
NB_API nb_outcontrol_times nb_outcontrol_when(const nb_outcontrol *how, int64_t steps);

typedef struct nb_oscireset_times {
    int64_t start; /* a whole number of periods, so that no window begins without its snapshot */
    int64_t period, window;
} nb_oscireset_times;
NB_API nb_oscireset_times nb_oscireset_when(const nb_oscireset *how, int64_t steps);

/* Whether the late switch has come at `step` (0-based) of `steps`; never where `steps` is 0, unknown. */
NB_API bool nb_recipe_switched(const nb_recipe *recipe, int64_t step, int64_t steps);

typedef struct nb_qramping_times {
    int64_t every; /* steps */
    int32_t most;
} nb_qramping_times;
NB_API nb_qramping_times nb_qramping_when(const nb_qramping *how, int64_t steps);

/* Refuses a recipe that cannot be carried out in so many steps. */
NB_API nb_status nb_recipe_check_steps(const nb_recipe *recipe, int64_t steps, nb_error *err);

/* True, and a sentence that says so, where a mechanism starts too late to act. */
NB_API bool nb_recipe_idles(const nb_recipe *recipe, int64_t steps, char *text, size_t size);

/* How many of the first steps two recipes train alike, bit for bit: 0 where they differ from the start, `steps` where
 * they do not differ in this run. More than 0 where they differ only in what starts later: late switch, OutControl,
 * OsciReset. */
NB_API int64_t nb_recipe_alike_steps(const nb_recipe *a, const nb_recipe *b, int64_t steps);

#ifdef __cplusplus
}
#endif
#endif
