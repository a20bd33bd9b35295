/* byte_tile.cuh: bytes of a matrix both ways from one reading: as they lie, and the other way round. */
#ifndef NI_BACKEND_CUDA_BYTE_TILE_CUH
#define NI_BACKEND_CUDA_BYTE_TILE_CUH

#include "backend/cuda/launch.cuh"

/* A block of threads takes a tile of 128 x 128: bytes go out as they lie and into shared memory, 16 of a row together, and
 * from there out by columns, 16 of a column together. The 16 from row r, chunk h on lie at chunk h ^ (r / 16) of its row:
 * both ways all banks are used. */
enum { TILE = 128, CHUNKS = TILE / 16, TILE_ROWS_AT_ONCE = NI_THREADS / CHUNKS };

typedef struct byte_tile {
    uint4 at[TILE][CHUNKS];
} byte_tile;

static __device__ void put_chunk(byte_tile &tile, int r, int chunk, const uint4 &bytes) {
    tile.at[r][chunk ^ (r / 16)] = bytes;
}

/* Four rows of four bytes each, the other way round. */
static __device__ void turn_four(const uint32_t *rows, uint32_t *columns) {
    const uint32_t a = __byte_perm(rows[0], rows[1], 0x5140), b = __byte_perm(rows[2], rows[3], 0x5140),
                   c = __byte_perm(rows[0], rows[1], 0x7362), d = __byte_perm(rows[2], rows[3], 0x7362);
    columns[0] = __byte_perm(a, b, 0x5410);
    columns[1] = __byte_perm(a, b, 0x7632);
    columns[2] = __byte_perm(c, d, 0x5410);
    columns[3] = __byte_perm(c, d, 0x7632);
}

/* Warp w has columns 16 w to 16 w + 15: a lane four of them and 16 rows. */
static __device__ void store_turned(const byte_tile &tile, uint8_t *turned, int64_t rows, int64_t cols, int64_t r0,
                                    int64_t c0) {
    const int chunk = threadIdx.x / 32, group = threadIdx.x % 32 / 4, word = threadIdx.x % 4;
    const int64_t r = r0 + 16 * group, c = c0 + 16 * chunk + 4 * word;
    uint32_t out[4][4];
    if (r >= rows || c >= cols)
        return;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t in[4], columns[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            in[k] = ((const uint32_t *)&tile.at[16 * group + 4 * i + k][chunk ^ group])[word];
        turn_four(in, columns);
#pragma unroll
        for (int k = 0; k < 4; k++)
            out[k][i] = columns[k];
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        *(uint4 *)(turned + (c + k) * rows + r) = make_uint4(out[k][0], out[k][1], out[k][2], out[k][3]);
}

static __device__ void open_tile(int64_t cols, int64_t *r0, int64_t *c0) {
    const int64_t across = (cols + TILE - 1) / TILE;
    *r0 = blockIdx.x / across * TILE;
    *c0 = blockIdx.x % across * TILE;
}

/* Codes i and i + 4 of eight as two halves, times 2^-14. */
static __device__ uint32_t halves_of_codes(uint32_t codes, int i) {
    const uint32_t two = codes >> 4 * i;
    return (two & 0x00070007u) << 9 | (two & 0x00080008u) << 12;
}

#endif
