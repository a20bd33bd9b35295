/* train_case.h: a run small enough to train in a test: data, model file and run file in a temporary folder. */
#ifndef NI_TESTS_TRAIN_CASE_H
#define NI_TESTS_TRAIN_CASE_H

#include "base/philox.h"
#include "data/shard.h"
#include "files/file.h"
#include "nibble/train.h"
#include "temporary.h"

#define CASE_MODEL                                                                                                     \
    "name: case\nfamily: llama\nvocab: 64\nhidden: 32\nlayers: 2\nheads: 2\nkv_heads: 1\nhead_dim: 16\n"               \
    "intermediate: 64\nmax_seq: 32\ntied: false\n"

/* The token that ends documents, and one that is used in no sequence but those of `case_plant`. */
enum { CASE_END = 0, CASE_RARE = 63, CASE_SEQ = 16 };

static inline void case_tokens(const char *path, int64_t count, uint32_t seed, int64_t rare_at) {
    ni_shard_writer *writer;
    nb_error err = {0};
    int32_t ids[1024];
    assert_int_equal(ni_shard_writer_open(path, 2, &writer, &err), NB_OK);
    for (int64_t done = 0; done < count; done += 1024) {
        for (int64_t i = 0; i < 1024; i++) {
            uint32_t r = ni_philox(seed, 7, (uint32_t)(done + i), 0, 0, 0).w[0];
            ids[i] = r % 40 == 0 ? CASE_END : (int32_t)(1 + (r >> 8) % 8 * ((r >> 12) % 7));
            if (done + i == rare_at)
                ids[i] = CASE_RARE;
        }
        assert_int_equal(ni_shard_writer_put(writer, ids, count - done < 1024 ? count - done : 1024, &err), NB_OK);
    }
    assert_int_equal(ni_shard_writer_commit(writer, &err), NB_OK);
}

/* cmocka set-up: *state becomes a folder with model.yaml, train.bin, val.bin and rare.bin, which holds CASE_RARE once.
 */
static inline int case_folder(void **state) {
    nb_error err = {0};
    if (temporary_folder(state) != 0)
        return -1;
    if (ni_file_write(in_folder(state, "case.yaml"), CASE_MODEL, strlen(CASE_MODEL), &err) != NB_OK)
        return -1;
    case_tokens(in_folder(state, "train.bin"), 4096, 1, -1);
    case_tokens(in_folder(state, "val.bin"), 1024, 2, -1);
    case_tokens(in_folder(state, "rare.bin"), 1024, 3, 500);
    return 0;
}

/* The run file of the tests, for the run folder `out`; overrides follow and end with NULL. */
#define case_config(state, out, ...) case_config_of(state, out, (const char *const[]){__VA_ARGS__})
static inline nb_run_config case_config_of(void **state, const char *out, const char *const *overrides) {
    char text[2048];
    int32_t count = 0;
    while (overrides[count])
        count++;
    snprintf(text, sizeof text,
             "model: %s/case.yaml\nrecipe: bf16\nout: %s/%s\nsteps: 12\nseq: %d\nmicro_batch: 2\naccumulation: 3\n"
             "data: {train: %s/train.bin, val: %s/val.bin, end_of_text: %d}\noptimizer: {lr: 3e-3}\n"
             "eval: {every: 5, sequences: 4}\ncheckpoint: {every: 4, keep: 0}\nthreads: 1\n",
             (char *)*state, (char *)*state, out, CASE_SEQ, (char *)*state, (char *)*state, CASE_END);
    nb_run_config config;
    nb_error err = {0};
    if (nb_run_config_parse(text, strlen(text), "case", overrides, count, &config, &err) != NB_OK)
        fail_msg("%s", err.message);
    return config;
}

/* What a run told its callbacks. */
typedef struct case_log {
    int64_t stop_after; /* ask for a stop once so many steps were reported; 0 = never */
    int64_t steps, skipped;
    int32_t warnings;
    char warning[1024];
    void (*after_step)(void *context, const nb_step_report *report); /* may be NULL */
    void *context;
    const nb_lens *lens; /* the program's own; may be NULL */
} case_log;

static inline void case_on_step(void *user, const nb_step_report *report) {
    case_log *log = user;
    log->steps++;
    log->skipped += report->skipped;
    if (log->after_step)
        log->after_step(log->context, report);
}

static inline void case_on_note(void *user, nb_note_kind kind, const char *sentence) {
    case_log *log = user;
    if (kind == NB_NOTE_WARNING) {
        log->warnings++;
        snprintf(log->warning, sizeof log->warning, "%s", sentence);
    }
}

static inline bool case_on_stop(void *user) {
    case_log *log = user;
    return log->stop_after > 0 && log->steps >= log->stop_after;
}

static inline nb_status case_create(nb_backend *be, const nb_run_config *config, case_log *log, nb_trainer **trainer,
                                    nb_error *err) {
    const char *recipes = getenv("NIBBLE_TEST_RECIPES"); /* where the program was carried to another machine */
    nb_trainer_options options = {.recipes_dir = recipes ? recipes : NI_TEST_SOURCE "/recipes",
                                  .lens = log ? log->lens : NULL,
                                  .callbacks = {.user = log,
                                                .step = log ? case_on_step : NULL,
                                                .note = log ? case_on_note : NULL,
                                                .stop = log ? case_on_stop : NULL}};
    return nb_trainer_create(be, config, &options, trainer, err);
}

static inline nb_backend *case_backend(const nb_run_config *config) {
    nb_backend *be;
    nb_error err = {0};
    nb_backend_options options = {.threads = config->threads};
    if (nb_backend_open("cpu", &options, &be, &err) != NB_OK)
        fail_msg("%s", err.message);
    return be;
}

/* A whole run, or the rest of one. */
static inline nb_status case_run(const nb_run_config *config, nb_start start, const char *from, case_log *log,
                                 nb_error *err) {
    nb_backend *be = case_backend(config);
    nb_trainer *trainer;
    nb_status status = case_create(be, config, log, &trainer, err);
    if (status == NB_OK) {
        status = nb_trainer_run(trainer, start, from, err);
        nb_trainer_free(trainer);
    }
    nb_backend_free(be);
    return status;
}

/* The lines of metrics.jsonl without what a clock decides (free with free()). */
static inline char *case_metrics(void **state, const char *out) {
    char *text, *to;
    size_t size;
    char path[700];
    nb_error err = {0};
    snprintf(path, sizeof path, "%s/%s/metrics.jsonl", (char *)*state, out);
    if (ni_file_read(path, 1 << 20, &text, &size, &err) != NB_OK)
        fail_msg("%s", err.message);
    to = text;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *clock = strstr(line, ",\"ms\"");
        clock = clock ? clock : strstr(line, ",\"val_seconds\"");
        size_t n = clock ? (size_t)(clock - line) : strlen(line);
        memmove(to, line, n);
        to += n;
        *to++ = '\n';
    }
    *to = 0;
    return text;
}

/* Memory of the process that no file backs, in bytes; 0 where the system does not say. */
static inline double anonymous_bytes(void) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    double kilobytes = 0;
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "RssAnon:", 8) == 0)
            kilobytes = strtod(line + 8, NULL);
    if (status)
        fclose(status);
    return kilobytes * 1024;
}

#endif
