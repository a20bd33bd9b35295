/* test_host_memory.c: memory that is left, by files of a machine that is made up (src/base/host_memory.c). */
#include "harness.h"

#include "base/host_memory.h"
#include "temporary.h"

#include <sys/stat.h>

enum { KIB = 1024 };

static void write_file(void **state, const char *name, const char *text) {
    FILE *file = fopen(in_folder(state, name), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int make_machine(void **state) {
    static const char *const folders[] = {"proc",       "proc/self",     "groups",         "groups/a",
                                          "groups/a/b", "groups/memory", "groups/memory/a"};
    int failed = temporary_folder(state);
    for (size_t i = 0; !failed && i < sizeof folders / sizeof *folders; i++)
        failed = mkdir(in_folder(state, folders[i]), 0700);
    return failed;
}

static ni_host_memory now(void **state) {
    ni_host_memory m;
    assert_true(ni_host_memory_from(in_folder(state, "proc"), in_folder(state, "groups"), &m));
    return m;
}

static void limits_of_groups_count(void **state) {
    ni_host_memory m;
    assert_false(ni_host_memory_from(in_folder(state, "proc"), in_folder(state, "groups"), &m));
    write_file(state, "proc/meminfo",
               "MemTotal:       10000 kB\nMemFree:         100 kB\nMemAvailable:    6000 kB\nSwapFree:  500 kB\n");
    m = now(state);
    assert_int_equal(m.all, 10000 * KIB);
    assert_int_equal(m.left, 6500 * KIB);

    /* One tree: the group above is the narrower one; page cache is not in the way. */
    write_file(state, "proc/self/cgroup", "0::/a/b\n");
    write_file(state, "groups/a/b/memory.max", "max\n");
    write_file(state, "groups/a/memory.max", "4096000\n");
    write_file(state, "groups/a/memory.current", "3072000\n");
    m = now(state);
    assert_int_equal(m.all, 4000 * KIB);
    assert_int_equal(m.left, 1000 * KIB);
    write_file(state, "groups/a/memory.stat", "anon 100\ninactive_file 1024000\nactive_file 7\n");
    assert_int_equal(now(state).left, 2000 * KIB);
    write_file(state, "groups/memory.max", "2048000\n");
    write_file(state, "groups/memory.current", "4096000\n");
    m = now(state);
    assert_int_equal(m.left, 0);
    assert_int_equal(m.all, 2000 * KIB);

    /* A tree for memory, and limits that are none. */
    write_file(state, "proc/self/cgroup", "9:cpu,cpuacct:/x\n4:memory:/a\n");
    assert_int_equal(now(state).left, 6500 * KIB);
    write_file(state, "groups/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
    write_file(state, "groups/memory/a/memory.usage_in_bytes", "1024\n");
    assert_int_equal(now(state).left, 6500 * KIB);
    write_file(state, "groups/memory/a/memory.limit_in_bytes", "1025024\n");
    assert_int_equal(now(state).left, 1000 * KIB);
    write_file(state, "groups/memory/a/memory.stat", "inactive_file 9\ntotal_inactive_file 1024\n");
    assert_int_equal(now(state).left, 1001 * KIB);
    write_file(state, "proc/self/cgroup", "no colon\n:\n\n");
    assert_int_equal(now(state).left, 6500 * KIB);
}

static void this_machine_has_some(void **state) {
    (void)state;
    ni_host_memory m;
    assert_true(ni_host_memory_now(&m));
    assert_true(m.all > (size_t)64 << 20 && m.left > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(limits_of_groups_count),
                                       cmocka_unit_test(this_machine_has_some)};
    return cmocka_run_group_tests_name("memory of the host", tests, make_machine, remove_temporary_folder);
}
