/* cudnn_attention.c: which attentions cuDNN takes, their plans, one a shape and pass, and their runs.
 *
 * What it does not take goes to our kernel, which shares lse, so that one pass may be here and the other there.
 *
 * Documents that are kept apart become entries of the batch. How many there are changes from batch to batch and a plan
 * takes the library half a second, so it is made for a power of two of them; a kernel of ours lists them on the GPU, and
 * entries beyond are empty. */
#include "backend/cuda/cudnn_attention.h"

#include "backend/cuda/cudnn_kept.h"
#include "backend/cuda/cudnn_room.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PADDED_KEYS = 91501,   /* 9.15.1: before it, keys of whole sequences come in blocks of 128 */
    CLEARS_ITSELF = 91800, /* 9.18: before it, backward passes of documents on Hopper read what nobody has written
                               (github.com/NVIDIA/TransformerEngine, issue 2186) */
    FEWEST_DOCUMENTS = 64  /* that a plan is made for */
};

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

static bool apart(const ni_cuda_attention *a) {
    return a->documents != a->batch;
}

/* Entries of the plan for these documents; 0: sequences are whole. */
static int64_t entries_of(const ni_cuda_attention *a) {
    int64_t entries = FEWEST_DOCUMENTS;
    while (entries < a->documents)
        entries *= 2;
    return apart(a) ? entries : 0;
}

static const char *refusal_of_documents(const ni_cuda *cuda, const ni_cuda_attention *a) {
    if (!a->documents)
        return "documents are kept apart, and their number is not known";
    if (cuda->major != 9 && cuda->major != 10)
        return "documents are kept apart, which its engines for this GPU do not know";
    if (a->head_dim % 16 != 0)
        return "documents are kept apart in heads that are no multiple of 16";
    if (a->batch * a->seq > INT32_MAX)
        return "there are more positions than 2^31";
    if (ni_cuda_cudnn_version(cuda) < PADDED_KEYS)
        return "documents are kept apart, which cuDNN before 9.15.1 gets wrong: NaN in dk of a last key";
    return NULL;
}

/* What cudnn-frontend says the library takes (its README's support matrix, sdpa_support_surface.h and, for documents,
 * node/scaled_dot_product_flash_attention.h). */
static const char *refusal(const ni_cuda *cuda, const ni_cuda_attention *a) {
    const char *why = apart(a) ? refusal_of_documents(cuda, a) : NULL;
    if (why)
        return why;
    if (a->head_dim > 128 && cuda->major != 9)
        return "its heads are wider than 128";
    if ((a->q_stride | a->k_stride | a->v_stride | a->o_stride) % 8 != 0)
        return "its rows are not aligned";
    if (a->seq < 2)
        return "one position attends to itself";
    if (!apart(a) && ni_cuda_cudnn_version(cuda) < PADDED_KEYS && a->seq % 128 != 0)
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
                            .documents = entries_of(a),
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

static ni_cudnn_room room_of(const ni_cuda_attention *a, const ni_cudnn_plan *plan, bool backward, void *memory,
                             void *data[NI_CUDNN_TENSORS]) {
    const ni_cudnn_shape shape = shape_of(a, backward);
    return ni_cudnn_place(&shape, plan->workspace, memory, data);
}

size_t ni_cuda_cudnn_scratch(const ni_cuda_attention *a, const ni_cudnn_plan *plan, bool backward) {
    void *data[NI_CUDNN_TENSORS];
    return room_of(a, plan, backward, NULL, data).bytes;
}

/* `given`: without what both passes share, the scalars and the stream. */
static nb_status queue(nb_backend *be, const ni_cuda_attention *a, const ni_cudnn_plan *plan,
                       void *const given[NI_CUDNN_TENSORS], void *workspace, const char *what, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    const ni_cudnn *library = cuda->cudnn->library;
    float scale = (float)a->scale, hidden = -INFINITY, one = 1;
    char why[320];
    void *data[NI_CUDNN_TENSORS];
    memcpy(data, given, sizeof data);
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
                                float *lse, const void *q, const void *k, const void *v, void *memory, nb_error *err) {
    void *data[NI_CUDNN_TENSORS] = {[NI_CUDNN_Q] = (void *)q,
                                    [NI_CUDNN_K] = (void *)k,
                                    [NI_CUDNN_V] = (void *)v,
                                    [NI_CUDNN_O] = o,
                                    [NI_CUDNN_STATS] = lse};
    void *stream = ni_cuda_of(be)->stream;
    const ni_cudnn_room r = room_of(a, plan, false, memory, data);
    if (!r.documents.most)
        return queue(be, a, plan, data, r.workspace, "attention_forward", err);
    NB_TRY(ni_cuda_status(be, ni_cuda_launch_documents(a, &r.documents, stream), "attention_forward", err));
    NB_TRY(queue(be, a, plan, data, r.workspace, "attention_forward", err));
    return ni_cuda_status(be, ni_cuda_launch_stats_by_head(a, lse, r.stats, stream), "attention_forward", err);
}

static nb_status begin_documents(nb_backend *be, const ni_cuda_attention *a, const ni_cudnn_room *r, const float *lse,
                                 nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    int code = ni_cuda_launch_documents(a, &r->documents, cuda->stream);
    if (code == cudaSuccess)
        code = ni_cuda_launch_stats_by_position(a, r->stats, lse, cuda->stream);
    if (code == cudaSuccess && ni_cuda_cudnn_version(cuda) < CLEARS_ITSELF)
        code = cudaMemsetAsync(r->foreign, 0, r->foreign_bytes, cuda->stream);
    return ni_cuda_status(be, code, "attention_backward", err);
}

nb_status ni_cuda_cudnn_backward(nb_backend *be, const ni_cuda_attention *a, const ni_cudnn_plan *plan, void *dq,
                                 void *dk, void *dv, const void *dout, const void *o, const float *lse, const void *q,
                                 const void *k, const void *v, void *memory, nb_error *err) {
    void *data[NI_CUDNN_TENSORS] = {[NI_CUDNN_Q] = (void *)q,
                                    [NI_CUDNN_K] = (void *)k,
                                    [NI_CUDNN_V] = (void *)v,
                                    [NI_CUDNN_O] = (void *)o,
                                    [NI_CUDNN_STATS] = (void *)lse,
                                    [NI_CUDNN_DO] = (void *)dout,
                                    [NI_CUDNN_DQ] = dq,
                                    [NI_CUDNN_DK] = dk,
                                    [NI_CUDNN_DV] = dv};
    const ni_cudnn_room r = room_of(a, plan, true, memory, data);
    if (r.documents.most)
        NB_TRY(begin_documents(be, a, &r, lse, err));
    return queue(be, a, plan, data, r.workspace, "attention_backward", err);
}
