/* cudnn_room.c: places, one behind the other. */
#include "backend/cuda/cudnn_room.h"

enum { ROWS_BEHIND = 128 /* the last document: blocks of rows are written whole */ };

typedef struct walk {
    char *at; /* NULL: nothing is placed */
    size_t bytes;
} walk;

static void *take(walk *w, int64_t count, size_t size) {
    void *place = w->at ? w->at + w->bytes : NULL;
    w->bytes += ((size_t)count * size + 255) / 256 * 256;
    return place;
}

static void place_documents(walk *w, ni_cudnn_room *r, int64_t rows, const ni_cudnn_shape *s, void **data) {
    ni_cuda_documents *d = &r->documents;
    const int64_t n = d->most = s->documents;
    d->lengths = data[NI_CUDNN_LENGTHS_Q] = data[NI_CUDNN_LENGTHS_K] = take(w, n, sizeof *d->lengths);
    d->first = take(w, n + 1, sizeof *d->first);
    d->from_q = data[NI_CUDNN_FROM_Q] = take(w, n + 1, sizeof *d->from_q);
    d->from_k = data[NI_CUDNN_FROM_K] = take(w, n + 1, sizeof *d->from_k);
    d->from_v = data[NI_CUDNN_FROM_V] = take(w, n + 1, sizeof *d->from_v);
    d->from_o = data[NI_CUDNN_FROM_O] = take(w, n + 1, sizeof *d->from_o);
    d->from_stats = data[NI_CUDNN_FROM_STATS] = take(w, n + 1, sizeof *d->from_stats);
    r->stats = data[NI_CUDNN_STATS] = take(w, rows * s->heads, sizeof *r->stats);
}

/* Four bytes an element even of BF16, as cudnn-frontend gives them. */
static void place_sums(walk *w, int64_t rows, const ni_cudnn_shape *s, void **data) {
    const int64_t group = s->heads / s->kv_heads, width = s->documents ? s->q_stride : s->heads * s->head_dim;
    data[NI_CUDNN_DQ_SUM] = take(w, rows * width, sizeof(float));
    data[NI_CUDNN_DELTA] = take(w, rows * s->heads, sizeof(float));
    if (s->documents && group > 1) {
        data[NI_CUDNN_DK_EACH] = take(w, rows * s->k_stride * group, sizeof(float));
        data[NI_CUDNN_DV_EACH] = take(w, rows * s->v_stride * group, sizeof(float));
    }
}

ni_cudnn_room ni_cudnn_place(const ni_cudnn_shape *s, int64_t workspace, void *memory, void *data[NI_CUDNN_TENSORS]) {
    const int64_t rows = s->batch * s->seq + (s->documents ? ROWS_BEHIND : 0);
    walk w = {memory, 0};
    ni_cudnn_room r = {0};
    if (s->documents)
        place_documents(&w, &r, rows, s, data);
    const size_t ours = w.bytes;
    r.foreign = take(&w, 0, 1);
    if (s->backward)
        place_sums(&w, rows, s, data);
    r.workspace = take(&w, workspace, 1);
    r.bytes = w.bytes;
    r.foreign_bytes = w.bytes - ours;
    return r;
}
