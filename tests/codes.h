/* codes.h: operations on codes in the canonical layout, each by way of operands, as the table has them. Every function
 * places operands in memory of the backend and releases it again.
 */
#ifndef NI_TEST_CODES_H
#define NI_TEST_CODES_H

#include "backend/table.h"

#ifndef UNUSED
#define UNUSED __attribute__((unused))
#endif

/* An operand that is these codes, to be multiplied by `other`. */
static UNUSED nb_status operand_of_codes(nb_backend *be, const nb_qtensor *codes, const nb_quantizer *other,
                                         ni_side side, nb_operand *out, nb_error *err) {
    *out = (nb_operand){.quantizer = codes->quantizer,
                        .other = *other,
                        .rows = codes->rows,
                        .cols = codes->cols,
                        .side = side,
                        .reread = true};
    NB_TRY(ni_backend_take(be, be->ops->operand_bytes(be, out), "a test", &out->memory, err));
    nb_status status = be->ops->take_codes(be, out, codes, err);
    if (status != NB_OK)
        be->ops->release(be, out->memory);
    return status;
}

/* C = (accumulate ? C : 0) + A B^T; with `kept` what the product reads of B stays with it. */
static UNUSED nb_status multiply_codes(nb_backend *be, const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b,
                                       bool accumulate, bool kept, nb_error *err) {
    nb_operand left, right;
    NB_TRY(operand_of_codes(be, a, &b->quantizer, NI_LEFT, &left, err));
    nb_status status = operand_of_codes(be, b, &a->quantizer, kept ? NI_RIGHT : NI_LEFT, &right, err);
    if (status == NB_OK) {
        const ni_term term = {.a = &left, .b = &right};
        status = be->ops->multiply(be, c, &term, 1, accumulate, err);
        be->ops->release(be, right.memory);
    }
    be->ops->release(be, left.memory);
    return status;
}

#endif
