/* multiply.h: what the files share that multiply: scratch, one side of a product, products side by side. */
#ifndef NI_BACKEND_CUDA_MULTIPLY_H
#define NI_BACKEND_CUDA_MULTIPLY_H

#include "backend/cuda/coded.h"
#include "backend/cuda/column_sums.h"
#include "backend/cuda/operand.h"
#include "backend/cuda/rows.h"

/* ---- multiply_side.c ---- */

/* Scratch of one call: the sum, a product beside it, and operands that are decoded for it. */
typedef struct ni_cuda_room {
    char *at, *end;
} ni_cuda_room;

void *ni_cuda_take(ni_cuda_room *r, size_t bytes); /* NULL: there is no more */
size_t ni_cuda_decoded_bytes(const nb_operand *o); /* that ni_cuda_side_of may take */

/* What multiplies a term as codes, and the scratch of it; BF16 and 0 where none does. */
ni_units ni_cuda_term_units(nb_backend *be, const nb_operand *a, const nb_operand *b, size_t *bytes);

/* One side of a product: what the tensor cores read, and what stays outside of their sum. */
typedef struct ni_cuda_side {
    nb_mat numbers;
    bool transposed;
    ni_cuda_outer outer;
} ni_cuda_side;

nb_status ni_cuda_side_of(nb_backend *be, ni_cuda_room *scratch, const nb_operand *o, const nb_operand *other,
                          ni_cuda_side *out, nb_error *err);

/* Both sides of a term for a kernel of ours, which multiplies its sum by one word. `bare`: nothing else waits to be
 * multiplied, neither scales of rows nor a factor of plain numbers beside another. */
typedef struct ni_cuda_sides {
    ni_cuda_side a, b;
    bool bare;
} ni_cuda_sides;

nb_status ni_cuda_sides_of(nb_backend *be, ni_cuda_room *scratch, const ni_term *t, ni_cuda_sides *out, nb_error *err);
/* That word, of sides that are bare; NULL: 1. */
nb_status ni_cuda_alpha_of(nb_backend *be, const ni_cuda_sides *sides, const float **alpha, nb_error *err);

/* ---- multiply_parted.c ---- */

/* Columns of a product's own matrix beside others, each of which is aligned as the library likes it. */
int64_t ni_cuda_apart(int64_t cols);
/* Terms that have columns of their own, as products side by side in one matrix, whose memory is to come; its width, 0 if
 * they cannot lie so. */
int64_t ni_cuda_begin_columns(const nb_mat *c, const ni_term *terms, int32_t count, bool accumulate,
                              ni_cuda_column_sum *s);
size_t ni_cuda_columns_bytes(const ni_cuda_column_sum *s);
nb_mat ni_cuda_columns_of_part(const ni_cuda_column_sum *s, int32_t part);

/* All of these sums by one launch, or none of them (*done). */
nb_status ni_cuda_multiply_parted(nb_backend *be, const ni_sum *products, int32_t count, bool *done, nb_error *err);

#endif
