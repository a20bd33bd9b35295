/* scaled.cu: tensors under one scale (arXiv:2310.18313 section 2): encoded, decoded, added. Operations are spelt, as in
 * optimizer.cu: the bits are those of src/backend/ref/scaled.c.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/list.cuh"
#include "backend/cuda/narrow.cuh"

static __device__ ni_four sum_of_fours(const ni_scaled &a, const ni_scaled &b, int64_t i, float fa, float fb) {
    ni_four x = ni_four_of(a, i, fa);
    const ni_four y = ni_four_of(b, i, fb);
#pragma unroll
    for (int k = 0; k < 4; k++)
        x.x[k] = ni_f32_add(x.x[k], y.x[k]);
    return x;
}

static __device__ float sum_at(const ni_scaled &a, const ni_scaled &b, int64_t i, float fa, float fb) {
    return ni_f32_add(ni_narrow_value(a, i, fa), ni_narrow_value(b, i, fb));
}

static __global__ void amax_of_sum(uint32_t *amax, const __grid_constant__ ni_scaled a,
                                   const __grid_constant__ ni_scaled b, int64_t n, int64_t fours) {
    const float fa = ni_narrow_factor(a), fb = ni_narrow_factor(b);
    uint32_t largest = 0;
    for (NI_EACH(i, fours))
        largest = max(largest, ni_largest_of_four(sum_of_fours(a, b, i, fa, fb)));
    for (int64_t i = 4 * fours + blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        largest = max(largest, ni_f32_magnitude(sum_at(a, b, i, fa, fb)));
    __syncwarp();
    ni_join_amax(amax, largest);
}

/* `leave`: its scale too, which no other block reads. */
static __global__ void store_sum(const __grid_constant__ ni_scaled to, const __grid_constant__ ni_scaled a,
                                 const __grid_constant__ ni_scaled b, int64_t n, int64_t fours, const uint32_t *amax,
                                 bool leave) {
    const float fa = ni_narrow_factor(a), fb = ni_narrow_factor(b), encode = ni_narrow_encode_of(to, amax);
    if (leave && blockIdx.x == 0 && threadIdx.x == 0)
        *to.scale = ni_vector_decode(encode);
    for (NI_EACH(i, fours))
        ni_store_four(to, i, sum_of_fours(a, b, i, fa, fb), encode);
    for (int64_t i = 4 * fours + blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        ni_narrow_store(to.data, to.dtype, i, ni_f32_mul(sum_at(a, b, i, fa, fb), encode));
}

static __global__ void set_scale_of(ni_scaled t, const uint32_t *amax) {
    *t.scale = ni_vector_decode(ni_narrow_encode_of(t, amax));
}

/* to = a + b */
int ni_cuda_launch_scaled_add(void *stream, const ni_scaled *to, const ni_scaled *a, const ni_scaled *b, int64_t n,
                              uint32_t *amax) {
    cudaStream_t on = (cudaStream_t)stream;
    const int64_t fours = ni_has_fours(*to) && ni_has_fours(*a) && ni_has_fours(*b) ? n / 4 : 0;
    const unsigned grid = ni_grid(ni_divide_up(fours ? fours : n, NI_THREADS));
    if (n == 0)
        return cudaSuccess;
    cudaMemsetAsync(amax, 0, sizeof *amax, on);
    amax_of_sum<<<grid, NI_THREADS, 0, on>>>(amax, *a, *b, n, fours);
    const bool apart = to->scale && (to->scale == a->scale || to->scale == b->scale);
    store_sum<<<grid, NI_THREADS, 0, on>>>(*to, *a, *b, n, fours, amax, to->scale && !apart);
    if (apart)
        set_scale_of<<<1, 1, 0, on>>>(*to, amax);
    return cudaGetLastError();
}

/* ---- many tensors: as many as fit a kernel's arguments, cut into pieces that are a block's work each ---- */

enum { PIECE = 8192 };
static_assert((int)NI_CUDA_LIST_MOST <= (int)NI_CUDA_ADAMW_AMAXES, "the scratch of maxima is too small");

typedef struct encoded_tensor {
    ni_scaled to;
    const float *from;
    int64_t n;
    uint32_t first_block;
    bool fours;
} encoded_tensor;

typedef struct encode_list {
    encoded_tensor at[NI_CUDA_LIST_MOST];
    int count;
    uint32_t blocks;
    uint32_t *amaxes; /* [count], cleared */
} encode_list;

/* Which tensor is this block's, and which of its numbers. */
static __device__ int piece_of(const encode_list &list, int64_t *first, int64_t *end) {
    const int which = ni_listed(list, &encoded_tensor::first_block);
    *first = (int64_t)(blockIdx.x - list.at[which].first_block) * PIECE;
    *end = *first + PIECE < list.at[which].n ? *first + PIECE : list.at[which].n;
    return which;
}

static __global__ void __launch_bounds__(NI_THREADS) amax_of_many(const __grid_constant__ encode_list list) {
    int64_t first, end;
    const int which = piece_of(list, &first, &end);
    const encoded_tensor &t = list.at[which];
    uint32_t largest = 0;
    if (t.fours) {
#pragma unroll 8
        for (int64_t i = first + 4 * threadIdx.x; i < end; i += 4 * NI_THREADS) {
            const float4 x = *(const float4 *)(t.from + i);
            largest = max(largest, ni_largest_of_four((ni_four){{x.x, x.y, x.z, x.w}}));
        }
    } else {
        for (int64_t i = first + threadIdx.x; i < end; i += NI_THREADS)
            largest = max(largest, ni_f32_magnitude(t.from[i]));
    }
    __syncwarp();
    ni_join_amax(&list.amaxes[which], largest);
}

/* TYPE: of all tensors of the list, where it is known; else F32. */
template <nb_dtype TYPE>
static __global__ void __launch_bounds__(NI_THREADS) encode_many(const __grid_constant__ encode_list list) {
    int64_t first, end;
    const int which = piece_of(list, &first, &end);
    encoded_tensor t = list.at[which];
    if (TYPE != NB_F32)
        t.to.dtype = TYPE;
    const float encode = ni_narrow_encode_of(t.to, &list.amaxes[which]);
    if (t.to.scale && first == 0 && threadIdx.x == 0)
        *t.to.scale = ni_vector_decode(encode);
    if (t.fours) {
#pragma unroll 4
        for (int64_t i = first + 4 * threadIdx.x; i < end; i += 4 * NI_THREADS) {
            const float4 x = *(const float4 *)(t.from + i);
            ni_store_four(t.to, i / 4, (ni_four){{x.x, x.y, x.z, x.w}}, encode);
        }
    } else {
        for (int64_t i = first + threadIdx.x; i < end; i += NI_THREADS)
            ni_narrow_store(t.to.data, t.to.dtype, i, ni_f32_mul(t.from[i], encode));
    }
}

static bool is_all(const encode_list *list, nb_dtype type) {
    bool all = true;
    for (int i = 0; i < list->count; i++)
        all &= list->at[i].to.dtype == type;
    return all;
}

static int launch_encode(cudaStream_t on, encode_list *list) {
    if (list->count) {
        cudaMemsetAsync(list->amaxes, 0, (size_t)list->count * sizeof *list->amaxes, on);
        amax_of_many<<<list->blocks, NI_THREADS, 0, on>>>(*list);
        (is_all(list, NB_E4M3) ? encode_many<NB_E4M3>
                               : encode_many<NB_F32>)<<<list->blocks, NI_THREADS, 0, on>>>(*list);
    }
    list->count = 0;
    list->blocks = 0;
    return cudaGetLastError();
}

int ni_cuda_launch_scaled_encode(void *stream, const ni_scaled *to, const float *const *from, const int64_t *n,
                                 int32_t count, uint32_t *amaxes) {
    encode_list list = {};
    int code = cudaSuccess;
    list.amaxes = amaxes;
    for (int32_t i = 0; i < count && !code; i++) {
        if (n[i] == 0)
            continue;
        encoded_tensor t = {};
        t.to = to[i];
        t.from = from[i];
        t.n = n[i];
        t.first_block = list.blocks;
        t.fours = n[i] % 4 == 0 && ni_has_fours(to[i]) && ni_aligned(from[i]);
        list.at[list.count++] = t;
        list.blocks += (uint32_t)ni_divide_up(n[i], PIECE);
        if (list.count == NI_CUDA_LIST_MOST)
            code = launch_encode((cudaStream_t)stream, &list);
    }
    return code ? code : launch_encode((cudaStream_t)stream, &list);
}

static __global__ void scaled_decode(float *to, ni_scaled from, int64_t n) {
    const float factor = ni_narrow_factor(from);
    for (NI_EACH(i, n))
        to[i] = ni_narrow_value(from, i, factor);
}

int ni_cuda_launch_scaled_decode(void *stream, float *to, const ni_scaled *from, int64_t n) {
    if (n > 0)
        scaled_decode<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(to, *from, n);
    return cudaGetLastError();
}

static __global__ void rescale(ni_scaled t, float factor_to, int64_t n) {
    const float factor = ni_narrow_factor(t), encode = ni_vector_decode(factor_to);
    for (NI_EACH(i, n))
        ni_narrow_store(t.data, t.dtype, i, ni_f32_mul(ni_narrow_value(t, i, factor), encode));
}

static __global__ void put_word(float *to, float value) {
    *to = value;
}

int ni_cuda_launch_scaled_rescale(void *stream, const ni_scaled *t, float scale, int64_t n) {
    cudaStream_t on = (cudaStream_t)stream;
    if (n > 0)
        rescale<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, on>>>(*t, scale, n);
    put_word<<<1, 1, 0, on>>>(t->scale, scale);
    return cudaGetLastError();
}

static __global__ void join(ni_scaled to, ni_scaled from, int64_t n) {
    for (NI_EACH(i, n))
        ni_narrow_store(to.data, to.dtype, i, ni_f32_add(ni_narrow_value(to, i, 1.0f), ni_narrow_value(from, i, 1.0f)));
}

int ni_cuda_launch_scaled_join(void *stream, const ni_scaled *to, const ni_scaled *from, int64_t n) {
    if (n > 0)
        join<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(*to, *from, n);
    return cudaGetLastError();
}
