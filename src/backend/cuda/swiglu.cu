/* swiglu.cu: y = silu(gate) up and its slopes, with the largest magnitudes of what is written: plain, and of columns turned
 * by 16 (nb_mat.turned_amax), for which a thread takes 16 rows of two columns.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/swiglu.cuh"
#include "backend/cuda/tile.cuh"

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

static __device__ uint32_t pair_at(const uint16_t *x, int64_t at) {
    return *(const uint32_t *)(x + at);
}

/* Where a thread's 16 rows of two columns begin; false: beyond the end. */
static __device__ bool find_columns(int64_t rows, int64_t cols, int64_t *at) {
    const uint32_t across = (uint32_t)(cols / 2);
    const int64_t piece = blockIdx.x * (int64_t)NI_TILE_THREADS + threadIdx.x;
    const uint32_t band = (uint32_t)(piece / across);
    *at = (int64_t)band * 16 * cols + 2 * (piece - (int64_t)band * across);
    return band < (uint32_t)(rows / 16);
}

static __global__ void __launch_bounds__(NI_TILE_THREADS)
    swiglu_forward_tiles(uint16_t *y, uint32_t *amax, uint32_t *turned, const uint16_t *gate, const uint16_t *up,
                         int64_t rows, int64_t cols) {
    uint32_t largest = 0, largest_turned = ni_found_amax(turned), out[16];
    int64_t at;
    if (find_columns(rows, cols, &at)) {
        uint32_t g[16], u[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
            g[i] = pair_at(gate, at + i * cols);
            u[i] = pair_at(up, at + i * cols);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            out[i] = ni_pack_two(ni_swiglu<false>(ni_low_of(g[i]), ni_low_of(u[i])),
                                 ni_swiglu<false>(ni_high_of(g[i]), ni_high_of(u[i])));
            largest = ni_larger_pair(largest, out[i]);
            *(uint32_t *)(y + at + i * cols) = out[i];
        }
        largest_turned = ni_larger_turned(largest_turned, out);
    }
    __syncwarp();
    ni_join_amax(amax, ni_larger_half(largest));
    ni_join_amax(turned, largest_turned);
}

static __global__ void __launch_bounds__(NI_TILE_THREADS)
    swiglu_backward_tiles(uint16_t *dgate, uint32_t *gate_amax, uint32_t *gate_turned, uint16_t *dup, uint32_t *up_amax,
                          uint32_t *up_turned, const uint16_t *dy, const uint16_t *gate, const uint16_t *up,
                          int64_t rows, int64_t cols) {
    uint32_t of_gate = 0, of_up = 0, of_gate_turned = ni_found_amax(gate_turned),
             of_up_turned = ni_found_amax(up_turned);
    int64_t at;
    if (find_columns(rows, cols, &at)) {
        uint32_t g[16], u[16], d[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
            g[i] = pair_at(gate, at + i * cols);
            u[i] = pair_at(up, at + i * cols);
            d[i] = pair_at(dy, at + i * cols);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float dg[2], du[2];
            ni_swiglu_slopes<false>(ni_low_of(g[i]), ni_low_of(u[i]), ni_low_of(d[i]), &dg[0], &du[0]);
            ni_swiglu_slopes<false>(ni_high_of(g[i]), ni_high_of(u[i]), ni_high_of(d[i]), &dg[1], &du[1]);
            g[i] = ni_pack_two(dg[0], dg[1]);
            u[i] = ni_pack_two(du[0], du[1]);
            of_gate = ni_larger_pair(of_gate, g[i]);
            of_up = ni_larger_pair(of_up, u[i]);
            *(uint32_t *)(dgate + at + i * cols) = g[i];
            *(uint32_t *)(dup + at + i * cols) = u[i];
        }
        of_gate_turned = ni_larger_turned(of_gate_turned, g);
        of_up_turned = ni_larger_turned(of_up_turned, u);
    }
    __syncwarp();
    ni_join_amax(gate_amax, ni_larger_half(of_gate));
    ni_join_amax(up_amax, ni_larger_half(of_up));
    ni_join_amax(gate_turned, of_gate_turned);
    ni_join_amax(up_turned, of_up_turned);
}

/* ---- which kernel ---- */

static bool has_tiles(const nb_mat *m) {
    return m->turned_amax && m->rows % 16 == 0 && m->cols % 2 == 0 && m->stride == m->cols &&
           m->rows * m->cols / 32 <= INT32_MAX;
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
    const int code = ni_cuda_clear_amaxes(stream, out->amax, out->turned_amax);
    if (n == 0 || code != cudaSuccess)
        return code;
    if (tiles)
        swiglu_forward_tiles<<<(unsigned)ni_divide_up(n / 32, NI_TILE_THREADS), NI_TILE_THREADS, 0, on>>>(
            y, out->amax, out->turned_amax, gate, up, out->rows, out->cols);
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
    int code = ni_cuda_clear_amaxes(stream, of_gate->amax, of_gate->turned_amax);
    if (code == cudaSuccess)
        code = ni_cuda_clear_amaxes(stream, of_up->amax, of_up->turned_amax);
    if (n == 0 || code != cudaSuccess)
        return code;
    if (tiles)
        swiglu_backward_tiles<<<(unsigned)ni_divide_up(n / 32, NI_TILE_THREADS), NI_TILE_THREADS, 0, on>>>(
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
    code = find_turned(stream, of_gate);
    return code != cudaSuccess ? code : find_turned(stream, of_up);
}
