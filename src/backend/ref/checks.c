/* checks.c: what every implementation of attention refuses, and what the reference says of its own. */
#include "backend/ref/ref.h"

nb_status ni_attention_check(const nb_attention *a, nb_error *err) {
    if (a->batch < 0 || a->seq < 0 || a->heads < 1 || a->kv_heads < 1 || a->head_dim < 1)
        return nb_fail(err, NB_BAD_USAGE, "attention: batch %lld, seq %lld, heads %lld/%lld, head_dim %lld",
                       (long long)a->batch, (long long)a->seq, (long long)a->heads, (long long)a->kv_heads,
                       (long long)a->head_dim);
    if (a->heads % a->kv_heads)
        return nb_fail(err, NB_BAD_USAGE, "attention: %lld heads cannot share %lld key heads evenly",
                       (long long)a->heads, (long long)a->kv_heads);
    if (a->rule.sums != NB_ATTENTION_F32 && (a->rule.tile < 1 || !(a->rule.beta > 0)))
        return nb_fail(err, NB_BAD_USAGE, "attention: tiles of %d keys, beta %g; expected positive numbers",
                       (int)a->rule.tile, a->rule.beta);
    if (a->rule.forward != NB_ATTENTION_BF16_OPERANDS && a->rule.sums != NB_ATTENTION_F32)
        return nb_fail(err, NB_BAD_USAGE, "attention: operands of four bits are summed in FP32; expected sums in F32");
    const int64_t strides[] = {a->q_stride, a->k_stride, a->v_stride, a->o_stride};
    for (int i = 0; i < 4; i++) {
        int64_t least = (i == 1 || i == 2 ? a->kv_heads : a->heads) * a->head_dim;
        if (strides[i] != 0 && strides[i] < least)
            return nb_fail(err, NB_BAD_USAGE, "attention: %c_stride %lld; expected 0 (dense) or at least %lld",
                           "qkvo"[i], (long long)strides[i], (long long)least);
    }
    return NB_OK;
}

const char *ni_ref_attention_kernel(nb_backend *be, const nb_attention *a, const char **why) {
    (void)be;
    *why = a->rule.sums != NB_ATTENTION_F32                ? "P V in BF16, as the recipe says"
           : a->rule.forward != NB_ATTENTION_BF16_OPERANDS ? "the formula, operands in four bits"
                                                           : "the formula";
    return ni_attention_check(a, NULL) == NB_OK ? "scalar" : NULL;
}

const char *ni_ref_gla_kernel(nb_backend *be, const ni_gla *g, const char **why) {
    (void)be;
    *why = "the formula";
    return ni_gla_check(g, NULL) == NB_OK ? "scalar" : NULL;
}

size_t ni_ref_gla_left_bytes(nb_backend *be, const ni_gla *g) {
    (void)be, (void)g;
    return 0;
}

nb_status ni_gla_check(const ni_gla *g, nb_error *err) {
    if (g->batch < 0 || g->seq < 0 || g->heads < 1 || g->key_dim < 1 || g->value_dim < 1)
        return nb_fail(err, NB_BAD_USAGE, "gla: batch %lld, seq %lld, heads %lld, key_dim %lld, value_dim %lld",
                       (long long)g->batch, (long long)g->seq, (long long)g->heads, (long long)g->key_dim,
                       (long long)g->value_dim);
    return NB_OK;
}
