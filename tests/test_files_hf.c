/* test_files_hf.c: Hugging Face folders: ours come back to the bit, theirs (tests/golden/hf) give their logits, and
 * what nibble would compute differently is refused. With a folder as its argument it writes what
 * scripts/check_transformers.py compares with the transformers package and scripts/check_fla.py with fla. */
#include "model_case.h"

#include "data/tokenizer.h"
#include "files/file.h"
#include "format/fp16.h"
#include "model/hf.h"
#include "model/hf_numbers.h"
#include "temporary.h"

#include <unistd.h>

static const struct {
    nb_family family;
    bool tied;
} families[] = {{NB_LLAMA, false}, {NB_QWEN3, true}, {NB_OLMO2, false}, {NB_GLA, false}};
enum { FAMILY_COUNT = sizeof families / sizeof families[0] };

static void must(nb_status status, const nb_error *err) {
    if (status != NB_OK)
        fail_msg("%s", err->message);
}

enum { MOST_TOKENS = 100 };

/* `count` tokens in one document; each is to predict the next. */
typedef struct document {
    int32_t count, tokens[MOST_TOKENS], targets[MOST_TOKENS], positions[MOST_TOKENS], starts[MOST_TOKENS];
} document;

static nb_batch batch_of(document *d, const int32_t *tokens, int32_t count) {
    *d = (document){.count = count};
    for (int32_t t = 0; t < count; t++) {
        d->tokens[t] = tokens[t];
        d->targets[t] = t + 1 < count ? tokens[t + 1] : -1;
        d->positions[t] = t;
    }
    return (nb_batch){1, count, d->tokens, d->targets, d->positions, d->starts};
}

static void logits_of(nb_model *model, const int32_t *tokens, int32_t count, float *logits) {
    document d;
    const nb_batch batch = batch_of(&d, tokens, count);
    const nb_pass pass = {0};
    nb_error err = {0};
    must(nb_model_logits(model, &batch, &pass, logits, &err), &err);
}

static double relative_error(const float *got, const ni_file_tensor *want, int64_t n) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double w = want->dtype == NI_ST_F64 ? ((const double *)want->data)[i] : ((const float *)want->data)[i];
        error += ((double)got[i] - w) * ((double)got[i] - w);
        norm += w * w;
    }
    return sqrt(error / norm);
}

/* ---- theirs ---- */

static void check_golden(const char *name, nb_backend *be, double tolerance) {
    char folder[512], path[600];
    nb_model_config config;
    nb_error err = {0};
    snprintf(folder, sizeof folder, "%s/hf/%s", NI_TEST_GOLDEN, name);
    must(ni_hf_config_read(folder, &config, &err), &err);
    assert_string_equal(config.name, name);
    nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, false);
    must(ni_hf_load(be, model, folder, &err), &err);
    ni_safetensors *expected;
    snprintf(path, sizeof path, "%s/expected.safetensors", folder);
    must(ni_safetensors_open(path, &expected, &err), &err);
    float logits[CASE_SEQ * 40];
    logits_of(model, ni_safetensors_find(expected, "tokens")->data, CASE_SEQ, logits);
    double error = relative_error(logits, ni_safetensors_find(expected, "logits"), CASE_SEQ * 40);
    if (!(error <= tolerance))
        fail_msg("%s: logits are off by %.3g of their norm", name, error);
    ni_safetensors_close(expected);
    nb_model_free(model);
}

/* The tolerances of tests/test_model_golden.c: their norms are in single precision; a dozen roundings to BF16. */
static void folders_of_transformers(void **state) {
    (void)state;
    nb_backend *exact = ref64(), *cpu = cpu_with(1, NB_ISA_AUTO);
    check_golden("llama-sharded", exact, 3e-6);
    check_golden("llama-sharded", cpu, 12 * 0x1p-8);
    check_golden("qwen3-bf16", exact, 3e-6);
    check_golden("qwen3-bf16", cpu, 12 * 0x1p-8);
    check_golden("llama-scaled", exact, 3e-6);
    check_golden("llama-scaled", cpu, 12 * 0x1p-8);
    nb_backend_free(exact);
    nb_backend_free(cpu);
}

/* LLaMA 3.1's scaling, from transformers 5's rope_parameters and 4's rope_scaling, comes back as it was. */
static void scaled_rope_comes_back(void **state) {
    nb_model_config c, back;
    nb_error err = {0};
    must(ni_hf_config_read(NI_TEST_GOLDEN "/hf/llama-scaled", &c, &err), &err);
    assert_true(c.rope_theta == 20 && c.rope_factor == 8 && c.rope_low == 1 && c.rope_high == 4 &&
                c.rope_original == 32);
    char *text = ni_hf_config_text(&c, NI_ST_BF16, (ni_hf_marks){-1, -1});
    assert_non_null(strstr(text, "\"rope_type\": \"llama3\""));
    must(ni_file_write(in_folder(state, "config.json"), text, strlen(text), &err), &err);
    must(ni_hf_config_read(*state, &back, &err), &err);
    assert_true(back.rope_theta == 20 && back.rope_factor == 8 && back.rope_low == 1 && back.rope_high == 4 &&
                back.rope_original == 32);
    free(text);
}

/* ---- ours ---- */

static nb_model *make_model(nb_backend *be, int index) {
    nb_model_config config = case_config(families[index].family, families[index].tied);
    if (config.family == NB_GLA) { /* as a model file leaves them */
        config.head_dim = 0;
        config.rope_theta = 0;
    } else {
        config.expand_k = config.expand_v = config.gate_normalizer = config.gate_clamp = 0;
        config.gate_low_rank = 0;
    }
    nb_recipe recipe = bf16_recipe();
    nb_model *model = case_model(be, &config, &recipe, false);
    perturb_vectors(model, be);
    return model;
}

static void expect_param(const nb_model *a, const float *x, const float *y, ni_tensor_dtype dtype) {
    for (int32_t i = 0; i < nb_model_param_count(a); i++) {
        const nb_param *p = nb_model_param(a, i);
        for (int64_t j = p->offset; j < p->offset + p->rows * p->cols; j++) {
            float want = dtype == NI_ST_BF16  ? ni_bf16_round(x[j])
                         : dtype == NI_ST_F16 ? ni_fp16_value(ni_fp16_even(x[j]))
                                              : x[j];
            if (memcmp(&y[j], &want, sizeof want) != 0)
                fail_msg("%s: %.9g came back as %.9g", p->name, (double)x[j], (double)y[j]);
        }
    }
}

static void folders_of_nibble_come_back(void **state) {
    const ni_tensor_dtype dtypes[] = {NI_ST_F32, NI_ST_BF16, NI_ST_F16};
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_error err = {0};
    for (int f = 0; f < FAMILY_COUNT; f++)
        for (int d = 0; d < 3; d++) {
            nb_model *model = make_model(be, f);
            must(ni_hf_save(be, model, *state, dtypes[d], (ni_hf_marks){7, 7}, &err), &err);
            nb_model_config config = *nb_model_get_config(model), back;
            must(ni_hf_config_read(*state, &back, &err), &err);
            assert_int_equal(back.family, config.family);
            assert_true(back.vocab == config.vocab && back.hidden == config.hidden && back.layers == config.layers);
            assert_true(back.heads == config.heads && back.kv_heads == config.kv_heads);
            assert_true(back.head_dim == config.head_dim && back.intermediate == config.intermediate);
            assert_true(back.max_seq == config.max_seq && back.rope_theta == config.rope_theta);
            assert_true(back.norm_eps == config.norm_eps && back.init_std == config.init_std);
            assert_true(back.tied == config.tied && back.gate_low_rank == config.gate_low_rank);
            assert_true(back.expand_k == config.expand_k && back.expand_v == config.expand_v);
            assert_true(back.gate_normalizer == config.gate_normalizer && back.gate_clamp == config.gate_clamp);
            nb_recipe recipe = bf16_recipe();
            nb_model *other = case_model(be, &back, &recipe, false);
            must(ni_hf_load(be, other, *state, &err), &err);
            expect_param(model, params_of(model, be), params_of(other, be), dtypes[d]);
            nb_model_free(other);
            nb_model_free(model);
        }
    nb_backend_free(be);
}

/* ---- what is refused ---- */

#define LLAMA                                                                                                          \
    "{\"model_type\":\"llama\",\"vocab_size\":8,\"hidden_size\":16,\"num_hidden_layers\":1,"                           \
    "\"num_attention_heads\":2,\"intermediate_size\":32"
#define GLA "{\"model_type\":\"gla\",\"vocab_size\":8,\"hidden_size\":64,\"num_hidden_layers\":1"

static void configs_are_checked(void **state) {
    (void)state;
    static const struct {
        const char *text, *complaint; /* NULL: is read */
    } cases[] = {
        {LLAMA "}", NULL},
        {LLAMA ",\"rope_scaling\":null,\"attention_bias\":false,\"some_new_key\":[1]}", NULL},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"default\"}}", NULL},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", "rope_scaling"},
        {LLAMA ",\"rope_parameters\":{\"rope_type\":\"yarn\"}}", "scaled as"},
        {LLAMA ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", "partial_rotary_factor"},
        {LLAMA ",\"attention_bias\":true}", "'attention_bias'"},
        {LLAMA ",\"hidden_act\":\"gelu\"}", "'hidden_act'"},
        {LLAMA ",\"use_sliding_window\":true}", "'use_sliding_window'"},
        {LLAMA ",\"quantization_config\":{}}", "'quantization_config'"},
        {LLAMA ",\"num_key_value_heads\":-1}", "'num_key_value_heads'"},
        {LLAMA ",\"num_key_value_heads\":\"2\"}", "'num_key_value_heads'"},
        {LLAMA ",\"tie_word_embeddings\":1}", "'tie_word_embeddings'"},
        {LLAMA ",\"rms_norm_eps\":\"small\"}", "'rms_norm_eps'"},
        {LLAMA ",\"head_dim\":7}", "head_dim"},
        {LLAMA ",\"vocab_size\":9}", "duplicate"},
        {LLAMA, "a.json/config.json:1"},
        {"{\"model_type\":\"llama\"}", "'vocab_size': is missing"},
        {"{\"model_type\":\"gpt2\"}", "'gpt2'"},
        {"{}", "model_type"},
        {"[]", "expected a JSON object"},
        {"", "a.json/config.json"},
        {GLA "}", NULL},
        {GLA ",\"num_kv_heads\":null,\"attn\":null,\"clamp_min\":-5.0}", NULL},
        {GLA ",\"use_short_conv\":true}", "'use_short_conv'"},
        {GLA ",\"elementwise_affine\":false}", "'elementwise_affine'"},
        {GLA ",\"use_output_gate\":false}", "'use_output_gate'"},
        {GLA ",\"feature_map\":\"relu\"}", "'feature_map'"},
        {GLA ",\"attn\":{\"layers\":[1]}}", "'attn'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nb_model_config config;
        nb_error err = {0};
        nb_status status =
            ni_hf_config_parse(cases[i].text, strlen(cases[i].text), "a.json/config.json", &config, &err);
        if ((status == NB_OK) != !cases[i].complaint)
            fail_msg("%s: %s", cases[i].text, err.message);
        if (cases[i].complaint && !strstr(err.message, cases[i].complaint))
            fail_msg("'%s' does not say '%s'", err.message, cases[i].complaint);
    }
}

static void defaults_are_those_of_transformers(void **state) {
    (void)state;
    nb_model_config c;
    const char *llama = LLAMA "}", *gla = GLA "}";
    assert_int_equal(ni_hf_config_parse(llama, strlen(llama), "x/config.json", &c, NULL), NB_OK);
    assert_true(c.kv_heads == 2 && c.head_dim == 8 && c.rope_theta == 10000 && c.norm_eps == 1e-6 && !c.tied);
    assert_int_equal(ni_hf_config_parse(gla, strlen(gla), "x/config.json", &c, NULL), NB_OK);
    assert_true(c.heads == 4 && c.expand_k == 0.5 && c.expand_v == 1 && c.gate_clamp == -INFINITY);
    assert_int_equal(c.intermediate, 256);
    /* a divisor of the gate that fla cannot express gets a type that fla does not know */
    char *text = ni_hf_config_text(&c, NI_ST_F32, (ni_hf_marks){-1, -1});
    assert_non_null(strstr(text, "\"model_type\": \"gla\""));
    free(text);
    c.gate_normalizer = 8;
    text = ni_hf_config_text(&c, NI_ST_F32, (ni_hf_marks){-1, -1});
    assert_non_null(strstr(text, "\"model_type\": \"gla-nibble\""));
    assert_int_equal(ni_hf_config_parse(text, strlen(text), "x/config.json", &c, NULL), NB_OK);
    assert_true(c.gate_normalizer == 8);
    free(text);
}

/* Writes a model's parameters with the second one renamed, retyped or cut to fewer rows. */
static void save_spoiled(void **state, nb_backend *be, nb_model *model, const char *rename_to, int32_t change_dtype,
                         int64_t rows) {
    int32_t count = nb_model_param_count(model);
    ni_file_tensor tensors[64] = {{0}};
    const float *params = params_of(model, be);
    nb_error err = {0};
    for (int32_t i = 0; i < count; i++) {
        const nb_param *p = nb_model_param(model, i);
        size_t bytes = (size_t)(p->rows * p->cols) * sizeof(float);
        tensors[i] = (ni_file_tensor){p->name, NI_ST_F32, p->rank, {p->rows, p->cols}, params + p->offset, bytes};
    }
    if (rename_to)
        tensors[1].name = rename_to;
    if (change_dtype >= 0)
        tensors[1].dtype = (ni_tensor_dtype)change_dtype;
    if (rows) {
        tensors[1].shape[0] = rows;
        tensors[1].bytes = (size_t)(rows * nb_model_param(model, 1)->cols) * sizeof(float);
    }
    must(ni_safetensors_write(in_folder(state, "model.safetensors"), tensors, count, NULL, 0, &err), &err);
}

static void expect_refusal(void **state, nb_backend *be, nb_model *model, const char *complaint) {
    nb_error err = {0};
    assert_int_not_equal(ni_hf_load(be, model, *state, &err), NB_OK);
    if (!strstr(err.message, complaint))
        fail_msg("'%s' does not say '%s'", err.message, complaint);
}

static void parameters_are_checked(void **state) {
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_model *model = make_model(be, 0), *tied = make_model(be, 1);
    nb_error err = {0};
    expect_refusal(state, be, model, "No such file");
    save_spoiled(state, be, model, NULL, -1, 0);
    must(ni_hf_load(be, model, *state, &err), &err);
    save_spoiled(state, be, model, "model.layers.0.self_attn.q_proj.bias", -1, 0);
    expect_refusal(state, be, model, "'model.layers.0.self_attn.q_proj.bias' is no parameter of a llama");
    save_spoiled(state, be, model, "model.layers.0.self_attn.rotary_emb.inv_freq", -1, 0);
    expect_refusal(state, be, model, "is missing");
    save_spoiled(state, be, model, NULL, NI_ST_I32, 0);
    expect_refusal(state, be, model, "has type I32");
    save_spoiled(state, be, model, NULL, -1, 8);
    expect_refusal(state, be, model, "has shape [8, ");
    save_spoiled(state, be, model, NULL, -1, 0);
    expect_refusal(state, be, tied, "q_norm.weight' is missing"); /* another family's file */

    const char index[] = "{\"weight_map\":{\"a\":\"../model.safetensors\"}}", empty[] = "{\"weight_map\":{}}";
    must(ni_file_write(in_folder(state, "model.safetensors.index.json"), index, sizeof index - 1, &err), &err);
    expect_refusal(state, be, model, "not said to lie in a file of this folder");
    must(ni_file_write(in_folder(state, "model.safetensors.index.json"), empty, sizeof empty - 1, &err), &err);
    expect_refusal(state, be, model, "'weight_map' is missing");
    must(ni_file_write(in_folder(state, "model.safetensors.index.json"), "{", 1, &err), &err);
    expect_refusal(state, be, model, "index.json:1");
    nb_model_free(model);
    nb_model_free(tied);
    nb_backend_free(be);
}

/* ---- what scripts/check_transformers.py and scripts/check_fla.py compare ---- */

static const char *inside(const char *folder, const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static nb_model *read_model(nb_backend *be, const char *folder, int32_t tokens, bool training) {
    nb_model_config config;
    nb_recipe recipe = bf16_recipe();
    nb_model *model;
    nb_error err = {0};
    must(ni_hf_config_read(folder, &config, &err), &err);
    must(nb_model_create(be, &config, &recipe, 1, tokens, training, &model, &err), &err);
    must(ni_hf_load(be, model, folder, &err), &err);
    return model;
}

static void write_logits(const char *folder, int64_t vocab, int32_t count) {
    int32_t tokens[MOST_TOKENS];
    float *logits[2];
    nb_error err = {0};
    nb_backend *const backends[2] = {ref64(), cpu_with(1, NB_ISA_AUTO)};
    for (int t = 0; t < count; t++)
        tokens[t] = (int32_t)((t * 29 + 5) % vocab);
    for (int b = 0; b < 2; b++) {
        nb_model *model = read_model(backends[b], folder, count, false);
        logits[b] = malloc((size_t)(count * vocab) * sizeof(float));
        logits_of(model, tokens, count, logits[b]);
        nb_model_free(model);
        nb_backend_free(backends[b]);
    }
    const size_t bytes = (size_t)(count * vocab) * sizeof(float);
    const ni_file_tensor out[] = {{"tokens", NI_ST_I32, 2, {1, count}, tokens, (size_t)count * sizeof *tokens},
                                  {"logits.f64", NI_ST_F32, 2, {count, vocab}, logits[0], bytes},
                                  {"logits.bf16", NI_ST_F32, 2, {count, vocab}, logits[1], bytes}};
    must(ni_safetensors_write(inside(folder, "nibble-logits.safetensors"), out, 3, NULL, 0, &err), &err);
    free(logits[0]);
    free(logits[1]);
}

/* Gradients, in double, of the mean loss of predicting each token of nibble-logits from those before it. */
static void write_gradients(const char *folder, int32_t count) {
    nb_error err = {0};
    ni_safetensors *logits;
    nb_backend *be = ref64();
    nb_model *model = read_model(be, folder, count, true);
    document d;
    double loss;
    must(ni_safetensors_open(inside(folder, "nibble-logits.safetensors"), &logits, &err), &err);
    const nb_batch batch = batch_of(&d, ni_safetensors_find(logits, "tokens")->data, count);
    const nb_pass pass = {0};
    must(nb_model_loss_and_grads(model, &batch, &pass, &loss, &err), &err);
    ni_file_tensor out[64];
    int32_t params = nb_model_param_count(model);
    const double *grads = nb_model_grads(model);
    for (int32_t i = 0; i < params; i++) {
        const nb_param *p = nb_model_param(model, i);
        out[i] = (ni_file_tensor){
            p->name, NI_ST_F64, p->rank, {p->rows, p->cols}, grads + p->offset, (size_t)(p->rows * p->cols) * 8};
    }
    out[params] = (ni_file_tensor){"loss", NI_ST_F64, 1, {1}, &loss, sizeof loss};
    must(ni_safetensors_write(inside(folder, "nibble-gradients.safetensors"), out, params + 1, NULL, 0, &err), &err);
    ni_safetensors_close(logits);
    nb_model_free(model);
    nb_backend_free(be);
}

static void write_models(const char *folder) {
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_error err = {0};
    for (int f = 0; families[f].family != NB_GLA; f++)
        for (int d = 0; d < 2; d++) {
            char name[64], path[800];
            snprintf(name, sizeof name, "%s-%s", nb_family_name(families[f].family), d ? "bf16" : "f32");
            snprintf(path, sizeof path, "%s/%s", folder, name);
            must(ni_make_folders(path, &err), &err);
            nb_model *model = make_model(be, f);
            must(ni_hf_save(be, model, path, d ? NI_ST_BF16 : NI_ST_F32, (ni_hf_marks){-1, -1}, &err), &err);
            write_logits(path, nb_model_get_config(model)->vocab, CASE_SEQ);
            nb_model_free(model);
        }
    nb_backend_free(be);
}

/* fla runs its recurrent kernel up to 64 tokens and its chunked one beyond. */
static void write_gla(const char *folder) {
    static const struct {
        const char *name;
        int32_t tokens;
        bool tied;
    } cases[] = {{"gla-recurrent", 40, false}, {"gla-chunked", MOST_TOKENS, false}, {"gla-tied", MOST_TOKENS, true}};
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    nb_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[800];
        nb_model_config config = case_config(NB_GLA, cases[i].tied);
        nb_recipe recipe = bf16_recipe();
        config.hidden = 64; /* heads of 16 keys and 32 values */
        config.heads = config.kv_heads = 2;
        config.head_dim = 0;
        config.rope_theta = 0;
        config.max_seq = 128;
        nb_model *model = case_model(be, &config, &recipe, false);
        perturb_vectors(model, be);
        snprintf(path, sizeof path, "%s/%s", folder, cases[i].name);
        must(ni_make_folders(path, &err), &err);
        must(ni_hf_save(be, model, path, NI_ST_F32, (ni_hf_marks){-1, -1}, &err), &err);
        write_logits(path, config.vocab, cases[i].tokens);
        write_gradients(path, cases[i].tokens);
        nb_model_free(model);
    }
    nb_backend_free(be);
}

/* Ids of the texts (separated by NUL) in FOLDER/texts under one tokenizer. */
static void write_ids(const char *folder, const char *name, const ni_tokenizer *tokenizer) {
    ni_file_tensor out[64];
    ni_tokens ids[64] = {{0}};
    char path[800], names[64][16], *texts;
    size_t size;
    int32_t count = 0;
    nb_error err = {0};
    must(ni_file_read(inside(folder, "texts"), 1 << 20, &texts, &size, &err), &err);
    for (size_t at = 0; at <= size && count < 64; at += strlen(texts + at) + 1, count++) {
        must(ni_tokenizer_encode(tokenizer, texts + at, strlen(texts + at), false, &ids[count], NULL, &err), &err);
        snprintf(names[count], sizeof names[count], "ids.%d", (int)count);
        out[count] = (ni_file_tensor){names[count],       NI_ST_I32,      1,
                                      {ids[count].count}, ids[count].ids, (size_t)ids[count].count * 4};
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    must(ni_make_folders(path, &err), &err);
    must(ni_tokenizer_save(tokenizer, path, &err), &err);
    must(ni_safetensors_write(inside(path, "nibble-ids.safetensors"), out, count, NULL, 0, &err), &err);
    for (int32_t i = 0; i < count; i++)
        ni_tokens_free(&ids[i]);
    free(texts);
}

static const char *out_folder;

static void write_for_transformers(void **state) {
    (void)state;
    nb_error err = {0};
    ni_tokenizer *bytes, *sp;
    ni_file_map licence;
    write_models(out_folder);
    write_gla(out_folder);
    must(ni_file_map_open(NI_TEST_SOURCE "/LICENSE", &licence, &err), &err);
    ni_text text = {licence.bytes, licence.size};
    must(ni_tokenizer_load("bytes", &bytes, &err), &err);
    must(ni_tokenizer_train(&text, 1, 500, &sp, &err), &err);
    write_ids(out_folder, "tokenizer-bytes", bytes);
    write_ids(out_folder, "tokenizer-sp", sp);
    ni_tokenizer_free(bytes);
    ni_tokenizer_free(sp);
    ni_file_map_close(&licence);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, temporary_folder, remove_temporary_folder)

int main(int argc, char **argv) {
    const struct CMUnitTest writing[] = {cmocka_unit_test_teardown(write_for_transformers, release_buffers)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(folders_of_transformers, release_buffers),
        IN_FOLDER(scaled_rope_comes_back),
        IN_FOLDER(folders_of_nibble_come_back),
        cmocka_unit_test(configs_are_checked),
        cmocka_unit_test(defaults_are_those_of_transformers),
        IN_FOLDER(parameters_are_checked),
    };
    if (argc == 2) {
        out_folder = argv[1];
        return cmocka_run_group_tests(writing, NULL, NULL);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
