/* test_sums.c: sums over ranks are those of one process: whole, in chunks, behind a pass, by owners; under one scale
 * they are what an independent program makes of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "files/safetensors.h"
#include "rank_card.h"
#include "train/accumulate.h"
#include "train/auto_scale.h"
#include "train/overlap.h"
#include "train/reduce.h"

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
    const int32_t sections[] = {0, 2, TENSORS};
    if (ni_param_array_take_sections(&out, 2, sections, &err) != NB_OK)
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

/* The same over ranks, the last micro-batch's gradients becoming final from the end on while others are under way.
 * `whole`: the pass comes to its end. */
static nb_status sum_behind(ni_reducer *reducer, ni_param_array *grads, int64_t first, int64_t count, bool whole,
                            nb_error *err) {
    ni_accumulator acc;
    ni_overlap overlap = {0};
    if (ni_accumulator_create(grads, count, &acc, err) != NB_OK)
        abort();
    for (int64_t i = first; i < first + count - 1; i++) {
        fill(grads, i);
        ni_accumulator_add(&acc, grads);
    }
    memset(grads->data, 0x7f, (size_t)grads->elements * sizeof(float)); /* what goes before it is final is wrong */
    if (!ni_overlap_begin(&overlap, reducer, &acc, grads, NULL, 0))
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
    ni_overlap_free(&overlap);
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
    card a_card = {0};
    nb_backend *apart = take_card(&a_card, r, false);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int64_t chunk = 0; chunk < (types[t] == NB_F32 ? 4 : 1); chunk++) {
            nb_backend *be = chunk == 3 ? apart : cpu;
            r->near = near;
            ni_param_array mine = gradients(be, types[t]), whole = gradients(be, types[t]);
            ni_reducer reducer;
            add_up(&whole, 0, all);
            add_up(&mine, rank * share, share);
            CHECK(ni_reducer_create(r, &mine, NULL, NULL, &reducer, &err) == NB_OK);
            if (chunk == 1 || chunk == 3)
                reducer.chunk = 112; /* many, the last one short */
            if (chunk >= 2)
                CHECK(sum_behind(&reducer, &mine, rank * share, share, true, &err) == NB_OK);
            else
                CHECK(ni_reduce(&reducer, &mine, &err) == NB_OK);
            CHECK(same_bytes(be, &mine, &whole));
            float numbers[3] = {1e8f + (float)rank, 1, (float)rank}, want[3] = {0}, room[3 * MOST];
            CHECK(ni_reduce_numbers(&reducer, be, numbers, 3, room, &err) == NB_OK);
            for (int32_t i = 0; i < world; i++)
                want[2] += (float)i;
            CHECK(numbers[1] == (float)world && numbers[2] == want[2]);
            if (chunk == 3)
                CHECK(cards.marks_set > 0 && cards.marks_set == cards.marks_met);
            if (chunk >= 2) /* a pass that fails, on all ranks here, ends the thread */
                CHECK(sum_behind(&reducer, &mine, rank * share, share, false, &err) == NB_OK && !reducer.aside);
            ni_reducer_free(&reducer);
            ni_param_array_free(&mine);
            ni_param_array_free(&whole);
        }
    free_card(&a_card);
    nb_backend_free(cpu);
    nb_ranks_close(r, NULL);
}

/* To each rank in turn, in many chunks; what belongs between tensors goes along. */
static void sum_to_owners(nb_ranks *r) {
    const int32_t rank = nb_ranks_rank(r), world = nb_ranks_world(r);
    const nb_backend_options one = {.threads = 1};
    nb_backend *be;
    nb_error err = {0};
    CHECK(nb_backend_open("cpu", &one, &be, &err) == NB_OK);
    ni_param_array mine = gradients(be, NB_F32), whole = gradients(be, NB_F32);
    ni_reducer reducer;
    int64_t begin[MOST + 1];
    r->near = near;
    add_up(&whole, 0, world);
    for (int32_t i = 0; i <= world; i++)
        begin[i] = whole.elements * i / world;
    CHECK(ni_reducer_create(r, &mine, begin, NULL, &reducer, &err) == NB_OK);
    for (int32_t to = 0; to < world; to++) {
        for (int64_t from = 0; from < whole.elements; from += 256) {
            const int64_t n = whole.elements - from < 256 ? whole.elements - from : 256;
            reducer.chunk = 112;
            fill(&mine, rank);
            CHECK(ni_reduce_to(&reducer, (float *)mine.data + from, n, to, &err) == NB_OK);
            CHECK(rank != to || memcmp((float *)mine.data + from, (float *)whole.data + from, (size_t)n * 4) == 0);
        }
    }
    fill(&mine, rank);
    CHECK(ni_reduce(&reducer, &mine, &err) == NB_OK);
    CHECK(memcmp((float *)mine.data + begin[rank], (float *)whole.data + begin[rank],
                 (size_t)(begin[rank + 1] - begin[rank]) * 4) == 0);
    ni_reducer_free(&reducer);
    ni_param_array_free(&mine);
    ni_param_array_free(&whole);
    nb_backend_free(be);
    nb_ranks_close(r, NULL);
}

/* Real gradients that come in parts, back to front: sub-sums and the sum are those of whole ones. */
static void parts_add_up_as_wholes(void **state) {
    (void)state;
    const nb_backend_options one = {.threads = 1};
    nb_backend *be;
    assert_int_equal(nb_backend_open("cpu", &one, &be, NULL), NB_OK);
    for (int64_t count = 1; count <= 9; count++) {
        ni_param_array whole = gradients(be, NB_F32), part = gradients(be, NB_F32);
        ni_accumulator acc;
        add_up(&whole, 0, count);
        assert_int_equal(ni_accumulator_create(&part, count, &acc, NULL), NB_OK);
        for (int64_t i = 0; i < count; i++) {
            fill(&part, i);
            ni_accumulator_open(&acc);
            for (int32_t t = TENSORS - 1; t >= 0; t--)
                ni_accumulator_add_part(&acc, (float *)part.data + part.at[t].offset, part.at[t].offset,
                                        part.at[t].length);
            ni_accumulator_shut(&acc);
        }
        assert_true(same_bytes(be, &part, &whole));
        ni_accumulator_free(&acc);
        ni_param_array_free(&part);
        ni_param_array_free(&whole);
    }
    nb_backend_free(be);
}

static void sums_are_those_of_one(void **state) {
    (void)state;
    make_cards();
    for (int32_t world = 2; world <= MOST; world++)
        for (near = 1; near <= world; near *= 2)
            if (world % near == 0)
                run_ranks(world, 60, -1, sum);
    near = 2; /* three machines of two */
    run_ranks(6, 60, -1, sum);
    for (int32_t world = 2; world <= 5; world++)
        run_ranks(world, 60, -1, sum_to_owners);
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
    CHECK(ni_reducer_create(r, &grads, NULL, NULL, &reducer, &err) == NB_OK);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(parts_add_up_as_wholes),
                                       cmocka_unit_test(sums_are_those_of_one),
                                       cmocka_unit_test(sums_under_one_scale_are_the_papers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
