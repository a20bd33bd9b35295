/* test_serve.c: files of codes for other programs hold what the forward pass multiplies. With a folder as its argument
 * it writes the files of three models and the numbers that nibble decodes; scripts/peers lets the readers of other
 * makers decode them, and their digests come back as tests/golden/served.txt. */
#include "model_case.h"

#include "data/tokenizer_gguf.h"
#include "files/checksum.h"
#include "files/file.h"
#include "format/bf16.h"
#include "format/e2m1.h"
#include "format/e4m3.h"
#include "format/e8m0.h"
#include "model/coded.h"
#include "model/param_array.h"
#include "model/serve.h"
#include "nibble/lens.h"
#include "temporary.h"

#include <sys/stat.h>

static void must(nb_status status, const nb_error *err) {
    if (status != NB_OK)
        fail_msg("%s", err->message);
}

/* ---- three models ---- */

typedef struct served {
    const char *name;
    nb_family family;
    bool tied, tiles, mxfp4;
} served;
static const served cases[] = {{"llama", NB_LLAMA, false, true, false},
                               {"qwen3", NB_QWEN3, true, false, false},
                               {"olmo2", NB_OLMO2, true, false, true}};
enum { CASES = sizeof cases / sizeof cases[0] };

static nb_model_config config_of(const served *s) {
    nb_model_config c = case_config(s->family, s->tied);
    snprintf(c.name, sizeof c.name, "%s", s->name);
    c.vocab = 272;
    c.hidden = 64;
    c.heads = 2;
    c.kv_heads = 1;
    c.head_dim = 32;
    c.intermediate = 128;
    c.init_std = 0.05;
    c.expand_k = c.expand_v = c.gate_normalizer = c.gate_clamp = 0;
    c.gate_low_rank = 0;
    return c;
}

static nb_recipe recipe_of(const served *s) {
    nb_recipe r = nvfp4_recipe();
    nb_quantizer *w = &r.roles[NB_FPROP_W].quantizer;
    w->block_rows = s->tiles ? 16 : 1;
    if (s->mxfp4) {
        w->scale_type = NB_SCALE_E8M0;
        w->rule = NB_RULE_CEIL;
        w->outer = NB_OUTER_NONE;
        w->block_cols = 32;
    }
    r.roles[NB_DGRAD_W] = (nb_operand_rule){.quantizer = nb_quantizer_bf16()};
    r.roles[NB_DGRAD_DY] = r.roles[NB_WGRAD_DY] = r.roles[NB_WGRAD_X] = r.roles[NB_DGRAD_W];
    r.roles[NB_FPROP_X].quantizer = s->mxfp4 ? *w : r.roles[NB_FPROP_X].quantizer;
    snprintf(r.keep.modules[r.keep.module_count++], NB_NAME_SIZE, "layers.1.mlp.down_proj");
    return r;
}

static nb_model *model_of(nb_backend *be, const served *s, const nb_recipe *recipe) {
    const nb_model_config config = config_of(s);
    nb_model *model;
    nb_error err = {0};
    must(nb_model_create(be, &config, recipe, CASE_BATCH, CASE_SEQ, false, &model, &err), &err);
    nb_model_init(model, 7);
    return model;
}

static ni_coded_model open_coded(nb_backend *be, nb_model *model, const nb_recipe *recipe, ni_sharing sharing) {
    ni_coded_model coded;
    nb_error err = {0};
    must(ni_coded_open(be, model, recipe, sharing, true, &coded, &err), &err);
    return coded;
}

/* ---- what the forward pass multiplies ---- */

typedef struct watched {
    ni_coded_model *coded;
    int32_t seen;
} watched;

static void compare_codes(void *context, const nb_lens_operand *seen) {
    watched *w = context;
    const nb_qtensor *t = seen->quantized;
    nb_error err = {0};
    for (int32_t i = 0; seen->role == NB_FPROP_W && i < w->coded->count; i++) {
        const ni_coded_layer *layer = &w->coded->layers[i];
        const uint8_t *codes, *scales;
        if (strcmp(layer->module, seen->module) != 0 || !t)
            continue;
        must(ni_coded_take(w->coded, layer, &codes, &scales, &err), &err);
        assert_memory_equal(codes, t->codes, layer->rows * layer->cols / 2);
        assert_memory_equal(scales, t->scales, layer->rows * layer->cols / layer->quantizer.block_cols);
        if (layer->coding == NI_CODING_NVFP4)
            assert_memory_equal(&layer->scale, t->tensor_scale, sizeof layer->scale);
        w->seen++;
    }
}

static void codes_are_those_of_the_forward_pass(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++) {
        nb_backend *be = cpu_with(1, NB_ISA_AUTO);
        const nb_recipe recipe = recipe_of(&cases[c]);
        nb_model *model = model_of(be, &cases[c], &recipe);
        ni_coded_model coded = open_coded(be, model, &recipe, NI_SHARING_OWN);
        watched w = {&coded, 0};
        const nb_lens lens = {.context = &w, .operand = compare_codes};
        case_batch batch;
        make_case_batch(&batch, 272, 3);
        const nb_pass pass = {.steps = 1, .lens = &lens};
        double loss;
        nb_error err = {0};
        must(nb_model_loss(model, &batch.batch, &pass, &loss, &err), &err);
        assert_int_equal(coded.coded, 13); /* 2 x 7 but for the one that is kept */
        assert_int_equal(w.seen, coded.coded);
        ni_coded_close(&coded);
        nb_model_free(model);
        nb_backend_free(be);
    }
}

/* ---- what readers decode ---- */

enum { COMPRESSED_TENSORS, MODELOPT, GGUF, READERS };
static const char *const readers[] = {"compressed-tensors", "modelopt", "gguf"};

/* Where row `row` of ours lies among llama.cpp's: rows i and i + d/2 of a head become neighbours. */
static int64_t interleaved(const nb_model_config *c, const ni_coded_layer *layer, int64_t row) {
    const bool q = strstr(layer->module, "q_proj"), k = strstr(layer->module, "k_proj");
    const int64_t half = c->head_dim / 2, head = row / c->head_dim, i = row % c->head_dim;
    if (c->family != NB_LLAMA || !(q || k))
        return row;
    return head * c->head_dim + (i < half ? 2 * i : 2 * (i - half) + 1);
}

/* Our numbers as each reader gives its own: BF16; FP32; FP32 in its order of rows and without the tensor's scale. Zero
 * has no sign. Returns bytes. */
static size_t decode(const ni_coded_model *coded, const ni_coded_layer *layer, int reader, const uint8_t *codes,
                     const uint8_t *scales, void *out) {
    const int64_t block = layer->quantizer.block_cols;
    const bool nvfp4 = layer->coding == NI_CODING_NVFP4;
    for (int64_t r = 0; r < layer->rows; r++)
        for (int64_t j = 0; j < layer->cols; j++) {
            const int64_t at = r * layer->cols + j;
            const uint8_t byte = scales[at / block], code = codes[at / 2] >> 4 * (at % 2) & 15;
            const float scale = nvfp4 ? ni_e4m3_value(byte) : ni_e8m0_value(byte);
            const float above = reader == GGUF ? 1 : layer->scale;
            const float value = ni_e2m1_value(code) * (scale * above) + 0.0f;
            const int64_t to =
                reader == GGUF ? interleaved(nb_model_get_config(coded->model), layer, r) * layer->cols + j : at;
            if (reader == COMPRESSED_TENSORS)
                ((uint16_t *)out)[to] = ni_bf16_even(value);
            else
                ((float *)out)[to] = value;
        }
    return (size_t)(layer->rows * layer->cols) * (reader == COMPRESSED_TENSORS ? 2 : 4);
}

static void write_files(const ni_coded_model *coded, const char *folder) {
    char path[700];
    nb_error err = {0};
    ni_tokenizer *tokenizer;
    ni_coded_model *m = (ni_coded_model *)coded;
    const ni_hf_marks marks = {256, 256};
    ni_gguf *file = ni_gguf_new();
    snprintf(path, sizeof path, "%s/compressed-tensors", folder);
    assert_int_equal(mkdir(path, 0777), 0);
    must(ni_serve_compressed_tensors(m, path, NI_ST_BF16, marks, &err), &err);
    if (coded->coding == NI_CODING_NVFP4) {
        snprintf(path, sizeof path, "%s/modelopt", folder);
        assert_int_equal(mkdir(path, 0777), 0);
        must(ni_serve_modelopt(m, path, NI_ST_BF16, marks, &err), &err);
    }
    snprintf(path, sizeof path, "%s/gguf", folder);
    assert_int_equal(mkdir(path, 0777), 0);
    snprintf(path, sizeof path, "%s/gguf/model.gguf", folder);
    must(ni_tokenizer_load("bytes", &tokenizer, &err), &err);
    must(ni_tokenizer_gguf(tokenizer, 272, file, &err), &err);
    must(ni_serve_gguf(m, file, path, NI_ST_BF16, &err), &err);
    ni_tokenizer_free(tokenizer);
    ni_gguf_free(file);
}

/* The rows of tests/golden/served.txt that one model makes: of its files, and of what is decoded of each layer. */
static void describe(ni_coded_model *coded, const char *name, const char *folder, FILE *out) {
    char path[800], digest[NI_CHECKSUM_SIZE];
    nb_error err = {0};
    void *numbers = malloc(64 * 128 * sizeof(float));
    assert_non_null(numbers);
    for (int reader = 0; reader < READERS; reader++) {
        if (reader == MODELOPT && coded->coding != NI_CODING_NVFP4)
            continue;
        snprintf(path, sizeof path, "%s/%s/model.%s", folder, readers[reader], reader == GGUF ? "gguf" : "safetensors");
        must(ni_checksum_file(path, digest, &err), &err);
        fprintf(out, "%s %s file %s\n", name, readers[reader], digest);
        for (int32_t i = 0; i < coded->count; i++) {
            const ni_coded_layer *layer = &coded->layers[i];
            const uint8_t *codes, *scales;
            if (layer->coding == NI_CODING_NONE)
                continue;
            must(ni_coded_take(coded, layer, &codes, &scales, &err), &err);
            ni_checksum(numbers, decode(coded, layer, reader, codes, scales, numbers), digest);
            fprintf(out, "%s %s %s %s\n", name, readers[reader], layer->module, digest);
        }
    }
    free(numbers);
}

static void serve_all(void **state, FILE *out) {
    for (int c = 0; c < CASES; c++) {
        const char *path = in_folder(state, cases[c].name);
        nb_backend *be = cpu_with(1, NB_ISA_AUTO);
        const nb_recipe recipe = recipe_of(&cases[c]), numbers = bf16_recipe();
        nb_model *model = model_of(be, &cases[c], &numbers);
        ni_coded_model coded = open_coded(be, model, &recipe, NI_SHARING_OWN);
        assert_int_equal(mkdir(path, 0777), 0);
        write_files(&coded, path);
        describe(&coded, cases[c].name, path, out);
        ni_coded_close(&coded);
        nb_model_free(model);
        nb_backend_free(be);
    }
}

static void readers_decode_our_numbers(void **state) {
    char *ours = NULL, *theirs;
    size_t size, golden;
    nb_error err = {0};
    FILE *out = open_memstream(&ours, &size);
    serve_all(state, out);
    fclose(out);
    must(ni_file_read(NI_TEST_GOLDEN "/served.txt", 1 << 20, &theirs, &golden, &err), &err);
    assert_string_equal(ours, theirs);
    free(ours);
    free(theirs);
}

/* ---- scaled RoPE ---- */

/* The last tensor of the file. Wanted: the formula of llama.cpp's converter (conversion/llama.py) in double. */
static void llama_cpp_divides_turns_by_these(void **state) {
    static const float wanted[16] = {1, 1, 1, 1, 1, 1.99363817f, 4.781834f, 8, 8, 8, 8, 8, 8, 8, 8, 8};
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    const nb_recipe recipe = recipe_of(&cases[0]), numbers = bf16_recipe();
    nb_error err = {0};
    for (int c = 0; c < 2; c++) { /* llama, and qwen3, where llama.cpp reads none */
        nb_model_config config = config_of(&cases[c]);
        config.rope_theta = 10000;
        config.rope_factor = 8;
        config.rope_low = 1;
        config.rope_high = 4;
        config.rope_original = 256;
        nb_model *model;
        must(nb_model_create(be, &config, &numbers, CASE_BATCH, CASE_SEQ, false, &model, &err), &err);
        nb_model_init(model, 7);
        ni_coded_model coded = open_coded(be, model, &recipe, NI_SHARING_OWN);
        ni_gguf *file = ni_gguf_new();
        char *bytes;
        size_t size;
        const char *path = in_folder(state, "scaled.gguf");
        const nb_status status = ni_serve_gguf(&coded, file, path, NI_ST_BF16, &err);
        if (config.family == NB_LLAMA) {
            must(status, &err);
            must(ni_file_read(path, 1 << 24, &bytes, &size, &err), &err);
            for (int i = 0; i < 16; i++) {
                float value;
                memcpy(&value, bytes + size - sizeof wanted + (size_t)i * sizeof value, sizeof value);
                assert_true(fabsf(value - wanted[i]) <= 0x1p-23f * wanted[i]);
            }
            free(bytes);
        } else {
            assert_int_equal(status, NB_UNSUPPORTED);
            assert_non_null(strstr(err.message, "qwen3"));
        }
        ni_gguf_free(file);
        ni_coded_close(&coded);
        nb_model_free(model);
    }
    nb_backend_free(be);
}

/* ---- one scale for what readers fuse ---- */

/* Layers of block 0 become what q_proj (gate_proj) is, times 2^-shift, so that their scales differ by powers of two. */
static void scale_weights(nb_backend *be, nb_model *model, const char *name, float factor) {
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        if (!strstr(p->name, name))
            continue;
        const size_t n = (size_t)(p->rows * p->cols);
        float *values = ni_model_param_open(model, i);
        for (size_t j = 0; j < n; j++)
            values[j] = factor * (float)((int)(j % 13) - 6) / 8;
        ni_model_param_close(model, i);
    }
    (void)be;
}

static void powers_of_two_are_shared_exactly(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    const nb_recipe recipe = recipe_of(&cases[1]), numbers = bf16_recipe();
    nb_model *model = model_of(be, &cases[1], &numbers);
    const char *const modules[] = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"};
    const float factors[] = {1, 0.25f, 0.5f, 0.125f, 1};
    for (int i = 0; i < 5; i++)
        scale_weights(be, model, modules[i], factors[i]);
    ni_coded_model own = open_coded(be, model, &recipe, NI_SHARING_OWN),
                   shared = open_coded(be, model, &recipe, NI_SHARING_EXACT);
    float a[64 * 128], b[64 * 128];
    nb_error err = {0};
    for (int32_t i = 0; i < own.count; i++) {
        const ni_coded_layer *layer = &shared.layers[i];
        const uint8_t *codes, *scales;
        if (layer->coding == NI_CODING_NONE)
            continue;
        must(ni_coded_take(&own, &own.layers[i], &codes, &scales, &err), &err);
        decode(&own, &own.layers[i], MODELOPT, codes, scales, a);
        for (int twice = 0; twice < 2; twice++) { /* what is shifted is shifted once */
            must(ni_coded_take(&shared, layer, &codes, &scales, &err), &err);
            decode(&shared, layer, MODELOPT, codes, scales, b);
            assert_memory_equal(a, b, (size_t)(layer->rows * layer->cols) * sizeof *a);
        }
        assert_true(layer->scale == shared.layers[layer->first].scale);
        assert_int_equal(layer->fused, strstr(layer->module, "_proj") == NULL ? 1 : layer->fused);
    }
    assert_int_equal(shared.changed, 0);
    assert_true(own.layers[0].scale != own.layers[1].scale && shared.layers[1].shift != 0);
    ni_coded_close(&own);
    ni_coded_close(&shared);
    nb_model_free(model);
    nb_backend_free(be);
}

static void other_scales_are_refused_or_made_again(void **state) {
    (void)state;
    nb_backend *be = cpu_with(1, NB_ISA_AUTO);
    const nb_recipe recipe = recipe_of(&cases[0]), numbers = bf16_recipe();
    nb_model *model = model_of(be, &cases[0], &numbers);
    ni_coded_model coded;
    nb_error err = {0};
    assert_int_equal(ni_coded_open(be, model, &recipe, NI_SHARING_EXACT, true, &coded, &err), NB_BAD_USAGE);
    assert_non_null(strstr(err.message, "--fused again"));
    coded = open_coded(be, model, &recipe, NI_SHARING_AGAIN);
    assert_int_equal(coded.changed, 10); /* q, k, v, gate, up of two blocks */
    const uint8_t *codes, *scales;
    const ni_coded_layer *q = &coded.layers[0], *v = &coded.layers[2];
    assert_true(q->scale == v->scale && q->again && v->again);
    must(ni_coded_take(&coded, v, &codes, &scales, &err), &err);
    float decoded[64 * 64], values[64 * 64], worst = 0, amax = 0;
    decode(&coded, v, MODELOPT, codes, scales, decoded);
    ni_model_param_read(model, v->param, values);
    for (int64_t i = 0; i < v->rows * v->cols; i++) {
        worst = fmaxf(worst, fabsf(decoded[i] - values[i]));
        amax = fmaxf(amax, fabsf(values[i]));
    }
    assert_true(worst > 0 && worst <= amax / 6 * 1.07f); /* v's own rows, under its own block scales: half of the widest
                                                             step, 1 of 6, and a scale rounded by 1/16 */
    ni_coded_close(&coded);
    nb_model_free(model);
    nb_backend_free(be);
}

/* ---- the divisor ---- */

static void divisors_give_the_same_bf16(void **state) {
    (void)state;
    int exactly = 0;
    for (uint32_t i = 0; i < 20000; i++) {
        const float scale = ldexpf(1 + (float)(ni_philox(5, 1, i, 0, 0, 0).w[0] >> 9) * 0x1p-23f, -20 + (int)(i % 12));
        float divisor;
        bool exact;
        assert_true(ni_coded_divisor(scale, &divisor, &exact));
        exactly += exact;
        for (uint8_t byte = 1; byte < NI_E4M3_NAN; byte++)
            for (uint8_t code = 1; code < 8; code++) {
                const float c = ni_e2m1_value(code), b = ni_e4m3_value(byte);
                const uint16_t ours = ni_bf16_even(c * (b * scale));
                /* compressed-tensors; vLLM and SGLang, which turn the divisor around. */
                if (ni_bf16_even(c * (b / divisor)) != ours || ni_bf16_even(c * (b * (1 / divisor))) != ours ||
                    (exact && c * (b / divisor) != c * (b * scale)))
                    fail_msg("scale %a: code %d under byte %d", (double)scale, (int)code, (int)byte);
            }
    }
    assert_true(exactly > 0 && exactly < 20000);
    float divisor;
    bool exact;
    assert_true(ni_coded_divisor(0x1p-13f, &divisor, &exact) && exact && divisor == 0x1p13f);
}

static char *out_folder;

static void write_for_peers(void **state) {
    (void)state;
    FILE *out = fopen(in_folder((void **)&out_folder, "ours.txt"), "w");
    assert_non_null(out);
    serve_all((void **)&out_folder, out);
    assert_int_equal(fclose(out), 0);
}

int main(int argc, char **argv) {
    const struct CMUnitTest writing[] = {cmocka_unit_test(write_for_peers)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_those_of_the_forward_pass),
        cmocka_unit_test_setup_teardown(readers_decode_our_numbers, temporary_folder, remove_temporary_folder),
        cmocka_unit_test_setup_teardown(llama_cpp_divides_turns_by_these, temporary_folder, remove_temporary_folder),
        cmocka_unit_test(powers_of_two_are_shared_exactly),
        cmocka_unit_test(other_scales_are_refused_or_made_again),
        cmocka_unit_test(divisors_give_the_same_bf16),
    };
    if (argc == 2) {
        out_folder = argv[1];
        return cmocka_run_group_tests(writing, NULL, NULL);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
