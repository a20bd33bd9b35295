/* attention_wgmma.cuh: tiles multiplied by warpgroups (wgmma, compute capability 9.0 with its "a" features).
 *
 * A unit is a warpgroup: four warps, 64 rows. A tile [rows, D] lies as D/64 panels [rows, 64], each row of 128 bytes
 * with its eight 16-byte pieces permuted by the row: piece ^ (row % 8), the hardware's 128-byte swizzle. Read along its
 * rows (multiply) a panel is "K-major", eight rows being one block of 1024 bytes; read across them (accumulate) it is
 * "MN-major". PTX ISA, "Asynchronous warpgroup-level matrix instructions". */
#ifndef NIBBLE_CUDA_ATTENTION_WGMMA_CUH
#define NIBBLE_CUDA_ATTENTION_WGMMA_CUH

#include "wgmma.cuh"

template <int D_> struct WgmmaCore {
    static constexpr int D = D_, MT = 1, warps = 4, rows = 64, pitch = 64;

    __host__ __device__ static constexpr int bytes(int tile_rows) {
        return tile_rows * D * 2;
    }

    __device__ static __forceinline__ int offset(int tile_rows, int row, int column) {
        return column / 64 * tile_rows * 64 + row * 64 + ((column / 8 ^ row) & 7) * 8 + column % 8;
    }

    /* The copies came by the generic proxy, wgmma reads by the async one. */
    __device__ static __forceinline__ void publish() {
        fence_async_proxy();
    }

    template <int ROWS>
    __device__ static __forceinline__ void load_rows(uint32_t (&r)[1][D / 16][4], const bf16 *a, int own_row) {
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < D / 16; k++)
            load_matrix(r[0][k], a + offset(ROWS, own_row + (lane & 15), k * 16 + (lane >> 4) * 8));
    }

    template <int N, int ROWS>
    __device__ static __forceinline__ void multiply(float (&c)[1][N / 8][4], const bf16 *a, int unit_row,
                                                    const bf16 *b) {
        wgmma_fence(c[0]);
#pragma unroll
        for (int k = 0; k < D / 16; k++)
            wgmma_shared<N>(c[0], wgmma_operand(a + k / 4 * ROWS * 64 + unit_row * 64 + k % 4 * 16, 0),
                            wgmma_operand(b + k / 4 * N * 64 + k % 4 * 16, 0), k > 0);
        wgmma_commit();
    }

    template <int N>
    __device__ static __forceinline__ void multiply(float (&c)[1][N / 8][4], uint32_t (&a)[1][D / 16][4],
                                                    const bf16 *b) {
        wgmma_hold(a[0]);
        wgmma_fence(c[0]);
#pragma unroll
        for (int k = 0; k < D / 16; k++)
            wgmma_registers<N, 0>(c[0], a[0][k], wgmma_operand(b + k / 4 * N * 64 + k % 4 * 16, 0), k > 0);
        wgmma_commit();
    }

    template <int N, int COLUMNS>
    __device__ static __forceinline__ void accumulate(float (&c)[1][COLUMNS / 8][4], uint32_t (&p)[1][N / 16][4],
                                                      const bf16 *b, int /*first_column: all are here*/) {
        static_assert(COLUMNS == D, "a warpgroup takes whole rows");
        wgmma_hold(p[0]);
        wgmma_fence(c[0]);
#pragma unroll
        for (int k = 0; k < N / 16; k++)
            wgmma_registers<COLUMNS, 1>(c[0], p[0][k], wgmma_operand(b + k * 16 * 64, N * 128), true);
        wgmma_commit();
    }

    template <int PENDING, int N> __device__ static __forceinline__ void wait(float (&c)[1][N][4]) {
        wgmma_wait<PENDING>();
        wgmma_hold(c[0]);
    }
};
#endif
