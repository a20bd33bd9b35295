/* quantize_amax.cu: maxima of whole matrices, plain and turned down the columns, from one reading.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/tile.cuh"

/* What stands before a rotation: no signs, TransformerEngine's, or a pattern of this pass. */
enum { NO_SIGNS, FIXED_SIGNS, ANY_SIGNS };

/* A thread takes 16 rows of four columns. Rounding keeps the order, so the maximum is rounded and not the numbers. */
template <bool PLAIN, bool ROTATED, int SIGNS>
static __global__ void __launch_bounds__(NI_TILE_THREADS)
    tile_amaxes(const __grid_constant__ ni_cuda_tile_source s, uint32_t *plain, uint32_t *rotated,
                const __grid_constant__ nb_quantizer q, const __grid_constant__ ni_cuda_noise noise) {
    const uint32_t across = (uint32_t)(s.cols / 4), bands = (uint32_t)(s.rows / 16);
    const int64_t piece = blockIdx.x * (int64_t)NI_TILE_THREADS + threadIdx.x;
    const uint32_t band = (uint32_t)piece / across, at = (uint32_t)piece - band * across;
    uint32_t pair = 0, largest = 0;
    if (band < bands) {
        const uint16_t *from = s.numbers + (int64_t)band * 16 * s.stride + 4 * at;
        uint2 in[16];
#pragma unroll
        for (int i = 0; i < 16; i++)
            in[i] = *(const uint2 *)(from + i * s.stride);
        if (PLAIN)
#pragma unroll
            for (int i = 0; i < 16; i++)
                pair = ni_larger_pair(ni_larger_pair(pair, in[i].x), in[i].y);
        if (ROTATED) {
            const ni_noise_key key = ni_tile_noise(noise);
            const uint32_t signs = SIGNS == ANY_SIGNS     ? ni_signs_of(q.hadamard_signs, &key).w[0]
                                   : SIGNS == FIXED_SIGNS ? NI_FIXED_SIGNS
                                                          : 0;
            float most = 0.0f;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float x[16];
#pragma unroll
                for (int i = 0; i < 16; i++) {
                    const uint32_t word = k < 2 ? in[i].x : in[i].y;
                    const float number = k % 2 ? ni_high_of(word) : ni_low_of(word);
                    x[i] = signs >> i & 1u ? -number : number;
                }
                most = ni_larger_or_nan(most, ni_rotated_amax(x));
            }
            most = ni_f32_mul(most, 0.25f);
            largest = ni_f32_magnitude(q.hadamard_round_bf16 ? ni_bf16_round(most) : most);
        }
    }
    __syncwarp();
    if (PLAIN)
        ni_join_amax(plain, ni_larger_half(pair));
    if (ROTATED)
        ni_join_amax(rotated, largest);
}

template <int SIGNS>
static void launch_rotated(cudaStream_t on, unsigned grid, const ni_cuda_tile_source &s, uint32_t *plain,
                           uint32_t *rotated, const nb_quantizer &q, const ni_cuda_noise &noise) {
    if (plain)
        tile_amaxes<true, true, SIGNS><<<grid, NI_TILE_THREADS, 0, on>>>(s, plain, rotated, q, noise);
    else
        tile_amaxes<false, true, SIGNS><<<grid, NI_TILE_THREADS, 0, on>>>(s, plain, rotated, q, noise);
}

int ni_cuda_tile_amaxes(void *stream, const ni_cuda_tile_source *s, uint32_t *plain, uint32_t *rotated,
                        const nb_quantizer *q, const ni_cuda_noise *noise) {
    cudaStream_t on = (cudaStream_t)stream;
    const unsigned grid = (unsigned)ni_divide_up(s->cols / 4 * (s->rows / 16), NI_TILE_THREADS);
    if (s->cols / 4 * (s->rows / 16) > INT32_MAX)
        return cudaErrorInvalidValue;
    if (!rotated)
        tile_amaxes<true, false, NO_SIGNS><<<grid, NI_TILE_THREADS, 0, on>>>(*s, plain, rotated, *q, *noise);
    else if (q->hadamard_signs == NB_SIGNS_FIXED)
        launch_rotated<FIXED_SIGNS>(on, grid, *s, plain, rotated, *q, *noise);
    else if (q->hadamard_signs == NB_SIGNS_NONE)
        launch_rotated<NO_SIGNS>(on, grid, *s, plain, rotated, *q, *noise);
    else
        launch_rotated<ANY_SIGNS>(on, grid, *s, plain, rotated, *q, *noise);
    return cudaGetLastError();
}

static __global__ void delayed_amax(uint32_t *head, const float *past, float headroom) {
    *head = ni_f32_bits(ni_delayed_amax(*past, headroom));
}

int ni_cuda_delayed_amax(void *stream, uint32_t *head, const float *past, float headroom) {
    delayed_amax<<<1, 1, 0, (cudaStream_t)stream>>>(head, past, headroom);
    return cudaGetLastError();
}

/* ---- for producers ---- */

int ni_cuda_clear_amaxes(void *stream, uint32_t *amax, uint32_t *turned) {
    cudaStream_t on = (cudaStream_t)stream;
    if (amax && turned == amax + 1)
        return cudaMemsetAsync(amax, 0, 2 * sizeof *amax, on);
    const int code = amax ? cudaMemsetAsync(amax, 0, sizeof *amax, on) : cudaSuccess;
    return turned && code == cudaSuccess ? cudaMemsetAsync(turned, 0, sizeof *turned, on) : code;
}

/* A column of a band a thread, where addresses do not allow more at once. */
static __global__ void __launch_bounds__(NI_THREADS) turned_column(uint32_t *amax, ni_cuda_tile_source s) {
    uint32_t largest = 0;
    for (NI_EACH(i, s.rows / 16 * s.cols)) {
        const uint16_t *from = s.numbers + i / s.cols * 16 * s.stride + i % s.cols;
        uint32_t pairs[16]; /* with a column of zeros */
#pragma unroll
        for (int r = 0; r < 16; r++)
            pairs[r] = from[r * s.stride];
        largest = max(largest, ni_turned_amax(pairs));
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

static bool has_fours(const ni_cuda_tile_source *s) {
    return s->cols % 4 == 0 && s->stride % 4 == 0 && (uintptr_t)s->numbers % 8 == 0;
}

/* As an operand of wgrad may be turned (nb_mat.turned_amax); `plain` may be NULL. */
static int find_in_fours(void *stream, const ni_cuda_tile_source *s, uint32_t *plain, uint32_t *turned) {
    nb_quantizer q = {};
    ni_cuda_noise none = {};
    q.hadamard_size = 16;
    q.hadamard_signs = NB_SIGNS_FIXED;
    q.hadamard_round_bf16 = true;
    return ni_cuda_tile_amaxes(stream, s, plain, turned, &q, &none);
}

int ni_cuda_find_turned(void *stream, const uint16_t *x, int64_t rows, int64_t cols, int64_t stride, uint32_t *turned) {
    const ni_cuda_tile_source s = {x, rows, cols, stride};
    if (!turned || rows * cols == 0 || rows % 16 != 0)
        return cudaSuccess;
    if (has_fours(&s))
        return find_in_fours(stream, &s, NULL, turned);
    turned_column<<<ni_grid(ni_divide_up(rows / 16 * cols, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(turned,
                                                                                                                s);
    return cudaGetLastError();
}

int ni_cuda_find_maxima(void *stream, const uint16_t *x, int64_t rows, int64_t cols, int64_t stride, uint32_t *amax,
                        uint32_t *turned) {
    const ni_cuda_tile_source s = {x, rows, cols, stride};
    if (amax && turned && rows * cols > 0 && rows % 16 == 0 && has_fours(&s))
        return find_in_fours(stream, &s, amax, turned);
    const int code = amax ? ni_cuda_launch_amax(stream, amax, x, rows, cols, stride) : cudaSuccess;
    return code != cudaSuccess ? code : ni_cuda_find_turned(stream, x, rows, cols, stride, turned);
}
