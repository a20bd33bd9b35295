/* recipe.h: a recipe file, checked and resolved.
 *
 * A recipe says for each of the six GEMM operands ("roles") of a linear layer how it is quantized, which layers stay in
 * BF16, and which mechanisms run. A plan is a recipe resolved for one linear layer of one model.
 */
#ifndef NIBBLE_RECIPE_H
#define NIBBLE_RECIPE_H

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
const char *nb_role_name(nb_role role); /* "fprop.x", ... */

/* What to do with scales that lie on the contraction axis (row scales in dgrad and wgrad). */
typedef enum nb_via {
    NB_VIA_NONE, /* scales do not lie on the contraction */
    NB_VIA_FOLD, /* fold them into the other operand before that is quantized */
    NB_VIA_BF16  /* decode and round the operand to BF16 */
} nb_via;

/* The rule for one role. */
typedef struct nb_operand_rule {
    bool from;              /* the value comes from another role's quantized operand, transposed where needed */
    nb_role source;         /* read when from */
    bool requantize;        /* from only: quantize the decoded operand again with `quantizer`; else the same codes */
    nb_via via;             /* from without requantize only */
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

/* From share `at` of the run on, forward and/or backward GEMMs run in BF16 (1.0 = never). */
typedef struct nb_late_switch {
    double at;
    bool forward, backward;
} nb_late_switch;

typedef struct nb_recipe {
    char name[NB_NAME_SIZE];
    char about[256];
    char paper[NB_NAME_SIZE];
    nb_keep keep;
    nb_late_switch late_switch;
    nb_operand_rule roles[NB_ROLE_COUNT];
} nb_recipe;

/* One linear layer's part of a recipe. */
typedef struct nb_plan {
    bool quantized;     /* false: all three GEMMs in BF16 */
    const char *reason; /* why it is not: "recipe is bf16", "keep.modules: lm_head", "keep.last_blocks", ...; static */
    nb_operand_rule roles[NB_ROLE_COUNT]; /* resolved: `from` without requantize carries the source's quantizer */
} nb_plan;

/* Reads a recipe by name (searched in `recipes_dir`) or by path. Messages carry file and line. */
nb_status nb_recipe_load(const char *name_or_path, const char *recipes_dir, nb_recipe *out, nb_error *err);

/* Resolves it for the module `name` ("layers.3.self_attn.q_proj", "lm_head") of block `block` (-1: outside the blocks)
 * in a model of `blocks` blocks. */
nb_status nb_recipe_plan(const nb_recipe *recipe, const char *name, int32_t block, int32_t blocks, nb_plan *out,
                         nb_error *err);

#ifdef __cplusplus
}
#endif
#endif
