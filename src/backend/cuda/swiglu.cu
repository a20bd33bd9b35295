/* swiglu.cu: y = silu(gate) up and its slopes, with the largest magnitudes of what is written: plain, and of columns turned
 * by 16 (nb_mat.turned_amax), for which a warp takes 16 rows of 64 columns.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/swiglu.cuh"
#include "backend/cuda/turned.cuh"

static __global__ void swiglu_forward(uint16_t *y, uint32_t *amax, const uint16_t *gate, const uint16_t *up,
                                      int64_t n) {
    uint32_t largest = 0;
    for (NI_EACH(i, n)) {
        y[i] = ni_bf16_even(ni_swiglu<false>(ni_bf16_value(gate[i]), ni_bf16_value(up[i])));
        largest = max(largest, ni_f32_magnitude(ni_bf16_value(y[i])));
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

static __global__ void swiglu_forward_eights(uint16_t *y, uint32_t *amax, const uint16_t *gate, const uint16_t *up,
                                             int64_t eights) {
    uint32_t largest = 0;
    for (NI_EACH(i, eights)) {
        ni_eight g = ni_load_eight(gate + 8 * i), u = ni_load_eight(up + 8 * i);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            g.x[j] = ni_bf16_round(ni_swiglu<false>(g.x[j], u.x[j]));
            largest = max(largest, ni_f32_magnitude(g.x[j]));
        }
        ni_store_eight(y + 8 * i, g);
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

static __global__ void swiglu_backward(uint16_t *dgate, uint32_t *dgate_amax, uint16_t *dup, uint32_t *dup_amax,
                                       const uint16_t *dy, const uint16_t *gate, const uint16_t *up, int64_t n) {
    uint32_t of_gate = 0, of_up = 0;
    for (NI_EACH(i, n)) {
        float dg, du;
        ni_swiglu_slopes<false>(ni_bf16_value(gate[i]), ni_bf16_value(up[i]), ni_bf16_value(dy[i]), &dg, &du);
        dgate[i] = ni_bf16_even(dg);
        dup[i] = ni_bf16_even(du);
        of_gate = max(of_gate, ni_f32_magnitude(ni_bf16_value(dgate[i])));
        of_up = max(of_up, ni_f32_magnitude(ni_bf16_value(dup[i])));
    }
    __syncwarp();
    ni_join_amax(dgate_amax, of_gate);
    ni_join_amax(dup_amax, of_up);
}

static __global__ void swiglu_backward_eights(uint16_t *dgate, uint32_t *dgate_amax, uint16_t *dup, uint32_t *dup_amax,
                                              const uint16_t *dy, const uint16_t *gate, const uint16_t *up,
                                              int64_t eights) {
    uint32_t of_gate = 0, of_up = 0;
    for (NI_EACH(i, eights)) {
        ni_eight g = ni_load_eight(gate + 8 * i), u = ni_load_eight(up + 8 * i), d = ni_load_eight(dy + 8 * i), dg, du;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            ni_swiglu_slopes<false>(g.x[j], u.x[j], d.x[j], &dg.x[j], &du.x[j]);
            dg.x[j] = ni_bf16_round(dg.x[j]);
            du.x[j] = ni_bf16_round(du.x[j]);
            of_gate = max(of_gate, ni_f32_magnitude(dg.x[j]));
            of_up = max(of_up, ni_f32_magnitude(du.x[j]));
        }
        ni_store_eight(dgate + 8 * i, dg);
        ni_store_eight(dup + 8 * i, du);
    }
    __syncwarp();
    ni_join_amax(dgate_amax, of_gate);
    ni_join_amax(dup_amax, of_up);
}

/* ---- in tiles, where the maximum of turned columns is asked for ---- */

/* A warp takes 16 rows of 64 columns, a lane four of the rows and eight of the columns: where those begin, and whether
 * they are there at all. Others do the first ones again. */
static __device__ bool find_tile(int64_t rows, int64_t cols, int64_t *at) {
    const uint32_t across = (uint32_t)((cols + 63) / 64);
    const uint32_t tile = blockIdx.x * (NI_TILE_THREADS / 32) + threadIdx.x / 32, band = tile / across;
    const uint32_t column = (tile - band * across) * 64 + ni_column_of_lane();
    const bool here = band < (uint32_t)(rows / 16), live = here && column < cols;
    *at = ((int64_t)(here ? band : 0) * 16 + ni_row_of_lane()) * cols + (live ? column : 0);
    return live;
}

static __device__ void load_four(uint4 (&x)[4], const uint16_t *from, int64_t cols) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        x[i] = *(const uint4 *)(from + i * cols);
}

static __global__ void __launch_bounds__(NI_TILE_THREADS)
    swiglu_forward_tiles(uint16_t *y, uint32_t *amax, uint32_t *turned, const uint16_t *gate, const uint16_t *up,
                         int64_t rows, int64_t cols) {
    __shared__ ni_known_amaxes known;
    uint32_t largest = 0;
    uint4 g[4], u[4];
    int64_t at;
    const bool live = find_tile(rows, cols, &at);
    load_four(g, gate + at, cols);
    load_four(u, up + at, cols);
    ni_tell_amaxes<0>(&known, ni_ask_amaxes<0>(amax, turned));
    ni_swiglu_of(g, u);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        largest = ni_larger_of_four(largest, g[i]);
        if (live)
            ni_store_words(ni_global(y + at + i * cols), g[i]);
    }
    __syncthreads();
    ni_join_known(amax, ni_larger_half(largest), known.plain);
    ni_join_fours(turned, g, ni_most_of_fours(ni_turning_of_fours(), g), known.turned);
}

static __global__ void __launch_bounds__(NI_TILE_THREADS)
    swiglu_backward_tiles(uint16_t *dgate, uint32_t *gate_amax, uint32_t *gate_turned, uint16_t *dup, uint32_t *up_amax,
                          uint32_t *up_turned, const uint16_t *dy, const uint16_t *gate, const uint16_t *up,
                          int64_t rows, int64_t cols) {
    __shared__ ni_known_amaxes known_gate, known_up;
    uint32_t of_gate = 0, of_up = 0;
    uint4 g[4], u[4], d[4];
    int64_t at;
    const bool live = find_tile(rows, cols, &at);
    load_four(g, gate + at, cols);
    load_four(u, up + at, cols);
    load_four(d, dy + at, cols);
    ni_tell_amaxes<0>(&known_gate, ni_ask_amaxes<0>(gate_amax, gate_turned));
    ni_tell_amaxes<1>(&known_up, ni_ask_amaxes<1>(up_amax, up_turned));
    ni_slopes_of(g, u, d);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        of_gate = ni_larger_of_four(of_gate, g[i]);
        of_up = ni_larger_of_four(of_up, u[i]);
        if (live) {
            ni_store_words(ni_global(dgate + at + i * cols), g[i]);
            ni_store_words(ni_global(dup + at + i * cols), u[i]);
        }
    }
    __syncthreads();
    const ni_turning by = ni_turning_of_fours();
    const uint32_t most_gate = ni_most_of_fours(by, g), most_up = ni_most_of_fours(by, u);
    ni_join_known(gate_amax, ni_larger_half(of_gate), known_gate.plain);
    ni_join_known(up_amax, ni_larger_half(of_up), known_up.plain);
    ni_join_fours(gate_turned, g, most_gate, known_gate.turned);
    ni_join_fours(up_turned, u, most_up, known_up.turned);
}

/* ---- which kernel ---- */

static bool has_tiles(const nb_mat *m) {
    return m->turned_amax && m->rows % 16 == 0 && m->cols % 8 == 0 && m->stride == m->cols &&
           m->rows * m->cols / 32 <= INT32_MAX;
}

static unsigned tile_blocks(const nb_mat *m) {
    return (unsigned)ni_divide_up(m->rows / 16 * ni_divide_up(m->cols, 64), NI_TILE_THREADS / 32);
}

static int find_turned(void *stream, const nb_mat *m) {
    const int code = cudaGetLastError();
    return code != cudaSuccess
               ? code
               : ni_cuda_find_turned(stream, (const uint16_t *)m->data, m->rows, m->cols, m->stride, m->turned_amax);
}

int ni_cuda_launch_swiglu_forward(void *stream, const nb_mat *out, const uint16_t *gate, const uint16_t *up) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t n = out->rows * out->cols;
    uint16_t *y = (uint16_t *)out->data;
    const bool aligned = ni_aligned(y) && ni_aligned(gate) && ni_aligned(up);
    const bool tiles = aligned && has_tiles(out);
    if (n == 0)
        return cudaSuccess;
    if (tiles)
        swiglu_forward_tiles<<<tile_blocks(out), NI_TILE_THREADS, 0, on>>>(y, out->amax, out->turned_amax, gate, up,
                                                                           out->rows, out->cols);
    else if (n % 8 == 0 && aligned)
        swiglu_forward_eights<<<ni_grid(ni_divide_up(n / 8, NI_THREADS)), NI_THREADS, 0, on>>>(y, out->amax, gate, up,
                                                                                               n / 8);
    else
        swiglu_forward<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>(y, out->amax, gate, up, n);
    return tiles ? cudaGetLastError() : find_turned(stream, out);
}

int ni_cuda_launch_swiglu_backward(void *stream, const nb_mat *of_gate, const nb_mat *of_up, const uint16_t *dy,
                                   const uint16_t *gate, const uint16_t *up) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t n = of_gate->rows * of_gate->cols;
    uint16_t *dgate = (uint16_t *)of_gate->data, *dup = (uint16_t *)of_up->data;
    const bool aligned = ni_aligned(dgate) && ni_aligned(dup) && ni_aligned(dy) && ni_aligned(gate) && ni_aligned(up);
    const bool tiles = aligned && has_tiles(of_gate) && has_tiles(of_up);
    if (n == 0)
        return cudaSuccess;
    if (tiles)
        swiglu_backward_tiles<<<tile_blocks(of_gate), NI_TILE_THREADS, 0, on>>>(
            dgate, of_gate->amax, of_gate->turned_amax, dup, of_up->amax, of_up->turned_amax, dy, gate, up,
            of_gate->rows, of_gate->cols);
    else if (n % 8 == 0 && aligned)
        swiglu_backward_eights<<<ni_grid(ni_divide_up(n / 8, NI_THREADS)), NI_THREADS, 0, on>>>(
            dgate, of_gate->amax, dup, of_up->amax, dy, gate, up, n / 8);
    else
        swiglu_backward<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>(dgate, of_gate->amax, dup,
                                                                                     of_up->amax, dy, gate, up, n);
    if (tiles)
        return cudaGetLastError();
    const int code = find_turned(stream, of_gate);
    return code != cudaSuccess ? code : find_turned(stream, of_up);
}
