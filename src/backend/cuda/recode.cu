/* recode.cu: see recode.h. The largest magnitude first, then bytes both ways. Bits are those of quantize.cu. */
#include "backend/cuda/recode.h"

#include "backend/cuda/byte_tile.cuh"
#include "backend/cuda/vector.cuh"
#include "format/vector_scales.h"

bool ni_cuda_recodes(const nb_quantizer *from, const nb_quantizer *to) {
    return from->element == NB_ELEMENT_E2M1 && (ni_has_row_scales(from) || ni_has_column_scales(from)) &&
           !from->hadamard_size && to->element == NB_ELEMENT_E4M3 && ni_has_tensor_scale(to) &&
           to->round == NB_ROUND_EVEN && !to->hadamard_size;
}

/* What eight codes decode to. */
static __device__ ni_eight decoded_eight(uint32_t codes, const float *scales, int step) {
    ni_eight e;
#pragma unroll
    for (int i = 0; i < 4; i++) { /* halves are 2^-14 of what they stand for */
        float low, high;
        ni_vector_two_of_halves(halves_of_codes(codes, i), &low, &high);
        e.x[i] = ni_f32_mul(low * 0x1p14f, scales[i * step]);
        e.x[i + 4] = ni_f32_mul(high * 0x1p14f, scales[(i + 4) * step]);
    }
    return e;
}

static __global__ void __launch_bounds__(NI_THREADS)
    largest_decoded(const __grid_constant__ nb_qtensor t, int64_t eights, uint32_t *amax) {
    const bool columns = t.quantizer.block_rows != 1;
    const uint32_t across = (uint32_t)(t.cols / 8);
    uint32_t largest = 0;
    for (NI_EACH(i, eights)) {
        const uint32_t r = (uint32_t)i / across, c = ((uint32_t)i - r * across) * 8;
        float scales[8];
        if (columns) {
            const float4 a = *(const float4 *)(t.outer_scales + c), b = *(const float4 *)(t.outer_scales + c + 4);
            scales[0] = a.x, scales[1] = a.y, scales[2] = a.z, scales[3] = a.w;
            scales[4] = b.x, scales[5] = b.y, scales[6] = b.z, scales[7] = b.w;
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++)
                scales[k] = t.outer_scales[r];
        }
        const ni_eight e = decoded_eight(((const uint32_t *)t.codes)[i], scales, 1);
#pragma unroll
        for (int k = 0; k < 8; k++)
            largest = max(largest, ni_f32_magnitude(e.x[k]));
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

static __device__ uint2 bytes_of_decoded(uint32_t codes, const float *scales, int step, float multiplier) {
    const ni_eight e = decoded_eight(codes, scales, step);
    uint32_t pair[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        pair[i] = ni_vector_bytes_of_two<NB_ELEMENT_E4M3>(ni_f32_mul(e.x[2 * i], multiplier),
                                                          ni_f32_mul(e.x[2 * i + 1], multiplier));
    return make_uint2(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
}

static __global__ void __launch_bounds__(NI_THREADS) recode(const __grid_constant__ ni_cuda_recoding o) {
    __shared__ byte_tile tile;
    __shared__ float scales[TILE];
    const nb_qtensor &t = o.from;
    const bool columns = t.quantizer.block_rows != 1;
    int64_t r0, c0;
    open_tile(t.cols, &r0, &c0);
    const int chunk = threadIdx.x % CHUNKS;
    uint2 codes[TILE / TILE_ROWS_AT_ONCE];
#pragma unroll
    for (int i = 0; i < TILE / TILE_ROWS_AT_ONCE; i++) {
        const int64_t r = r0 + (int)threadIdx.x / CHUNKS + TILE_ROWS_AT_ONCE * i, c = c0 + 16 * chunk;
        if (r < t.rows && c < t.cols)
            codes[i] = *(const uint2 *)(t.codes + (r * t.cols + c) / 2);
    }
    if (threadIdx.x < TILE) {
        const int64_t i = (columns ? c0 : r0) + threadIdx.x;
        scales[threadIdx.x] = i < (columns ? t.cols : t.rows) ? t.outer_scales[i] : 0.0f;
    }
    const float multiplier = ni_vector_encode(o.rule, ni_element_max(NB_ELEMENT_E4M3), ni_f32_from(*o.amax));
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *o.scale = ni_vector_decode(multiplier);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TILE / TILE_ROWS_AT_ONCE; i++) {
        const int r = (int)threadIdx.x / CHUNKS + TILE_ROWS_AT_ONCE * i;
        const int64_t c = c0 + 16 * chunk;
        if (r0 + r >= t.rows || c >= t.cols)
            continue;
        const float *own = columns ? scales + 16 * chunk : scales + r;
        const uint2 low = bytes_of_decoded(codes[i].x, own, columns, multiplier),
                    high = bytes_of_decoded(codes[i].y, columns ? own + 8 : own, columns, multiplier);
        const uint4 bytes = make_uint4(low.x, low.y, high.x, high.y);
        *(uint4 *)(o.bytes + (r0 + r) * t.cols + c) = bytes;
        put_chunk(tile, r, chunk, bytes);
    }
    __syncthreads();
    store_turned(tile, o.turned, t.rows, t.cols, r0, c0);
}

int ni_cuda_launch_recode(void *stream, const ni_cuda_recoding *r) {
    cudaStream_t on = (cudaStream_t)stream;
    const nb_qtensor *const t = &r->from;
    const int64_t eights = t->rows * t->cols / 8, tiles = ni_divide_up(t->rows, TILE) * ni_divide_up(t->cols, TILE);
    const int code = cudaMemsetAsync(r->amax, 0, sizeof *r->amax, on);
    if (eights == 0)
        return code;
    largest_decoded<<<ni_grid(ni_divide_up(eights, 8 * NI_THREADS)), NI_THREADS, 0, on>>>(*t, eights, r->amax);
    recode<<<(unsigned)tiles, NI_THREADS, 0, on>>>(*r);
    return code ? code : cudaGetLastError();
}
