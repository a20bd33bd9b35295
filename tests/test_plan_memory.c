/* What `nibble plan` says of memory against what the system counted of a run (VmHWM), for models and recipes that keep
 * different things: within 5 %. */
#include "harness.h"
#include "temporary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static double mib_of(const char *text) {
    double value;
    char unit[4];
    assert_int_equal(sscanf(text, "%lf %3s", &value, unit), 2);
    return strcmp(unit, "GiB") == 0 ? value * 1024 : strcmp(unit, "KiB") == 0 ? value / 1024 : value;
}

/* The line of the plan that begins so. */
static double planned(const char *run_file, const char *line) {
    char command[1400], text[256];
    double found = -1;
    snprintf(command, sizeof command, "%s plan %s", NI_TEST_CLI, run_file);
    FILE *from = popen(command, "r");
    assert_non_null(from);
    while (fgets(text, sizeof text, from))
        if (strncmp(text + 2, line, strlen(line)) == 0)
            found = mib_of(text + 2 + strlen(line));
    assert_int_equal(pclose(from), 0);
    assert_true(found > 0);
    return found;
}

static double taken(const char *run_file) {
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (freopen("/dev/null", "w", stdout) && freopen("/dev/null", "w", stderr))
            execl(NI_TEST_CLI, "nibble", "train", run_file, (char *)NULL);
        _exit(127);
    }
    int status;
    struct rusage usage;
    assert_int_equal(wait4(child, &status, 0, &usage), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return (double)usage.ru_maxrss / 1024; /* Linux counts in KiB */
}

static void make_data(const char *folder) {
    char command[1400];
    snprintf(command, sizeof command,
             "%s tokenize %s/docs/training.md --tokenizer bytes --val 0 -o %s/data > /dev/null", NI_TEST_CLI,
             NI_TEST_SOURCE, folder);
    assert_int_equal(system(command), 0);
}

static void a_run_takes_what_the_plan_says(void **state) {
#ifdef NI_TEST_SANITIZED
    skip(); /* sanitizers keep memory of their own */
#endif
    static const char *const runs[][2] = {{"llama-tiny", "nvfp4"},
                                          {"gla-tiny", "bf16"},
                                          {"olmo2-tiny", "chon"},
                                          {"llama-tiny", "fp4-dge-occ"},
                                          {"llama-demo", "tetrajet-v2"}};
    const char *folder = *state;
    make_data(folder);
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const char *path = in_folder(state, "run.yaml");
        FILE *to = fopen(path, "w");
        assert_non_null(to);
        fprintf(to,
                "model: %s\nrecipe: %s\nout: %s/out%zu\ndata: {train: \"%s/data/train_*.bin\"}\nsteps: 2\nseq: 64\n"
                "micro_batch: 4\nthreads: 2\nlens: {every: 0}\ncheckpoint: {every: 0}\npeak_flops: none\n",
                runs[i][0], runs[i][1], folder, i, folder);
        fclose(to);
        const double plan = planned(path, "most that the process has in memory"), run = taken(path);
        print_message("%s %s: plan %.1f MiB, run %.1f MiB\n", runs[i][0], runs[i][1], plan, run);
        assert_true(plan > 0.95 * run && plan < 1.05 * run);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_run_takes_what_the_plan_says, temporary_folder, remove_temporary_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
