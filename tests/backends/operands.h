/* operands.h: operands and matrices as cases place and make them on the backend under trial. */
#ifndef NI_TEST_OPERANDS_H
#define NI_TEST_OPERANDS_H

#include "trial.h"

/* Room for an operand that a product with `other` will read. */
nb_operand placed(trial *t, const nb_quantizer *q, int64_t rows, int64_t cols, ni_side side, const nb_quantizer *other);

void make(trial *t, const ni_source *source, const ni_making *makings, int32_t count);

/* The same, made of numbers, with the noise of noise_at where it asks for some. */
nb_operand made(trial *t, const nb_quantizer *q, const nb_mat *from, ni_side side, const nb_quantizer *other);

/* Its codes and scales in the canonical layout become a result. */
void keep_operand(trial *t, const char *what, const nb_operand *o);

nb_mat uploaded(trial *t, data_kind kind, nb_dtype type, int64_t rows, int64_t cols, int64_t stride);

#endif
