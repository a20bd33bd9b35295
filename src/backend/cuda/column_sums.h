/* column_sums.h: products of chosen columns become columns of C (column_sums.cu). */
#ifndef NI_BACKEND_CUDA_COLUMN_SUMS_H
#define NI_BACKEND_CUDA_COLUMN_SUMS_H

#include "backend/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out (F32, rows that fit) = (add ? out : 0) + parts, each into its columns. They lie in `from` (whole vectors of 16 bytes a
 * row) one behind the other, at `first`, multiples of 4, and behind them is memory up to the next such. */
enum { NI_CUDA_COLUMN_PARTS = 4, NI_CUDA_COLUMN_SUMS = 10 };
typedef struct ni_cuda_column_sum {
    nb_mat out, from;
    const int32_t *columns[NI_CUDA_COLUMN_PARTS];
    int64_t first[NI_CUDA_COLUMN_PARTS], widths[NI_CUDA_COLUMN_PARTS];
    int count;
    bool add;
    bool shared; /* parts may have columns in common: they are added in order */
} ni_cuda_column_sum;
bool ni_cuda_columns_fit(const nb_mat *out);
int ni_cuda_launch_column_sums(void *stream, const ni_cuda_column_sum *sums, int32_t count);

#ifdef __cplusplus
}
#endif
#endif
