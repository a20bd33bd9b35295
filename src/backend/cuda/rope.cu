/* rope.cu: RoPE in place, with the largest magnitudes of what is left: plain, and of columns turned by 16
 * (nb_mat.turned_amax), for which a block takes 16 tokens.
 */
#include "backend/cuda/rope.cuh"
#include "backend/cuda/tile.cuh"

static __global__ void make_turns(ni_turn *table, int64_t positions, int64_t head_dim,
                                  const __grid_constant__ ni_rope how) {
    const int64_t half = head_dim / 2;
    for (NI_EACH(at, positions * half))
        table[at] = ni_turn_by((int32_t)(at / half), at % half, head_dim, how);
}

/* A thread turns one pair of one token's channels in every head. */
static __global__ void rope(uint16_t *x, const int32_t *positions, int64_t n, int64_t heads, int64_t head_dim,
                            int64_t stride, const __grid_constant__ ni_rope how,
                            const __grid_constant__ ni_cuda_turns turns, bool inverse) {
    const int64_t half = head_dim / 2;
    for (NI_EACH(at, n * half)) {
        const int64_t t = at / half, i = at % half;
        const ni_turn by = ni_turn_at(turns, positions[t], i, head_dim, how, inverse);
        for (int64_t h = 0; h < heads; h++) {
            uint16_t *pair = x + t * stride + h * head_dim + i;
            float x1 = ni_bf16_value(pair[0]), x2 = ni_bf16_value(pair[half]);
            ni_turn_two(&x1, &x2, by.c, by.s);
            pair[0] = ni_bf16_even(x1);
            pair[half] = ni_bf16_even(x2);
        }
    }
}

/* Two neighbouring pairs, four heads at a time in flight. */
static __global__ void rope_twos(uint16_t *x, const int32_t *positions, int64_t n, int heads, int head_dim,
                                 int64_t stride, const __grid_constant__ ni_rope how,
                                 const __grid_constant__ ni_cuda_turns turns, bool inverse) {
    const uint32_t half = (uint32_t)head_dim / 2, quarter = half / 2;
    for (NI_EACH(at, n * quarter)) {
        const uint32_t t = (uint32_t)at / quarter, i = ((uint32_t)at - t * quarter) * 2;
        const ni_turn one = ni_turn_at(turns, positions[t], i, head_dim, how, inverse),
                      two = ni_turn_at(turns, positions[t], i + 1, head_dim, how, inverse);
        uint16_t *const first = x + t * stride + i;
#pragma unroll 4
        for (int h = 0; h < heads; h++) {
            uint32_t *const low = (uint32_t *)(first + h * head_dim), *const high =
                                                                          (uint32_t *)(first + h * head_dim + half);
            const uint32_t a = *low, b = *high;
            float x1 = __uint_as_float(a << 16), x2 = __uint_as_float(b << 16), y1 = __uint_as_float(a & 0xffff0000u),
                  y2 = __uint_as_float(b & 0xffff0000u);
            ni_turn_two(&x1, &x2, one.c, one.s);
            ni_turn_two(&y1, &y2, two.c, two.s);
            *low = ni_pack_two(x1, y1);
            *high = ni_pack_two(x2, y2);
        }
    }
}

/* ---- sixteen tokens at a time, where the maximum of turned columns is asked for ---- */

enum { BAND = 16 };

static __device__ uint32_t turn_pair(uint32_t *high, uint32_t low, const ni_turn &first, const ni_turn &second) {
    float x1 = ni_low_of(low), x2 = ni_low_of(*high), y1 = ni_high_of(low), y2 = ni_high_of(*high);
    ni_turn_two(&x1, &x2, first.c, first.s);
    ni_turn_two(&y1, &y2, second.c, second.s);
    *high = ni_pack_two(x2, y2);
    return ni_pack_two(x1, y1);
}

/* A thread takes two neighbouring channels of a head and their partners, of all sixteen tokens. */
static __global__ void __launch_bounds__(NI_TILE_THREADS)
    rope_bands(uint16_t *x, uint32_t *amax, uint32_t *turned_amax, const int32_t *positions, int heads, int head_dim,
               const __grid_constant__ ni_rope how, const __grid_constant__ ni_cuda_turns known, bool inverse) {
    extern __shared__ __align__(16) ni_turn turns[]; /* [BAND, half] */
    __shared__ ni_known_amaxes found;
    const int half = head_dim / 2, quarter = half / 2;
    const int64_t stride = (int64_t)heads * head_dim, first = blockIdx.x * (int64_t)BAND;
    const uint32_t word = ni_ask_amaxes<0>(amax, turned_amax);
    uint32_t pairs = 0, turned = 0;
    for (int at = threadIdx.x; at < BAND * half; at += NI_TILE_THREADS)
        turns[at] = ni_turn_at(known, positions[first + at / half], at % half, head_dim, how, inverse);
    ni_tell_amaxes<0>(&found, word);
    __syncthreads();
    for (int item = threadIdx.x; item < heads * quarter; item += NI_TILE_THREADS) {
        const int head = item / quarter, i = (item - head * quarter) * 2;
        uint16_t *const from = x + first * stride + head * head_dim + i;
        uint32_t low[BAND], high[BAND];
#pragma unroll
        for (int t = 0; t < BAND; t++) {
            low[t] = *(const uint32_t *)(from + t * stride);
            high[t] = *(const uint32_t *)(from + t * stride + half);
        }
#pragma unroll
        for (int t = 0; t < BAND; t++) {
            low[t] = turn_pair(&high[t], low[t], turns[t * half + i], turns[t * half + i + 1]);
            *(uint32_t *)(from + t * stride) = low[t];
            *(uint32_t *)(from + t * stride + half) = high[t];
            pairs = ni_larger_pair(ni_larger_pair(pairs, low[t]), high[t]);
        }
        turned = max(turned, max(ni_turned_amax(low), ni_turned_amax(high)));
    }
    __syncwarp();
    ni_join_known(amax, ni_larger_half(pairs), found.plain);
    ni_join_known(turned_amax, turned, found.turned);
}

/* ---- which kernel ---- */

enum { MOST_HEAD = 1024 }; /* of 16 tokens' angles in shared memory */

int ni_cuda_launch_turns(void *stream, float *table, int64_t positions, int64_t head_dim, const ni_rope *how) {
    make_turns<<<ni_grid(ni_divide_up(positions * (head_dim / 2), NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
        (ni_turn *)table, positions, head_dim, *how);
    return cudaGetLastError();
}

int ni_cuda_launch_rope(void *stream, const nb_mat *x, const int32_t *positions, int64_t heads, const ni_rope *how,
                        const ni_cuda_turns *turns, bool inverse) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t n = x->rows, stride = x->cols, head_dim = stride / heads;
    uint16_t *const data = (uint16_t *)x->data;
    const bool twos =
        head_dim % 4 == 0 && head_dim <= MOST_HEAD && ((uintptr_t)data & 3) == 0 && n * head_dim <= INT32_MAX;
    const bool bands = twos && x->turned_amax && n % BAND == 0 && stride <= INT32_MAX;
    const size_t bytes = BAND * (size_t)(head_dim / 2) * sizeof(ni_turn);
    int code = cudaSuccess;
    if (bands && n > 0) {
        code = cudaFuncSetAttribute(rope_bands, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
        if (code != cudaSuccess)
            return code;
        rope_bands<<<(unsigned)(n / BAND), NI_TILE_THREADS, bytes, on>>>(
            data, x->amax, x->turned_amax, positions, (int)heads, (int)head_dim, *how, *turns, inverse);
        return cudaGetLastError();
    }
    if (n * head_dim > 1 && twos)
        rope_twos<<<ni_grid(ni_divide_up(n * head_dim / 4, NI_THREADS)), NI_THREADS, 0, on>>>(
            data, positions, n, (int)heads, (int)head_dim, stride, *how, *turns, inverse);
    else if (n * head_dim > 1)
        rope<<<ni_grid(ni_divide_up(n * head_dim / 2, NI_THREADS)), NI_THREADS, 0, on>>>(
            data, positions, n, heads, head_dim, stride, *how, *turns, inverse);
    code = cudaGetLastError();
    if (x->amax && code == cudaSuccess)
        code = ni_cuda_launch_amax(stream, x->amax, data, n, stride, stride);
    return code != cudaSuccess ? code : ni_cuda_find_turned(stream, data, n, stride, stride, x->turned_amax);
}
