/* sphere.cu: vectors of length 1, steps between them, and factors of columns. Formulas: src/backend/ref/sphere.inc.
 *
 * What belongs to a row is summed by the warp that takes it. Sums over rows (dalpha, ds) are made by blocks that each take
 * 32 lanes' columns of a part of the rows: a warp adds up its rows in order, the block its warps, a last kernel the parts
 * (norm.cu). Which rows are whose depends on the shape alone. A lane takes eight neighbours where the shape permits, or one.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

enum { MOST_BLOCKS = 1024 };

/* ---- how rows and columns are shared out ---- */

/* Parts of the rows: as many as fill a GPU with the blocks that the columns make. */
static int64_t parts_of(int64_t n, int64_t dim) {
    const int64_t columns = ni_divide_up(dim, 256), most = MOST_BLOCKS / columns, parts = ni_divide_up(n, NI_WARPS);
    return parts < most ? parts : most > 1 ? most : 1;
}

size_t ni_cuda_column_sum_bytes(int64_t n, int64_t dim) {
    return (size_t)(parts_of(n, dim) * dim) * sizeof(float);
}

static dim3 column_grid(int64_t n, int64_t dim, int width) {
    return dim3((unsigned)ni_divide_up(dim, 32 * width), (unsigned)parts_of(n, dim));
}

template <int V> static __device__ int64_t first_column() {
    return (blockIdx.x * (int64_t)32 + threadIdx.x % 32) * V;
}

/* for (NI_PART(r, n)): the rows of this warp in this block's part. */
#define NI_PART(r, n)                                                                                                  \
    int64_t r = blockIdx.y * (int64_t)NI_WARPS + threadIdx.x / 32;                                                     \
    r < (n);                                                                                                           \
    r += (int64_t)gridDim.y * NI_WARPS

/* This block's sums of its columns; all threads come here. */
template <int V> static __device__ void leave_columns(float *partial, const float (&sum)[V], int64_t dim) {
    __shared__ float room[NI_WARPS][32 * V];
#pragma unroll
    for (int j = 0; j < V; j++)
        room[threadIdx.x / 32][threadIdx.x % 32 * V + j] = sum[j];
    __syncthreads();
    const int64_t c = blockIdx.x * (int64_t)(32 * V) + threadIdx.x;
    if (threadIdx.x >= 32 * V || c >= dim)
        return;
    float all = 0;
    for (int i = 0; i < NI_WARPS; i++)
        all += room[i][threadIdx.x];
    partial[blockIdx.y * dim + c] = all;
}

/* ---- V neighbours of a row ---- */

static __device__ void load(float (&x)[8], const uint16_t *from) {
    const ni_eight e = ni_load_eight(from);
#pragma unroll
    for (int j = 0; j < 8; j++)
        x[j] = e.x[j];
}

static __device__ void load(float (&x)[1], const uint16_t *from) {
    x[0] = ni_bf16_value(*from);
}

static __device__ void load(float (&x)[8], const float *from) {
    const float4 low = *(const float4 *)from, high = *(const float4 *)(from + 4);
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}

static __device__ void load(float (&x)[1], const float *from) {
    x[0] = *from;
}

/* Rounded and stored; the largest magnitude so far. */
template <int V> static __device__ uint32_t store(uint16_t *to, float (&x)[V], uint32_t largest) {
#pragma unroll
    for (int j = 0; j < V; j++) {
        x[j] = ni_bf16_round(x[j]);
        largest = max(largest, ni_f32_magnitude(x[j]));
    }
    if constexpr (V == 8)
        *(uint4 *)to = make_uint4(ni_pack_two(x[0], x[1]), ni_pack_two(x[2], x[3]), ni_pack_two(x[4], x[5]),
                                  ni_pack_two(x[6], x[7]));
    else
        *to = ni_bf16_even(x[0]);
    return largest;
}

/* ---- vectors to length 1: lengths in double ---- */

static __device__ double scale_to_one(double squares) {
    return squares > 0 ? 1 / sqrt(squares) : 1;
}

static __global__ void unit_rows(float *w, int64_t rows, int64_t cols) {
    const int lane = threadIdx.x % 32;
    for (int64_t r = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32; r < rows; r += (int64_t)gridDim.x * NI_WARPS) {
        double squares = 0;
        for (int64_t c = lane; c < cols; c += 32)
            squares += (double)w[r * cols + c] * (double)w[r * cols + c];
        const double scale = scale_to_one(ni_warp_sum(squares));
        for (int64_t c = lane; c < cols; c += 32)
            w[r * cols + c] = (float)((double)w[r * cols + c] * scale);
    }
}

/* A block takes 32 columns; each of its warps every 32nd row. */
enum { COLUMN_WARPS = 32 };

static __global__ void __launch_bounds__(32 * COLUMN_WARPS) unit_columns(float *w, int64_t rows, int64_t cols) {
    __shared__ double room[COLUMN_WARPS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t c = blockIdx.x * (int64_t)32 + lane;
    double squares = 0;
    for (int64_t r = warp; c < cols && r < rows; r += COLUMN_WARPS)
        squares += (double)w[r * cols + c] * (double)w[r * cols + c];
    room[warp][lane] = squares;
    __syncthreads();
    squares = 0;
    for (int i = 0; i < COLUMN_WARPS; i++)
        squares += room[i][lane];
    const double scale = scale_to_one(squares);
    for (int64_t r = warp; c < cols && r < rows; r += COLUMN_WARPS)
        w[r * cols + c] = (float)((double)w[r * cols + c] * scale);
}

int ni_cuda_launch_unit_vectors(void *stream, float *w, int64_t rows, int64_t cols, bool columns) {
    cudaStream_t on = (cudaStream_t)stream;
    if (rows * cols == 0)
        return cudaSuccess;
    if (columns)
        unit_columns<<<(unsigned)ni_divide_up(cols, 32), 32 * COLUMN_WARPS, 0, on>>>(w, rows, cols);
    else
        unit_rows<<<ni_grid(ni_divide_up(rows, NI_WARPS)), NI_THREADS, 0, on>>>(w, rows, cols);
    return cudaGetLastError();
}

/* ---- a step from A = N(a) towards B = N(b) ---- */

/* What a row's numbers have in common: 1 / lengths; y.dout, A.dA, B.dB. */
struct arc {
    float over_a, over_b, over_u, along, along_a, along_b;
};

static __device__ float share_of(float alpha, float factor) {
    return fabsf(factor * alpha);
}

static __device__ float between(const arc &s, float a, float b, float share) {
    const float from = a * s.over_a;
    return from + share * (b * s.over_b - from);
}

static __device__ float slope_of_step(const arc &s, float u, float dout) {
    return s.over_u * (dout - u * s.over_u * s.along);
}

template <int V> static __device__ void find_lengths(arc &s, const ni_cuda_slerp &p, int64_t at) {
    float squares_a = 0, squares_b = 0, squares = 0;
    for (int64_t c = threadIdx.x % 32 * V; c < p.dim; c += 32 * V) {
        float a[V], b[V];
        load(a, p.a + at + c);
        load(b, p.b + at + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            squares_a += a[j] * a[j];
            squares_b += b[j] * b[j];
        }
    }
    s.over_a = 1.0f / sqrtf(ni_warp_sum(squares_a) + p.eps);
    s.over_b = 1.0f / sqrtf(ni_warp_sum(squares_b) + p.eps);
    for (int64_t c = threadIdx.x % 32 * V; c < p.dim; c += 32 * V) {
        float a[V], b[V], alpha[V];
        load(a, p.a + at + c);
        load(b, p.b + at + c);
        load(alpha, p.alpha + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float u = between(s, a[j], b[j], share_of(alpha[j], p.factor));
            squares += u * u;
        }
    }
    s.over_u = 1.0f / sqrtf(ni_warp_sum(squares) + p.eps);
}

template <int V>
static __global__ void slerp_forward(const __grid_constant__ ni_cuda_slerp p, uint16_t *out, uint32_t *amax) {
    uint32_t largest = 0;
    for (int64_t r = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32; r < p.n; r += (int64_t)gridDim.x * NI_WARPS) {
        arc s = {};
        find_lengths<V>(s, p, r * p.dim);
        for (int64_t c = threadIdx.x % 32 * V; c < p.dim; c += 32 * V) {
            float a[V], b[V], alpha[V];
            load(a, p.a + r * p.dim + c);
            load(b, p.b + r * p.dim + c);
            load(alpha, p.alpha + c);
#pragma unroll
            for (int j = 0; j < V; j++)
                a[j] = between(s, a[j], b[j], share_of(alpha[j], p.factor)) * s.over_u;
            largest = store(out + r * p.dim + c, a, largest);
        }
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

/* arcs [n]. */
template <int V>
static __global__ void slerp_arcs(const __grid_constant__ ni_cuda_slerp p, arc *arcs, const uint16_t *dout) {
    for (int64_t r = blockIdx.x * (int64_t)NI_WARPS + threadIdx.x / 32; r < p.n; r += (int64_t)gridDim.x * NI_WARPS) {
        arc s = {};
        find_lengths<V>(s, p, r * p.dim);
        for (int pass = 0; pass < 2; pass++) {
            float along = 0, along_a = 0, along_b = 0;
            for (int64_t c = threadIdx.x % 32 * V; c < p.dim; c += 32 * V) {
                float a[V], b[V], alpha[V], d[V];
                load(a, p.a + r * p.dim + c);
                load(b, p.b + r * p.dim + c);
                load(alpha, p.alpha + c);
                load(d, dout + r * p.dim + c);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    const float t = share_of(alpha[j], p.factor), u = between(s, a[j], b[j], t),
                                du = slope_of_step(s, u, d[j]);
                    along += u * s.over_u * d[j];
                    along_a += a[j] * s.over_a * (1.0f - t) * du;
                    along_b += b[j] * s.over_b * t * du;
                }
            }
            if (pass == 0)
                s.along = ni_warp_sum(along);
            s.along_a = ni_warp_sum(along_a), s.along_b = ni_warp_sum(along_b); /* right once `along` is */
        }
        if (threadIdx.x % 32 == 0)
            arcs[r] = s;
    }
}

/* da may be dout: a thread writes only where it alone has read. */
template <int V>
static __global__ void slerp_slopes(const __grid_constant__ ni_cuda_slerp p, uint16_t *da, uint16_t *db,
                                    uint32_t *db_amax, float *partial, const uint16_t *dout, const arc *arcs) {
    const int64_t c = first_column<V>();
    float sum[V] = {}, alpha[V];
    uint32_t largest = 0;
    if (c < p.dim)
        load(alpha, p.alpha + c);
    for (NI_PART(r, c < p.dim ? p.n : 0)) {
        const arc s = arcs[r];
        const int64_t at = r * p.dim + c;
        float a[V], b[V], d[V];
        load(a, p.a + at);
        load(b, p.b + at);
        load(d, dout + at);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float t = share_of(alpha[j], p.factor), from = a[j] * s.over_a, to = b[j] * s.over_b;
            const float du = slope_of_step(s, between(s, a[j], b[j], t), d[j]);
            sum[j] += (p.factor * alpha[j] < 0 ? -p.factor : p.factor) * du * (to - from);
            a[j] = s.over_a * ((1.0f - t) * du - from * s.along_a);
            b[j] = s.over_b * (t * du - to * s.along_b);
        }
        store(da + at, a, 0);
        largest = store(db + at, b, largest);
    }
    __syncwarp();
    ni_join_amax(db_amax, largest);
    leave_columns(partial, sum, p.dim);
}

static bool in_eights(const ni_cuda_slerp *p, const void *one, const void *two, const void *three) {
    return p->dim % 8 == 0 && ni_aligned(p->a) && ni_aligned(p->b) && ni_aligned(p->alpha) && ni_aligned(one) &&
           ni_aligned(two) && ni_aligned(three);
}

int ni_cuda_launch_slerp_forward(void *stream, const ni_cuda_slerp *p, uint16_t *out, uint32_t *amax) {
    cudaStream_t on = (cudaStream_t)stream;
    const unsigned blocks = ni_grid(ni_divide_up(p->n, NI_WARPS));
    if (amax)
        cudaMemsetAsync(amax, 0, sizeof *amax, on);
    if (p->n * p->dim == 0)
        return cudaGetLastError();
    if (in_eights(p, out, NULL, NULL))
        slerp_forward<8><<<blocks, NI_THREADS, 0, on>>>(*p, out, amax);
    else
        slerp_forward<1><<<blocks, NI_THREADS, 0, on>>>(*p, out, amax);
    return cudaGetLastError();
}

size_t ni_cuda_slerp_bytes(int64_t n, int64_t dim) {
    return (size_t)n * sizeof(arc) + ni_cuda_column_sum_bytes(n, dim);
}

template <int V>
static void launch_slopes(cudaStream_t on, const ni_cuda_slerp *p, uint16_t *da, uint16_t *db, uint32_t *db_amax,
                          const uint16_t *dout, arc *arcs, float *partial) {
    slerp_arcs<V><<<ni_grid(ni_divide_up(p->n, NI_WARPS)), NI_THREADS, 0, on>>>(*p, arcs, dout);
    slerp_slopes<V><<<column_grid(p->n, p->dim, V), NI_THREADS, 0, on>>>(*p, da, db, db_amax, partial, dout, arcs);
}

int ni_cuda_launch_slerp_backward(void *stream, const ni_cuda_slerp *p, uint16_t *da, uint16_t *db, uint32_t *db_amax,
                                  float *dalpha, const uint16_t *dout, void *scratch) {
    cudaStream_t on = (cudaStream_t)stream;
    arc *arcs = (arc *)scratch;
    float *partial = (float *)(arcs + p->n);
    if (db_amax)
        cudaMemsetAsync(db_amax, 0, sizeof *db_amax, on);
    if (p->n * p->dim == 0)
        return cudaGetLastError();
    if (in_eights(p, da, db, dout))
        launch_slopes<8>(on, p, da, db, db_amax, dout, arcs, partial);
    else
        launch_slopes<1>(on, p, da, db, db_amax, dout, arcs, partial);
    return ni_cuda_launch_add_partials(stream, dalpha, partial, parts_of(p->n, p->dim), p->dim);
}

/* ---- y = x (factor s)^power ---- */

static __device__ float gain_of(float scaled, int power) {
    return power == 2 ? scaled * scaled : scaled;
}

/* y may be x. */
template <int V>
static __global__ void gain_forward(uint16_t *y, uint32_t *amax, const uint16_t *x, const float *s, float factor,
                                    int power, int64_t n, int64_t dim) {
    const int64_t c = first_column<V>();
    float gain[V];
    uint32_t largest = 0;
    if (c < dim) {
        load(gain, s + c);
#pragma unroll
        for (int j = 0; j < V; j++)
            gain[j] = gain_of(factor * gain[j], power);
    }
    for (NI_PART(r, c < dim ? n : 0)) {
        float in[V];
        load(in, x + r * dim + c);
#pragma unroll
        for (int j = 0; j < V; j++)
            in[j] *= gain[j];
        largest = store(y + r * dim + c, in, largest);
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

/* dx may be dy. */
template <int V>
static __global__ void gain_backward(uint16_t *dx, uint32_t *amax, float *partial, const uint16_t *dy,
                                     const uint16_t *x, const float *s, float factor, int power, int64_t n,
                                     int64_t dim) {
    const int64_t c = first_column<V>();
    float gain[V] = {}, slope[V] = {}, sum[V] = {};
    uint32_t largest = 0;
    if (c < dim) {
        load(gain, s + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            slope[j] = power == 2 ? 2.0f * factor * (factor * gain[j]) : factor;
            gain[j] = gain_of(factor * gain[j], power);
        }
    }
    for (NI_PART(r, c < dim ? n : 0)) {
        float d[V], in[V];
        load(d, dy + r * dim + c);
        load(in, x + r * dim + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            sum[j] += d[j] * in[j] * slope[j];
            d[j] *= gain[j];
        }
        largest = store(dx + r * dim + c, d, largest);
    }
    __syncwarp();
    ni_join_amax(amax, largest);
    leave_columns(partial, sum, dim);
}

int ni_cuda_launch_gain_forward(void *stream, const nb_mat *y, const uint16_t *x, const float *s, float factor,
                                int power) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t n = y->rows, dim = y->cols;
    if (y->amax)
        cudaMemsetAsync(y->amax, 0, sizeof *y->amax, on);
    if (n * dim == 0)
        return cudaGetLastError();
    if (dim % 8 == 0 && ni_aligned(y->data) && ni_aligned(x) && ni_aligned(s))
        gain_forward<8>
            <<<column_grid(n, dim, 8), NI_THREADS, 0, on>>>((uint16_t *)y->data, y->amax, x, s, factor, power, n, dim);
    else
        gain_forward<1>
            <<<column_grid(n, dim, 1), NI_THREADS, 0, on>>>((uint16_t *)y->data, y->amax, x, s, factor, power, n, dim);
    return cudaGetLastError();
}

int ni_cuda_launch_gain_backward(void *stream, const nb_mat *dx, float *ds, const uint16_t *dy, const uint16_t *x,
                                 const float *s, float factor, int power, float *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t n = dx->rows, dim = dx->cols;
    if (dx->amax)
        cudaMemsetAsync(dx->amax, 0, sizeof *dx->amax, on);
    if (n * dim == 0)
        return cudaGetLastError();
    if (dim % 8 == 0 && ni_aligned(dx->data) && ni_aligned(dy) && ni_aligned(x) && ni_aligned(s))
        gain_backward<8><<<column_grid(n, dim, 8), NI_THREADS, 0, on>>>((uint16_t *)dx->data, dx->amax, partial, dy, x,
                                                                        s, factor, power, n, dim);
    else
        gain_backward<1><<<column_grid(n, dim, 1), NI_THREADS, 0, on>>>((uint16_t *)dx->data, dx->amax, partial, dy, x,
                                                                        s, factor, power, n, dim);
    return ni_cuda_launch_add_partials(stream, ds, partial, parts_of(n, dim), dim);
}
