/* coded.cu: operands for products that multiply codes: E4M3 bytes of 4-bit codes, scales of rows written out, scales of
 * blocks in the order that units for four bits read. Each reads what the canonical layout has. */
#include "backend/cuda/coded.h"
#include "backend/cuda/fp8_codes.h"
#include "backend/cuda/launch.cuh"
#include "format/swizzle.h"

/* Four bytes of codes, eight numbers, a thread at a time. */
static __global__ void to_fp8(uint64_t *out, const uint32_t *codes, int64_t words, ni_fp8_codes table) {
    for (NI_EACH(i, words)) {
        const uint32_t from = codes[i];
        uint64_t to = 0;
#pragma unroll
        for (int j = 0; j < 8; j++)
            to |= (uint64_t)ni_fp8_of_code(table, from >> 4 * j & 15) << 8 * j;
        out[i] = to;
    }
}

int ni_cuda_launch_fp8(void *stream, uint8_t *out, const nb_qtensor *codes) {
    const int64_t words = codes->rows * codes->cols / 8;
    if (words > 0)
        to_fp8<<<ni_grid(ni_divide_up(words, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
            (uint64_t *)out, (const uint32_t *)codes->codes, words, ni_fp8_table(codes->quantizer.element));
    return cudaGetLastError();
}

static __global__ void spread(float *out, const float *word, int64_t n) {
    for (NI_EACH(i, n))
        out[i] = *word;
}

int ni_cuda_launch_spread(void *stream, float *out, const float *word, int64_t n) {
    if (n > 0)
        spread<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(out, word, n);
    return cudaGetLastError();
}

/* By the bytes of the result, so that padding is written too. */
static __global__ void swizzle(uint8_t *out, const uint8_t *scales, int64_t rows, int64_t blocks, int64_t bytes) {
    const int64_t across = ni_swizzle_tiles(blocks, NI_SWIZZLE_BLOCKS);
    for (NI_EACH(i, bytes)) {
        const int64_t tile = i / 512, at = i % 512;
        const int64_t r = tile / across * NI_SWIZZLE_ROWS + at % 16 / 4 * 32 + at / 16;
        const int64_t b = tile % across * NI_SWIZZLE_BLOCKS + at % 4;
        out[i] = r < rows && b < blocks ? scales[r * blocks + b] : 0;
    }
}

int ni_cuda_launch_swizzle(void *stream, uint8_t *out, const uint8_t *scales, int64_t rows, int64_t blocks) {
    const int64_t bytes = (int64_t)ni_swizzled_bytes(rows, blocks);
    if (bytes > 0)
        swizzle<<<ni_grid(ni_divide_up(bytes, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(out, scales, rows,
                                                                                                   blocks, bytes);
    return cudaGetLastError();
}
