/* turned.cuh: the largest number of columns turned by 16, for kernels that write a matrix (nb_mat.turned_amax). Tensor
 * cores tell whether a warp's columns can hold a number beyond what is known (format/turned.h); only then are they turned
 * as the reference does.
 */
#ifndef NI_BACKEND_CUDA_TURNED_CUH
#define NI_BACKEND_CUDA_TURNED_CUH

#include "backend/cuda/mma.cuh"
#include "backend/cuda/tile.cuh"
#include "format/turned.h"

/* A lane's factors of A in mma.m16n8k16: u of its row in rows 0..7, v in 8..15. */
typedef struct ni_turning {
    uint32_t a[4];
} ni_turning;

static __device__ inline uint32_t ni_two_factors(int i, int row) {
    return ni_turned_factor(i, row) | ni_turned_factor(i, row + 1) << 16;
}

/* For B that ldmatrix gives: B's row is the matrix' row. */
static __device__ inline ni_turning ni_turning_of_rows(void) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const ni_turning by = {{ni_two_factors(g, 2 * t), 0, 0, ni_two_factors(g, 2 * t + 8)}};
    return by;
}

/* For lanes that hold rows 4 t .. 4 t + 3 of their columns, of which two are one register of B. */
static __device__ inline ni_turning ni_turning_of_fours(void) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint32_t first = ni_two_factors(g, 4 * t), second = ni_two_factors(g, 4 * t + 2);
    const ni_turning by = {{t < 2 ? first : 0, t < 2 ? 0 : first, t < 2 ? second : 0, t < 2 ? 0 : second}};
    return by;
}

/* The larger of `most` and of the |u| + |v| of eight columns, as bits. */
static __device__ inline uint32_t ni_most_of_eight(uint32_t most, const ni_turning &by, uint32_t b0, uint32_t b1) {
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma(c, by.a, b0, b1);
    return max(max(most, ni_f32_bits(ni_f32_add(fabsf(c[0]), fabsf(c[2])))),
               ni_f32_bits(ni_f32_add(fabsf(c[1]), fabsf(c[3]))));
}

/* Whether any column of a warp's has to be turned. Lanes come together. */
static __device__ inline bool ni_may_exceed(uint32_t most, uint32_t known) {
    return __any_sync(~0u, most >= ni_turned_limit(known));
}

/* ---- sixteen rows of 64 columns in a warp's registers: four rows of eight columns a lane ---- */

/* Where in such a tile this lane is. */
static __device__ inline int ni_row_of_lane(void) {
    return threadIdx.x % 4 * 4;
}

static __device__ inline int ni_column_of_lane(void) {
    return threadIdx.x % 32 / 4 * 8;
}

/* One column of it, turned across lanes as format/hadamard.h does, its largest magnitude but for the factor. */
static __device__ inline float ni_column_amax(float *x) {
    const bool odd = threadIdx.x & 1;
    float most = 0.0f;
    ni_rotate_stages<4, 4>(x);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float other = __shfl_xor_sync(~0u, x[i], 1);
        const float mine = fabsf(odd ? ni_f32_sub(other, x[i]) : ni_f32_add(x[i], other)),
                    far = __shfl_xor_sync(~0u, mine, 2), sum = ni_f32_add(mine, far);
        most = ni_larger_or_nan(most, sum);
        if (ni_f32_magnitude(sum) >= NI_F32_INF_BITS)
            most = ni_larger_or_nan(most, fabsf(ni_f32_sub(mine, far)));
    }
    return most;
}

/* words [4]: rows, eight columns each. Lanes come together. */
static __device__ __noinline__ uint32_t ni_turned_amax_of_fours(uint4 row0, uint4 row1, uint4 row2, uint4 row3) {
    const uint32_t signs = NI_FIXED_SIGNS >> ni_row_of_lane();
    float most = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const uint32_t words[4][4] = {{row0.x, row0.y, row0.z, row0.w},
                                      {row1.x, row1.y, row1.z, row1.w},
                                      {row2.x, row2.y, row2.z, row2.w},
                                      {row3.x, row3.y, row3.z, row3.w}};
        float x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float number = k % 2 ? ni_high_of(words[i][k / 2]) : ni_low_of(words[i][k / 2]);
            x[i] = signs >> i & 1u ? -number : number;
        }
        most = ni_larger_or_nan(most, ni_column_amax(x));
    }
    return ni_f32_magnitude(ni_bf16_round(ni_f32_mul(most, 0.25f)));
}

/* The largest |u| + |v| of a warp's 64 columns, as bits: this lane's columns' and others'. */
static __device__ inline uint32_t ni_most_of_fours(const ni_turning &by, const uint4 (&rows)[4]) {
    const uint32_t words[4][4] = {{rows[0].x, rows[0].y, rows[0].z, rows[0].w},
                                  {rows[1].x, rows[1].y, rows[1].z, rows[1].w},
                                  {rows[2].x, rows[2].y, rows[2].z, rows[2].w},
                                  {rows[3].x, rows[3].y, rows[3].z, rows[3].w}};
    uint32_t most = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        most = ni_most_of_eight(most, by, __byte_perm(words[0][k], words[1][k], 0x5410),
                                __byte_perm(words[2][k], words[3][k], 0x5410));
        most = ni_most_of_eight(most, by, __byte_perm(words[0][k], words[1][k], 0x7632),
                                __byte_perm(words[2][k], words[3][k], 0x7632));
    }
    return most;
}

/* *turned = max(*turned, what those columns hold), where `most` is of them. */
static __device__ inline void ni_join_fours(uint32_t *turned, const uint4 (&rows)[4], uint32_t most, uint32_t known) {
    if (ni_may_exceed(most, known))
        ni_join_known(turned, ni_turned_amax_of_fours(rows[0], rows[1], rows[2], rows[3]), known);
}

/* ---- sixteen rows in shared memory ---- */

/* `most` of 16 columns; `from`: of row lane % 16 the columns from lane / 16 * 8 on. Lanes come together. */
static __device__ inline uint32_t ni_most_of_sixteen(uint32_t most, const ni_turning &by, const bf16 *from) {
    uint32_t b[4];
    load_matrix_trans(b, from);
    return ni_most_of_eight(ni_most_of_eight(most, by, b[0], b[1]), by, b[2], b[3]);
}

#endif
