/* operand.h: the operands of a linear layer's three GEMMs. X, W and dY become operands in one way:
 *
 *     rule       what the recipe says of the role: a quantizer, or another role's operand
 *     name       whose random bits it draws, and under which name the lens sees it
 *     source     the operand that it is made of (`from`), or numbers: X as mechanisms prepare it, the master, dY
 *     keeper     who holds its memory, and so when it gets stale
 *
 * A pass says which operands its products read (pass.c); those that are stale are made then, and two of one matrix in
 * one reading of it.
 */
#ifndef NB_LINEAR_OPERAND_H
#define NB_LINEAR_OPERAND_H

#include "backend/table.h"
#include "linear/scratch.h"
#include "nibble/pass.h"
#include "nibble/recipe.h"

typedef enum nb_gemm { NB_GEMM_FPROP, NB_GEMM_DGRAD, NB_GEMM_WGRAD, NB_GEMM_COUNT } nb_gemm;
const char *nb_gemm_name(nb_gemm gemm); /* "fprop", ... */
nb_gemm nb_role_gemm(nb_role role);

struct nb_linear;
struct nb_linear_call;
struct nb_linear_group;

/* Whose random bits an operand draws, and under which name the lens sees it. */
typedef struct nb_operand_name {
    const char *module;
    nb_role role;
    uint32_t tensor; /* nb_name_hash(module, role); `signs` where the recipe says noise: shared */
    uint32_t signs;  /* nb_name_hash shared by both operands of the GEMM */
} nb_operand_name;

typedef enum nb_keeper {
    NB_FOR_LAYER,    /* scratch, until the layer's products are done */
    NB_FOR_PASS,     /* scratch, until the pass ends: what layers share, and the terms of dX */
    NB_FOR_BACKWARD, /* the group, from the forward pass to the end of the backward pass */
    NB_UNTIL_MOVED   /* the group, until the master moves; what draws random bits, until the next micro-batch */
} nb_keeper;

typedef struct nb_cached_operand {
    nb_operand_rule rule;
    nb_operand_name name;
    int32_t layer;                          /* of the group: whose sizes, names and mechanisms it has */
    const struct nb_cached_operand *source; /* of a `from` rule; NULL: numbers */
    const struct nb_cached_operand *fold;   /* whose row scales are multiplied into the numbers first; NULL */
    uint32_t mechanisms;                    /* that prepare or replace X for it */
    nb_keeper keeper;
    void *memory; /* of the group; NULL: in scratch, or where the numbers are */
    bool reread;  /* other operands, or mechanisms, start from it */
    bool random;  /* draws bits */
    bool fresh;
    bool shown;    /* the lens has seen it in this pass: weights, which outlive passes */
    uint32_t made; /* how often: what is derived from it can tell whether it is old */
    nb_operand operand;
} nb_cached_operand;

/* Makes those of the list that are stale. */
nb_status nb_operands_ready(const struct nb_linear_call *call, nb_cached_operand *const *list, int32_t count,
                            nb_error *err);
/* The operand of this role, as the layer reads it. */
nb_status nb_operand_ready(const struct nb_linear_call *call, struct nb_linear *layer, nb_role role,
                           const nb_operand **out, nb_error *err);

/* Describes all operands of a group and places the memory of those that it keeps. */
nb_status nb_operands_layout(struct nb_linear_group *group, nb_error *err);
void nb_operands_free(struct nb_linear_group *group);

/* What a layer's GEMM reads in this role: BF16 where it reads plain numbers. */
nb_quantizer nb_operand_quantizer(const struct nb_linear *layer, nb_role role);
/* The same by the plan alone. The same codes read the other way have their block turned (rows become columns); with
 * `via: fold` their scales have gone into the other operand and what is left has no scale; blocks that cannot be turned
 * (1x16) leave BF16, for `via: bf16` decodes them. */
nb_quantizer nb_role_quantizer(const nb_plan *plan, nb_role role);

/* ---- for mechanisms that make operands of their own ---- */

/* An operand in scratch, placed and described for one of the layer's roles; the quantizer is the operand's own. */
typedef struct nb_operand_request {
    const nb_quantizer *quantizer, *other;
    int64_t rows, cols;
    nb_side side;
    bool until_pass_ends; /* else until the layer's products are done */
} nb_operand_request;
nb_status nb_operand_place(const struct nb_linear_call *call, const nb_operand_request *request, nb_operand *out,
                           nb_error *err);

/* Its noise. */
nb_noise nb_noise_of(const nb_pass *pass, const nb_operand_name *name);

/* What the lens is shown of an operand. Its codes are converted to the canonical layout if it looks. */
typedef struct nb_showing {
    const nb_operand_name *name;
    const nb_mat *source;   /* the numbers that it was made of; NULL where `from` is set */
    const nb_operand *from; /* the operand whose decoded values it was made of */
    bool transposed;
    const nb_operand *operand; /* NULL: the GEMM reads `source` in BF16 */
    const nb_quantize_stats *stats;
} nb_showing;
nb_status nb_operand_show(const struct nb_linear_call *call, const nb_showing *showing, nb_error *err);
bool nb_lens_looks(const struct nb_linear_call *call); /* true while scratch is measured */
/* Where quantizers are to count, if anybody asked. */
nb_quantize_stats *nb_counted(const nb_pass *pass, nb_quantize_stats *stats);

#endif
