/* tile_error.cuh: what Four Over Six errs in a tile of 16x16 whose rows lie in 16 lanes (format/four_six.h). */
#ifndef NI_BACKEND_CUDA_TILE_ERROR_CUH
#define NI_BACKEND_CUDA_TILE_ERROR_CUH

#include "format/four_six.h"

/* Of the tile whose rows 16 neighbouring threads hold, in the lanes that it lies in: all of them learn it. */
static __device__ inline float ni_tile_error(const nb_quantizer &q, const float terms[16], int first) {
    float even[16] = {}, odd[16] = {}, row[16];
    if (!ni_four_six_in_columns(&q)) {
        const float mine = ni_four_six_row(&q, terms);
        for (int i = 0; i < 16; i++)
            row[i] = __shfl_sync(~0u, mine, first + i);
        return ni_four_six_rows(&q, row);
    }
    for (int c = 0; c < 16; c++)
        for (int i = 0; i < 16; i += 2) {
            even[c] = ni_f32_add(even[c], __shfl_sync(~0u, terms[c], first + i));
            odd[c] = ni_f32_add(odd[c], __shfl_sync(~0u, terms[c], first + i + 1));
        }
    return ni_four_six_eighths(even, odd);
}

#endif
