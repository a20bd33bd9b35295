/* operand.h: what the files that make operands share: what an operand holds, and which makings are done at once. */
#ifndef NI_BACKEND_CUDA_OPERAND_H
#define NI_BACKEND_CUDA_OPERAND_H

#include "backend/cuda/cuda.h"
#include "backend/cuda/quantize.h"
#include "backend/cuda/quantize_remade.h"
#include "backend/cuda/quantize_split.h"
#include "format/vector_scales.h"

static inline size_t ni_cuda_rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* ---- operand_layout.c ---- */

/* A sentence if `what` reads codes that were not kept. */
nb_status ni_cuda_check_coded(const nb_operand *o, const char *what, nb_error *err);

/* What NI_CUDA_BYTES says, from the codes of one or two MXFP4 operands; `cleared`: of their counts of rows that are not
 * exact (mx_bytes.h). */
nb_status ni_cuda_fill_mx(nb_backend *be, nb_operand *const *operands, int count, bool cleared, nb_error *err);

/* ---- pow2.c: operands under powers of two, for units of 8 bits; their form is NI_CUDA_POW2 ---- */

/* Whether it is made, or turned, to be multiplied so. */
bool ni_cuda_goes_as_pow2(nb_backend *be, const nb_operand *o);
/* What a product reads, of codes that are there. */
nb_status ni_cuda_fill_pow2(nb_backend *be, const nb_operand *const *operands, int count, nb_error *err);
/* 8-bit codes of BF16 numbers whose maximum is known, and what a product reads of them. */
nb_status ni_cuda_make_pow2_numbers(nb_backend *be, const ni_cuda_double_source *from, const uint32_t *amax,
                                    const nb_operand *out, nb_error *err);
/* 8-bit codes of four-bit ones, and what a product reads of them, NI_CUDA_LIST_MOST at most; whether that can be. */
bool ni_cuda_recodes_pow2(nb_backend *be, const ni_source *source, const ni_making *making);
nb_status ni_cuda_recode_pow2(nb_backend *be, const nb_operand *const *from, const ni_making *const *makings, int count,
                              nb_error *err);
/* `out`, turned, reads what lies with `from`; false: it does not. */
bool ni_cuda_borrow_pow2(nb_backend *be, nb_operand *out, const nb_operand *from);
/* The operand whose memory it reads, which is turned where that was borrowed. */
nb_operand ni_cuda_pow2_as_made(const nb_operand *o);
nb_status ni_cuda_multiply_pow2(nb_backend *be, const nb_mat *c, const nb_operand *a, const nb_operand *b,
                                bool accumulate, nb_error *err);
/* C = a sum of such products, of NI_CUDA_JOINED_MOST terms at most; false: it cannot be one contraction. `room` is
 * [rows, cols], `found` a word. */
nb_status ni_cuda_multiply_pow2_joined(nb_backend *be, const nb_mat *c, const ni_term *terms, int32_t count,
                                       float *room, uint32_t *found, bool *done, nb_error *err);

/* The same for units of BF16, which hold a four-bit code times a power of two as well: scales of rows go into its values
 * and nothing is left for behind the sum (NI_CUDA_CARRIED); those of columns are there anyhow. */
bool ni_cuda_is_carried(nb_backend *be, const nb_operand *o);
/* `out`, turned, reads the values of `from`, which hold all scales; false: it does not. */
bool ni_cuda_borrow_carried(nb_backend *be, nb_operand *out, const nb_operand *from);

/* The values as they lie in its own rows. */
static inline nb_mat ni_cuda_value_matrix(const nb_operand *o) {
    return nb_mat_of(ni_cuda_values_of(o), NB_BF16, o->rows, o->cols);
}

/* The same of an operand whose values lie across, [cols, rows]: rows of whole vectors. */
static inline nb_mat ni_cuda_across_matrix(const nb_operand *o) {
    nb_mat values = nb_mat_of(ni_cuda_values_of(o), NB_BF16, o->cols, o->rows);
    values.stride = (o->rows + 7) / 8 * 8;
    return values;
}

/* The values hold everything: they are multiplied by plain numbers, and have other scales than one, which stays outside
 * of that product too. */
static inline bool ni_cuda_is_whole_valued(const nb_operand *o) {
    return nb_quantizer_is_bf16(&o->other) && !ni_has_tensor_scale(&o->quantizer);
}

/* ---- operand.c ---- */

/* A sentence if operands cannot be made of it. */
nb_status ni_cuda_check_source(const ni_source *source, nb_error *err);

/* ---- quantizers and noise ---- */

static inline bool ni_cuda_has_tensor_outer(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_E4M3 && q->outer == NB_OUTER_TENSOR;
}

/* As nb_mat.turned_amax has it. */
static inline bool ni_cuda_is_turned_as_known(const nb_quantizer *q) {
    return q->hadamard_size == 16 && q->hadamard_signs == NB_SIGNS_FIXED && q->hadamard_round_bf16;
}

static inline ni_cuda_noise ni_cuda_noise_of(const nb_noise *noise) {
    ni_cuda_noise n = {0};
    if (noise)
        n = (ni_cuda_noise){noise->seed, noise->tensor, noise->signs, noise->clock};
    return n;
}

/* ---- operand_once.c ---- */

/* MULTIPLIED: by a kernel that multiplied all pairs of tensor scales anew (alphas.h). */
typedef enum ni_cuda_made { NI_CUDA_NOT_MADE, NI_CUDA_MADE, NI_CUDA_MULTIPLIED } ni_cuda_made;

/* Makes of this source what a kernel makes of one reading; the rest is the caller's. */
nb_status ni_cuda_make_at_once(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                               ni_cuda_made *done, nb_error *err);
/* The operand as kernels of tiles see it, whose tensor scale is that of the step before, or known from who writes the
 * numbers; false: they do not make it, or it is not known. */
bool ni_cuda_scaled_copy(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_tile_copy *copy);
/* A weight in tiles, or chosen columns, as the kernels take many of them (quantize.h); false: they do not
 * take it. A piece's `minus` has its codes. */
bool ni_cuda_list_weight(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_weight *out);
nb_status ni_cuda_make_weights(nb_backend *be, const ni_cuda_weight *weights, int count, nb_error *err);
bool ni_cuda_lends_codes(const nb_operand *from, nb_qtensor *out); /* nb_backend's */
bool ni_cuda_list_piece(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_piece *piece,
                        ni_cuda_tile_copy *copy);
/* A copy that kernels of tiles make, rows or columns, and chosen columns that theirs do. */
bool ni_cuda_is_tile_copy(const ni_source *source, const ni_making *making);
bool ni_cuda_is_piece(const ni_source *source, const ni_making *making);
/* Where it goes; `coded`: with its codes. */
ni_cuda_tile_copy ni_cuda_tile_copy_of(nb_backend *be, const ni_making *making, bool coded);
/* The maximum of the numbers is known: its scale is made from it. */
bool ni_cuda_knows_amax(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_tile_copy *copy);
/* Somebody reads codes, not values alone. */
bool ni_cuda_are_codes_read(nb_backend *be, const ni_making *making);

static inline bool ni_cuda_is_sixteens(int64_t n) {
    return n > 0 && n % 16 == 0;
}

/* MXFP8 to nearest. */
static inline bool ni_cuda_is_mxfp8(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E4M3 && q->scale_type == NB_SCALE_E8M0 && q->block_rows == 1 &&
           (q->rule == NB_RULE_FLOOR || q->rule == NB_RULE_CEIL || q->rule == NB_RULE_CEIL_LOG2) &&
           q->round == NB_ROUND_EVEN;
}

/* Rows in double blocks, as ni_cuda_quantize_double_rows takes them beside the first of its list (NULL: it would be the
 * first). */
bool ni_cuda_list_double(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_double_source *from,
                         ni_cuda_tile_copy *copy, const ni_cuda_tile_copy *first);

/* ---- operand_split.c: chosen columns in two formats ---- */

/* The first one or two of these makings, which one launch makes; 0: none. */
int32_t ni_cuda_list_split(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                           ni_cuda_split *out);
/* NI_CUDA_SPLITS at most, of numbers of one type. */
nb_status ni_cuda_make_splits(nb_backend *be, const ni_cuda_split *splits, int count, nb_error *err);

/* ---- operand_remade.c: many made anew of codes, the other way up ---- */

/* False: it is not made so, by which nothing is changed. */
bool ni_cuda_list_remade(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_remade *out);
nb_status ni_cuda_make_remade(nb_backend *be, const ni_cuda_remade *list, int count, nb_error *err);

/* ---- operand_vectors.c: under FP32 scales of rows, of columns, of the whole ---- */

bool ni_cuda_is_vector_copy(const ni_source *source, const ni_making *making, ni_cuda_double_source *out);
nb_status ni_cuda_make_vector(nb_backend *be, const ni_source *source, const ni_cuda_double_source *from,
                              const ni_making *making, nb_error *err);
/* A weight in rows, and one under a scale a column, as the kernels take many of them; false: they do not take it. */
bool ni_cuda_list_rows(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_double_source *from,
                       ni_cuda_vector *v);
bool ni_cuda_takes_kept(const nb_quantizer *q, const ni_scaled *kept, int64_t rows, int64_t cols); /* nb_backend's */
bool ni_cuda_list_columns(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_columns *c);
/* NI_CUDA_LIST_MOST at most; `out`: the operands. */
nb_status ni_cuda_make_columns(nb_backend *be, const ni_cuda_columns *weights, const nb_operand *const *out, int count,
                               nb_error *err);
nb_status ni_cuda_make_column(nb_backend *be, const ni_cuda_columns *weight, const nb_operand *out, nb_error *err);

/* ---- operand_patched.c ---- */

/* A row copy and pieces of chosen columns of it, from one reading, where they can be, further operands like it, and the
 * column copy that follows them: the first *made makings. */
nb_status ni_cuda_make_patched(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                               int32_t *made, nb_error *err);

#endif
