/* test_config_model.c: the model files that come with nibble, and bad ones. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "files/file.h"
#include "model/config_keys.h"
#include "temporary.h"

#define MODELS NI_TEST_SOURCE "/models"

/* Parameters, counted as the families are defined; biases of GLA's gate and all norms included. */
static int64_t count(const nb_model_config *c) {
    int64_t h = c->hidden, layer, q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    if (c->family == NB_GLA) {
        int64_t dk = (int64_t)(c->hidden * c->expand_k), dv = (int64_t)(c->hidden * c->expand_v);
        int64_t gate = h * c->gate_low_rank + c->gate_low_rank * dk + dk;
        layer = 2 * h * dk + 2 * h * dv + gate + dv * h + dv / c->heads + 2 * h;
    } else if (c->family ==
               NB_NGPT) { /* matrices, alpha twice, s_qk, s_u, s_v; at the end s_z in the place of a norm */
        layer = 2 * h * q + 2 * h * kv + 2 * h + q + 2 * c->intermediate;
    } else {
        int64_t qk_norm = c->family == NB_QWEN3 ? 2 * c->head_dim : c->family == NB_OLMO2 ? q + kv : 0;
        layer = 2 * h * q + 2 * h * kv + qk_norm + 2 * h;
    }
    layer += 3 * h * c->intermediate;
    return c->layers * layer + (c->tied ? 1 : 2) * h * c->vocab + (c->family == NB_NGPT ? c->vocab : h);
}

/* GLA and Qwen3-0.6B: published counts. The others: what the comments in the files say, or what their sizes give. */
static const struct {
    const char *name;
    int64_t parameters;
} shipped[] = {
    {"llama-demo", 4196608},   {"llama-tiny", 6819072},    {"llama-60m", 58466816},   {"llama-124m", 134105856},
    {"llama-400m", 373867520}, {"llama-1.3b", 1364297728}, {"qwen3-tiny", 4197120},   {"qwen3-0.6b", 596049920},
    {"olmo2-tiny", 5509376},   {"olmo2-70m", 123748864},   {"olmo2-150m", 224957184}, {"olmo2-370m", 474022912},
    {"gla-tiny", 5532672},     {"gla-60m", 58568192},      {"gla-340m", 341707776},   {"gla-1.3b", 1365514240},
    {"ngpt-tiny", 6833664},    {"qwen3-60m", 39986688},
};

static void shipped_models_have_their_size(void **state) {
    (void)state;
    for (size_t i = 0; i < NI_COUNT(shipped); i++) {
        nb_model_config c;
        nb_error err = {0};
        if (nb_model_config_load(shipped[i].name, MODELS, &c, &err) != NB_OK)
            fail_msg("%s", err.message);
        assert_string_equal(c.name, shipped[i].name);
        if (count(&c) != shipped[i].parameters)
            fail_msg("%s: %lld parameters, expected %lld", c.name, (long long)count(&c),
                     (long long)shipped[i].parameters);
    }
}

/* The tiny ones are for experiments with every format: every GEMM dimension of a block divides by 32, all but GLA's
 * narrow keys by 128. */
static void tiny_models_divide(void **state) {
    (void)state;
    static const char *const tiny[] = {"llama-demo", "llama-tiny", "qwen3-tiny", "olmo2-tiny", "gla-tiny", "ngpt-tiny"};
    for (size_t i = 0; i < NI_COUNT(tiny); i++) {
        nb_model_config c;
        nb_error err = {0};
        assert_int_equal(nb_model_config_load(tiny[i], MODELS, &c, &err), NB_OK);
        assert_true(c.hidden % 128 == 0 && c.intermediate % 128 == 0 && c.vocab % 128 == 0);
        if (c.family != NB_GLA)
            assert_true((c.kv_heads * c.head_dim) % 128 == 0 && (c.heads * c.head_dim) % 128 == 0);
        else
            assert_true((int)(c.hidden * c.expand_k) % 128 == 0);
    }
}

static void defaults_depend_on_the_family(void **state) {
    (void)state;
    nb_model_config c;
    nb_error err = {0};
    assert_int_equal(nb_model_config_load("gla-340m", MODELS, &c, &err), NB_OK);
    assert_true(c.kv_heads == 4 && c.head_dim == 0 && c.gate_clamp == -INFINITY && c.gate_normalizer == 16);
    assert_int_equal(nb_model_config_load("llama-60m", MODELS, &c, &err), NB_OK);
    assert_true(c.kv_heads == 8 && c.head_dim == 64 && c.rope_theta == 10000 && c.expand_k == 0);
}

#define GOOD "name: m\nvocab: 64\nhidden: 64\nlayers: 1\nheads: 4\nintermediate: 64\n"

static const struct {
    const char *text, *says;
} refused[] = {
    {GOOD, "m.yaml:1: the key 'family' is missing"},
    {GOOD "family: lama\n",
     "m.yaml:7: family: expected one of llama, qwen3, olmo2, gla, ngpt, found 'lama'; did you mean 'llama'?"},
    {GOOD "family: llama\nlayer: 3\n", "m.yaml:8: unknown key 'layer'; did you mean 'layers'?"},
    {GOOD "family: llama\nkv_heads: 3\n", "m.yaml:8: kv_heads: 3 does not divide the 4 heads"},
    {GOOD "family: llama\nkv_heads: 8\n", "m.yaml:8: kv_heads: 8 is out of range: expected 1 to 4"},
    {GOOD "family: llama\nhead_dim: 15\n", "m.yaml:8: head_dim: 15 is odd"},
    {GOOD "family: llama\ngla: {expand_k: 1}\n", "m.yaml:8: gla: is for family gla, and this is llama"},
    {GOOD "family: gla\nrope_theta: 1\n", "m.yaml:8: rope_theta: family gla has none"},
    {GOOD "family: gla\ngla: {expand_k: 0.3}\n", "m.yaml:8: gla.expand_k: hidden 64 times 0.3 is no width"},
    {GOOD "family: gla\ngla: {expand_k: 0.03125}\n",
     "gla.expand_k: hidden 64 times 0.03125 does not divide by 4 heads"},
    {GOOD "family: gla\ngla: {gate_clamp: 1}\n", "gla.gate_clamp: 1 is out of range"},
    {GOOD "family: llama\nnorm_eps: 0\n", "norm_eps: 0 is out of range"},
    {"base: ./good.yaml\nhidden: 63\n", "good.yaml:5: heads: 4 does not divide hidden 63"},
    {"base: ./good.yaml\nhidden: 99999999\n", "hidden: 99999999 is out of range"},
    {"base: ./good.yaml\nhidden: 99999999999999999999\n", "too large"},
    {"base: ./good.yaml\nhidden: 16777216\nintermediate: 16777216\nlayers: 4096\nhead_dim: 64\n",
     "parameters is too large"},
    {"base: ./good.yaml\nname: \"\"\n", "name: is empty"},
    {"base: good\n", "m.yaml:1: base: no model is called 'good'"},
};

static void bad_files_are_refused(void **state) {
    static const char good[] = GOOD "family: llama\n";
    nb_model_config c;
    nb_error err = {0};
    assert_int_equal(ni_file_write(in_folder(state, "good.yaml"), good, strlen(good), NULL), NB_OK);
    assert_int_equal(nb_model_config_load("good", *state, &c, &err), NB_OK);
    for (size_t i = 0; i < NI_COUNT(refused); i++) {
        const char *path = in_folder(state, "m.yaml");
        assert_int_equal(ni_file_write(path, refused[i].text, strlen(refused[i].text), NULL), NB_OK);
        if (nb_model_config_load(path, MODELS, &c, &err) != NB_BAD_CONFIG || !strstr(err.message, refused[i].says))
            fail_msg("%s\ngave: %s\nwanted: %s", refused[i].text, err.message, refused[i].says);
    }
}

static void configs_from_elsewhere_are_checked(void **state) {
    (void)state;
    nb_model_config c;
    nb_error err = {0};
    assert_int_equal(nb_model_config_load("llama-tiny", MODELS, &c, &err), NB_OK);
    assert_int_equal(nb_model_config_check(&c, &err), NB_OK);
    c.heads = 0;
    assert_int_equal(nb_model_config_check(&c, &err), NB_BAD_CONFIG);
    assert_string_equal(err.message, "model llama-tiny: heads: 0 is out of range: expected 1 to 65536");
    c = (nb_model_config){0};
    assert_int_equal(nb_model_config_check(&c, &err), NB_BAD_CONFIG);
    memset(&c, 0xff, sizeof c);
    c.name[0] = 0;
    assert_int_equal(nb_model_config_check(&c, &err), NB_BAD_CONFIG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shipped_models_have_their_size),
        cmocka_unit_test(tiny_models_divide),
        cmocka_unit_test(defaults_depend_on_the_family),
        cmocka_unit_test_setup_teardown(bad_files_are_refused, temporary_folder, remove_temporary_folder),
        cmocka_unit_test(configs_from_elsewhere_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
