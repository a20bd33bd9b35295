/* operand_parts.h: what the reference and the CPU share of operands: where codes lie in an operand's memory, which
 * requests make no sense, and copies of whole blocks. All of it is exact.
 *
 * An operand's memory begins with a head, then the canonical codes and scales; a backend may put more behind them.
 */
#ifndef NI_BACKEND_REF_OPERAND_PARTS_H
#define NI_BACKEND_REF_OPERAND_PARTS_H

#include "backend/ref/ref.h"

typedef struct ni_operand_head {
    float amax;   /* that the tensor's scale was made from: pieces that are made under it ask; NaN: nobody knows */
    int32_t form; /* what stands behind the canonical part, in the backend's own words; 0: nothing that is good */
} ni_operand_head;

enum { NI_HEAD_BYTES = 64 };

static inline ni_operand_head *ni_head_of(const nb_operand *o) {
    return o->memory;
}

static inline bool ni_is_plain(const nb_operand *o) {
    return nb_quantizer_is_bf16(&o->quantizer);
}

/* Head and canonical part. */
size_t ni_canonical_bytes(const nb_operand *o);
nb_qtensor ni_codes_of(const nb_operand *o);
bool ni_lends_codes(const nb_operand *from, nb_qtensor *out); /* nb_backend's, where they always lie there */

/* The codes without what stays outside of the sum: scales of rows and of the tensor. */
nb_qtensor ni_inner_codes(const nb_qtensor *t);

/* The one scale of a tensor's codes, which stays outside of their product with plain numbers; NULL: there is none, and
 * such a product reads them decoded, scales and all. */
const float *ni_scale_beside_numbers(const nb_operand *o);

/* FP32 scales of the rows; NULL with a sentence where the operand has none. */
nb_status ni_row_scales_of(const nb_operand *o, const float **scales, nb_error *err);

/* Rows and columns that a source has, `columns` taken out. */
void ni_source_shape(const ni_source *source, int64_t *rows, int64_t *cols);
/* True if quantizing reads `numbers` or `operand` as they lie. */
bool ni_source_is_simple(const ni_source *source);

/* The double block, as a GPU's kernels make it. */
bool ni_is_double(const nb_quantizer *q);
/* nb_backend.remakes of a GPU: double blocks of double blocks, of whose codes nobody reads, many a launch. */
bool ni_remakes_double(const nb_operand *out, const nb_operand *from);

/* What must hold before an operand, or a piece of one, is made. */
nb_status ni_check_making(const ni_source *source, const ni_making *making, nb_error *err);
/* Refuses numbers under a scale: who does not read it would give the codes of other numbers. */
nb_status ni_check_unscaled(const ni_source *source, nb_error *err);
nb_status ni_check_decode(const nb_mat *out, const nb_operand *from, bool transpose, const ni_columns *columns,
                          nb_error *err);
nb_status ni_check_canonical(const nb_qtensor *out, const nb_operand *from, nb_error *err);
/* A product of two operands as they are, into all of C. */
bool ni_term_is_simple(const ni_term *t);
nb_status ni_check_terms(const nb_mat *c, const ni_term *terms, int32_t count, nb_error *err);

/* The refusal of a sum that begins with what is added to others. */
nb_status ni_fail_first_term(nb_error *err);
/* Row r of a matrix plus that of the outer products: each product and each sum rounded. */
void ni_add_outer_row(float *row, int64_t cols, const ni_outer *outer, int64_t r);

/* The quantizer of a making, and whether it is all of its operand. */
const nb_quantizer *ni_making_quantizer(const ni_making *making);
int64_t ni_making_columns(const ni_source *source, const ni_making *making);
bool ni_making_is_whole(const ni_source *source, const ni_making *making);

/* bin_widths and round_by of codes. */
void ni_bin_widths_of(float *out, const nb_qtensor *codes);
void ni_round_codes_by(const nb_qtensor *codes, const float *w, const float *guide);

/* Codes and scales of `piece` into the columns of `out` from `at` on, which are whole blocks. */
void ni_put_piece(const nb_qtensor *out, int64_t at, const nb_qtensor *piece);
void ni_copy_codes(const nb_qtensor *out, const nb_qtensor *from);

#endif
