/* measure.cu: what a tensor looks like, for the lens. Sums are in double; which elements a thread adds up depends on the
 * shape alone.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

static __device__ float load(const nb_mat &x, int64_t r, int64_t c) {
    int64_t at = r * x.stride + c;
    return x.dtype == NB_BF16 ? ni_bf16_value(((const uint16_t *)x.data)[at]) : ((const float *)x.data)[at];
}

static __device__ bool is_finite(float x) {
    return ni_f32_magnitude(x) < NI_F32_INF_BITS;
}

static __device__ void join(ni_cuda_moment_sums *a, const ni_cuda_moment_sums &b) {
    for (int i = 0; i < 4; i++)
        a->sums[i] += b.sums[i];
    a->count += b.count;
    a->amax = fmax(a->amax, b.amax);
}

static __device__ ni_cuda_moment_sums block_total(ni_cuda_moment_sums mine, ni_cuda_moment_sums *room) {
    room[threadIdx.x] = mine;
    for (unsigned stride = NI_THREADS / 2; stride; stride /= 2) {
        __syncthreads();
        if (threadIdx.x < stride)
            join(&room[threadIdx.x], room[threadIdx.x + stride]);
    }
    __syncthreads();
    return room[0];
}

static __global__ void moment_parts(ni_cuda_moment_sums *partial, nb_mat x) {
    __shared__ ni_cuda_moment_sums room[NI_THREADS];
    ni_cuda_moment_sums mine = {};
    for (NI_EACH(i, x.rows * x.cols)) {
        float v = load(x, i / x.cols, i % x.cols);
        if (!is_finite(v))
            continue;
        double d = v, power = 1;
        for (int j = 0; j < 4; j++)
            mine.sums[j] += power *= d;
        mine.count++;
        mine.amax = fmax(mine.amax, fabs(d));
    }
    mine = block_total(mine, room);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = mine;
}

/* From the number of elements and the raw sums of x, x^2, x^3, x^4: as ni_moments_of_sums. */
static __device__ ni_moments moments_of(int64_t count, int64_t nonfinite, double amax, const double sums[4]) {
    ni_moments m = {count, nonfinite, amax, 0, 0, 0};
    if (count == 0)
        return m;
    const double n = (double)count, mean = sums[0] / n, second = sums[1] / n, third = sums[2] / n, fourth = sums[3] / n;
    const double variance = second - mean * mean;
    const double centred = fourth - 4 * mean * third + 6 * mean * mean * second - 3 * mean * mean * mean * mean;
    m.mean = mean;
    m.rms = sqrt(second);
    if (variance > 1e-12 * second)
        m.excess_kurtosis = centred / (variance * variance) - 3;
    return m;
}

static __global__ void moment_total(ni_moments *out, const ni_cuda_moment_sums *partial, int64_t elements) {
    __shared__ ni_cuda_moment_sums room[NI_THREADS];
    ni_cuda_moment_sums mine = {};
    for (int i = threadIdx.x; i < NI_CUDA_SUM_BLOCKS; i += NI_THREADS)
        join(&mine, partial[i]);
    mine = block_total(mine, room);
    if (threadIdx.x == 0)
        *out = moments_of(mine.count, elements - mine.count, mine.amax, mine.sums);
}

static __global__ void column_amaxes(float *out, nb_mat x) {
    for (NI_EACH(c, x.cols)) {
        uint32_t largest = 0;
        for (int64_t r = 0; r < x.rows; r++)
            if (is_finite(load(x, r, c)))
                largest = max(largest, ni_f32_magnitude(load(x, r, c)));
        out[c] = ni_f32_from(largest);
    }
}

/* A thread a tile of 16x16: largest magnitude over root mean square. */
static __global__ void tile_crests(float *out, nb_mat x) {
    const int64_t across = (x.cols + 15) / 16, tiles = across * ((x.rows + 15) / 16);
    for (NI_EACH(t, tiles)) {
        double largest = 0, squares = 0;
        int64_t count = 0;
        for (int64_t r = t / across * 16; r < x.rows && r < t / across * 16 + 16; r++)
            for (int64_t c = t % across * 16; c < x.cols && c < t % across * 16 + 16; c++) {
                double v = load(x, r, c);
                if (!is_finite((float)v))
                    continue;
                largest = fmax(largest, fabs(v));
                squares += v * v;
                count++;
            }
        out[t] = squares > 0 ? (float)(largest / sqrt(squares / (double)count)) : 0.0f;
    }
}

/* ---- a matrix ---- */

int ni_cuda_launch_measure(void *stream, const nb_mat *x, ni_cuda_moment_sums *partial, ni_moments *moments,
                           float *column_amax, float *tile_crest) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t tiles = ((x->cols + 15) / 16) * ((x->rows + 15) / 16);
    moment_parts<<<NI_CUDA_SUM_BLOCKS, NI_THREADS, 0, on>>>(partial, *x);
    moment_total<<<1, NI_THREADS, 0, on>>>(moments, partial, x->rows * x->cols);
    if (column_amax && x->cols > 0)
        column_amaxes<<<ni_grid(ni_divide_up(x->cols, 32)), 32, 0, on>>>(column_amax, *x);
    if (tile_crest && tiles > 0)
        tile_crests<<<ni_grid(ni_divide_up(tiles, NI_THREADS)), NI_THREADS, 0, on>>>(tile_crest, *x);
    return cudaGetLastError();
}
