/* operands.h: operands and matrices as cases place and make them on the backend under trial. */
#ifndef NI_TEST_OPERANDS_H
#define NI_TEST_OPERANDS_H

#include "trial.h"

/* ---- quantizers ---- */

nb_quantizer unrotated(const nb_quantizer *q); /* the other copy of a rotated operand, as it lies */

/* Shapes among which a case shares out quantizers; where they are few, the first ones are all that such a run makes. */
enum { PARTS = 6 };
int32_t parts_of(const trial *t);

/* ---- operands ---- */

/* Room for an operand that a product with `other` will read. */
nb_operand placed(trial *t, const nb_quantizer *q, int64_t rows, int64_t cols, ni_side side, const nb_quantizer *other);

void make(trial *t, const ni_source *source, const ni_making *makings, int32_t count);

/* The same, made of numbers, with the noise of noise_at where it asks for some. */
nb_operand made(trial *t, const nb_quantizer *q, const nb_mat *from, ni_side side, const nb_quantizer *other);

/* Its codes and scales in the canonical layout become a result. */
void keep_operand(trial *t, const char *what, const nb_operand *o);

nb_mat uploaded(trial *t, data_kind kind, nb_dtype type, int64_t rows, int64_t cols, int64_t stride);

/* Under the format of q, neither rotated nor random: its ones have few bits in what a product reads; the last rows of
 * one of n, or all of it. */
nb_operand some_of_identity(trial *t, const nb_quantizer *q, int64_t rows, int64_t n, ni_side side);
nb_operand identity(trial *t, const nb_quantizer *q, int64_t n, ni_side side);

/* A one in each of n rows, apart from each other; n = cols: an identity. */
nb_operand picker(trial *t, const nb_quantizer *q, int64_t n, int64_t cols, ni_side side, const nb_quantizer *other);

/* All that a product reads of an operand of columns. */
void keep_columns(trial *t, const char *what, const nb_quantizer *left, const nb_operand *right);
/* Whatever two operands of one shape hold: the same. */
void expect_same_memory(trial *t, const char *what, const nb_operand *a, const nb_operand *b);

/* ---- numbers ---- */

/* Columns of normal numbers times 2^100, 2^-90, 1 and, where sums of them are not compared, 2^-130; there are an Inf
 * and a NaN among them. */
nb_mat wild_columns(trial *t, nb_dtype type, int64_t rows, int64_t cols, int64_t stride, bool compared);

const int32_t *picked(trial *t, int count); /* [count] columns, ascending, the last below 3 * count */

/* [count] all columns, in an order of their own; count is no multiple of 11. */
const int32_t *shuffled(trial *t, int64_t count);
/* The same order of first + second columns, the second ones from place `apart` of the list on. */
const int32_t *two_lists(trial *t, int64_t first, int64_t apart, int64_t second);

/* What data_matrix draws, as an input of products: by magnitudes where these are asked for, as `uploaded` is not. */
nb_mat data_mat(trial *t, data_kind kind, nb_dtype type, int64_t rows, int64_t cols);

/* N(0, 1), exact in BF16; the same of it. */
nb_mat normal_mat(trial *t, nb_dtype type, uint32_t stream, int64_t rows, int64_t cols);

/* The largest magnitude of data_matrix in BF16, as bits of an FP32. */
uint32_t largest_bits(data_kind kind, int64_t rows, int64_t cols, int64_t stride);

/* In how many bytes of backend memory two buffers differ. */
int32_t differing(trial *t, const void *a, const void *b, size_t bytes);

#endif
