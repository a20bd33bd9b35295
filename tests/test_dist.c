/* test_dist.c: who a process is, by its environment; letters between ranks, which are processes here; sums over them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "dist/environment.h"
#include "dist/nccl.h"
#include "dist/ranks.h"
#include "dist/tcp.h"
#include "files/safetensors.h"
#include "harness.h"
#include "ports.h"
#include "train/accumulate.h"
#include "train/auto_scale.h"
#include "train/overlap.h"
#include "train/reduce.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

/* ---- ranks that are processes ---- */

enum { MOST = 6 };

/* Ends a rank that is not what it should be; cmocka's own way out works in the first process alone. */
#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: rank %d of %d: %s\n", __FILE__, __LINE__, (int)nb_ranks_rank(r),                   \
                    (int)nb_ranks_world(r), #what);                                                                    \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static nb_ranks *meet(int32_t rank, int32_t world, int32_t port, double patience) {
    const ni_place place = {.launcher = NI_LAUNCHED_TCP,
                            .rank = rank,
                            .world = world,
                            .address = "127.0.0.1",
                            .port = port,
                            .patience = patience};
    ni_wire wire;
    nb_ranks *r = NULL;
    nb_error err = {0};
    alarm(240); /* one that waits for ever fails */
    if (ni_tcp_open(&place, &wire, &err) != NB_OK || ni_ranks_over(&wire, patience, &r, &err) != NB_OK) {
        fprintf(stderr, "rank %d: %s\n", (int)rank, err.message);
        _exit(1);
    }
    return r;
}

static int32_t new_port(void) {
    const int32_t port = hold_port();
    assert_true(port > 0);
    return port;
}

/* Runs `body` in `world` processes; returns how many seconds it took. All must end with 0, or, of `lost`, by a signal.
 */
static double run_ranks(int32_t world, double patience, int32_t lost, void (*body)(nb_ranks *r)) {
    const int32_t port = new_port();
    struct timespec begin, end;
    pid_t pids[MOST];
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int32_t rank = 0; rank < world; rank++) {
        pids[rank] = fork();
        assert_true(pids[rank] >= 0);
        if (pids[rank] == 0) {
            body(meet(rank, world, port, patience));
            _exit(0);
        }
    }
    for (int32_t rank = 0; rank < world; rank++) {
        int status;
        assert_int_equal(waitpid(pids[rank], &status, 0), pids[rank]);
        if (rank == lost)
            assert_true(WIFSIGNALED(status));
        else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("rank %d of %d ended with status %#x", (int)rank, (int)world, (unsigned)status);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
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

static void one_fails(nb_ranks *r) {
    nb_error err = {0};
    int32_t all[MOST], mine = 0;
    if (nb_ranks_rank(r) == 1) {
        nb_fail(&err, NB_NO_MEMORY, "no memory for a thing");
        CHECK(nb_ranks_speaks(r));
        nb_ranks_close(r, &err);
        return;
    }
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
    CHECK(ni_ranks_gather(r, &mine, all, sizeof mine, &err) == NB_OK);
    if (nb_ranks_rank(r) == 0)
        raise(SIGKILL);
    nb_status status = NB_OK;
    while (status == NB_OK)
        status = ni_ranks_gather(r, &mine, all, sizeof mine, &err);
    CHECK(status == NB_IO_ERROR && strstr(err.message, "rank 0 of 3 is gone"));
    CHECK(nb_ranks_speaks(r) == (nb_ranks_rank(r) == 1));
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

/* ---- sums ---- */

enum { TENSORS = 5 };
static const nb_param tensors[TENSORS] = {{.rows = 33, .cols = 7, .offset = 0},
                                          {.rows = 1, .cols = 1, .offset = 240},
                                          {.rows = 100, .cols = 10, .offset = 256},
                                          {.rows = 5, .cols = 1, .offset = 1264},
                                          {.rows = 64, .cols = 4, .offset = 1280}};
static const nb_dtype types[] = {NB_F32, NB_BF16, NB_F16, NB_E4M3, NB_E5M2};

static ni_param_array gradients(nb_backend *be, nb_dtype type) {
    ni_param_array out;
    nb_error err = {0};
    if (ni_param_array_create(be, tensors, TENSORS, type, NB_RULE_POW2, "gradients", &out, &err) != NB_OK)
        abort();
    return out;
}

/* The gradients of micro-batch `index`: of many sizes. */
static void fill(ni_param_array *grads, int64_t index) {
    float x[1000];
    for (int32_t t = 0; t < TENSORS; t++) {
        const int64_t n = grads->at[t].length;
        for (int64_t i = 0; i < n; i++)
            x[i] = (float)(exp2((double)(index % 7) - t) * 1e-3 * normal((uint32_t)(10 * index + t), i));
        const ni_scaled to = ni_param_array_at(grads, t);
        if (grads->dtype == NB_F32)
            grads->be->ops->upload(grads->be, to.data, x, (size_t)n * sizeof *x);
        else
            grads->be->ops->scaled_encode(grads->be, &to, x, n);
    }
}

static void add_up(ni_param_array *grads, int64_t first, int64_t count) {
    ni_accumulator acc;
    nb_error err = {0};
    if (ni_accumulator_create(grads, count, &acc, &err) != NB_OK)
        abort();
    for (int64_t i = first; i < first + count; i++) {
        fill(grads, i);
        ni_accumulator_add(&acc, grads);
    }
    ni_accumulator_free(&acc);
}

/* ---- a card: memory that sums reach through its companion ---- */

static int marks_set, marks_met;

static void *card_alloc(nb_backend *be, size_t bytes, const char *what) {
    return ni_host_alloc(be, bytes, what);
}

static nb_status card_open(nb_backend *be, nb_backend **worker, nb_error *err) {
    const nb_backend_options one = {.threads = 1};
    (void)be;
    return nb_backend_open("cpu", &one, worker, err);
}

static nb_status card_enter(nb_backend *worker, nb_error *err) {
    (void)worker;
    (void)err;
    return NB_OK;
}

static void *card_mark(nb_backend *be) {
    (void)be;
    marks_set++;
    return malloc(1);
}

static void card_forget(void *mark) {
    free(mark);
}

static nb_status card_await(nb_backend *worker, void *mark, nb_error *err) {
    (void)worker;
    if (!mark)
        return nb_fail(err, NB_INTERNAL, "no mark was set");
    marks_met++;
    free(mark);
    return NB_OK;
}

static const ni_companion card_companion = {card_open, card_enter, card_mark, card_await, card_forget};

/* The same over ranks, the last micro-batch's gradients becoming final from the end on while others are under way.
 * `whole`: the pass comes to its end. */
static nb_status sum_behind(ni_reducer *reducer, ni_param_array *grads, int64_t first, int64_t count, bool whole,
                            nb_error *err) {
    ni_accumulator acc;
    ni_overlap overlap;
    if (ni_accumulator_create(grads, count, &acc, err) != NB_OK)
        abort();
    for (int64_t i = first; i < first + count - 1; i++) {
        fill(grads, i);
        ni_accumulator_add(&acc, grads);
    }
    memset(grads->data, 0x7f, (size_t)grads->elements * sizeof(float)); /* what goes before it is final is wrong */
    if (!ni_overlap_begin(&overlap, reducer, &acc, grads))
        abort();
    ni_param_array last = gradients(grads->be, NB_F32);
    fill(&last, first + count - 1);
    for (int32_t t = TENSORS - 1; whole && t > 0; t--) {
        const size_t from = (size_t)tensors[t].offset;
        const size_t to = t + 1 < TENSORS ? (size_t)tensors[t + 1].offset : (size_t)grads->elements;
        memcpy((float *)grads->data + from, (float *)last.data + from, (to - from) * sizeof(float));
        ni_overlap_final(&overlap, (int64_t)from);
    }
    memcpy(grads->data, last.data, (size_t)tensors[1].offset * sizeof(float));
    nb_status status = ni_overlap_end(&overlap, whole, err);
    ni_param_array_free(&last);
    ni_accumulator_free(&acc);
    return status;
}

static bool same_bytes(nb_backend *be, const ni_param_array *a, const ni_param_array *b) {
    const size_t bytes = (size_t)a->elements * nb_dtype_size(a->dtype), scales = TENSORS * sizeof(float);
    char *x = malloc(bytes), *y = malloc(bytes);
    be->ops->download(be, x, a->data, bytes);
    be->ops->download(be, y, b->data, bytes);
    bool same = memcmp(x, y, bytes) == 0;
    if (a->scales) {
        be->ops->download(be, x, a->scales, scales);
        be->ops->download(be, y, b->scales, scales);
        same = same && memcmp(x, y, scales) == 0;
    }
    free(x);
    free(y);
    return same;
}

static int32_t near; /* ranks of a machine */

/* Every rank adds up its part; then all have what one would have made of the whole. */
static void sum(nb_ranks *r) {
    const int32_t rank = nb_ranks_rank(r), world = nb_ranks_world(r);
    const int64_t share = world == 2 ? 8 : 4, all = share * world;
    nb_backend *cpu;
    nb_error err = {0};
    const nb_backend_options one = {.threads = 1};
    CHECK(nb_backend_open("cpu", &one, &cpu, &err) == NB_OK);
    ni_backend_ops card_ops = *cpu->ops;
    card_ops.alloc = card_alloc;
    nb_backend card = *cpu;
    card.ops = &card_ops;
    card.companion = &card_companion;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int64_t chunk = 0; chunk < (types[t] == NB_F32 ? 4 : 1); chunk++) {
            nb_backend *be = chunk == 3 ? &card : cpu;
            r->near = near;
            ni_param_array mine = gradients(be, types[t]), whole = gradients(be, types[t]);
            ni_reducer reducer;
            add_up(&whole, 0, all);
            add_up(&mine, rank * share, share);
            CHECK(ni_reducer_create(r, &mine, &reducer, &err) == NB_OK);
            if (chunk == 1 || chunk == 3)
                reducer.chunk = 112; /* many, the last one short */
            if (chunk >= 2)
                CHECK(sum_behind(&reducer, &mine, rank * share, share, true, &err) == NB_OK);
            else
                CHECK(ni_reduce(&reducer, &mine, &err) == NB_OK);
            CHECK(same_bytes(be, &mine, &whole));
            float numbers[3] = {1e8f + (float)rank, 1, (float)rank}, want[3] = {0};
            CHECK(ni_reduce_numbers(&reducer, be, numbers, 3, true, &err) == NB_OK);
            for (int32_t i = 0; i < world; i++)
                want[2] += (float)i;
            CHECK(numbers[1] == (float)world && numbers[2] == want[2]);
            if (chunk == 3)
                CHECK(marks_set > 0 && marks_set == marks_met);
            if (chunk >= 2) /* a pass that fails, on all ranks here, ends the thread */
                CHECK(sum_behind(&reducer, &mine, rank * share, share, false, &err) == NB_OK && !reducer.aside);
            ni_reducer_free(&reducer);
            ni_param_array_free(&mine);
            ni_param_array_free(&whole);
        }
    nb_backend_free(cpu);
    nb_ranks_close(r, NULL);
}

static void sums_are_those_of_one(void **state) {
    (void)state;
    for (int32_t world = 2; world <= MOST; world++)
        for (near = 1; near <= world; near *= 2)
            if (world % near == 0)
                run_ranks(world, 60, -1, sum);
    near = 2; /* three machines of two */
    run_ranks(6, 60, -1, sum);
}

/* ---- sums under one scale (arXiv:2310.18313), against tests/golden/auto_scale.safetensors ---- */

enum { SHARED = 4 };
static const nb_param shared[SHARED] = {{.rows = 96, .cols = 1, .offset = 0},
                                        {.rows = 160, .cols = 1, .offset = 96},
                                        {.rows = 24, .cols = 1, .offset = 256},
                                        {.rows = 1, .cols = 1, .offset = 280}};
static nb_dtype shared_type;

/* WORLD.TYPE.NAME of the file: `step` of its first dimension, and `of` of what follows. */
static const char *golden(const nb_ranks *r, const ni_safetensors *file, const char *name, int64_t step, int64_t of) {
    char full[64];
    snprintf(full, sizeof full, "%d.%s.%s", (int)nb_ranks_world(r), nb_dtype_name(shared_type), name);
    const ni_file_tensor *t = ni_safetensors_find(file, full);
    CHECK(t != NULL);
    const int64_t middle = t->rank == 3 ? t->shape[1] : 1;
    return (const char *)t->data + (int64_t)t->bytes / (t->shape[0] * middle) * (step * middle + of);
}

static void sum_as_published(nb_ranks *r) {
    const int32_t rank = nb_ranks_rank(r);
    const nb_backend_options one = {.threads = 1};
    const nb_gradient_store how = {.format = shared_type,
                                   .exchange = {.rule = NB_EXCHANGE_FP8_LM, .saturated = 1e-5, .steps = 1000}};
    nb_backend *be;
    ni_safetensors *file;
    ni_param_array grads;
    ni_reducer reducer;
    ni_auto_scale x;
    nb_error err = {0};
    CHECK(nb_backend_open("cpu", &one, &be, &err) == NB_OK);
    CHECK(ni_safetensors_open(NI_TEST_GOLDEN "/auto_scale.safetensors", &file, &err) == NB_OK);
    CHECK(ni_param_array_create(be, shared, SHARED, how.format, how.scale, "gradients", &grads, &err) == NB_OK);
    r->near = near;
    CHECK(ni_reducer_create(r, &grads, &reducer, &err) == NB_OK);
    CHECK(ni_auto_scale_create(r, &grads, &how, &x, &err) == NB_OK);
    reducer.joined = true;
    const size_t elements = (size_t)grads.elements;
    for (int64_t step = 0; step < 5; step++) {
        memcpy(grads.data, golden(r, file, "codes", step, rank), elements);
        memcpy(grads.scales, golden(r, file, "scales", step, rank), SHARED * sizeof(float));
        CHECK(ni_auto_scale_before(&x, &grads, &err) == NB_OK);
        CHECK(ni_reduce(&reducer, &grads, &err) == NB_OK);
        CHECK(ni_auto_scale_after(&x, &grads, &err) == NB_OK);
        CHECK(memcmp(grads.data, golden(r, file, "sums", step, 0), elements) == 0);
        CHECK(memcmp(grads.scales, golden(r, file, "sum_scales", step, 0), SHARED * sizeof(float)) == 0);
        CHECK(memcmp(x.mu, golden(r, file, "mu", step, 0), SHARED * sizeof(float)) == 0);
    }
    ni_auto_scale_free(&x);
    ni_reducer_free(&reducer);
    ni_param_array_free(&grads);
    ni_safetensors_close(file);
    nb_backend_free(be);
    nb_ranks_close(r, NULL);
}

static void sums_under_one_scale_are_the_papers(void **state) {
    (void)state;
    for (int type = 0; type < 2; type++)
        for (int32_t world = 2; world <= 4; world += 2)
            for (near = 1; near <= world; near *= 2) {
                shared_type = type ? NB_E5M2 : NB_E4M3;
                run_ranks(world, 60, -1, sum_as_published);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(launchers_are_understood),
                                       cmocka_unit_test(half_an_environment_is_refused),
                                       cmocka_unit_test(first_hosts),
                                       cmocka_unit_test(ranks_talk),
                                       cmocka_unit_test(others_hear_of_it),
                                       cmocka_unit_test(nobody_waits_for_ever),
                                       cmocka_unit_test(sums_are_those_of_one),
                                       cmocka_unit_test(sums_under_one_scale_are_the_papers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
