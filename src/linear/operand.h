/* operand.h: one operand of one GEMM, in codes or in plain numbers, and the product of two.
 *
 * An operand is [rows, contraction] whatever its memory looks like: codes are stored so; plain numbers may also be
 * stored [contraction, rows], which is how a weight serves dgrad and an activation serves wgrad without a copy.
 */
#ifndef NB_LINEAR_OPERAND_H
#define NB_LINEAR_OPERAND_H

#include "backend/table.h"
#include "linear/scratch.h"
#include "nibble/pass.h"
#include "nibble/recipe.h"

typedef struct nb_layer_operand {
    bool quantized;
    nb_qtensor codes; /* quantized: [rows, contraction] */
    nb_mat plain;     /* else, in act */
    bool transposed;  /* `plain` is stored [contraction, rows] */
} nb_layer_operand;

/* Whose random bits an operand draws, and under which name the lens sees it. */
typedef struct nb_operand_name {
    const char *module;
    nb_role role;
    uint32_t tensor; /* nb_name_hash(module, role); `signs` where the recipe says noise: shared */
    uint32_t signs;  /* nb_name_hash shared by both operands of the GEMM */
} nb_operand_name;

/* Quantizes `source` (act or F32; operand row r is source column r if `transpose`) into `memory` of
 * nb_quantized_bytes(). A BF16 quantizer leaves the numbers where they are, or rounds them into `memory` if they are
 * not of type act. */
nb_status nb_operand_quantize(nb_backend *be, const nb_pass *pass, const nb_operand_name *name, const nb_quantizer *q,
                              const nb_mat *source, bool transpose, void *memory, nb_layer_operand *out, nb_error *err);
size_t nb_quantized_bytes(const nb_backend *be, const nb_quantizer *q, nb_dtype source, int64_t rows, int64_t cols);

/* Tells the pass's lens, if there is one. `quantized` NULL: the GEMM reads `source` in BF16. */
void nb_operand_show(nb_backend *be, const nb_pass *pass, const nb_operand_name *name, const nb_mat *source,
                     const nb_qtensor *requantized_from, bool transposed, const nb_qtensor *quantized,
                     const nb_quantize_stats *stats);

/* Makes the operand of a `from` rule out of the source role's operand, which it transposes: quantizes the decoded
 * values again, or takes the same codes (packed: as codes, else decoded and rounded to act). */
nb_status nb_operand_derive(nb_backend *be, const nb_pass *pass, const nb_operand_name *name,
                            const nb_operand_rule *rule, bool packed, const nb_layer_operand *source, void *memory,
                            nb_layer_operand *out, nb_error *err);
/* rows, cols are the derived operand's. */
size_t nb_derived_bytes(const nb_backend *be, const nb_operand_rule *rule, bool packed, int64_t rows, int64_t cols);

/* The quantizer that the derived operand's codes carry. The same codes read the other way have their block turned (rows
 * become columns); with `via: fold` their scales have gone into the other operand and what is left has no scale;
 * blocks that cannot be turned (1x16) leave BF16, for `via: bf16` decodes them. */
nb_quantizer nb_derived_quantizer(const nb_operand_rule *rule);

/* C = (accumulate ? C : 0) + A B^T. Two quantized operands multiply as codes if the backend has a kernel for the pair;
 * otherwise what is quantized is decoded, rounded to act, and multiplied as plain numbers. */
nb_status nb_multiply(nb_backend *be, nb_scratch *scratch, const nb_mat *c, const nb_layer_operand *a,
                      const nb_layer_operand *b, bool accumulate, nb_error *err);
/* True if the pair multiplies as codes. */
bool nb_multiplies_codes(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b);
/* Scratch that a product of [m, k] by [n, k] takes at most. */
size_t nb_multiply_scratch(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b, int64_t m, int64_t n,
                           int64_t k);

/* Decoded numbers of an operand in act; plain operands are returned as they are. */
nb_status nb_operand_decode(nb_backend *be, nb_scratch *scratch, const nb_layer_operand *operand, nb_layer_operand *out,
                            nb_error *err);

#endif
