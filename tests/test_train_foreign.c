/* test_train_foreign.c: training goes on from a Hugging Face folder that nibble did not write: LLaMA and Qwen3, in one
 * file or several, FP32 or BF16; what does not fit is refused; tokenizer files travel to the byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "files/safetensors.h"
#include "model/hf.h"
#include "train_case.h"

#include <math.h>
#include <unistd.h>

enum { SEQ = 64, SEQUENCES = 6, VOCAB = 40 };

static void must(nb_status status, const nb_error *err) {
    if (status != NB_OK)
        fail_msg("%s", err->message);
}

static void write_text(void **state, const char *name, const char *text) {
    nb_error err = {0};
    must(ni_file_write(in_folder(state, name), text, strlen(text), &err), &err);
}

/* Ids below `vocab`, small ones more often. */
static void write_tokens(const char *path, int32_t vocab) {
    ni_shard_writer *writer;
    nb_error err = {0};
    int32_t ids[SEQ * SEQUENCES + 1];
    for (uint32_t i = 0; i < SEQ * SEQUENCES + 1; i++) {
        uint32_t r = ni_philox(5, 7, i, 0, 0, 0).w[0];
        ids[i] = (int32_t)((r >> 8) % (1 + r % (uint32_t)vocab));
    }
    must(ni_shard_writer_open(path, 2, &writer, &err), &err);
    must(ni_shard_writer_put(writer, ids, SEQ * SEQUENCES + 1, &err), &err);
    must(ni_shard_writer_commit(writer, &err), &err);
}

static int foreign_folder(void **state) {
    if (temporary_folder(state) != 0)
        return -1;
    write_tokens(in_folder(state, "few.bin"), VOCAB);
    write_tokens(in_folder(state, "wide.bin"), 3 * VOCAB);
    return 0;
}

/* A run over all of few.bin in every step, from `folder` into `out`. */
static nb_run_config config_for(void **state, const char *folder, const char *out) {
    nb_run_config c;
    nb_error err = {0};
    must(nb_run_config_defaults(&c, &err), &err);
    snprintf(c.model, sizeof c.model, "%s", folder);
    snprintf(c.out, sizeof c.out, "%s", in_folder(state, out));
    snprintf(c.data.train, sizeof c.data.train, "%s", in_folder(state, "few.bin"));
    c.steps = 4;
    c.seq = SEQ;
    c.micro_batch = SEQUENCES;
    c.optimizer.lr = 1e-2;
    c.schedule.warmup = 0;
    c.threads = 1;
    return c;
}

static double loss_of_folder(void **state, const char *folder) {
    nb_run_config config = config_for(state, folder, "unused");
    nb_backend *be = case_backend(&config);
    nb_loaded loaded;
    nb_eval_report report;
    nb_error err = {0};
    must(nb_load_checkpoint(be, folder, NULL, 0, 0, &loaded, &err), &err);
    must(nb_loaded_evaluate(&loaded, config.data.train, 0, &report, &err), &err);
    assert_int_equal(report.tokens, SEQ * SEQUENCES);
    nb_loaded_free(&loaded);
    nb_backend_free(be);
    return report.loss;
}

/* Loss of line `step` of a run's metrics. */
static double loss_at(void **state, const char *out, int step) {
    char *metrics = case_metrics(state, out), line[32];
    snprintf(line, sizeof line, "{\"step\":%d,", step);
    const char *at = strstr(metrics, line);
    at = at ? strstr(at, "\"loss\":") : NULL;
    assert_non_null(at);
    double loss = at ? strtod(at + 7, NULL) : NAN;
    free(metrics);
    return loss;
}

/* The first step sees the folder's parameters, further ones improve them, and the checkpoint resumes. */
static void continue_from(void **state, const char *folder, const char *out) {
    nb_run_config config = config_for(state, folder, out);
    nb_error err = {0};
    double before = loss_of_folder(state, folder);
    must(case_run(&config, NB_START_FORK, folder, NULL, &err), &err);
    double first = loss_at(state, out, 1), last = loss_at(state, out, 4);
    if (!(fabs(first - before) <= 1e-6 * before) || !(last < first))
        fail_msg("%s: loss %.9g, first step %.9g, last %.9g", out, before, first, last);
    char checkpoint[600];
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoints/step-00000004", in_folder(state, out));
    must(nb_checkpoint_verify(checkpoint, &err), &err);
    must(case_run(&config, NB_START_RESUME, NULL, NULL, &err), &err);
    assert_true(loss_of_folder(state, checkpoint) < first);
}

/* ---- folders of every kind ---- */

/* The golden folder's model, written anew in one file. */
static void rewrite(const char *golden, const char *folder, ni_tensor_dtype dtype) {
    nb_model_config config;
    nb_error err = {0};
    nb_recipe recipe = nb_recipe_bf16();
    nb_backend *be;
    nb_model *model;
    nb_backend_options options = {.threads = 1};
    must(nb_backend_open("cpu", &options, &be, &err), &err);
    must(ni_hf_config_read(golden, &config, &err), &err);
    must(nb_model_create(be, &config, &recipe, 1, 1, false, &model, &err), &err);
    must(ni_hf_load(be, model, golden, &err), &err);
    must(ni_make_folders(folder, &err), &err);
    must(ni_hf_save(be, model, folder, dtype, (ni_hf_marks){-1, -1}, &err), &err);
    nb_model_free(model);
    nb_backend_free(be);
}

/* Its one file becomes two, with the index that transformers writes. */
static void split(const char *folder) {
    char path[700], index[8192], name[64];
    ni_safetensors *whole;
    nb_error err = {0};
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    must(ni_safetensors_open(path, &whole, &err), &err);
    int32_t count = ni_safetensors_count(whole), half = count / 2;
    size_t used = (size_t)snprintf(index, sizeof index, "{\"metadata\": {}, \"weight_map\": {");
    for (int part = 0; part < 2; part++) {
        ni_file_tensor tensors[64];
        int32_t n = 0;
        snprintf(name, sizeof name, "model-%05d-of-00002.safetensors", part + 1);
        for (int32_t i = part ? half : 0; i < (part ? count : half); i++) {
            tensors[n++] = *ni_safetensors_at(whole, i);
            used += (size_t)snprintf(index + used, sizeof index - used, "%s\"%s\": \"%s\"", i ? ", " : "",
                                     tensors[n - 1].name, name);
        }
        snprintf(path, sizeof path, "%s/%s", folder, name);
        must(ni_safetensors_write(path, tensors, n, NULL, 0, &err), &err);
    }
    snprintf(index + used, sizeof index - used, "}}");
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    must(ni_file_write(path, index, strlen(index), &err), &err);
    ni_safetensors_close(whole);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(unlink(path), 0);
}

static void folders_of_every_kind_go_on(void **state) {
    static const char *const goldens[] = {"llama-sharded", "qwen3-bf16"};
    static const ni_tensor_dtype dtypes[] = {NI_ST_F32, NI_ST_BF16};
    for (int g = 0; g < 2; g++) {
        char golden[600], folder[600], out[32];
        snprintf(golden, sizeof golden, "%s/hf/%s", NI_TEST_GOLDEN, goldens[g]);
        continue_from(state, golden, goldens[g]);
        for (int d = 0; d < 2; d++)
            for (int sharded = 0; sharded < 2; sharded++) {
                snprintf(out, sizeof out, "run%d%d%d", g, d, sharded);
                snprintf(folder, sizeof folder, "%s-folder", in_folder(state, out));
                rewrite(golden, folder, dtypes[d]);
                if (sharded)
                    split(folder);
                continue_from(state, folder, out);
            }
    }
}

/* As a rollback does before the first checkpoint: no step and no moment of before is left. */
static void the_folder_can_be_taken_again(void **state) {
    char golden[512];
    snprintf(golden, sizeof golden, "%s/hf/llama-sharded", NI_TEST_GOLDEN);
    nb_run_config config = config_for(state, golden, "again");
    nb_backend *be = case_backend(&config);
    nb_trainer *t;
    nb_error err = {0};
    nb_step_report report;
    double losses[2][3];
    must(case_create(be, &config, NULL, &t, &err), &err);
    for (int again = 0; again < 2; again++) {
        must(nb_trainer_load(t, golden, NB_START_FORK, &err), &err);
        assert_int_equal(nb_trainer_steps_done(t), 0);
        for (int step = 0; step < 3; step++) {
            must(nb_trainer_step(t, &report, &err), &err);
            losses[again][step] = report.loss;
        }
    }
    assert_memory_equal(losses[0], losses[1], sizeof losses[0]);
    nb_trainer_free(t);
    nb_backend_free(be);
}

/* ---- what is refused ---- */

static void expect_refusal(nb_run_config *config, const char *folder, const char *says) {
    nb_error err = {0};
    nb_status status = case_run(config, NB_START_FORK, folder, NULL, &err);
    if (status == NB_OK || !strstr(err.message, says))
        fail_msg("wanted: %s\nstatus %d: %s", says, status, err.message);
    ni_folder_remove(config->out, NULL);
}

static void what_does_not_fit_is_refused(void **state) {
    char golden[512], qwen[512], folder[512];
    nb_error err = {0};
    snprintf(golden, sizeof golden, "%s/hf/llama-sharded", NI_TEST_GOLDEN);
    snprintf(qwen, sizeof qwen, "%s/hf/qwen3-bf16", NI_TEST_GOLDEN);
    nb_run_config config = config_for(state, golden, "bad");
    expect_refusal(&config, qwen, "family");
    snprintf(config.data.train, sizeof config.data.train, "%s", in_folder(state, "wide.bin"));
    expect_refusal(&config, golden, "wide.bin: token ");
    config = config_for(state, golden, "bad");
    snprintf(config.data.tokenizer, sizeof config.data.tokenizer, "bytes");
    expect_refusal(&config, golden, "bytes has 257 tokens and the model's vocab is 40");

    /* A folder with a tokenizer: data of another one is refused, of the same one is taken. */
    nb_model_config small;
    snprintf(folder, sizeof folder, "%s", in_folder(state, "theirs"));
    rewrite(golden, folder, NI_ST_F32);
    must(ni_hf_config_read(folder, &small, &err), &err);
    small.vocab = 1024;
    config = config_for(state, folder, "bad");
    nb_backend *be = case_backend(&config);
    nb_recipe recipe = nb_recipe_bf16();
    nb_model *model;
    must(nb_model_create(be, &small, &recipe, 1, 1, false, &model, &err), &err);
    nb_model_init(model, 1);
    must(ni_hf_save(be, model, folder, NI_ST_F32, (ni_hf_marks){-1, -1}, &err), &err);
    nb_model_free(model);
    nb_backend_free(be);
    char *bytes;
    size_t size;
    must(ni_file_read(NI_TEST_SOURCE "/tests/fuzz/corpus/tokenizer/small.model", 1 << 20, &bytes, &size, &err), &err);
    must(ni_file_write(in_folder(state, "theirs/tokenizer.model"), bytes, size, &err), &err);
    free(bytes);
    snprintf(config.data.tokenizer, sizeof config.data.tokenizer, "bytes");
    expect_refusal(&config, folder, "data.tokenizer: bytes (257 tokens) is not the tokenizer of ");
    snprintf(config.data.tokenizer, sizeof config.data.tokenizer, "%s", folder);
    must(case_run(&config, NB_START_FORK, folder, NULL, &err), &err);
}

/* ---- tokenizer files ---- */

/* A tokenizer that nibble cannot read is handed on through checkpoints, resumption and forks. */
static void a_tokenizer_that_is_not_read_travels(void **state) {
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"};
    static const char *const texts[] = {"{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}\n",
                                        "{\"tokenizer_class\": \"Qwen2Tokenizer\"}", "{\"\\u0120a\": 1}",
                                        "#v\n\xc4\xa0 a"};
    char golden[512], folder[512], path[256];
    nb_error err = {0};
    snprintf(golden, sizeof golden, "%s/hf/qwen3-bf16", NI_TEST_GOLDEN);
    snprintf(folder, sizeof folder, "%s", in_folder(state, "theirs"));
    rewrite(golden, folder, NI_ST_BF16);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "theirs/%s", files[i]);
        write_text(state, path, texts[i]);
    }
    nb_run_config config = config_for(state, folder, "on");
    snprintf(config.data.tokenizer, sizeof config.data.tokenizer, "%s", folder);
    expect_refusal(&config, folder, "tokenizer.json: model: Unigram is not read");
    config.data.tokenizer[0] = 0;
    config.checkpoint.every = 2;
    case_log log = {.stop_after = 3};
    assert_int_equal(case_run(&config, NB_START_FORK, folder, &log, &err), NB_INTERRUPTED);
    must(case_run(&config, NB_START_RESUME, NULL, NULL, &err), &err);
    const char *checkpoints[] = {"on/checkpoints/step-00000002", "on/checkpoints/step-00000004"};
    for (int c = 0; c < 2; c++)
        for (int i = 0; i < 4; i++) {
            char *bytes;
            size_t size;
            snprintf(path, sizeof path, "%s/%s", checkpoints[c], files[i]);
            must(ni_file_read(in_folder(state, path), 1 << 16, &bytes, &size, &err), &err);
            assert_int_equal(size, strlen(texts[i]));
            assert_memory_equal(bytes, texts[i], size);
            free(bytes);
        }
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, foreign_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {
        CASE(folders_of_every_kind_go_on),
        CASE(the_folder_can_be_taken_again),
        CASE(what_does_not_fit_is_refused),
        CASE(a_tokenizer_that_is_not_read_travels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
