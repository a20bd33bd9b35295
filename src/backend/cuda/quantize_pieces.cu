/* quantize_pieces.cu: chosen columns of a matrix, or what another operand lost of them, as a piece of an NVFP4 operand
 * under a tensor scale that is known; many pieces a launch. Sixteen neighbouring threads take a block, so that those of a
 * warp, whose columns ascend, read few lines of memory at a time; a thread has its column of several rows in flight.
 */
#include "backend/cuda/element.cuh"
#include "backend/cuda/list.cuh"
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

/* Pieces of one launch, as few words as a kernel's arguments hold. */
enum { MOST_PIECES = 24 };

typedef struct listed_piece {
    const void *from;
    const int32_t *columns;
    const uint8_t *minus, *minus_scales; /* NULL: nothing is taken away */
    const float *minus_scale;
    uint16_t *values;
    uint8_t *codes, *scales;
    const uint32_t *amax;
    int64_t stride, minus_cols, to_stride, at;
    uint32_t rows, cols, first_block;
    nb_scale_rule rule;
    nb_outer_scale outer;
    bool wide;
} listed_piece;

typedef struct piece_list {
    listed_piece at[MOST_PIECES];
    int count;
    uint32_t blocks;
} piece_list;

template <typename T, bool RESIDUAL> static __device__ void quantize_piece(const listed_piece &p, uint32_t block) {
    const uint32_t unit = block * (uint32_t)PIECE_THREADS + threadIdx.x, band = unit / p.cols, c = unit - band * p.cols;
    const int64_t first = (int64_t)band * PIECE_ROWS;
    const float sdec = RESIDUAL && p.minus_scale ? *p.minus_scale : 1.0f;
    const int32_t column = p.columns[c];
    float x[PIECE_ROWS];
    uint32_t codes[PIECE_ROWS], scales[PIECE_ROWS];
    ni_cuda_tile_copy copy = {};
    copy.quantizer.rule = p.rule;
    copy.quantizer.outer = p.outer;
    copy.values = p.values;
    copy.codes = p.codes;
    copy.scales = p.scales;
    copy.amax = p.amax;
#pragma unroll
    for (int i = 0; i < PIECE_ROWS; i++) {
        const int64_t r = first + i;
        const bool live = r < p.rows;
        x[i] = live ? number_at((const T *)p.from, r * p.stride + column) : 0.0f;
        if (RESIDUAL) {
            const int64_t at = r * p.minus_cols + column;
            codes[i] = live ? p.minus[at / 2] : 0;
            scales[i] = live ? p.minus_scales[at / 16] : 0;
        }
    }
    const ni_tensor_scale t = ni_tile_scale(copy);
#pragma unroll
    for (int i = 0; i < PIECE_ROWS; i++) {
        if (RESIDUAL)
            x[i] = ni_f32_sub(x[i], held_by(codes[i], scales[i], column, sdec));
        ni_encode_one(copy, t, NULL, x[i], (first + i) * p.to_stride + p.at + c, first + i < p.rows);
    }
}

static __global__ void __launch_bounds__(PIECE_THREADS) quantize_pieces(const __grid_constant__ piece_list list) {
    const int which = ni_listed(list, &listed_piece::first_block);
    const listed_piece &p = list.at[which];
    const uint32_t block = blockIdx.x - p.first_block;
    if (p.wide)
        p.minus ? quantize_piece<float, true>(p, block) : quantize_piece<float, false>(p, block);
    else
        p.minus ? quantize_piece<uint16_t, true>(p, block) : quantize_piece<uint16_t, false>(p, block);
}

static listed_piece listed(const ni_cuda_piece *p, const ni_cuda_tile_copy *copy, uint32_t first_block) {
    listed_piece l = {};
    l.from = p->numbers;
    l.columns = p->columns;
    l.minus = p->minus.codes;
    l.minus_scales = p->minus.scales;
    l.minus_scale = p->minus.tensor_scale;
    l.minus_cols = p->minus.cols;
    l.values = copy->values;
    l.codes = copy->codes;
    l.scales = copy->scales;
    l.amax = copy->amax;
    l.stride = p->stride;
    l.to_stride = copy->stride;
    l.at = copy->at;
    l.rows = (uint32_t)p->rows;
    l.cols = (uint32_t)p->cols;
    l.first_block = first_block;
    l.rule = copy->quantizer.rule;
    l.outer = copy->quantizer.outer;
    l.wide = p->wide;
    return l;
}

static int launch_list(cudaStream_t on, piece_list *list) {
    if (list->count)
        quantize_pieces<<<list->blocks, PIECE_THREADS, 0, on>>>(*list);
    list->count = 0;
    list->blocks = 0;
    return cudaGetLastError();
}

int ni_cuda_quantize_pieces(void *stream, const ni_cuda_piece *pieces, const ni_cuda_tile_copy *copies, int count) {
    piece_list list = {};
    int code = cudaSuccess;
    for (int i = 0; i < count && !code; i++) {
        const ni_cuda_piece *p = &pieces[i];
        const int64_t units = ni_divide_up(p->rows, PIECE_ROWS) * p->cols, blocks = ni_divide_up(units, PIECE_THREADS);
        if (units > INT32_MAX || list.blocks + blocks > INT32_MAX)
            return cudaErrorInvalidValue;
        list.at[list.count++] = listed(p, &copies[i], list.blocks);
        list.blocks += (uint32_t)blocks;
        if (list.count == MOST_PIECES)
            code = launch_list((cudaStream_t)stream, &list);
    }
    return code ? code : launch_list((cudaStream_t)stream, &list);
}
