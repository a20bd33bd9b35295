/* quantize_pieces.cu: chosen columns of a matrix, or what another operand lost of them, as a piece of an NVFP4 operand
 * under a tensor scale that is known. Sixteen neighbouring threads take a block, so that those of a warp, whose columns
 * ascend, read few lines of memory at a time; a thread has its column of several rows in flight.
 */
#include "backend/cuda/element.cuh"
#include "backend/cuda/tile.cuh"

enum { PIECE_THREADS = 128, PIECE_ROWS = 4 };

static __device__ float number_at(const uint16_t *x, int64_t at) {
    return ni_bf16_value(x[at]);
}

static __device__ float number_at(const float *x, int64_t at) {
    return x[at];
}

/* What `minus` decodes to, from its code byte and scale byte there; E2M1 under E4M3 and a tensor scale. */
static __device__ float held_by(uint32_t codes, uint32_t scale, int32_t column, float sdec) {
    const uint32_t code = codes >> (4 * (column & 1));
    const float value = ni_f32_mul(__uint_as_float((code & 7u) << 22 | (code & 8u) << 28), 0x1p126f);
    return ni_f32_mul(value, ni_f32_mul(ni_byte_value(scale), sdec));
}

template <typename T, bool RESIDUAL>
static __global__ void __launch_bounds__(PIECE_THREADS)
    quantize_piece(const T *from, int64_t stride, int64_t rows, int64_t cols, const int32_t *columns,
                   const __grid_constant__ nb_qtensor minus, const __grid_constant__ ni_cuda_tile_copy copy) {
    const uint32_t unit = blockIdx.x * (uint32_t)PIECE_THREADS + threadIdx.x, band = unit / (uint32_t)cols,
                   c = unit - band * (uint32_t)cols;
    const int64_t first = (int64_t)band * PIECE_ROWS;
    const float sdec = RESIDUAL && minus.tensor_scale ? *minus.tensor_scale : 1.0f;
    const ni_tensor_scale t = ni_tile_scale(copy);
    const int32_t column = columns[c];
    float x[PIECE_ROWS];
    uint32_t codes[PIECE_ROWS], scales[PIECE_ROWS];
#pragma unroll
    for (int i = 0; i < PIECE_ROWS; i++) {
        const int64_t r = first + i;
        const bool live = r < rows;
        x[i] = live ? number_at(from, r * stride + column) : 0.0f;
        if (RESIDUAL) {
            const int64_t at = r * minus.cols + column;
            codes[i] = live ? minus.codes[at / 2] : 0;
            scales[i] = live ? minus.scales[at / 16] : 0;
        }
    }
#pragma unroll
    for (int i = 0; i < PIECE_ROWS; i++) {
        if (RESIDUAL)
            x[i] = ni_f32_sub(x[i], held_by(codes[i], scales[i], column, sdec));
        ni_encode_one(copy, t, NULL, x[i], (first + i) * copy.stride + copy.at + c, first + i < rows);
    }
}

template <typename T> static void launch(cudaStream_t on, const ni_cuda_piece *p, const ni_cuda_tile_copy *copy) {
    const unsigned grid = (unsigned)ni_divide_up(ni_divide_up(p->rows, PIECE_ROWS) * p->cols, PIECE_THREADS);
    if (p->minus.codes)
        quantize_piece<T, true><<<grid, PIECE_THREADS, 0, on>>>((const T *)p->numbers, p->stride, p->rows, p->cols,
                                                                p->columns, p->minus, *copy);
    else
        quantize_piece<T, false><<<grid, PIECE_THREADS, 0, on>>>((const T *)p->numbers, p->stride, p->rows, p->cols,
                                                                 p->columns, p->minus, *copy);
}

int ni_cuda_quantize_piece(void *stream, const ni_cuda_piece *p, const ni_cuda_tile_copy *copy) {
    if (ni_divide_up(p->rows, PIECE_ROWS) * p->cols > INT32_MAX)
        return cudaErrorInvalidValue;
    p->wide ? launch<float>((cudaStream_t)stream, p, copy) : launch<uint16_t>((cudaStream_t)stream, p, copy);
    return cudaGetLastError();
}
