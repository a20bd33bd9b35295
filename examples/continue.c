/* continue.c: continues a text with a checkpoint, always by the most likely token, and writes the report of its run.
 *
 *     cc -std=c11 continue.c $(pkg-config --cflags --libs nibble) -o continue
 *     ./continue RUN "The beginning of a text" 20
 */
#include <nibble/lens.h>
#include <nibble/report.h>
#include <nibble/text.h>
#include <nibble/train.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Feeds ids[0 .. count) and then what the model says, into ids. */
static nb_status go_on(nb_loaded *loaded, int32_t *ids, int64_t count, int64_t more, nb_error *err) {
    const nb_model_config *config = nb_model_get_config(loaded->model);
    const nb_pass pass = {.step = (uint32_t)loaded->info.step, .steps = (uint32_t)nb_run_steps(&loaded->info.config)};
    const nb_sampling greedy = {.temperature = 0, .top_p = 1};
    float *logits = malloc(3 * (size_t)config->vocab * sizeof *logits);
    nb_status status = logits ? NB_OK : NB_NO_MEMORY;
    for (int64_t at = 0; at < count + more && status == NB_OK; at++) {
        if (at >= count)
            ids[at] = nb_sample(logits, config->vocab, &greedy, at, logits + config->vocab);
        status = nb_model_step(loaded->model, ids[at], at, &pass, logits, err);
    }
    free(logits);
    return status;
}

static nb_status print_text(nb_backend *be, const char *run, const char *prompt, int64_t more, nb_error *err) {
    char folder[NB_PATH_SIZE];
    nb_loaded loaded;
    nb_tokenizer *tokenizer = NULL;
    int32_t *ids = NULL, *all = NULL;
    int64_t count = 0;
    char *text = NULL;
    size_t size;
    NB_TRY(nb_checkpoint_newest(run, folder, sizeof folder, NULL, NULL, err));
    NB_TRY(nb_load_checkpoint(be, folder, NULL, 1, 0, &loaded, err));
    nb_status status = nb_tokenizer_load(folder, &tokenizer, err);
    if (status == NB_OK)
        status = nb_tokenizer_encode(tokenizer, prompt, strlen(prompt), &ids, &count, err);
    if (status == NB_OK && (all = malloc((size_t)(1 + count + more) * sizeof *all)) != NULL) {
        all[0] = nb_tokenizer_begin_of_text(tokenizer);
        memcpy(all + 1, ids, (size_t)count * sizeof *ids);
        status = go_on(&loaded, all, 1 + count, more, err);
        if (status == NB_OK)
            status = nb_tokenizer_decode(tokenizer, all + 1, count + more, &text, &size, err);
    }
    if (text)
        printf("%s\n", text);
    free(text);
    free(ids);
    free(all);
    nb_tokenizer_free(tokenizer);
    nb_loaded_free(&loaded);
    return status;
}

static nb_status write_report(const char *run, nb_error *err) {
    nb_report *report;
    NB_TRY(nb_report_create(&report, err));
    nb_status status = nb_report_add_run(report, run, err);
    if (status == NB_OK)
        status = nb_report_write(report, "continue.html", err);
    nb_report_free(report);
    return status;
}

static nb_status count_series(const char *run, nb_error *err) {
    char path[NB_PATH_SIZE + 32];
    nb_series *series;
    int64_t points = 0;
    snprintf(path, sizeof path, "%s/lens/series.nbs", run);
    NB_TRY(nb_series_read(path, &series, err));
    for (int32_t n = 0; n < nb_series_names(series); n++)
        points += nb_series_points(series, n);
    printf("%d series, %lld points\n", (int)nb_series_names(series), (long long)points);
    nb_series_free(series);
    return NB_OK;
}

int main(int argc, char **argv) {
    nb_error err = {0};
    nb_backend *be;
    if (argc != 4) {
        fprintf(stderr, "usage: continue RUN PROMPT TOKENS\n");
        return 2;
    }
    nb_status status = nb_backend_open("cpu", NULL, &be, &err);
    if (status == NB_OK) {
        status = print_text(be, argv[1], argv[2], atol(argv[3]), &err);
        if (status == NB_OK)
            status = write_report(argv[1], &err);
        if (status == NB_OK)
            status = count_series(argv[1], &err);
        nb_backend_free(be);
    }
    if (status != NB_OK)
        fprintf(stderr, "continue: %s\n", err.message);
    return nb_status_exit(status);
}
