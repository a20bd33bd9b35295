/* test_dist.c: who a process is, by its environment; letters between ranks, which are processes here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dist/machine.h"
#include "dist/nccl.h"
#include "rank_case.h"

#include <signal.h>
#include <sys/socket.h>

/* ---- environments ---- */

static const char *const *variables; /* "NAME=value", ..., NULL */

static const char *lookup(const char *name) {
    const size_t n = strlen(name);
    for (const char *const *v = variables; *v; v++)
        if (strncmp(*v, name, n) == 0 && (*v)[n] == '=')
            return *v + n + 1;
    return NULL;
}

static nb_status place_of(const char *const *list, ni_place *out, nb_error *err) {
    variables = list;
    return ni_place_read(lookup, out, err);
}
#define PLACE(out, err, ...) place_of((const char *const[]){__VA_ARGS__, NULL}, out, err)

static void launchers_are_understood(void **state) {
    (void)state;
    ni_place p;
    nb_error err = {0};
    assert_int_equal(PLACE(&p, &err, "HOME=/"), NB_OK);
    assert_true(p.launcher == NI_LAUNCHED_ALONE && p.world == 1 && p.rank == 0);
    assert_int_equal(PLACE(&p, &err, "RANK=2", "WORLD_SIZE=4", "MASTER_ADDR=node1", "MASTER_PORT=29500"), NB_OK);
    assert_true(p.launcher == NI_LAUNCHED_TCP && p.rank == 2 && p.world == 4 && p.port == 29500);
    assert_string_equal(p.address, "node1");
    assert_true(p.local == 0 && p.local_world == 0 && p.patience == 300);
    assert_int_equal(PLACE(&p, &err, "RANK=3", "WORLD_SIZE=4", "MASTER_ADDR=a", "MASTER_PORT=1000", "LOCAL_RANK=1",
                           "LOCAL_WORLD_SIZE=2", "TORCHELASTIC_USE_AGENT_STORE=True", "NIBBLE_PATIENCE=7",
                           "OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=1"),
                     NB_OK);
    assert_true(p.port == 1001 && p.local == 1 && p.local_world == 2 && p.patience == 7);
    assert_int_equal(PLACE(&p, &err, "OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_RANK=1",
                           "SLURM_STEP_NUM_TASKS=8", "SLURM_PROCID=5"),
                     NB_OK);
    assert_true(p.launcher == NI_LAUNCHED_MPI && p.rank == 1 && p.world == 2 && p.local == 1);
    assert_int_equal(PLACE(&p, &err, "SLURM_STEP_NUM_TASKS=8", "SLURM_PROCID=5", "SLURM_LOCALID=1",
                           "SLURM_STEP_NODELIST=gpu[007-010,20]", "SLURM_JOB_ID=123456", "SLURM_NTASKS=8",
                           "SLURM_STEP_TASKS_PER_NODE=4(x2)"),
                     NB_OK);
    assert_true(p.launcher == NI_LAUNCHED_TCP && p.rank == 5 && p.world == 8 && p.local == 1 && p.port == 32956 &&
                p.local_world == 4);
    assert_string_equal(p.address, "gpu007");
    /* in a batch script, outside of srun; a world of one */
    assert_int_equal(PLACE(&p, &err, "SLURM_NTASKS=8", "SLURM_PROCID=0", "SLURM_JOB_ID=1"), NB_OK);
    assert_true(p.launcher == NI_LAUNCHED_ALONE && p.world == 1);
    assert_int_equal(PLACE(&p, &err, "RANK=0", "WORLD_SIZE=1"), NB_OK);
    assert_true(p.launcher == NI_LAUNCHED_ALONE);
}

static void half_an_environment_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *list[6];
        const char *says;
    } cases[] = {
        {{"RANK=0", NULL}, "WORLD_SIZE is not set"},
        {{"WORLD_SIZE=2", NULL}, "RANK is not set"},
        {{"RANK=0", "WORLD_SIZE=2", NULL}, "MASTER_PORT is not set"},
        {{"RANK=0", "WORLD_SIZE=2", "MASTER_PORT=1", NULL}, "MASTER_ADDR is not set"},
        {{"RANK=2", "WORLD_SIZE=2", "MASTER_PORT=1", "MASTER_ADDR=a", NULL},
         "RANK is \"2\"; expected a whole number from"},
        {{"RANK=0", "WORLD_SIZE=two", NULL}, "WORLD_SIZE is \"two\""},
        {{"RANK=0", "WORLD_SIZE=2", "MASTER_PORT=70000", "MASTER_ADDR=a", NULL}, "MASTER_PORT is \"70000\""},
        {{"OMPI_COMM_WORLD_SIZE=2", NULL}, "OMPI_COMM_WORLD_RANK is not set"},
        {{"SLURM_STEP_NUM_TASKS=2", "SLURM_PROCID=0", NULL}, "hint: set MASTER_ADDR"},
        {{"SLURM_STEP_NUM_TASKS=2", "SLURM_PROCID=0", "SLURM_STEP_NODELIST=gpu[", NULL}, "expected a list of hosts"},
        {{"NIBBLE_PATIENCE=0", NULL}, "NIBBLE_PATIENCE is \"0\""},
        {{"NIBBLE_NEIGHBOURS=2", NULL}, "NIBBLE_NEIGHBOURS is \"2\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ni_place p;
        nb_error err = {0};
        assert_int_equal(place_of(cases[i].list, &p, &err), NB_BAD_USAGE);
        if (!strstr(err.message, cases[i].says))
            fail_msg("expected \"%s\" in: %s", cases[i].says, err.message);
    }
}

static void first_hosts(void **state) {
    (void)state;
    static const char *const lists[][2] = {{"one", "one"}, {"a,b", "a"},   {"n[3-5]", "n3"}, {"n[08,2-3],m1", "n08"},
                                           {"", NULL},     {"n[x]", NULL}, {"n[1", NULL}};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        char host[16];
        const bool found = ni_first_host(lists[i][0], host, sizeof host);
        assert_int_equal(found, lists[i][1] != NULL);
        if (found)
            assert_string_equal(host, lists[i][1]);
    }
    char small[4];
    assert_false(ni_first_host("abcd", small, sizeof small));
}

static void talk(nb_ranks *r) {
    const int32_t rank = nb_ranks_rank(r), world = nb_ranks_world(r);
    nb_error err = {0};
    int64_t all[MOST], mine = 100 + rank;
    CHECK(ni_ranks_gather(r, &mine, all, sizeof mine, &err) == NB_OK);
    for (int32_t i = 0; i < world; i++)
        CHECK(all[i] == 100 + i);
    char word[8] = "";
    if (rank == 0)
        strcpy(word, "zero");
    CHECK(ni_ranks_broadcast(r, word, sizeof word, &err) == NB_OK && strcmp(word, "zero") == 0);
    bool any;
    CHECK(ni_ranks_any(r, rank == world - 1, &any, &err) == NB_OK && any);
    CHECK(ni_ranks_any(r, false, &any, &err) == NB_OK && !any);
    /* pieces of many lengths, none among them, larger than what a connection holds at a time */
    enum { PIECE = 3 << 20 };
    static char data[MOST * PIECE];
    size_t begin[MOST + 1] = {0};
    for (int32_t i = 0; i < world; i++)
        begin[i + 1] = begin[i] + (i == 1 ? 0 : (size_t)PIECE - 7 * (size_t)i);
    memset(data + begin[rank], 'a' + rank, begin[rank + 1] - begin[rank]);
    CHECK(ni_ranks_gather_pieces(r, data, begin, &err) == NB_OK);
    for (int32_t i = 0; i < world; i++)
        for (size_t at = begin[i]; at < begin[i + 1]; at++)
            CHECK(data[at] == 'a' + i);
    char why[200] = ""; /* a machine without a GPU says so, and nothing else has changed */
    CHECK(ni_ranks_use_nccl(r, why, sizeof why, &err) == NB_OK && (r->device.trade || why[0]));
    CHECK(nb_ranks_agree(r, NB_OK, &err) == NB_OK && nb_ranks_speaks(r));
    /* the lowest of those that fail says why, and all know */
    nb_status status = NB_OK;
    if (rank > 0)
        status = nb_fail(&err, NB_BAD_FILE, "file of rank %d", (int)rank);
    CHECK(nb_ranks_agree(r, status, &err) == NB_BAD_FILE && strcmp(err.message, "file of rank 1") == 0);
    CHECK(nb_ranks_speaks(r) == (rank == 1));
    nb_ranks_close(r, &err);
}

static void ranks_talk(void **state) {
    (void)state;
    for (int32_t world = 2; world <= MOST; world++)
        run_ranks(world, 60, -1, talk);
    nb_error err = {0};
    assert_int_equal(nb_ranks_agree(NULL, NB_BAD_FILE, &err), NB_BAD_FILE);
    assert_true(nb_ranks_world(NULL) == 1 && nb_ranks_rank(NULL) == 0 && nb_ranks_speaks(NULL));
    nb_ranks_close(NULL, NULL);
}

/* ---- ranks that fail ---- */

/* One comes late to what another did, and a third still later, when the first has said it and is gone: that one hears
 * of it from both. */
static bool late;

static void come_late(const nb_ranks *r) {
    const struct timespec pause = {.tv_nsec = (nb_ranks_rank(r) == 0 ? 200 : 400) * 1000 * 1000};
    if (late)
        nanosleep(&pause, NULL);
}

static void one_fails(nb_ranks *r) {
    nb_error err = {0};
    int32_t all[MOST], mine = 0;
    if (nb_ranks_rank(r) == 1) {
        nb_fail(&err, NB_NO_MEMORY, "no memory for a thing");
        CHECK(nb_ranks_speaks(r));
        nb_ranks_close(r, &err);
        return;
    }
    come_late(r);
    nb_status status = NB_OK;
    while (status == NB_OK)
        status = ni_ranks_gather(r, &mine, all, sizeof mine, &err);
    CHECK(status == NB_NO_MEMORY && strcmp(err.message, "rank 1: no memory for a thing") == 0);
    CHECK(!nb_ranks_speaks(r));
    nb_ranks_close(r, &err);
}

static void one_dies(nb_ranks *r) {
    nb_error err = {0};
    int32_t all[MOST], mine = 0;
    const int32_t whose = late ? 2 : 0, speaker = late ? 0 : 1;
    char said[64];
    CHECK(ni_ranks_gather(r, &mine, all, sizeof mine, &err) == NB_OK);
    if (nb_ranks_rank(r) == whose)
        raise(SIGKILL);
    come_late(r);
    nb_status status = NB_OK;
    while (status == NB_OK)
        status = ni_ranks_gather(r, &mine, all, sizeof mine, &err);
    snprintf(said, sizeof said, "rank %d of 3 is gone", (int)whose);
    CHECK(status == NB_IO_ERROR && strstr(err.message, said));
    CHECK(nb_ranks_speaks(r) == (nb_ranks_rank(r) == speaker));
    nb_ranks_close(r, &err);
}

/* It lives and says nothing. */
static void one_sleeps(nb_ranks *r) {
    nb_error err = {0};
    int32_t all[MOST], mine = 0;
    CHECK(ni_ranks_gather(r, &mine, all, sizeof mine, &err) == NB_OK); /* all are here, and near each other */
    r->patience = 3;
    if (nb_ranks_rank(r) == 2) {
        sleep(60);
        raise(SIGKILL);
    }
    CHECK(ni_ranks_gather(r, &mine, all, sizeof mine, &err) == NB_IO_ERROR);
    CHECK(strstr(err.message, "rank 2 of 3 has said nothing for 3 s"));
    CHECK(nb_ranks_speaks(r) == (nb_ranks_rank(r) == 0));
    nb_ranks_close(r, &err);
}

static void others_hear_of_it(void **state) {
    (void)state;
    run_ranks(3, 60, -1, one_fails);
    run_ranks(3, 60, 0, one_dies);
    late = true;
    run_ranks(3, 60, -1, one_fails);
    run_ranks(3, 60, 2, one_dies);
    late = false;
}

static void nobody_waits_for_ever(void **state) {
    (void)state;
    const int32_t world = 3, port = new_port();
    pid_t pids[MOST];
    for (int32_t rank = 0; rank < world; rank++) {
        pids[rank] = fork();
        if (pids[rank] == 0) {
            one_sleeps(meet(rank, world, port, 60));
            _exit(0);
        }
    }
    for (int32_t rank = 0; rank < 2; rank++) {
        int status;
        assert_int_equal(waitpid(pids[rank], &status, 0), pids[rank]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    kill(pids[2], SIGKILL);
    waitpid(pids[2], NULL, 0);
    /* nobody else comes: the one that waits says who is missing */
    const ni_place place = {.rank = 0, .world = 3, .address = "127.0.0.1", .port = new_port(), .patience = 1};
    ni_wire wire;
    nb_error err = {0};
    assert_int_equal(ni_tcp_open(&place, &wire, &err), NB_IO_ERROR);
    assert_non_null(strstr(err.message, "2 of 3 ranks did not come (the first that is missing is rank 1) within 1 s"));
}

/* Two hosts of one name are two machines, unless neither says when it started. */
static void machines_of_one_name(void **state) {
    (void)state;
    static const char *const ids[] = {"5f1c\n", "a902\n", "5f1c\n"};
    char file[] = "/tmp/boot_id.XXXXXX", name[3][NI_MACHINE_SIZE], alone[NI_MACHINE_SIZE], host[256] = "";
    const int open = mkstemp(file);
    assert_true(open >= 0 && gethostname(host, sizeof host - 1) == 0 && host[0]);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pwrite(open, ids[i], strlen(ids[i]), 0), strlen(ids[i]));
        ni_machine_name(file, name[i]);
        assert_memory_equal(name[i], host, strlen(host));
        assert_non_null(strstr(name[i], i == 1 ? " a902" : " 5f1c"));
    }
    assert_string_not_equal(name[0], name[1]);
    assert_string_equal(name[0], name[2]);
    close(open);
    unlink(file);
    ni_machine_name(file, alone);
    assert_string_equal(alone, host);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(launchers_are_understood),
                                       cmocka_unit_test(half_an_environment_is_refused),
                                       cmocka_unit_test(first_hosts),
                                       cmocka_unit_test(machines_of_one_name),
                                       cmocka_unit_test(ranks_talk),
                                       cmocka_unit_test(others_hear_of_it),
                                       cmocka_unit_test(nobody_waits_for_ever)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
