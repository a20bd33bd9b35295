/* trained.c: operands that were saved from a training run (tests/golden/trained.safetensors: X, W and dY of a layer),
 * by every quantizer, straight and turned: one digest a quantizer. A GPU wrote those that are committed. */
#include "trial.h"

#include "files/safetensors.h"

#include <xxhash.h>

static void add_codes(XXH64_state_t *state, nb_backend *be, const nb_quantizer *q, const ni_file_tensor *saved,
                      bool transpose) {
    const int64_t rows = saved->shape[transpose], cols = saved->shape[!transpose];
    if (nb_quantizer_check_shape(q, rows, cols, NULL) != NB_OK)
        return;
    trial t = {.be = be};
    const nb_mat from = nb_mat_of(upload(&t, saved->data, saved->bytes), saved->dtype == NI_ST_F32 ? NB_F32 : NB_BF16,
                                  saved->shape[0], saved->shape[1]);
    const nb_noise noise = noise_at(&t);
    nb_operand o = {.quantizer = *q, .other = *q, .rows = rows, .cols = cols, .side = NI_LEFT, .reread = true};
    o.memory = scratch(&t, be->ops->operand_bytes(be, &o));
    const ni_making making = {.out = &o, .transpose = transpose, .shown = true, .noise = &noise};
    EXPECT_OK(&t, be->ops->make_operands(be, &(ni_source){.numbers = &from}, &making, 1, &err));
    const nb_qtensor codes = new_codes(&t, q, rows, cols);
    EXPECT_OK(&t, be->ops->canonical(be, &codes, &o, &err));
    keep_codes(&t, saved->name, &codes);
    fetch_results(&t);
    if (t.failure[0] || t.refusal[0])
        fail_msg("%s: %s of %s: %s%s", be->name, "codes", saved->name, t.failure, t.refusal);
    for (int i = 0; i < t.count; i++)
        XXH64_update(state, t.results[i].bytes, (size_t)t.results[i].n * nb_dtype_size(t.results[i].type));
    end_trial(&t);
    assert_true(release_buffers_until(NULL) == 0);
}

uint64_t trained_digest(nb_backend *be, const nb_quantizer *q, const ni_safetensors *saved) {
    XXH64_state_t *state = XXH64_createState();
    assert_non_null(state);
    XXH64_reset(state, 0);
    for (int32_t i = 0; i < ni_safetensors_count(saved); i++)
        for (int turned = 0; turned < 2; turned++)
            add_codes(state, be, q, ni_safetensors_at(saved, i), turned);
    const uint64_t digest = XXH64_digest(state);
    XXH64_freeState(state);
    return digest;
}
