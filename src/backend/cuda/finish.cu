/* finish.cu: what is left of a product into BF16 whose scales are of rows: its FP32 sum times them, rounded once:
 *
 *     out[r, n] = bf16(sum[r, n] (row[r] col[n]))
 *
 * With a sparse product beside it: finish_sparse.cu.
 */
#include "backend/cuda/finish.h"

#include "backend/cuda/launch.cuh"
#include "format/ieee.h"

static __device__ float at_or_one(const ni_cuda_outer &o, int64_t i) {
    return o.at ? o.at[i * o.step] : 1.0f;
}

static __global__ void __launch_bounds__(NI_THREADS) finish_scaled(const __grid_constant__ ni_cuda_finish f) {
    const uint32_t eights = (uint32_t)(f.cols / 8);
    for (NI_EACH(i, f.rows_count * eights)) {
        const uint32_t r = (uint32_t)(i / eights), n = (uint32_t)(i - (int64_t)r * eights) * 8;
        const float4 *from = (const float4 *)(f.sum + (int64_t)r * f.cols + n);
        const float4 a = from[0], b = from[1];
        const float row = at_or_one(f.rows, r);
        ni_eight e = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
#pragma unroll
        for (int k = 0; k < 8; k++)
            e.x[k] = ni_f32_mul(e.x[k], ni_f32_mul(row, at_or_one(f.columns, n + k)));
        ni_store_eight(f.out + r * f.out_stride + n, e);
    }
}

bool ni_cuda_can_finish(const ni_cuda_finish *f) {
    return ni_aligned(f->sum) && ni_aligned(f->out) && f->out_stride % 8 == 0 && f->cols % 8 == 0 && f->rows_count > 0;
}

int ni_cuda_launch_finish(void *stream, const ni_cuda_finish *f) {
    finish_scaled<<<ni_grid(ni_divide_up(f->rows_count * (f->cols / 8), NI_THREADS)), NI_THREADS, 0,
                    (cudaStream_t)stream>>>(*f);
    return cudaGetLastError();
}
