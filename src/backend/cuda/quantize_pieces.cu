/* quantize_pieces.cu: chosen columns of a matrix, or what another operand lost of them, as a piece of an NVFP4 operand
 * under a tensor scale that is known. A thread takes the 16 numbers of a block from where they lie.
 */
#include "backend/cuda/element.cuh"
#include "backend/cuda/tile.cuh"

enum { PIECE_THREADS = 128 };

static __device__ float number_at(const uint16_t *x, int64_t at) {
    return ni_bf16_value(x[at]);
}

static __device__ float number_at(const float *x, int64_t at) {
    return x[at];
}

/* What `minus` decodes to there; E2M1 under E4M3 and a tensor scale. */
static __device__ float held_at(const nb_qtensor &minus, float sdec, int64_t r, int64_t c) {
    const int64_t at = r * minus.cols + c;
    const uint32_t code = minus.codes[at / 2] >> (4 * (c & 1));
    const float value = ni_f32_mul(__uint_as_float((code & 7u) << 22 | (code & 8u) << 28), 0x1p126f);
    return ni_f32_mul(value, ni_f32_mul(ni_byte_value(minus.scales[at / 16]), sdec));
}

template <typename T, bool RESIDUAL>
static __global__ void __launch_bounds__(PIECE_THREADS) quantize_piece(const T *from, int64_t stride, int64_t rows, int64_t cols, const int32_t *columns, const __grid_constant__ nb_qtensor minus,
                                                                      const __grid_constant__ ni_cuda_tile_copy copy) {
    const uint32_t blocks = (uint32_t)(cols / 16);
    const int64_t unit = blockIdx.x * (int64_t)PIECE_THREADS + threadIdx.x;
    if (unit >= rows * blocks)
        return;
    const uint32_t r = (uint32_t)unit / blocks, c = ((uint32_t)unit - r * blocks) * 16;
    const float sdec = RESIDUAL && minus.tensor_scale ? *minus.tensor_scale : 1.0f;
    const ni_tensor_scale t = ni_tile_scale(copy);
    float x[16];
    uint32_t amax = 0, q[8], signs[8];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int32_t at = columns[c + i];
        x[i] = number_at(from, r * stride + at);
        if (RESIDUAL)
            x[i] = ni_f32_sub(x[i], held_at(minus, sdec, r, at));
        amax = max(amax, ni_f32_magnitude(x[i]));
    }
    const uint8_t byte = (uint8_t)ni_scale_bytes(ni_f32_from(amax), 0.0f, t.s_inner);
    const float encode = byte ? ni_byte_encode(byte, t.sdec) : 0.0f;
    const uint32_t high = __float_as_uint(ni_byte_value(byte)) >> 16, value = high | high << 16;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float low = ni_f32_mul(x[2 * i], encode), other = ni_f32_mul(x[2 * i + 1], encode);
        signs[i] = ni_exact_pair(low, other);
        q[i] = ni_pair_up_to_six(ni_exact_pair(ni_nearest_on_grid<false>(low), ni_nearest_on_grid<false>(other)));
    }
    const int64_t at = r * copy.stride + copy.at + c;
    uint4 *to = (uint4 *)(copy.values + at);
    to[0] = make_uint4(ni_pair_times(q[0], value), ni_pair_times(q[1], value), ni_pair_times(q[2], value), ni_pair_times(q[3], value));
    to[1] = make_uint4(ni_pair_times(q[4], value), ni_pair_times(q[5], value), ni_pair_times(q[6], value), ni_pair_times(q[7], value));
    if (!copy.codes)
        return;
    *(uint2 *)(copy.codes + at / 2) = byte ? ni_codes_of_neighbours(q, signs) : make_uint2(0, 0);
    copy.scales[at / 16] = byte;
}

template <typename T> static void launch(cudaStream_t on, const ni_cuda_piece *p, const ni_cuda_tile_copy *copy) {
    const unsigned grid = (unsigned)ni_divide_up(p->rows * (p->cols / 16), PIECE_THREADS);
    if (p->minus.codes)
        quantize_piece<T, true><<<grid, PIECE_THREADS, 0, on>>>((const T *)p->numbers, p->stride, p->rows, p->cols, p->columns, p->minus, *copy);
    else
        quantize_piece<T, false><<<grid, PIECE_THREADS, 0, on>>>((const T *)p->numbers, p->stride, p->rows, p->cols, p->columns, p->minus, *copy);
}

int ni_cuda_quantize_piece(void *stream, const ni_cuda_piece *p, const ni_cuda_tile_copy *copy) {
    if (p->rows * (p->cols / 16) > INT32_MAX)
        return cudaErrorInvalidValue;
    p->wide ? launch<float>((cudaStream_t)stream, p, copy) : launch<uint16_t>((cudaStream_t)stream, p, copy);
    return cudaGetLastError();
}
