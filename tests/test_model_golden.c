/* test_model_golden.c: logits, loss and gradients of tiny models against independent implementations
 * (tests/golden/model_*.safetensors, written by scripts/golden_model.py: Hugging Face's models, and plain PyTorch for
 * GLA; by scripts/golden_ngpt.py: NVIDIA's nGPT), in double precision and, more loosely, in the types of training. */
#include "backend/table.h"
#include "model_case.h"

#include "files/safetensors.h"

enum { VOCAB = 32, TOKENS = CASE_ROWS };

/* The reference computes its norms in single precision. */
static const double EXACT = 3e-6;

static nb_model_config golden_config(nb_family family, bool tied) {
    nb_model_config c = case_config(family, tied);
    c.vocab = VOCAB;
    c.hidden = 16;
    c.heads = 2;
    c.kv_heads = family == NB_GLA || family == NB_NGPT ? 2 : 1;
    c.norm_eps = family == NB_NGPT ? 1e-12 : c.norm_eps; /* NVIDIA's code adds nothing to a length */
    c.head_dim = 8;
    c.intermediate = 32;
    return c;
}

static const ni_file_tensor *tensor(const ni_safetensors *file, const char *name, int64_t elements) {
    const ni_file_tensor *t = ni_safetensors_find(file, name);
    if (!t)
        fail_msg("the golden file has no %s", name);
    int64_t n = 1;
    for (int32_t i = 0; t && i < t->rank; i++)
        n *= t->shape[i];
    assert_int_equal(n, elements);
    return t;
}

static void load_params(nb_model *model, nb_backend *be, const ni_safetensors *file) {
    int32_t found = 0;
    void *params = params_of(model, be);
    for (int32_t i = 0; i < nb_model_param_count(model); i++, found++) {
        const nb_param *p = nb_model_param(model, i);
        const float *from = tensor(file, p->name, p->rows * p->cols)->data;
        for (int64_t j = 0; j < p->rows * p->cols; j++) {
            if (be->real == NB_F64)
                ((double *)params)[p->offset + j] = from[j];
            else
                ((float *)params)[p->offset + j] = from[j];
        }
    }
    assert_int_equal(ni_safetensors_count(file), 2 * found + 6); /* nothing in the file that the model lacks */
    be->ops->upload(be, nb_model_params(model), params, param_bytes(model, be));
    nb_model_params_changed(model);
}

static void compare(const char *what, const double *got, const double *want, int64_t n, double tolerance) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    if (!(norm > 0 && sqrt(error / norm) <= tolerance))
        fail_msg("%s is off by %.3g of its norm %.3g", what, sqrt(error / norm), sqrt(norm));
}

static void check(nb_backend *be, nb_family family, bool tied, bool fine, double tolerance) {
    char path[512];
    ni_safetensors *file = NULL;
    nb_error err = {0};
    snprintf(path, sizeof path, "%s/model_%s.safetensors", NI_TEST_GOLDEN, nb_family_name(family));
    if (ni_safetensors_open(path, &file, &err) != NB_OK)
        fail_msg("%s", err.message);
    nb_model_config config = golden_config(family, tied);
    config.fine = fine;
    nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, true);
    load_params(model, be, file);
    const nb_batch batch = {CASE_BATCH,
                            CASE_SEQ,
                            tensor(file, "tokens", TOKENS)->data,
                            tensor(file, "targets", TOKENS)->data,
                            tensor(file, "positions", TOKENS)->data,
                            tensor(file, "doc_start", TOKENS)->data};
    const nb_pass pass = {.z_loss = 1e-2};
    float logits[TOKENS * VOCAB];
    double loss;
    assert_int_equal(nb_model_logits(model, &batch, &pass, logits, NULL), NB_OK);
    compare("logits", get(NB_F32, logits, TOKENS * VOCAB), tensor(file, "logits", TOKENS * VOCAB)->data, TOKENS * VOCAB,
            tolerance);
    assert_int_equal(nb_model_loss_and_grads(model, &batch, &pass, &loss, NULL), NB_OK);
    compare("loss", &loss, tensor(file, "loss", 1)->data, 1, tolerance);
    const uint8_t *grads = grads_of(model, be);
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        char name[NB_NAME_SIZE + 8];
        snprintf(name, sizeof name, "grad.%s", p->name);
        const int64_t n = p->rows * p->cols;
        compare(name, get(be->real, grads + (size_t)p->offset * nb_dtype_size(be->real), n),
                get(NB_F32, tensor(file, name, n)->data, n), n, tolerance);
    }
    nb_model_free(model);
    ni_safetensors_close(file);
}

static const struct {
    nb_family family;
    bool tied, fine;
} families[] = {{NB_LLAMA, false, false},
                {NB_QWEN3, true, false},
                {NB_OLMO2, false, false},
                {NB_GLA, false, false},
                {NB_NGPT, false, false},
                /* what N does to the input of a matrix is undone by N of its output: the same numbers */
                {NB_NGPT, false, true}};

static void in_double(void **state) {
    (void)state;
    nb_backend *be = ref64();
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        check(be, families[i].family, families[i].tied, families[i].fine, EXACT);
    nb_backend_free(be);
}

/* BF16 activations have a unit roundoff of 2^-8. From the embedding to the loss and back, some dozen roundings follow
 * each other in two blocks of softmax attention; GLA and nGPT store twice as many intermediate tensors. */
static void in_bf16(void **state) {
    (void)state;
    nb_backend *be = cpu_with(2, NB_ISA_AUTO);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        check(be, families[i].family, families[i].tied, families[i].fine,
              (families[i].family == NB_GLA || families[i].family == NB_NGPT ? 24 : 12) * 0x1p-8);
    nb_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(in_double, release_buffers),
        cmocka_unit_test_teardown(in_bf16, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
