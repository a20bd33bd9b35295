/* cudnn_kept.c: a list that is searched from end to end: a plan runs for longer than that takes. */
#include "backend/cuda/cudnn_kept.h"

static bool same(const ni_cudnn_shape *a, const ni_cudnn_shape *b) {
    return a->batch == b->batch && a->seq == b->seq && a->heads == b->heads && a->kv_heads == b->kv_heads &&
           a->head_dim == b->head_dim && a->q_stride == b->q_stride && a->k_stride == b->k_stride &&
           a->v_stride == b->v_stride && a->o_stride == b->o_stride && a->documents == b->documents &&
           a->backward == b->backward;
}

ni_cudnn_kept *ni_cudnn_kept_find(ni_cudnn_kept_list *list, const ni_cudnn_shape *shape, bool *found) {
    ni_cudnn_kept *oldest = &list->places[0];
    *found = false;
    for (int i = 0; i < NI_CUDNN_KEPT && !*found; i++) {
        ni_cudnn_kept *at = &list->places[i];
        *found = at->asked && same(&at->shape, shape);
        if (*found || at->asked < oldest->asked)
            oldest = at;
    }
    oldest->asked = ++list->questions;
    if (!*found) {
        oldest->shape = *shape;
        oldest->why[0] = '\0';
    }
    return oldest;
}
