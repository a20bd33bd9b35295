/* quantize_eight_columns.cu: MXFP8 down the columns of what MXFP8 along the rows decodes to: X of OutControl's channels in 8
 * bits, as wgrad reads them. Values alone, as the source lies. Bits are those of quantize.cu.
 *
 *     a thread     16 rows of two columns out of memory; the other half of their blocks is in the warp beside
 */
#include "backend/cuda/block.cuh"
#include "backend/cuda/follow.cuh"
#include "backend/cuda/quantize_eight_columns.h"

enum { WARPS = 8, BAND = 16 * WARPS, PAIRS = 32 };

/* Sixteen rows of columns c and c + 1, which share their scales. */
static __device__ void decode_two(float *a, float *b, const nb_qtensor &t, int64_t r, int64_t c) {
    const int64_t blocks = t.cols / 32;
    const uint8_t *const codes = t.codes + r * t.cols + c, *const scales = t.scales + r * blocks + c / 32;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float scale = ni_e8m0_value(__ldg(scales + i * blocks));
        float x[2];
        ni_e4m3_pair(__ldg((const uint16_t *)(codes + i * t.cols)), x);
        a[i] = ni_f32_mul(x[0], scale);
        b[i] = ni_f32_mul(x[1], scale);
    }
}

/* What a column's block is encoded and decoded with. */
typedef struct eight_scale {
    float encode, decode;
} eight_scale;

static __device__ eight_scale scale_of(nb_scale_rule rule, uint32_t amax) {
    const uint8_t byte = ni_e8m0_of(rule, ni_f32_from(amax), 448.0f);
    return {ni_e8m0_encode(rule, byte), ni_e8m0_value(byte)};
}

static __global__ void __launch_bounds__(32 * WARPS, 4)
    eight_columns(const __grid_constant__ ni_cuda_double_source s, const __grid_constant__ ni_cuda_tile_copy copy) {
    __shared__ uint32_t maxima[2][WARPS][PAIRS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t band = ni_band(), r = band * BAND + 16 * warp, c = (int64_t)blockIdx.x * 2 * PAIRS + 2 * lane;
    const bool live = r < s.rows && c < s.cols;
    float a[16] = {}, b[16] = {};
    ni_wait_for_it();
    ni_let_follow();
    if (live)
        decode_two(a, b, s.codes, r, c);
    maxima[0][warp][lane] = ni_amax_of_sixteen(a);
    maxima[1][warp][lane] = ni_amax_of_sixteen(b);
    __syncthreads();
    if (!live)
        return;
    const nb_scale_rule rule = copy.quantizer.rule;
    const eight_scale of_a = scale_of(rule, max(maxima[0][warp][lane], maxima[0][warp ^ 1][lane])),
                      of_b = scale_of(rule, max(maxima[1][warp][lane], maxima[1][warp ^ 1][lane]));
    const bool two = c + 1 < s.cols;
    uint16_t *to = copy.values + r * copy.stride + c;
#pragma unroll
    for (int i = 0; i < 16; i++, to += copy.stride) {
        float x[2] = {ni_f32_mul(a[i], of_a.encode), ni_f32_mul(b[i], of_b.encode)};
        ni_through_e4m3(x);
        const uint32_t pair = ni_pack_two(ni_f32_mul(x[0], of_a.decode), ni_f32_mul(x[1], of_b.decode));
        if (two && copy.stride % 2 == 0) {
            *(uint32_t *)to = pair;
            continue;
        }
        to[0] = (uint16_t)pair;
        if (two)
            to[1] = (uint16_t)(pair >> 16);
    }
}

int ni_cuda_quantize_eight_columns(void *stream, const ni_cuda_double_source *s, const ni_cuda_tile_copy *copy) {
    if (s->rows == 0 || s->cols == 0)
        return cudaSuccess;
    const dim3 grid = ni_band_grid(ni_divide_up(s->cols, 2 * PAIRS), ni_divide_up(s->rows, BAND));
    return ni_launch_following((cudaStream_t)stream, eight_columns, grid, 32 * WARPS, 0, *s, *copy);
}
