/* checks.c: what every implementation of attention refuses. A scan needs documents that are whole. */
#include "backend/ref/ref.h"

static nb_status check_documents(const char *op, const int32_t *doc_start, int64_t batch, int64_t seq, nb_error *err) {
    for (int64_t i = 0; i < batch * seq; i++)
        if (doc_start[i] < 0 || doc_start[i] > i % seq)
            return nb_fail(err, NB_BAD_USAGE, "%s: the document of position %lld of sequence %lld starts at %d", op,
                           (long long)(i % seq), (long long)(i / seq), doc_start[i]);
    return NB_OK;
}

nb_status nb_attention_check(const nb_attention *a, nb_error *err) {
    if (a->batch < 0 || a->seq < 0 || a->heads < 1 || a->kv_heads < 1 || a->head_dim < 1)
        return nb_fail(err, NB_BAD_USAGE, "attention: batch %lld, seq %lld, heads %lld/%lld, head_dim %lld",
                       (long long)a->batch, (long long)a->seq, (long long)a->heads, (long long)a->kv_heads,
                       (long long)a->head_dim);
    if (a->heads % a->kv_heads)
        return nb_fail(err, NB_BAD_USAGE, "attention: %lld heads cannot share %lld key heads evenly",
                       (long long)a->heads, (long long)a->kv_heads);
    return check_documents("attention", a->doc_start, a->batch, a->seq, err);
}

nb_status nb_gla_check(const nb_gla *g, nb_error *err) {
    if (g->batch < 0 || g->seq < 0 || g->heads < 1 || g->key_dim < 1 || g->value_dim < 1)
        return nb_fail(err, NB_BAD_USAGE, "gla: batch %lld, seq %lld, heads %lld, key_dim %lld, value_dim %lld",
                       (long long)g->batch, (long long)g->seq, (long long)g->heads, (long long)g->key_dim,
                       (long long)g->value_dim);
    NB_TRY(check_documents("gla", g->doc_start, g->batch, g->seq, err));
    for (int64_t i = 0; i < g->batch * g->seq; i++)
        if (g->doc_start[i] != i % g->seq && g->doc_start[i] != g->doc_start[i - 1])
            return nb_fail(err, NB_BAD_USAGE,
                           "gla: position %lld of sequence %lld is in a document that begins at %d, the "
                           "one before it is not",
                           (long long)(i % g->seq), (long long)(i / g->seq), g->doc_start[i]);
    return NB_OK;
}
