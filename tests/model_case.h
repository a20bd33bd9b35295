/* model_case.h: small models and batches that the tests of src/model share. */
#ifndef NI_TEST_MODEL_CASE_H
#define NI_TEST_MODEL_CASE_H

#include "backend/table.h"
#include "harness.h"

#include "nibble/model.h"

enum { CASE_BATCH = 2, CASE_SEQ = 16, CASE_ROWS = CASE_BATCH * CASE_SEQ };

static UNUSED nb_model_config case_config(nb_family family, bool tied) {
    nb_model_config c = {.name = "case",
                         .family = family,
                         .vocab = 48,
                         .hidden = 32,
                         .layers = 2,
                         .heads = 4,
                         .kv_heads = family == NB_GLA ? 4 : 2,
                         .head_dim = 16,
                         .intermediate = 48,
                         .max_seq = 32,
                         .rope_theta = 10000,
                         .norm_eps = 1e-5,
                         .init_std = 0.25,
                         .tied = tied,
                         .expand_k = 0.5,
                         .expand_v = 1.0,
                         .gate_low_rank = 16,
                         .gate_normalizer = 16,
                         .gate_clamp = -INFINITY,
                         .alpha = 0.05,
                         .fine = true};
    return c;
}

/* Two rows of tokens: the first holds three documents, the second one; a few targets are not scored. */
typedef struct case_batch {
    int32_t tokens[CASE_ROWS], targets[CASE_ROWS], positions[CASE_ROWS], doc_start[CASE_ROWS];
    nb_batch batch;
} case_batch;

static UNUSED void make_case_batch(case_batch *b, int32_t vocab, uint32_t stream) {
    static const int32_t starts[] = {0, 5, 6};
    for (int32_t i = 0; i < CASE_ROWS; i++) {
        ni_philox_words w = ni_philox(stream, 0xba7c4, (uint32_t)i, 0, 0, 0);
        int32_t row = i / CASE_SEQ, at = i % CASE_SEQ, start = 0;
        for (int d = 0; d < 3 && row == 0; d++)
            start = at >= starts[d] ? starts[d] : start;
        b->tokens[i] = (int32_t)(w.w[0] % (uint32_t)vocab);
        b->targets[i] = i % 7 == 4 ? -1 : (int32_t)(w.w[1] % (uint32_t)vocab);
        b->doc_start[i] = start;
        b->positions[i] = at - start;
    }
    b->batch = (nb_batch){CASE_BATCH, CASE_SEQ, b->tokens, b->targets, b->positions, b->doc_start};
}

static UNUSED nb_recipe bf16_recipe(void) {
    return nb_recipe_bf16();
}

/* NVIDIA's recipe (arXiv:2509.25149, section 4), the head in BF16. */
static UNUSED nb_recipe nvfp4_recipe(void) {
    nb_recipe r = {.name = "nvfp4", .late_switch = {.at = 1.0}};
    snprintf(r.keep.modules[r.keep.module_count++], NB_NAME_SIZE, "lm_head");
    nb_quantizer rows = {.element = NB_ELEMENT_E2M1,
                         .scale_type = NB_SCALE_E4M3,
                         .rule = NB_RULE_ABSMAX,
                         .outer = NB_OUTER_TENSOR,
                         .block_rows = 1,
                         .block_cols = 16,
                         .round = NB_ROUND_EVEN,
                         .sr_bits = 8};
    nb_quantizer tiles = rows, noisy = rows;
    tiles.block_rows = 16;
    noisy.round = NB_ROUND_STOCHASTIC;
    nb_quantizer rotated = rows, rotated_noisy = noisy;
    rotated.hadamard_size = rotated_noisy.hadamard_size = 16;
    rotated.hadamard_signs = rotated_noisy.hadamard_signs = NB_SIGNS_FIXED;
    rotated.hadamard_round_bf16 = rotated_noisy.hadamard_round_bf16 = true;
    r.roles[NB_FPROP_X].quantizer = rows;
    r.roles[NB_FPROP_W].quantizer = tiles;
    r.roles[NB_DGRAD_DY].quantizer = noisy;
    r.roles[NB_DGRAD_W] = (nb_operand_rule){.from = true, .source = NB_FPROP_W, .quantizer = tiles};
    r.roles[NB_WGRAD_DY].quantizer = rotated_noisy;
    r.roles[NB_WGRAD_X].quantizer = rotated;
    return r;
}

static UNUSED nb_backend *ref64(void) {
    nb_backend *be = NULL;
    assert_int_equal(nb_backend_open("ref64", NULL, &be, NULL), NB_OK);
    return be;
}

static UNUSED nb_backend *cpu_with(int32_t threads, nb_isa isa) {
    nb_backend_options options = {threads, isa};
    nb_backend *be = NULL;
    assert_int_equal(nb_backend_open("cpu", &options, &be, NULL), NB_OK);
    return be;
}

static UNUSED nb_model *case_model(nb_backend *be, const nb_model_config *config, const nb_recipe *recipe,
                                   bool training) {
    nb_model *model = NULL;
    nb_error err = {0};
    if (nb_model_create(be, config, recipe, CASE_BATCH, CASE_SEQ, training, &model, &err) != NB_OK)
        fail_msg("%s", err.message);
    nb_model_init(model, 1234);
    return model;
}

/* What lies in a backend's memory, in a buffer of the harness. */
static UNUSED void *fetched(nb_backend *be, const void *from, size_t bytes) {
    void *copy = poisoned(bytes);
    be->ops->download(be, copy, from, bytes);
    return copy;
}

static UNUSED size_t param_bytes(const nb_model *model, nb_backend *be) {
    return (size_t)nb_model_param_elements(model) * nb_dtype_size(be->real);
}

static UNUSED void *params_of(nb_model *model, nb_backend *be) {
    return fetched(be, nb_model_params(model), param_bytes(model, be));
}

static UNUSED void *grads_of(nb_model *model, nb_backend *be) {
    return fetched(be, nb_model_grads(model), param_bytes(model, be));
}

/* Norm weights that are not all one, so that their place in the formulas shows. */
static UNUSED void perturb_vectors(nb_model *model, nb_backend *be) {
    void *params = params_of(model, be);
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        for (int64_t j = 0; p->rank == 1 && j < p->rows; j++) {
            double by = 0.2 * normal((uint32_t)i, j);
            if (be->real == NB_F64)
                ((double *)params)[p->offset + j] += by;
            else
                ((float *)params)[p->offset + j] += (float)by;
        }
    }
    be->ops->upload(be, nb_model_params(model), params, param_bytes(model, be));
    nb_model_params_changed(model);
}

static UNUSED double loss_of(nb_model *model, const case_batch *b, const nb_pass *pass) {
    double loss = NAN;
    nb_error err = {0};
    if (nb_model_loss(model, &b->batch, pass, &loss, &err) != NB_OK)
        fail_msg("%s", err.message);
    return loss;
}

static UNUSED double loss_and_grads_of(nb_model *model, const case_batch *b, const nb_pass *pass) {
    double loss = NAN;
    nb_error err = {0};
    if (nb_model_loss_and_grads(model, &b->batch, pass, &loss, &err) != NB_OK)
        fail_msg("%s", err.message);
    return loss;
}

#endif
