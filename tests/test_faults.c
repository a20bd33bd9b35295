/* test_faults.c: calls of the system and of libraries that fail while a run is saved or resumed. An error is not an
 * absence: what cannot be read is neither passed over nor begun anew, and what was not written whole is no checkpoint.
 *
 * The linker hands the calls below to us (CMakeLists.txt, "wraps"); one of them can be made to fail.
 */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "train/checkpoint.h"
#include "train_case.h"

/* ---- faults ---- */

static struct {
    const char *call;  /* NULL: nothing fails */
    int64_t countdown; /* 0: the next one fails */
    int error;
    bool happened;
} fault;

static void arm(const char *call, int64_t countdown, int error) {
    fault.call = call;
    fault.countdown = countdown;
    fault.error = error;
    fault.happened = false;
}

static bool fails(const char *call) {
    if (!fault.call || strcmp(fault.call, call) != 0 || fault.countdown-- != 0)
        return false;
    fault.happened = true;
    errno = fault.error;
    return true;
}

/* NOLINTBEGIN(bugprone-reserved-identifier): the names that the linker gives */
struct dirent *__real_readdir(DIR *dir);
struct dirent *__wrap_readdir(DIR *dir);
struct dirent *__wrap_readdir(DIR *dir) {
    return fails("readdir") ? NULL : __real_readdir(dir);
}

void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    return fails("mmap") ? MAP_FAILED : __real_mmap(at, size, protection, flags, fd, offset);
}

int __real_stat(const char *path, struct stat *out);
int __wrap_stat(const char *path, struct stat *out);
int __wrap_stat(const char *path, struct stat *out) {
    return fails("stat") ? -1 : __real_stat(path, out);
}

int __real_json_object_set_new(json_t *object, const char *key, json_t *value);
int __wrap_json_object_set_new(json_t *object, const char *key, json_t *value);
int __wrap_json_object_set_new(json_t *object, const char *key, json_t *value) {
    if (!fails("json"))
        return __real_json_object_set_new(object, key, value);
    json_decref(value);
    return -1;
}

FILE *__real_open_memstream(char **text, size_t *size);
FILE *__wrap_open_memstream(char **text, size_t *size);
FILE *__wrap_open_memstream(char **text, size_t *size) {
    return fails("memstream") ? NULL : __real_open_memstream(text, size);
}
/* NOLINTEND(bugprone-reserved-identifier) */

/* ---- a run of 12 steps with checkpoints after 4, 8 and 12 ---- */

static int finished_run(void **state) {
    nb_error err = {0};
    arm(NULL, 0, 0);
    if (case_folder(state) != 0)
        return -1;
    nb_run_config config = case_config(state, "run", NULL);
    return case_run(&config, NB_START_NEW, NULL, NULL, &err) == NB_OK ? 0 : -1;
}

static char *bytes_of(void **state, const char *name, size_t *size) {
    char *bytes;
    nb_error err = {0};
    if (ni_file_read(in_folder(state, name), 1 << 24, &bytes, size, &err) != NB_OK)
        fail_msg("%s", err.message);
    return bytes;
}

/* Resumes the run with the n-th of `call` failing, n = 0, 1, ...: until nothing fails any more, each time the run ends
 * with a status that says so, and with not a byte of its past changed. */
static int64_t resume_under(void **state, const char *call, int error, nb_status expected) {
    size_t size, again;
    char *before = bytes_of(state, "run/metrics.jsonl", &size);
    int64_t n = 0;
    for (;; n++) {
        nb_run_config config = case_config(state, "run", NULL);
        nb_backend *be = case_backend(&config);
        nb_trainer *trainer;
        nb_error err = {0};
        assert_int_equal(case_create(be, &config, NULL, &trainer, &err), NB_OK);
        arm(call, n, error);
        nb_status status = nb_trainer_run(trainer, NB_START_RESUME, NULL, &err);
        bool happened = fault.happened;
        arm(NULL, 0, 0);
        int64_t steps = nb_trainer_steps_done(trainer);
        nb_trainer_free(trainer);
        nb_backend_free(be);
        if (!happened)
            break;
        char *after = bytes_of(state, "run/metrics.jsonl", &again);
        assert_int_equal(size, again);
        assert_memory_equal(before, after, size);
        free(after);
        if (status == NB_OK) /* the fault hit something that is done without, after the state was loaded */
            assert_int_equal(steps, 12);
        else if (status != expected || strstr(err.message, "is missing"))
            fail_msg("%s %d: %s: %s", call, (int)n, nb_status_name(status), err.message);
        if (n < 1) /* the list of checkpoints, the first page */
            assert_int_equal(status, expected);
    }
    free(before);
    return n;
}

static void an_unreadable_list_is_no_empty_list(void **state) {
    assert_true(resume_under(state, "readdir", EIO, NB_IO_ERROR) > 3);
}

static void what_cannot_be_examined_is_not_missing(void **state) {
    assert_true(resume_under(state, "stat", EIO, NB_IO_ERROR) > 3);
    assert_true(resume_under(state, "stat", ENOMEM, NB_NO_MEMORY) > 3);
}

static void a_good_checkpoint_is_not_passed_over(void **state) {
    assert_true(resume_under(state, "mmap", EIO, NB_IO_ERROR) > 1);
    assert_true(resume_under(state, "mmap", ENOMEM, NB_NO_MEMORY) > 1);
}

static void damage(void **state, const char *name) {
    size_t size;
    char *bytes = bytes_of(state, name, &size);
    bytes[size / 2] ^= 4;
    assert_int_equal(ni_file_write(in_folder(state, name), bytes, size, NULL), NB_OK);
    free(bytes);
}

/* None is good: the run is not begun anew over what may be saved. */
static void no_good_checkpoint_is_no_new_run(void **state) {
    char name[96];
    nb_error err = {0};
    for (int step = 4; step <= 12; step += 4) {
        snprintf(name, sizeof name, "run/checkpoints/step-%08d/model.safetensors", step);
        damage(state, name);
    }
    size_t size, again;
    char *before = bytes_of(state, "run/metrics.jsonl", &size);
    nb_run_config config = case_config(state, "run", NULL);
    assert_int_equal(case_run(&config, NB_START_RESUME, NULL, NULL, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "holds 3 checkpoints and none is good; hint: move them away"));
    char *after = bytes_of(state, "run/metrics.jsonl", &again);
    assert_int_equal(size, again);
    assert_memory_equal(before, after, size);
    free(before);
    free(after);
}

/* ---- what is kept ---- */

static bool is_there(void **state, const char *name) {
    return access(in_folder(state, name), F_OK) == 0;
}

/* keep: 2 means two good ones: one that was damaged meanwhile does not push a good one out. */
static void only_good_checkpoints_count(void **state) {
    nb_error err = {0};
    damage(state, "run/checkpoints/step-00000012/optimizer.safetensors");
    char folder[600];
    snprintf(folder, sizeof folder, "%s", in_folder(state, "run"));
    assert_int_equal(ni_checkpoint_prune(folder, 2, -1, NULL, 0, &err), NB_OK);
    assert_true(is_there(state, "run/checkpoints/step-00000004"));
    assert_true(is_there(state, "run/checkpoints/step-00000008"));
    assert_int_equal(ni_checkpoint_prune(folder, 1, -1, NULL, 0, &err), NB_OK);
    assert_false(is_there(state, "run/checkpoints/step-00000004"));
    assert_true(is_there(state, "run/checkpoints/step-00000008"));
}

/* Folders of other names, and of such a name that hold something else, neither count nor end a run. */
static void strays_are_left_alone(void **state) {
    nb_error err = {0};
    const char *const strays[] = {"step-99", "step-5", "step-00000099", "step-00000001", "step-00000008.old"};
    nb_run_config config = case_config(state, "run", "checkpoint.keep=1", NULL);
    char name[96];
    for (size_t i = 0; i < sizeof strays / sizeof *strays; i++) {
        snprintf(name, sizeof name, "run/checkpoints/%s", strays[i]);
        assert_int_equal(ni_make_folders(in_folder(state, name), &err), NB_OK);
    }
    assert_int_equal(ni_folder_remove(in_folder(state, "run/checkpoints/step-00000012"), &err), NB_OK);
    if (case_run(&config, NB_START_RESUME, NULL, NULL, &err) != NB_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < sizeof strays / sizeof *strays; i++) {
        snprintf(name, sizeof name, "run/checkpoints/%s", strays[i]);
        assert_true(is_there(state, name));
    }
    assert_true(is_there(state, "run/checkpoints/step-00000012/nibble.json"));
    assert_false(is_there(state, "run/checkpoints/step-00000008"));
}

/* ---- what is written ---- */

/* Saves with the n-th of `call` failing, for every n: the save fails, or the checkpoint is good and loads. */
static int64_t save_under(void **state, const char *call, int error) {
    nb_run_config config = case_config(state, "run", NULL);
    nb_backend *be = case_backend(&config);
    nb_trainer *trainer;
    nb_error err = {0};
    char folder[600];
    snprintf(folder, sizeof folder, "%s", in_folder(state, "saved"));
    assert_int_equal(case_create(be, &config, NULL, &trainer, &err), NB_OK);
    int64_t n = 0;
    for (bool happened = true; happened; n++) {
        assert_int_equal(ni_folder_remove(folder, &err), NB_OK);
        arm(call, n, error);
        nb_status status = nb_trainer_save(trainer, folder, &err);
        happened = fault.happened;
        arm(NULL, 0, 0);
        if (status == NB_OK && nb_trainer_load(trainer, folder, NB_START_RESUME, &err) != NB_OK)
            fail_msg("%s %d: saved, and then: %s", call, (int)n, err.message);
        if (status != NB_OK && access(folder, F_OK) == 0)
            fail_msg("%s %d: failed and is there", call, (int)n);
    }
    nb_trainer_free(trainer);
    nb_backend_free(be);
    return n;
}

static void a_checkpoint_is_whole_or_is_none(void **state) {
    assert_true(save_under(state, "json", ENOMEM) > 20);
    assert_true(save_under(state, "memstream", ENOMEM) > 20);
    assert_true(save_under(state, "readdir", EIO) > 3);
    assert_true(save_under(state, "stat", EIO) > 3);
    assert_true(save_under(state, "mmap", EIO) > 3);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, finished_run, remove_temporary_folder)
    const struct CMUnitTest tests[] = {
        CASE(an_unreadable_list_is_no_empty_list),  CASE(what_cannot_be_examined_is_not_missing),
        CASE(a_good_checkpoint_is_not_passed_over), CASE(no_good_checkpoint_is_no_new_run),
        CASE(only_good_checkpoints_count),          CASE(strays_are_left_alone),
        CASE(a_checkpoint_is_whole_or_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
