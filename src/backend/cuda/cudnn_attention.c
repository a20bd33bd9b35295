/* cudnn_attention.c: which attentions cuDNN takes, their plans, one a shape and pass, and their runs.
 *
 * What it does not take goes to our kernel, which shares lse, so that one pass may be here and the other there. */
#include "backend/cuda/cudnn_attention.h"

#include "backend/cuda/cudnn_kept.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PADDED_KEYS = 91501 /* 9.15.1: before it, keys come in blocks of 128 */ };

typedef struct ni_cuda_cudnn {
    ni_cudnn *library; /* NULL: `why` says why there is none */
    ni_cudnn_kept_list kept;
    char why[320];
} ni_cuda_cudnn;

/* NULL: no memory for it. */
static ni_cuda_cudnn *state_of(ni_cuda *cuda) {
    if (cuda->cudnn)
        return cuda->cudnn;
    ni_cuda_cudnn *s = cuda->cudnn = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->library = ni_cudnn_open(s->why, sizeof s->why);
    if (s->library && !ni_cudnn_start(s->library, s->why, sizeof s->why)) {
        ni_cudnn_close(s->library);
        s->library = NULL;
    }
    return s;
}

void ni_cuda_cudnn_free(ni_cuda_cudnn *s) {
    for (int i = 0; s && i < NI_CUDNN_KEPT; i++)
        ni_cudnn_free(s->library, &s->kept.places[i].plan);
    if (s)
        ni_cudnn_close(s->library);
    free(s);
}

size_t ni_cuda_cudnn_version(const ni_cuda *cuda) {
    return cuda->cudnn && cuda->cudnn->library ? cuda->cudnn->library->version : 0;
}

/* What cudnn-frontend says the library takes (its README's support matrix and sdpa_support_surface.h). */
static const char *refusal(const ni_cuda *cuda, const ni_cuda_attention *a) {
    if (a->documents != a->batch)
        return "documents are kept apart";
    if (a->head_dim > 128 && cuda->major != 9)
        return "its heads are wider than 128";
    if ((a->q_stride | a->k_stride | a->v_stride | a->o_stride) % 8 != 0)
        return "its rows are not aligned";
    if (a->seq < 2)
        return "one position attends to itself";
    if (ni_cuda_cudnn_version(cuda) < PADDED_KEYS && a->seq % 128 != 0)
        return "cuDNN before 9.15.1 wants sequences in multiples of 128";
    return NULL;
}

static ni_cudnn_shape shape_of(const ni_cuda_attention *a, bool backward) {
    return (ni_cudnn_shape){.batch = a->batch,
                            .seq = a->seq,
                            .heads = a->heads,
                            .kv_heads = a->kv_heads,
                            .head_dim = a->head_dim,
                            .q_stride = a->q_stride,
                            .k_stride = a->k_stride,
                            .v_stride = a->v_stride,
                            .o_stride = a->o_stride,
                            .backward = backward};
}

const ni_cudnn_plan *ni_cuda_cudnn_plan(nb_backend *be, const ni_cuda_attention *a, bool backward, const char **why) {
    ni_cuda *cuda = ni_cuda_of(be);
    ni_cuda_cudnn *state = state_of(cuda);
    bool found;
    if (!state || !state->library) {
        *why = state ? state->why : "no memory for cuDNN";
        return NULL;
    }
    if ((*why = refusal(cuda, a)))
        return NULL;
    const ni_cudnn_shape shape = shape_of(a, backward);
    ni_cudnn_kept *kept = ni_cudnn_kept_find(&state->kept, &shape, &found);
    if (!found) {
        if (kept->plan.plan) /* it may be running */
            ni_cuda_good(be, cudaStreamSynchronize(cuda->stream), "attention");
        ni_cudnn_free(state->library, &kept->plan);
        kept->plan = (ni_cudnn_plan){0};
        if (!ni_cudnn_make(state->library, &shape, &kept->plan, kept->why, sizeof kept->why))
            kept->plan.plan = NULL;
    }
    *why = kept->why;
    return kept->plan.plan ? &kept->plan : NULL;
}

/* ---- runs ---- */

static size_t rounded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* Behind each other: the sum of dQ, delta, the library's own. */
static size_t sum_bytes(const ni_cuda_attention *a, bool backward) {
    return backward ? rounded((size_t)(a->batch * a->heads * a->seq * a->head_dim) * sizeof(float)) : 0;
}

static size_t delta_bytes(const ni_cuda_attention *a, bool backward) {
    return backward ? rounded((size_t)(a->batch * a->heads * a->seq) * sizeof(float)) : 0;
}

size_t ni_cuda_cudnn_scratch(const ni_cuda_attention *a, const ni_cudnn_plan *plan, bool backward) {
    return sum_bytes(a, backward) + delta_bytes(a, backward) + rounded((size_t)plan->workspace);
}

/* `data` without what both passes share: the scalars and the stream. */
static nb_status queue(nb_backend *be, const ni_cuda_attention *a, const ni_cudnn_plan *plan,
                       void *data[NI_CUDNN_TENSORS], void *workspace, const char *what, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    const ni_cudnn *library = cuda->cudnn->library;
    float scale = (float)a->scale, hidden = -INFINITY, one = 1;
    char why[320];
    data[NI_CUDNN_SCALE] = &scale;
    data[NI_CUDNN_HIDDEN] = &hidden;
    data[NI_CUDNN_ONE] = data[NI_CUDNN_DELTA] ? &one : NULL;
    int status = library->set_stream(library->handle, cuda->stream);
    if (!status)
        status = ni_cudnn_run(library, plan, data, workspace);
    if (!status)
        return ni_cuda_status(be, 0, what, err);
    ni_cudnn_say(library, status, what, why, sizeof why);
    return nb_fail(err, NB_INTERNAL, "cuda: %s; hint: deterministic: true takes our own kernel", why);
}

nb_status ni_cuda_cudnn_forward(nb_backend *be, const ni_cuda_attention *a, const ni_cudnn_plan *plan, void *o,
                                float *lse, const void *q, const void *k, const void *v, void *room, nb_error *err) {
    void *data[NI_CUDNN_TENSORS] = {[NI_CUDNN_Q] = (void *)q,
                                    [NI_CUDNN_K] = (void *)k,
                                    [NI_CUDNN_V] = (void *)v,
                                    [NI_CUDNN_O] = o,
                                    [NI_CUDNN_STATS] = lse};
    return queue(be, a, plan, data, room, "attention_forward", err);
}

nb_status ni_cuda_cudnn_backward(nb_backend *be, const ni_cuda_attention *a, const ni_cudnn_plan *plan, void *dq,
                                 void *dk, void *dv, const void *dout, const void *o, const float *lse, const void *q,
                                 const void *k, const void *v, void *room, nb_error *err) {
    char *sum = room, *delta = sum + sum_bytes(a, true), *workspace = delta + delta_bytes(a, true);
    void *data[NI_CUDNN_TENSORS] = {[NI_CUDNN_Q] = (void *)q,
                                    [NI_CUDNN_K] = (void *)k,
                                    [NI_CUDNN_V] = (void *)v,
                                    [NI_CUDNN_O] = (void *)o,
                                    [NI_CUDNN_STATS] = (void *)lse,
                                    [NI_CUDNN_DO] = (void *)dout,
                                    [NI_CUDNN_DQ] = dq,
                                    [NI_CUDNN_DK] = dk,
                                    [NI_CUDNN_DV] = dv,
                                    [NI_CUDNN_DQ_SUM] = sum,
                                    [NI_CUDNN_DELTA] = delta};
    return queue(be, a, plan, data, workspace, "attention_backward", err);
}
