/* run_config.c: a run file and what `--set` changes in it, to an nb_run_config and back. */
#include "run_keys.h"

#include "base/text.h"
#include "data/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- --set ---- */

static bool is_model_change(const char *override) {
    return strncmp(override, "model.", 6) == 0;
}

/* Takes the place of an earlier one of the same key. */
static nb_status add_model_change(nb_run_config *c, const char *change, nb_error *err) {
    for (const char *at = change; *at; at += ni_utf8_character(at, strlen(at))) /* run.yaml repeats it */
        if (ni_utf8_character(at, strlen(at)) == 0 || (unsigned char)*at < 0x20 || *at == 0x7f)
            return nb_fail(err, NB_BAD_CONFIG, "--set model.KEY=VALUE holds bytes that are not UTF-8 text");
    const char *equals = strchr(change, '=');
    if (!equals || equals == change || strlen(change) >= NB_NAME_SIZE)
        return nb_fail(err, NB_BAD_CONFIG, "--set model.%.80s: expected key=value, as in model.vocab=2048", change);
    int32_t at = 0;
    while (at < c->model_change_count && strncmp(c->model_changes[at], change, (size_t)(equals - change) + 1) != 0)
        at++;
    if (at == NB_MODEL_CHANGES)
        return nb_fail(err, NB_BAD_CONFIG,
                       "--set model.%s: more than %d changes; hint: write a model file with base:", change,
                       NB_MODEL_CHANGES);
    if (at == c->model_change_count)
        c->model_change_count++;
    memset(c->model_changes[at], 0, sizeof c->model_changes[at]);
    memcpy(c->model_changes[at], change, strlen(change));
    return NB_OK;
}

/* The overrides and then the table, over a file that was read. */
static nb_status read_with(ni_yaml *doc, const char *const *overrides, int32_t count, nb_run_config *out,
                           nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        if (!is_model_change(overrides[i]))
            NB_TRY(ni_yaml_set(doc, "", overrides[i], NULL, err));
    NB_TRY(ni_keys_read(&ni_run_keys, out, doc->root, err));
    for (int32_t i = 0; i < count; i++)
        if (is_model_change(overrides[i]))
            NB_TRY(add_model_change(out, overrides[i] + 6, err));
    return NB_OK;
}

nb_status nb_run_config_parse(const char *text, size_t size, const char *name, const char *const *overrides,
                              int32_t override_count, nb_run_config *out, nb_error *err) {
    ni_yaml doc = {0};
    nb_status status = ni_yaml_parse(text, size, name, &doc, err);
    if (status == NB_OK && doc.root->kind != NI_YAML_MAP)
        status = ni_yaml_fail(err, doc.root, "expected a map of keys, as `model: tiny`");
    if (status == NB_OK)
        status = read_with(&doc, overrides, override_count, out, err);
    ni_yaml_free(&doc);
    return status;
}

nb_status nb_run_config_defaults(nb_run_config *config, nb_error *err) {
    static const char required[] = "{model: x, out: x, data: {train: x}, steps: 1, seq: 1}";
    NB_TRY(nb_run_config_parse(required, sizeof required - 1, "defaults", NULL, 0, config, err));
    memset(config->model, 0, sizeof config->model);
    memset(config->out, 0, sizeof config->out);
    memset(config->data.train, 0, sizeof config->data.train);
    config->steps = config->seq = 0;
    return NB_OK;
}

nb_status nb_run_config_load(const char *path, const char *const *overrides, int32_t override_count, nb_run_config *out,
                             nb_error *err) {
    ni_yaml doc = {0};
    nb_status status = ni_yaml_load(path, &doc, err);
    if (status == NB_OK)
        status = read_with(&doc, overrides, override_count, out, err);
    ni_yaml_free(&doc);
    return status;
}

char *nb_run_config_text(const nb_run_config *config) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    bool whole = ni_keys_print(&ni_run_keys, config, NULL, NI_COMMENTS_NONE, to);
    return ni_memory_text(to, &text, whole);
}

int64_t nb_run_tokens_per_step(const nb_run_config *config) {
    return config->micro_batch * config->accumulation * config->seq;
}

int64_t nb_run_steps(const nb_run_config *config) {
    if (config->steps > 0)
        return config->steps;
    int64_t per_step = nb_run_tokens_per_step(config);
    return (config->tokens + per_step - 1) / per_step;
}

/* ---- which keys decide the bits ---- */

static bool is_free_on_resume(const char *path) {
    static const char *const prefixes[] = {"recompute",   "deterministic", "out",         "data.tokenizer",
                                           "eval.",       "checkpoint.",   "lens.",       "bad_numbers.",
                                           "print_every", "peak_flops",    "backend",     "threads",
                                           "isa",         "share",         "memory_check"};
    for (size_t i = 0; i < NI_COUNT(prefixes); i++)
        if (strncmp(path, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

bool ni_run_config_differs(const nb_run_config *a, const nb_run_config *b, char *key, size_t size) {
    for (size_t i = 0; i < ni_run_keys.count; i++) {
        const ni_key *row = &ni_run_keys.rows[i];
        if (is_free_on_resume(row->path))
            continue;
        /* Records are zeroed before they are filled, so texts compare whole. */
        if (memcmp((const char *)a + row->offset, (const char *)b + row->offset, row->size) != 0) {
            snprintf(key, size, "%s", row->path);
            return true;
        }
    }
    return false;
}
