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
#ifndef NI_LINEAR_OPERAND_H
#define NI_LINEAR_OPERAND_H

#include "backend/table.h"
#include "linear/scratch.h"
#include "nibble/pass.h"
#include "nibble/recipe.h"

typedef enum ni_gemm { NI_GEMM_FPROP, NI_GEMM_DGRAD, NI_GEMM_WGRAD, NI_GEMM_COUNT } ni_gemm;
const char *ni_gemm_name(ni_gemm gemm); /* "fprop", ... */
static inline ni_gemm ni_role_gemm(nb_role role) {
    return role <= NB_FPROP_W ? NI_GEMM_FPROP : role <= NB_DGRAD_W ? NI_GEMM_DGRAD : NI_GEMM_WGRAD;
}

struct ni_linear;
struct ni_linear_call;
struct ni_linear_group;

/* Whose random bits an operand draws, and under which name the lens sees it. */
typedef struct ni_operand_name {
    const char *module;
    nb_role role;
    uint32_t tensor; /* nb_name_hash(module, role); `signs` where the recipe says noise: shared */
    uint32_t signs;  /* nb_name_hash shared by both operands of the GEMM */
} ni_operand_name;

typedef enum ni_keeper {
    NI_FOR_LAYER,    /* scratch, until the layer's products are done */
    NI_FOR_PASS,     /* scratch, until the pass ends: what layers share, and the terms of dX */
    NI_FOR_BACKWARD, /* the group, from the forward pass to the end of the backward pass */
    NI_UNTIL_MOVED   /* the group, until the master moves; what draws random bits, until the next micro-batch */
} ni_keeper;

/* `outer: delayed` (outer_delayed.c): words of the operand in backend memory; NULL: it is not. */
typedef struct ni_history {
    float *past;          /* [1] what its scale is made from */
    uint32_t *now;        /* [1] what the next step's will be made from */
    const int64_t *steps; /* [1] host: how many made it so far; past is known after the first */
    bool seen;            /* now is filled */
} ni_history;

typedef struct ni_cached_operand {
    nb_operand_rule rule;
    ni_operand_name name;
    int32_t layer;                          /* of the group: whose sizes, names and mechanisms it has */
    const struct ni_cached_operand *source; /* of a `from` rule; NULL: numbers */
    const struct ni_cached_operand *fold;   /* whose row scales are multiplied into the numbers first; NULL */
    uint32_t mechanisms;                    /* that prepare or replace X for it */
    ni_keeper keeper;
    void *memory; /* of the group, or of who laid it (early); NULL: in scratch, or where the numbers are */
    bool early;   /* has room of its own, to be made with those of other layers before a backward pass (ready.c) */
    bool reread;  /* other operands, or mechanisms, start from it */
    bool random;  /* draws bits */
    bool fresh;
    bool shown;   /* the lens has seen it in this pass: weights, which outlive passes */
    bool legible; /* it was made for a lens: its codes are there */
    ni_history history;
    uint32_t made; /* how often: what is derived from it can tell whether it is old */
    nb_operand operand;
} ni_cached_operand;

/* An operand of a mechanism's own, made in the reading of the layer's operands that are made of the same numbers. */
typedef struct ni_beside {
    const nb_mat *numbers; /* NULL: there is none */
    ni_making making;
} ni_beside;

/* Makes those of the list that are stale, and what is to be made beside them (NULL: nothing). */
nb_status ni_operands_ready(const struct ni_linear_call *call, ni_cached_operand *const *list, int32_t count,
                            const ni_beside *beside, nb_error *err);
/* The operand of this role, as the layer reads it. */
nb_status ni_operand_ready(const struct ni_linear_call *call, struct ni_linear *layer, nb_role role,
                           const nb_operand **out, nb_error *err);

/* An operand that the group keeps, of codes that were made elsewhere. */
nb_status ni_operand_take(const struct ni_linear_call *call, ni_cached_operand *o, const nb_qtensor *codes,
                          nb_error *err);

/* Describes all operands of a group and places the memory of those that it keeps. */
nb_status ni_operands_layout(struct ni_linear_group *group, nb_error *err);
void ni_operands_free(struct ni_linear_group *group);

/* What a layer's GEMM reads in this role: BF16 where it reads plain numbers. */
nb_quantizer ni_operand_quantizer(const struct ni_linear *layer, nb_role role);
/* The same by the plan alone. The same codes read the other way have their block turned (rows become columns); with
 * `via: fold` their scales have gone into the other operand and what is left has no scale; blocks that cannot be turned
 * (1x16) leave BF16, for `via: bf16` decodes them. */
nb_quantizer ni_role_quantizer(const nb_plan *plan, nb_role role);

/* ---- for mechanisms that make operands of their own ---- */

/* An operand in scratch, placed and described for one of the layer's roles; the quantizer is the operand's own. */
typedef struct ni_operand_request {
    const nb_quantizer *quantizer, *other;
    int64_t rows, cols;
    ni_side side;
    bool until_pass_ends; /* else until the layer's products are done */
    bool multiplied_only; /* nobody rereads it (nb_operand.reread) but for a lens, of which the making tells */
} ni_operand_request;
nb_status ni_operand_place(const struct ni_linear_call *call, const ni_operand_request *request, nb_operand *out,
                           nb_error *err);

/* An operand of numbers that are about to come: its memory, and its making, which keeps `noise`. The caller says when
 * it is made. */
nb_status ni_operand_begin(const struct ni_linear_call *call, ni_cached_operand *o, const nb_mat *numbers,
                           nb_noise *noise, ni_making *out, nb_error *err);

/* wgrad.x that the forward pass at hand makes from the same reading of X as its own operand, and the group keeps. */
bool ni_comes_early(const struct ni_linear_call *call, const ni_cached_operand *o);

/* Its noise. */
nb_noise ni_noise_of(const nb_pass *pass, const ni_operand_name *name);

/* What the lens is shown of an operand: its codes as they lie, or converted to the canonical layout. */
typedef struct ni_showing {
    const ni_operand_name *name;
    const nb_mat *source;   /* the numbers that it was made of; NULL where `from` is set */
    const nb_operand *from; /* the operand whose decoded values it was made of */
    bool transposed;
    const nb_operand *operand; /* NULL: the GEMM reads `source` in BF16 */
    const nb_quantize_stats *stats;
} ni_showing;
nb_status ni_operand_show(const struct ni_linear_call *call, const ni_showing *showing, nb_error *err);
/* At operands of this role; true while scratch is measured. */
bool ni_lens_looks(const struct ni_linear_call *call, nb_role role);
/* Whether anything but weights and numbers that mechanisms tell is looked at: what makes X or dY and operands of them
 * at once then makes one after the other, and weights are made where they are read. */
bool ni_lens_is_near(const nb_pass *pass);
/* [count] in scratch: where quantizers are to count; NULL where nobody asks. */
nb_status ni_counted(const struct ni_linear_call *call, int32_t count, nb_quantize_stats **out, nb_error *err);

#endif
