/* swizzle.h: where units for four bits look for the scale byte of a block: "128x4 tiles" of cuBLAS's documentation ("1D
 * block scaling factors layout") and of PTX's mma with block scaling.
 *
 * Scales are a matrix [rows, blocks], a byte for every block of a row. It is padded to whole tiles of 128 rows by 4
 * blocks, 512 bytes each; the tiles of 128 rows lie one behind the other, then those of the next 128. In a tile
 *
 *     byte   0..3      4..7       8..11      12..15     16..19   ...   508..511
 *     row    0         32         64         96         1        ...   127           blocks 0 1 2 3 of each
 */
#ifndef NI_FORMAT_SWIZZLE_H
#define NI_FORMAT_SWIZZLE_H

#include "format/ieee.h"

#include <stddef.h>

enum { NI_SWIZZLE_ROWS = 128, NI_SWIZZLE_BLOCKS = 4 };

static inline NI_HD int64_t ni_swizzle_tiles(int64_t n, int64_t tile) {
    return (n + tile - 1) / tile;
}

/* Bytes of the scales of [rows, blocks], padding included. */
static inline NI_HD size_t ni_swizzled_bytes(int64_t rows, int64_t blocks) {
    return (size_t)(ni_swizzle_tiles(rows, NI_SWIZZLE_ROWS) * ni_swizzle_tiles(blocks, NI_SWIZZLE_BLOCKS)) *
           NI_SWIZZLE_ROWS * NI_SWIZZLE_BLOCKS;
}

/* Where the scale of that block of that row is. */
static inline NI_HD size_t ni_swizzled_at(int64_t row, int64_t block, int64_t blocks) {
    const int64_t across = ni_swizzle_tiles(blocks, NI_SWIZZLE_BLOCKS);
    const int64_t tile = row / NI_SWIZZLE_ROWS * across + block / NI_SWIZZLE_BLOCKS, r = row % NI_SWIZZLE_ROWS;
    return (size_t)(tile * NI_SWIZZLE_ROWS * NI_SWIZZLE_BLOCKS + r % 32 * 16 + r / 32 * 4 + block % NI_SWIZZLE_BLOCKS);
}

/* out [ni_swizzled_bytes] = the scales [rows, blocks], row-major; padding is 0. */
static inline void ni_swizzle_scales(uint8_t *out, const uint8_t *scales, int64_t rows, int64_t blocks) {
    const size_t bytes = ni_swizzled_bytes(rows, blocks);
    for (size_t i = 0; i < bytes; i++)
        out[i] = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t b = 0; b < blocks; b++)
            out[ni_swizzled_at(r, b, blocks)] = scales[r * blocks + b];
}

#endif
