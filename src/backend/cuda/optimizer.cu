/* optimizer.cu: AdamW, and sums of squares under one scale.
 *
 * What is stored between steps must not depend on a fused multiply-add, so each operation is spelt: the bits are those
 * of src/backend/ref/optimizer.inc and scaled.c.
 */
#include "backend/cuda/kernels.h"
#include "backend/cuda/list.cuh"
#include "backend/cuda/narrow.cuh"

#include <math.h>

/* ---- sums ---- */

/* Squares of tensors under one scale each, many of them a launch: the parts of a tensor depend on its n alone. */

enum { MOST_SQUARED = 64, SQUARES = 16384 };

typedef struct squared_tensor {
    ni_scaled x;
    int64_t n;
    uint32_t first_part, parts;
    bool fours;
} squared_tensor;

typedef struct square_list {
    squared_tensor at[MOST_SQUARED];
    int count;
} square_list;

static __global__ void __launch_bounds__(NI_THREADS)
    square_parts(double *partial, const __grid_constant__ square_list list) {
    __shared__ double room[NI_WARPS];
    const int which = ni_listed(list, &squared_tensor::first_part);
    const squared_tensor &t = list.at[which];
    const int64_t first = (int64_t)(blockIdx.x - t.first_part) * SQUARES,
                  end = first + SQUARES < t.n ? first + SQUARES : t.n;
    const float factor = ni_narrow_factor(t.x);
    double sum = 0, other = 0;
    if (t.fours) {
#pragma unroll 4
        for (int64_t i = first / 4 + threadIdx.x; i < end / 4; i += NI_THREADS) {
            const ni_four v = ni_four_of(t.x, i, factor);
            const double a = v.x[0], b = v.x[1], c = v.x[2], d = v.x[3];
            sum += a * a + b * b;
            other += c * c + d * d;
        }
    } else {
        for (int64_t i = first + threadIdx.x; i < end; i += NI_THREADS) {
            const double v = ni_narrow_value(t.x, i, factor);
            sum += v * v;
        }
    }
    sum = ni_block_sum(sum + other, room);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}

/* A block a tensor. */
static __global__ void __launch_bounds__(NI_THREADS)
    sum_of_squares(double *out, const double *partial, const __grid_constant__ square_list list) {
    __shared__ double room[NI_WARPS];
    const squared_tensor &t = list.at[blockIdx.x];
    double sum = 0;
    for (uint32_t i = threadIdx.x; i < t.parts; i += NI_THREADS)
        sum += partial[t.first_part + i];
    sum = ni_block_sum(sum, room);
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}

int64_t ni_cuda_square_parts(const int64_t *n, int32_t count) {
    int64_t most = 0;
    for (int32_t first = 0; first < count; first += MOST_SQUARED) {
        int64_t parts = 0;
        for (int32_t i = first; i < count && i < first + MOST_SQUARED; i++)
            parts += ni_divide_up(n[i], SQUARES);
        most = parts > most ? parts : most;
    }
    return most;
}

int ni_cuda_launch_scaled_squares(void *stream, double *out, const ni_scaled *x, const int64_t *n, int32_t count,
                                  double *partial) {
    cudaStream_t on = (cudaStream_t)stream;
    square_list list = {};
    for (int32_t first = 0; first < count; first += list.count) {
        uint32_t parts = 0;
        list.count = count - first < MOST_SQUARED ? count - first : MOST_SQUARED;
        for (int i = 0; i < list.count; i++) {
            const int64_t all = n[first + i];
            const uint32_t its = (uint32_t)ni_divide_up(all, SQUARES);
            list.at[i] = (squared_tensor){x[first + i], all, parts, its, all % 4 == 0 && ni_has_fours(x[first + i])};
            parts += its;
        }
        if (parts)
            square_parts<<<parts, NI_THREADS, 0, on>>>(partial, list);
        sum_of_squares<<<(unsigned)list.count, NI_THREADS, 0, on>>>(out + first, partial, list);
    }
    return cudaGetLastError();
}

/* ---- AdamW ---- */

typedef struct scalars {
    float beta1, rest1, beta2, rest2, rate, correction, keep, scale, eps;
} scalars;

static scalars scalars_of(const ni_adamw *step, double weight_decay) {
    scalars s;
    s.beta1 = (float)step->beta1;
    s.rest1 = (float)(1 - step->beta1);
    s.beta2 = (float)step->beta2;
    s.rest2 = (float)(1 - step->beta2);
    s.rate = (float)(step->lr / (1 - pow(step->beta1, (double)step->step)));
    s.correction = (float)(1 / (1 - pow(step->beta2, (double)step->step)));
    s.keep = (float)(1 - step->lr * weight_decay);
    s.scale = (float)step->grad_scale;
    s.eps = (float)step->eps;
    return s;
}

static __device__ void update_moments(float *m, float *v, float g, const scalars &s) {
    *m = ni_f32_add(ni_f32_mul(s.beta1, *m), ni_f32_mul(s.rest1, g));
    *v = ni_f32_add(ni_f32_mul(s.beta2, *v), ni_f32_mul(s.rest2, ni_f32_mul(g, g)));
}

static __device__ void update(float *p, float *m, float *v, float grad, const scalars &s) {
    update_moments(m, v, ni_f32_mul(s.scale, grad), s);
    float root = ni_f32_add(__fsqrt_rn(ni_f32_mul(*v, s.correction)), s.eps);
    *p = ni_f32_sub(ni_f32_mul(s.keep, *p), ni_f32_div(ni_f32_mul(s.rate, *m), root));
}

/* Plain tensors of one launch: as many as fit a kernel's arguments, cut into pieces that are a block's work each. */
enum { PIECE = 8192 };

typedef struct plain_tensor {
    float *param, *m, *v;
    const float *grad;
    uint16_t *copy;
    uint32_t *amax;
    int64_t n;
    uint32_t first_block;
    float keep;
    bool fours; /* every address at whole 16 bytes */
} plain_tensor;

typedef struct plain_list {
    plain_tensor at[NI_CUDA_LIST_MOST];
    int count;
    uint32_t blocks;
} plain_list;

static __device__ float updated(const plain_tensor &t, int64_t i, const scalars &s) {
    float p = t.param[i], m = t.m[i], v = t.v[i];
    update(&p, &m, &v, t.grad[i], s);
    t.param[i] = p;
    t.m[i] = m;
    t.v[i] = v;
    if (t.copy)
        t.copy[i] = ni_bf16_even(p);
    return p;
}

static __device__ uint32_t update_four(const plain_tensor &t, int64_t i, const scalars &s) {
    float4 p = *(const float4 *)(t.param + i), m = *(const float4 *)(t.m + i), v = *(const float4 *)(t.v + i);
    const float4 g = *(const float4 *)(t.grad + i);
    update(&p.x, &m.x, &v.x, g.x, s);
    update(&p.y, &m.y, &v.y, g.y, s);
    update(&p.z, &m.z, &v.z, g.z, s);
    update(&p.w, &m.w, &v.w, g.w, s);
    *(float4 *)(t.param + i) = p;
    *(float4 *)(t.m + i) = m;
    *(float4 *)(t.v + i) = v;
    if (t.copy)
        *(uint2 *)(t.copy + i) = make_uint2(ni_pack_two(p.x, p.y), ni_pack_two(p.z, p.w));
    return max(max(ni_f32_magnitude(p.x), ni_f32_magnitude(p.y)), max(ni_f32_magnitude(p.z), ni_f32_magnitude(p.w)));
}

static __global__ void adamw(const __grid_constant__ plain_list list, scalars s) {
    const int which = ni_listed(list, &plain_tensor::first_block);
    const plain_tensor t = list.at[which];
    const int64_t first = (int64_t)(blockIdx.x - t.first_block) * PIECE,
                  end = first + PIECE < t.n ? first + PIECE : t.n;
    uint32_t largest = 0;
    s.keep = t.keep;
    if (t.fours)
        for (int64_t i = first + 4 * threadIdx.x; i < end; i += 4 * NI_THREADS)
            largest = max(largest, update_four(t, i, s));
    else
        for (int64_t i = first + threadIdx.x; i < end; i += NI_THREADS)
            largest = max(largest, ni_f32_magnitude(updated(t, i, s)));
    __syncwarp();
    if (t.amax)
        ni_join_amax(t.amax, largest);
}

static bool is_plain(const ni_adamw_tensor *t) {
    return t->param.dtype == NB_F32 && t->m.dtype == NB_F32 && t->v.dtype == NB_F32 && t->grad.dtype == NB_F32;
}

static plain_tensor plain_of(const ni_adamw_tensor *t, const ni_adamw *step, uint32_t first_block) {
    plain_tensor p = {};
    p.param = (float *)t->param.data;
    p.m = (float *)t->m.data;
    p.v = (float *)t->v.data;
    p.grad = (const float *)t->grad.data;
    p.copy = (uint16_t *)t->copy;
    p.amax = t->amax;
    p.n = t->n;
    p.first_block = first_block;
    p.keep = scalars_of(step, t->weight_decay).keep;
    p.fours = t->n % 4 == 0 && ni_aligned(p.param) && ni_aligned(p.m) && ni_aligned(p.v) && ni_aligned(p.grad) &&
              (!p.copy || ni_aligned(p.copy));
    return p;
}

static void launch_list(cudaStream_t on, plain_list *list, const ni_adamw *step) {
    if (list->count)
        adamw<<<list->blocks, NI_THREADS, 0, on>>>(*list, scalars_of(step, 0));
    list->count = 0;
    list->blocks = 0;
}

/* ---- Q-Ramping: single operations as in src/backend/ref/ramping.c ---- */

static __global__ void adamw_ramped(ni_ramped t, scalars s) {
    for (NI_EACH(i, t.n)) {
        const float sum = ni_f32_add(t.sum[i], ni_f32_mul(s.scale, t.grad[i]));
        const int32_t steps = t.steps[i] + 1;
        const bool moves = steps % t.period[i] == 0;
        float p = ni_f32_mul(s.keep, t.param[i]);
        if (moves) {
            const float g = ni_f32_div(sum, (float)steps);
            const float m = ni_f32_add(ni_f32_mul(s.beta1, t.m[i]), ni_f32_mul(s.rest1, g));
            const float v = ni_f32_add(ni_f32_mul(s.beta2, t.v[i]), ni_f32_mul(s.rest2, ni_f32_mul(g, g)));
            const float root = ni_f32_add(__fsqrt_rn(ni_f32_mul(v, s.correction)), s.eps);
            p = ni_f32_sub(p, ni_f32_div(ni_f32_mul(ni_f32_mul(s.rate, (float)steps), m), root));
            t.m[i] = m;
            t.v[i] = v;
        }
        t.param[i] = p;
        t.sum[i] = moves ? 0 : sum;
        t.steps[i] = moves ? 0 : steps;
    }
}

int ni_cuda_launch_adamw_ramped(void *stream, const ni_ramped *t, const ni_adamw *step) {
    if (t->n > 0)
        adamw_ramped<<<ni_grid(ni_divide_up(t->n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
            *t, scalars_of(step, t->weight_decay));
    return cudaGetLastError();
}

/* period may lie where one of the others does: each element is read before it is written. */
static __global__ void ramp_periods(int32_t *period, const float *moved_q, const float *moved_w, int64_t n, float k1,
                                    double k2, int32_t most) {
    for (NI_EACH(i, n)) {
        const float above = ni_f32_div(moved_q[i], k1), below = ni_f32_add(moved_w[i], 1e-8f);
        const double steps = __dadd_rn(__dmul_rn(k2, floor(__ddiv_rn((double)above, (double)below))), 1.0);
        period[i] = steps < most ? (int32_t)steps : most;
    }
}

int ni_cuda_launch_ramp_periods(void *stream, int32_t *period, const float *moved_q, const float *moved_w, int64_t n,
                                double k1, double k2, int32_t most) {
    if (n > 0)
        ramp_periods<<<ni_grid(ni_divide_up(n, NI_THREADS)), NI_THREADS, 0, (cudaStream_t)stream>>>(
            period, moved_q, moved_w, n, (float)k1, k2, most);
    return cudaGetLastError();
}

/* ---- AdamW of narrow tensors, twice: for the amaxes of what it gives, then rounded under the scales that follow ---- */

enum { MOST_NARROW = NI_CUDA_ADAMW_AMAXES / 3 };

typedef struct narrow_tensor {
    ni_scaled param, m, v, grad;
    int64_t n;
    uint16_t *copy; /* of parameters that have no scale, as they leave here */
    uint32_t *amax;
    uint32_t first_block;
    float keep;
    bool fours;
} narrow_tensor;

typedef struct narrow_list {
    narrow_tensor at[MOST_NARROW];
    int count;
    uint32_t blocks;
    uint32_t *amaxes; /* [3 * count], cleared */
} narrow_list;

/* Which tensor is this block's, and which of its numbers. */
static __device__ int piece_of(const narrow_list &list, int64_t *first, int64_t *end) {
    const int which = ni_listed(list, &narrow_tensor::first_block);
    *first = (int64_t)(blockIdx.x - list.at[which].first_block) * PIECE;
    *end = *first + PIECE < list.at[which].n ? *first + PIECE : list.at[which].n;
    return which;
}

/* The types of a list's tensors, which the kernels know where recipes have them so. */
template <nb_dtype PARAM, nb_dtype M, nb_dtype V, nb_dtype GRAD> struct known_types {
    static __device__ ni_scaled typed(ni_scaled x, nb_dtype type) {
        x.dtype = type;
        return x;
    }
    static __device__ narrow_tensor of(narrow_tensor t) {
        t.param = typed(t.param, PARAM);
        t.m = typed(t.m, M);
        t.v = typed(t.v, V);
        t.grad = typed(t.grad, GRAD);
        t.fours = true;
        return t;
    }
};
struct any_types {
    static __device__ narrow_tensor of(narrow_tensor t) {
        return t;
    }
};
typedef known_types<NB_F32, NB_E4M3, NB_F16, NB_E4M3> wide_masters;
typedef known_types<NB_F16, NB_E4M3, NB_F16, NB_E4M3> narrow_masters;

/* Numbers i to i + 3 where the tensor has whole fours, else number i alone. */
static __device__ ni_four some_of(const narrow_tensor &t, const ni_scaled &x, int64_t i, float factor) {
    if (t.fours)
        return ni_four_of(x, i / 4, factor);
    return (ni_four){{ni_narrow_value(x, i, factor), 0, 0, 0}};
}

static __device__ void store_some(const narrow_tensor &t, const ni_scaled &x, int64_t i, const ni_four &f,
                                  float encode) {
    if (t.fours)
        ni_store_four(x, i / 4, f, encode);
    else
        ni_narrow_store(x.data, x.dtype, i, ni_f32_mul(f.x[0], encode));
}

/* What is read before anything is computed of it, so that loads are on their way together. */
enum { FOURS_AT_ONCE = 2 };

typedef struct narrow_fours {
    ni_four p, m, v, g;
} narrow_fours;

static __device__ narrow_fours fours_of(const narrow_tensor &t, int64_t i, bool params, const float *factors) {
    narrow_fours f = {};
    f.m = some_of(t, t.m, i, factors[1]);
    f.v = some_of(t, t.v, i, factors[2]);
    f.g = some_of(t, t.grad, i, factors[3]);
    if (params)
        f.p = some_of(t, t.param, i, factors[0]);
    return f;
}

/* Largest magnitudes of moments, and of parameters where these have a scale: without one nobody asks. */
template <typename T>
static __global__ void __launch_bounds__(NI_THREADS, 4)
    narrow_amax(const __grid_constant__ narrow_list list, scalars s) {
    int64_t first, end;
    const int which = piece_of(list, &first, &end);
    const narrow_tensor t = T::of(list.at[which]);
    const float factors[4] = {ni_narrow_factor(t.param), ni_narrow_factor(t.m), ni_narrow_factor(t.v),
                              ni_narrow_factor(t.grad)};
    const int step = t.fours ? 4 : 1, apart = step * NI_THREADS;
    const bool params = t.param.dtype != NB_F32 && t.param.scale;
    uint32_t largest[3] = {0, 0, 0};
    s.keep = t.keep;
    for (int64_t i = first + step * threadIdx.x; i < end; i += FOURS_AT_ONCE * apart) {
        narrow_fours f[FOURS_AT_ONCE];
#pragma unroll
        for (int at = 0; at < FOURS_AT_ONCE; at++)
            f[at] = i + at * apart < end ? fours_of(t, i + at * apart, params, factors) : (narrow_fours){};
#pragma unroll
        for (int at = 0; at < FOURS_AT_ONCE; at++) {
            if (i + at * apart >= end)
                break;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (k >= step)
                    break;
                if (params)
                    update(&f[at].p.x[k], &f[at].m.x[k], &f[at].v.x[k], f[at].g.x[k], s);
                else
                    update_moments(&f[at].m.x[k], &f[at].v.x[k], ni_f32_mul(s.scale, f[at].g.x[k]), s);
            }
            if (params)
                largest[0] = max(largest[0], ni_largest_of_four(f[at].p));
            largest[1] = max(largest[1], t.fours ? ni_largest_of_four(f[at].m) : ni_f32_magnitude(f[at].m.x[0]));
            largest[2] = max(largest[2], t.fours ? ni_largest_of_four(f[at].v) : ni_f32_magnitude(f[at].v.x[0]));
        }
    }
    __syncwarp();
    for (int k = 0; k < 3; k++)
        ni_join_amax(&list.amaxes[3 * which + k], largest[k]);
}

template <typename T>
static __global__ void __launch_bounds__(NI_THREADS, 4)
    narrow_adamw(const __grid_constant__ narrow_list list, scalars s) {
    int64_t first, end;
    const int which = piece_of(list, &first, &end);
    const narrow_tensor t = T::of(list.at[which]);
    const uint32_t *const amaxes = list.amaxes + 3 * which;
    const float factors[4] = {ni_narrow_factor(t.param), ni_narrow_factor(t.m), ni_narrow_factor(t.v),
                              ni_narrow_factor(t.grad)};
    const float ep = ni_narrow_encode_of(t.param, &amaxes[0]), em = ni_narrow_encode_of(t.m, &amaxes[1]),
                ev = ni_narrow_encode_of(t.v, &amaxes[2]);
    const int step = t.fours ? 4 : 1, apart = step * NI_THREADS;
    uint32_t largest = 0;
    s.keep = t.keep;
    for (int64_t i = first + step * threadIdx.x; i < end; i += FOURS_AT_ONCE * apart) {
        narrow_fours f[FOURS_AT_ONCE];
#pragma unroll
        for (int at = 0; at < FOURS_AT_ONCE; at++)
            f[at] = i + at * apart < end ? fours_of(t, i + at * apart, true, factors) : (narrow_fours){};
#pragma unroll
        for (int at = 0; at < FOURS_AT_ONCE; at++) {
            const int64_t here = i + at * apart;
            ni_four &p = f[at].p;
            if (here >= end)
                break;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (k >= step)
                    break;
                update(&p.x[k], &f[at].m.x[k], &f[at].v.x[k], f[at].g.x[k], s);
                largest = max(largest, ni_f32_magnitude(p.x[k]));
            }
            if (t.copy && t.fours)
                *(uint2 *)(t.copy + here) = make_uint2(ni_pack_two(p.x[0], p.x[1]), ni_pack_two(p.x[2], p.x[3]));
            else if (t.copy)
                t.copy[here] = ni_bf16_even(p.x[0]);
            store_some(t, t.param, here, p, ep);
            store_some(t, t.m, here, f[at].m, em);
            store_some(t, t.v, here, f[at].v, ev);
        }
    }
    __syncwarp();
    if (t.amax)
        ni_join_amax(t.amax, largest);
}

static __global__ void narrow_scales(const __grid_constant__ narrow_list list) {
    const narrow_tensor &t = list.at[threadIdx.x / 3];
    const ni_scaled &x = threadIdx.x % 3 == 0 ? t.param : threadIdx.x % 3 == 1 ? t.m : t.v;
    if (x.scale)
        *x.scale = ni_vector_decode(ni_narrow_encode_of(x, &list.amaxes[threadIdx.x]));
}

/* What the next forward pass reads of parameters under a scale. */
static __global__ void leave_behind(ni_scaled param, int64_t n, uint16_t *copy, uint32_t *amax) {
    const float factor = ni_narrow_factor(param);
    uint32_t largest = 0;
    for (NI_EACH(i, n)) {
        float x = ni_narrow_value(param, i, factor);
        if (copy)
            copy[i] = ni_bf16_even(x);
        largest = max(largest, ni_f32_magnitude(x));
    }
    __syncwarp();
    ni_join_amax(amax, largest);
}

static narrow_tensor narrow_of(const ni_adamw_tensor *t, const ni_adamw *step, uint32_t first_block) {
    const bool as_it_is = t->param.dtype == NB_F32; /* what is stored is what is read */
    narrow_tensor x = {};
    x.param = t->param;
    x.m = t->m;
    x.v = t->v;
    x.grad = t->grad;
    x.n = t->n;
    x.copy = as_it_is ? (uint16_t *)t->copy : NULL;
    x.amax = as_it_is ? t->amax : NULL;
    x.first_block = first_block;
    x.keep = scalars_of(step, t->weight_decay).keep;
    x.fours = t->n % 4 == 0 && ni_has_fours(t->param) && ni_has_fours(t->m) && ni_has_fours(t->v) &&
              ni_has_fours(t->grad) && ni_aligned(x.copy);
    return x;
}

/* What a list's tensors have in common: the kernels that know their types. */
typedef enum narrow_kind { NARROW_MASTERS, WIDE_MASTERS, ANY_TYPES, NARROW_KINDS } narrow_kind;

static narrow_kind kind_of(const ni_adamw_tensor *t, const narrow_tensor *n) {
    if (!n->fours || t->m.dtype != NB_E4M3 || t->v.dtype != NB_F16 || t->grad.dtype != NB_E4M3)
        return ANY_TYPES;
    return t->param.dtype == NB_F16 ? NARROW_MASTERS : t->param.dtype == NB_F32 ? WIDE_MASTERS : ANY_TYPES;
}

template <typename T> static void launch_types(cudaStream_t on, const narrow_list *list, const scalars &s) {
    narrow_amax<T><<<list->blocks, NI_THREADS, 0, on>>>(*list, s);
    narrow_adamw<T><<<list->blocks, NI_THREADS, 0, on>>>(*list, s);
}

static int launch_narrow(cudaStream_t on, narrow_list *list, narrow_kind kind, const ni_adamw *step) {
    if (list->count) {
        const scalars s = scalars_of(step, 0);
        cudaMemsetAsync(list->amaxes, 0, 3 * (size_t)list->count * sizeof *list->amaxes, on);
        kind == NARROW_MASTERS ? launch_types<narrow_masters>(on, list, s)
        : kind == WIDE_MASTERS ? launch_types<wide_masters>(on, list, s)
                               : launch_types<any_types>(on, list, s);
        narrow_scales<<<1, 3 * (unsigned)list->count, 0, on>>>(*list);
    }
    list->count = 0;
    list->blocks = 0;
    return cudaGetLastError();
}

/* The narrow ones of `tensors`, a list of one kind at a time. */
static int launch_all_narrow(cudaStream_t on, const ni_adamw_tensor *tensors, int32_t count, const ni_adamw *step,
                             uint32_t *amaxes) {
    for (int kind = 0; kind < NARROW_KINDS; kind++) {
        narrow_list list = {};
        list.amaxes = amaxes;
        for (int32_t i = 0; i < count; i++) {
            if (tensors[i].n == 0 || is_plain(&tensors[i]))
                continue;
            const narrow_tensor t = narrow_of(&tensors[i], step, list.blocks);
            if (kind_of(&tensors[i], &t) != kind)
                continue;
            list.at[list.count++] = t;
            list.blocks += (uint32_t)ni_divide_up(tensors[i].n, PIECE);
            if (list.count == MOST_NARROW)
                launch_narrow(on, &list, (narrow_kind)kind, step);
        }
        launch_narrow(on, &list, (narrow_kind)kind, step);
    }
    for (int32_t i = 0; i < count; i++) {
        const ni_adamw_tensor *t = &tensors[i];
        if (t->n > 0 && !is_plain(t) && t->param.dtype != NB_F32 && (t->copy || t->amax))
            leave_behind<<<ni_grid(ni_divide_up(t->n, NI_THREADS)), NI_THREADS, 0, on>>>(t->param, t->n,
                                                                                         (uint16_t *)t->copy, t->amax);
    }
    return cudaGetLastError();
}

/* Words that lie side by side at once. */
static cudaError_t clear_maxima(cudaStream_t on, const ni_adamw_tensor *tensors, int32_t count) {
    cudaError_t code = cudaSuccess;
    for (int32_t i = 0, next; i < count && code == cudaSuccess; i = next) {
        for (next = i + 1; next < count && tensors[i].amax && tensors[next].amax == tensors[i].amax + (next - i);)
            next++;
        if (tensors[i].amax)
            code = cudaMemsetAsync(tensors[i].amax, 0, (size_t)(next - i) * sizeof *tensors[i].amax, on);
    }
    return code;
}

int ni_cuda_launch_adamw(void *stream, const ni_adamw_tensor *tensors, int32_t count, const ni_adamw *step,
                         uint32_t *amaxes) {
    cudaStream_t on = (cudaStream_t)stream;
    plain_list list = {};
    const cudaError_t cleared = clear_maxima(on, tensors, count);
    if (cleared != cudaSuccess)
        return cleared;
    for (int32_t i = 0; i < count; i++) {
        const ni_adamw_tensor *t = &tensors[i];
        if (t->n == 0 || !is_plain(t))
            continue;
        list.at[list.count++] = plain_of(t, step, list.blocks);
        list.blocks += (uint32_t)ni_divide_up(t->n, PIECE);
        if (list.count == NI_CUDA_LIST_MOST)
            launch_list(on, &list, step);
    }
    launch_list(on, &list, step);
    return launch_all_narrow(on, tensors, count, step, amaxes);
}
