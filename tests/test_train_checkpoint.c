/* test_train_checkpoint.c: damaged and foreign checkpoints are found and named; a full disk harms nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "files/safetensors.h"
#include "train/checkpoint.h"
#include "train/manifest.h"
#include "train_case.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

/* One checkpoint for all tests of this file, at RUN/checkpoints/step-00000004. */
static int checkpoint_folder(void **state) {
    if (case_folder(state) != 0)
        return -1;
    nb_run_config config = case_config(state, "run", "steps=4", "data.tokenizer=", NULL);
    nb_error err = {0};
    if (case_run(&config, NB_START_NEW, NULL, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    return 0;
}

#define CHECKPOINT "run/checkpoints/step-00000004"

static void flip(const char *path, size_t byte, int bit) {
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    fseek(file, (long)byte, SEEK_SET);
    int value = fgetc(file);
    fseek(file, (long)byte, SEEK_SET);
    fputc(value ^ (1 << bit), file);
    fclose(file);
}

static size_t size_of(const char *path) {
    char *bytes;
    size_t size;
    nb_error err = {0};
    assert_int_equal(ni_file_read(path, 1 << 24, &bytes, &size, &err), NB_OK);
    free(bytes);
    return size;
}

/* The name of the tensor that byte `at` of a file belongs to; `name` stays as it is before the first. */
static void owner_of(const char *path, size_t at, char *name, size_t size) {
    ni_safetensors *file;
    uint64_t header = 0;
    FILE *from = fopen(path, "r");
    assert_true(from && fread(&header, sizeof header, 1, from) == 1);
    fclose(from);
    assert_int_equal(ni_safetensors_open(path, &file, NULL), NB_OK);
    size_t begin = 8 + (size_t)header;
    const char *first = NULL;
    for (int32_t i = 0; i < ni_safetensors_count(file); i++)
        if (!first || (const char *)ni_safetensors_at(file, i)->data < first)
            first = ni_safetensors_at(file, i)->data;
    for (int32_t i = 0; i < ni_safetensors_count(file); i++) {
        const ni_file_tensor *t = ni_safetensors_at(file, i);
        size_t from_byte = begin + (size_t)((const char *)t->data - first);
        if (at >= from_byte && at < from_byte + t->bytes)
            snprintf(name, size, "tensor %s ", t->name);
    }
    ni_safetensors_close(file);
}

/* Some 200 places in each file, every one of nibble.json's first and last bytes among them. A tensor is named where the
 * bit is in one, the file everywhere. */
static void a_flipped_bit_is_found_anywhere(void **state) {
    const char *files[] = {"model.safetensors", "optimizer.safetensors", "config.json", "nibble.json"};
    char folder[600], owner[300];
    snprintf(folder, sizeof folder, "%s", in_folder(state, CHECKPOINT));
    assert_int_equal(nb_checkpoint_verify(folder, NULL), NB_OK);
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        char path[700];
        snprintf(path, sizeof path, "%s/%s", folder, files[f]);
        size_t size = size_of(path), stride = size / 200 + 1;
        for (size_t at = 0; at < size; at += at < 20 || at + 20 > size ? 1 : stride) {
            nb_error err = {0};
            snprintf(owner, sizeof owner, "%s", files[f]);
            if (f < 2)
                owner_of(path, at, owner, sizeof owner);
            flip(path, at, (int)(at % 8));
            if (nb_checkpoint_verify(folder, &err) != NB_BAD_FILE)
                fail_msg("%s: bit %zu of byte %zu flipped: %s", files[f], at % 8, at, err.message);
            if (!strstr(err.message, files[f]) || !strstr(err.message, owner))
                fail_msg("%s, %s is not named: %s", files[f], owner, err.message);
            flip(path, at, (int)(at % 8));
        }
    }
    assert_int_equal(nb_checkpoint_verify(folder, NULL), NB_OK);
}

/* nibble.json with one text of it replaced by another and a checksum that agrees. */
static nb_status verify_edited(const char *folder, const char *was, const char *is, nb_error *err) {
    char path[700], *text;
    size_t size;
    snprintf(path, sizeof path, "%s/%s", folder, NI_MANIFEST_NAME);
    assert_int_equal(ni_file_read(path, 1 << 24, &text, &size, err), NB_OK);
    char *at = strstr(text, was), *edited = malloc(size + strlen(is) + 1);
    if (!at || !edited)
        fail_msg("no %s in %s", was, path);
    int n = sprintf(edited, "%.*s%s%s", (int)(at - text), text, is, at + strlen(was));
    assert_true(ni_manifest_seal(edited, (size_t)n));
    assert_int_equal(ni_file_write(path, edited, (size_t)n, err), NB_OK);
    nb_status status = nb_checkpoint_verify(folder, err);
    assert_int_equal(ni_file_write(path, text, size, err), NB_OK);
    free(text);
    free(edited);
    return status;
}

static void impossible_pages_are_refused(void **state) {
    static const struct {
        const char *was, *is, *says;
    } cases[] = {
        {"\"step\": 4", "\"step\": -1", "\"step\""},
        {"\"step\": 4", "\"step\": 4294967296", "\"step\""},
        {"\"step\": 4", "\"step\": 9223372036854775808", "not JSON"},
        {"\"step\": 4", "\"step\": 4.0", "\"step\""},
        {"\"updates\": 4", "\"updates\": 5", "\"updates\""},
        {"\"next_batch\": 4", "\"next_batch\": 9223372036854775807", "\"next_batch\""},
        {"\"next_batch\": 4", "\"next_batch\": 3", "\"next_batch\""},
        {"\"passed_over\": []", "\"passed_over\": [3, 3]", "\"passed_over\""},
        {"\"passed_over\": []", "\"passed_over\": [-1]", "\"passed_over\""},
        {"\"loss_window\": [", "\"loss_window\": [null, ", "\"loss_window\""},
        {"\"norm_window\": [", "\"norm_window\": 3, \"x\": [", "\"norm_window\""},
        {"\"config\": \"", "\"config\": \"x", "unknown key 'xmodel'; did you mean 'model'"},
        {"\"recipe\": \"", "\"recipe\": 1, \"x\": \"", "\"recipe\""},
        {"\"files\": {", "\"files\": {\"a/../../b\": {}, ", "outside the folder"},
        {"\"files\": {", "\"files\": {\"b\": {}, ", "not whole"},
        {"\"model.safetensors\"", "\"config.json\"", "duplicate"},
        {"{", "{\"self\": \"\", ", "duplicate"},
    };
    char folder[600];
    snprintf(folder, sizeof folder, "%s", in_folder(state, CHECKPOINT));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nb_error err = {0};
        assert_int_not_equal(verify_edited(folder, cases[i].was, cases[i].is, &err), NB_OK);
        if (!strstr(err.message, cases[i].says))
            fail_msg("%s: %s", cases[i].is, err.message);
    }
    size_t deep = 100000;
    char *nest = malloc(deep + 1);
    memset(nest, '[', deep);
    memcpy(nest, "\"files\": ", 9);
    nest[deep] = 0;
    nb_error err = {0};
    assert_int_equal(verify_edited(folder, "\"files\": ", nest, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "depth"));
    free(nest);
}

static void missing_and_cut_files_are_named(void **state) {
    char folder[600], path[700], aside[720];
    nb_error err = {0};
    snprintf(folder, sizeof folder, "%s", in_folder(state, CHECKPOINT));
    snprintf(path, sizeof path, "%s/config.json", folder);
    snprintf(aside, sizeof aside, "%s.aside", path);
    assert_int_equal(rename(path, aside), 0);
    assert_int_equal(nb_checkpoint_verify(folder, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "config.json: is missing"));
    assert_int_equal(rename(aside, path), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    size_t size = size_of(path);
    char last;
    FILE *file = fopen(path, "r");
    fseek(file, -1, SEEK_END);
    last = (char)fgetc(file);
    fclose(file);
    assert_int_equal(truncate(path, (off_t)size - 1), 0);
    assert_int_equal(nb_checkpoint_verify(folder, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "model.safetensors: has"));
    file = fopen(path, "a");
    fputc(last, file);
    fclose(file);
    assert_int_equal(nb_checkpoint_verify(folder, NULL), NB_OK);
}

static void what_is_no_checkpoint_is_said(void **state) {
    nb_error err = {0};
    assert_int_equal(nb_checkpoint_verify(in_folder(state, "nowhere"), &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "no such folder"));
    assert_int_equal(nb_checkpoint_verify(in_folder(state, "run"), &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "has no nibble.json"));
}

/* What the page does not list is not read, and a page that is lost does not make the folder somebody else's. */
static void what_is_not_listed_is_not_read(void **state) {
    nb_error err = {0};
    const char index[] = "{\"weight_map\": {\"model.norm.weight\": \"other.safetensors\"}}", tokens[] = "{}";
    nb_run_config config = case_config(state, "other", "checkpoint.every=0", "steps=1", NULL);
    char from[600], path[700];
    snprintf(from, sizeof from, "%s", in_folder(state, CHECKPOINT));
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", from);
    assert_int_equal(ni_file_write(path, index, strlen(index), &err), NB_OK);
    snprintf(path, sizeof path, "%s/tokenizer.json", from);
    assert_int_equal(ni_file_write(path, tokens, strlen(tokens), &err), NB_OK);
    nb_backend *be = case_backend(&config);
    nb_trainer *trainer;
    assert_int_equal(case_create(be, &config, NULL, &trainer, &err), NB_OK);
    config = case_config(state, "again", "steps=5", "checkpoint.every=0", NULL);
    if (case_run(&config, NB_START_FORK, from, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_not_equal(access(in_folder(state, "again/checkpoints/step-00000005/tokenizer.json"), F_OK), 0);
    snprintf(path, sizeof path, "%s/nibble.json", from);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(nb_trainer_load(trainer, from, NB_START_FORK, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "nibble.json is lost"));
    nb_trainer_free(trainer);
    nb_backend_free(be);
}

/* An embedding that no token of the data asks for: no loss shows what it holds. */
static void numbers_that_are_not_finite_are_not_saved(void **state) {
    nb_run_config config = case_config(state, "inf", NULL);
    nb_error err = {0};
    const float bad[] = {INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 3; i++) {
        nb_backend *be = case_backend(&config);
        nb_trainer *trainer;
        assert_int_equal(case_create(be, &config, NULL, &trainer, &err), NB_OK);
        nb_model *model = nb_trainer_model(trainer);
        int32_t p = 0;
        while (strcmp(nb_model_param(model, p)->name, "model.embed_tokens.weight") != 0)
            p++;
        float *rare = (float *)nb_model_params(model) + nb_model_param(model, p)->offset + CASE_RARE * 32;
        assert_int_equal(nb_backend_write(be, rare, &bad[i], sizeof bad[i], NULL), NB_OK);
        nb_model_params_changed(model);
        assert_int_equal(nb_trainer_save(trainer, in_folder(state, "saved"), &err), NB_BAD_NUMBER);
        assert_non_null(strstr(err.message, "parameter model.embed_tokens.weight holds numbers that are not finite"));
        assert_int_not_equal(access(in_folder(state, "saved"), F_OK), 0);
        nb_trainer_free(trainer);
        nb_backend_free(be);
    }
}

/* The newest checkpoint is broken: the one before is offered, and the run goes on from there to the same end. */
static void the_newest_good_one_is_taken(void **state) {
    nb_run_config config = case_config(state, "whole", NULL);
    nb_error err = {0};
    case_log log = {0};
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, NULL, &err), NB_OK);
    char *before = case_metrics(state, "whole");
    flip(in_folder(state, "whole/checkpoints/step-00000012/model.safetensors"), 3000, 3);
    if (case_run(&config, NB_START_RESUME, NULL, &log, &err) != NB_OK)
        fail_msg("%s", err.message);
    assert_int_equal(log.steps, 4);
    assert_int_equal(log.warnings, 1);
    assert_non_null(strstr(log.warning, "step-00000012/model.safetensors"));
    char *after = case_metrics(state, "whole");
    assert_string_equal(before, after);
    assert_int_equal(nb_checkpoint_verify(in_folder(state, "whole/checkpoints/step-00000012"), NULL), NB_OK);
    free(before);
    free(after);
}

static int32_t entries(const char *path) {
    DIR *dir = opendir(path);
    assert_non_null(dir);
    int32_t count = 0;
    for (struct dirent *item; (item = readdir(dir));)
        count += item->d_name[0] != '.';
    closedir(dir);
    return count;
}

/* Files may not grow beyond 20,000 bytes for a while, as on a full disk: whichever file hits the limit, the new
 * checkpoint does not appear and the old one stays. */
static void a_full_disk_leaves_the_old_checkpoint(void **state) {
    nb_run_config config = case_config(state, "full", "steps=8", "checkpoint.every=4", NULL);
    nb_error err = {0};
    nb_backend *be = case_backend(&config);
    nb_trainer *trainer;
    char folder[600];
    snprintf(folder, sizeof folder, "%s", in_folder(state, CHECKPOINT));
    assert_int_equal(case_create(be, &config, NULL, &trainer, &err), NB_OK);
    struct rlimit before, small = {0};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 100; limit < 200000; limit *= 4) {
        small = (struct rlimit){limit, before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        nb_status status = nb_trainer_save(trainer, folder, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        if (limit < 25600)
            assert_int_equal(status, NB_IO_ERROR);
        assert_int_equal(nb_checkpoint_verify(folder, &err), NB_OK);
        assert_int_equal(entries(in_folder(state, "run/checkpoints")), 1);
    }
    nb_trainer_free(trainer);
    nb_backend_free(be);
}

/* The same in a run: it ends with one line, and resumes once there is room. */
static void a_run_survives_a_full_disk(void **state) {
    nb_run_config config = case_config(state, "whole", NULL);
    nb_error err = {0};
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, NULL, &err), NB_OK);
    config = case_config(state, "full", NULL);
    case_log log = {.stop_after = 5};
    assert_int_equal(case_run(&config, NB_START_NEW, NULL, &log, &err), NB_INTERRUPTED);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){16384, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    nb_status status = case_run(&config, NB_START_RESUME, NULL, NULL, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, NB_IO_ERROR);
    if (case_run(&config, NB_START_RESUME, NULL, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    char *whole = case_metrics(state, "whole"), *full = case_metrics(state, "full");
    assert_string_equal(whole, full);
    free(whole);
    free(full);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, checkpoint_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {
        CASE(a_flipped_bit_is_found_anywhere), CASE(impossible_pages_are_refused),
        CASE(missing_and_cut_files_are_named), CASE(what_is_no_checkpoint_is_said),
        CASE(the_newest_good_one_is_taken),    CASE(a_full_disk_leaves_the_old_checkpoint),
        CASE(a_run_survives_a_full_disk),      CASE(numbers_that_are_not_finite_are_not_saved),
        CASE(what_is_not_listed_is_not_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
