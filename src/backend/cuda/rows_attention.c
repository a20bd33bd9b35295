/* rows_attention.c: the table's softmax attention: our own kernel, or cuDNN's where the run permits any order of sums.
 */
#include "backend/cuda/attention.h"
#include "backend/cuda/cudnn_attention.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/maxima.h"
#include "backend/cuda/quantize.h"
#include "backend/cuda/rows.h"

#include <stdio.h>

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

static ni_cuda_attention attention_of(const nb_attention *a) {
    const int64_t q = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim;
    return (ni_cuda_attention){.batch = a->batch,
                               .seq = a->seq,
                               .heads = a->heads,
                               .kv_heads = a->kv_heads,
                               .head_dim = a->head_dim,
                               .scale = a->scale,
                               .q_stride = a->q_stride ? a->q_stride : q,
                               .k_stride = a->k_stride ? a->k_stride : kv,
                               .v_stride = a->v_stride ? a->v_stride : kv,
                               .o_stride = a->o_stride ? a->o_stride : q,
                               .doc_start = a->doc_start,
                               .doc_end = a->doc_end,
                               .documents = a->doc_start ? a->documents : a->batch};
}

static nb_status check_heads(const nb_attention *a, nb_error *err) {
    if (a->rule.sums != NB_ATTENTION_F32)
        return nb_fail(err, NB_UNSUPPORTED,
                       "cuda: attention sums in FP32; expected attention.sums: fp32 (the CPU has the others)");
    if (a->rule.forward != NB_ATTENTION_BF16_OPERANDS)
        return nb_fail(err, NB_UNSUPPORTED,
                       "cuda: attention multiplies BF16; expected attention.forward: bf16 (the CPU has the others)");
    if (a->head_dim % 8 == 0 && a->head_dim <= 256)
        return NB_OK;
    return nb_fail(err, NB_UNSUPPORTED, "cuda: attention with heads of %lld; expected a multiple of 8 up to 256",
                   (long long)a->head_dim);
}

/* Our kernels know documents by both their bounds: who does not give them has them found. `more` bytes of scratch stand
 * behind. */
static nb_status ready_to_attend(nb_backend *be, ni_cuda_attention *shape, size_t more, float **room, nb_error *err) {
    const int64_t tokens = shape->batch * shape->seq;
    const bool bounded = shape->doc_start && shape->doc_end;
    const size_t bounds = bounded ? 0 : ((size_t)tokens * 2 * sizeof(int32_t) + 255) / 256 * 256;
    char *memory = ni_cuda_scratch(be, bounds + more, "attention");
    if (!memory)
        return ni_cuda_status(be, 0, "attention", err);
    *room = (float *)(void *)(memory + bounds);
    if (bounded)
        return NB_OK;
    int32_t *start = (int32_t *)(void *)memory;
    const int32_t *given = shape->doc_start;
    shape->doc_start = start;
    shape->doc_end = start + tokens;
    return ni_cuda_status(
        be, ni_cuda_launch_document_bounds(stream_of(be), start, start + tokens, given, tokens, shape->seq),
        "attention", err);
}

/* Words of o or of dv, cleared before the kernels that fill them; and by a reading of its own what those leave out. */
static int begin_amaxes(nb_backend *be, ni_cuda_attention *shape, uint32_t *amax, uint32_t *turned) {
    shape->amax = amax;
    shape->turned_amax = turned;
    return ni_cuda_begin_maxima(be, amax, turned);
}

static int find_turned(nb_backend *be, const ni_cuda_attention *shape, const void *x, int64_t heads, int64_t stride,
                       uint32_t *turned) {
    return ni_cuda_find_turned(stream_of(be), x, shape->batch * shape->seq, heads * shape->head_dim, stride, turned);
}

static int finish_amaxes(nb_backend *be, const ni_cuda_attention *shape, const void *x, int64_t heads, int64_t stride) {
    return shape->seq % 16 == 0 ? cudaSuccess : find_turned(be, shape, x, heads, stride, shape->turned_amax);
}

/* Both words by a reading of their own: cuDNN knows nothing of them. */
static nb_status find_amaxes(nb_backend *be, const ni_cuda_attention *shape, const void *x, int64_t heads,
                             int64_t stride, uint32_t *amax, uint32_t *turned, nb_error *err) {
    int code = ni_cuda_begin_maxima(be, amax, turned);
    if (code == cudaSuccess)
        code = ni_cuda_find_maxima(stream_of(be), x, shape->batch * shape->seq, heads * shape->head_dim, stride, amax,
                                   turned);
    return ni_cuda_status(be, code, "amaxes of attention", err);
}

/* The library's plan for a pass, with its scratch; NULL: ours runs. */
static const ni_cudnn_plan *foreign(nb_backend *be, const ni_cuda_attention *shape, bool backward) {
    const char *why;
    return ni_cuda_of(be)->permits.any_order ? ni_cuda_cudnn_plan(be, shape, backward, &why) : NULL;
}

nb_status ni_cuda_attention_forward(nb_backend *be, const nb_attention *a, void *o, void *lse, const void *q,
                                    const void *k, const void *v, nb_error *err) {
    ni_cuda_attention shape = attention_of(a);
    float *room;
    NB_TRY(check_heads(a, err));
    const ni_cudnn_plan *plan = foreign(be, &shape, false);
    if (plan) {
        if (!(room = ni_cuda_scratch(be, ni_cuda_cudnn_scratch(&shape, plan, false), "attention")))
            return ni_cuda_status(be, 0, "attention", err);
        NB_TRY(ni_cuda_cudnn_forward(be, &shape, plan, o, lse, q, k, v, room, err));
        return find_amaxes(be, &shape, o, a->heads, shape.o_stride, a->o_amax, a->o_turned_amax, err);
    }
    NB_TRY(ready_to_attend(be, &shape, 0, &room, err));
    int code = begin_amaxes(be, &shape, a->o_amax, a->o_turned_amax);
    if (code == cudaSuccess)
        code = ni_cuda_launch_attention_forward(&shape, o, lse, q, k, v, stream_of(be));
    if (code == cudaSuccess)
        code = finish_amaxes(be, &shape, o, a->heads, shape.o_stride);
    return ni_cuda_status(be, code, "attention_forward", err);
}

nb_status ni_cuda_attention_backward(nb_backend *be, const nb_attention *a, void *dq, void *dk, void *dv,
                                     const void *do_, const void *o, const void *lse, const void *q, const void *k,
                                     const void *v, nb_error *err) {
    ni_cuda_attention shape = attention_of(a);
    float *room;
    NB_TRY(check_heads(a, err));
    const ni_cudnn_plan *plan = foreign(be, &shape, true);
    if (plan) {
        if (!(room = ni_cuda_scratch(be, ni_cuda_cudnn_scratch(&shape, plan, true), "attention")))
            return ni_cuda_status(be, 0, "attention", err);
        NB_TRY(ni_cuda_cudnn_backward(be, &shape, plan, dq, dk, dv, do_, o, lse, q, k, v, room, err));
        return find_amaxes(be, &shape, dv, a->kv_heads, shape.v_stride, a->dv_amax, a->dv_turned_amax, err);
    }
    NB_TRY(ready_to_attend(be, &shape, (size_t)(a->batch * a->heads * a->seq) * sizeof(float), &room, err));
    int code = begin_amaxes(be, &shape, a->dv_amax, a->dv_turned_amax);
    if (code == cudaSuccess)
        code = ni_cuda_launch_attention_backward(&shape, dq, dk, dv, do_, o, lse, q, k, v, room, stream_of(be));
    if (code == cudaSuccess)
        code = finish_amaxes(be, &shape, dv, a->kv_heads, shape.v_stride);
    return ni_cuda_status(be, code, "attention_backward", err);
}

static void name_pass(char *name, size_t size, const ni_cudnn_plan *plan) {
    if (plan)
        snprintf(name, size, "engine %lld", (long long)plan->engine);
    else
        snprintf(name, size, "flash");
}

/* Who takes both passes: one may be the library's and the other ours. */
typedef struct takers {
    int foreign;       /* passes that are the library's */
    char names[80];    /* "engine 2, backward engine 6" */
    char missing[160]; /* why it does not take the other pass, or both */
} takers;

static takers takers_of(nb_backend *be, const ni_cuda_attention *shape) {
    takers t = {0};
    char names[2][32];
    for (int pass = 0; pass < 2; pass++) {
        const char *why = NULL;
        const ni_cudnn_plan *plan = ni_cuda_cudnn_plan(be, shape, pass == 1, &why);
        t.foreign += plan != NULL;
        if (!plan)
            snprintf(t.missing, sizeof t.missing, "%.150s", why);
        name_pass(names[pass], sizeof names[pass], plan);
    }
    snprintf(t.names, sizeof t.names, "%s, backward %s", names[0], names[1]);
    return t;
}

/* Of a run (`both`) the name is that for whole sequences, and the reason says who takes documents that are kept apart. */
static const char *name_foreign(nb_backend *be, const ni_cuda_attention *shape, bool both, const char *own,
                                const char **why) {
    ni_cuda *cuda = ni_cuda_of(be);
    ni_cuda_attention apart = *shape;
    apart.documents = shape->batch + 1; /* plans are made for more than that */
    const takers asked = takers_of(be, shape), packed = both ? takers_of(be, &apart) : asked;
    const size_t version = ni_cuda_cudnn_version(cuda);
    *why = cuda->attention_why;
    if (!asked.foreign && !packed.foreign) {
        snprintf(cuda->attention_why, sizeof cuda->attention_why, "one order of sums: %s", asked.missing);
        snprintf(cuda->attention, sizeof cuda->attention, "flash %.80s", own);
        return cuda->attention;
    }
    snprintf(cuda->attention, sizeof cuda->attention, "cudnn %d.%d.%d %s", (int)(version / 10000 % 100),
             (int)(version / 100 % 100), (int)(version % 100), asked.names);
    int used = snprintf(cuda->attention_why, sizeof cuda->attention_why, "any order of sums%s%.100s",
                        asked.missing[0] ? ": " : "", asked.missing);
    if (both)
        snprintf(cuda->attention_why + used, sizeof cuda->attention_why - (size_t)used,
                 "; documents kept apart: %s%s%.100s; flash is %.40s", packed.names, packed.missing[0] ? ": " : "",
                 packed.missing, own);
    return cuda->attention;
}

const char *ni_cuda_attention_kernel(nb_backend *be, const nb_attention *a, const char **why) {
    ni_cuda *cuda = ni_cuda_of(be);
    const ni_cuda_attention shape = attention_of(a);
    const char *own = check_heads(a, NULL) == NB_OK ? ni_cuda_attention_forward_tile(&shape) : NULL;
    *why = "one order of sums: no two blocks add to one number";
    if (!own)
        return NULL;
    if (cuda->permits.any_order)
        return name_foreign(be, &shape, a->doc_start == NULL, own, why);
    snprintf(cuda->attention, sizeof cuda->attention, "flash %.80s", own);
    return cuda->attention;
}
