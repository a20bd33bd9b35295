/* test_touched.c: of a table the rows that any rank touches are summed, and before them the others where it is the
 * head, to the bits of a sum of the whole: at once, behind a pass, to an owner; in one go and in many.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "rank_card.h"
#include "train/accumulate.h"
#include "train/overlap.h"
#include "train/reduce.h"

enum { ROWS = 45, WIDTH = 12, REST = 700, TENSORS = 2, TABLE = ROWS * WIDTH };
static const nb_param tensors[TENSORS] = {{.rows = ROWS, .cols = WIDTH, .offset = 0},
                                          {.rows = REST, .cols = 1, .offset = 544}};
static int32_t near;    /* ranks of a machine */
static bool head;       /* all rows have gradients, and those that nobody touches first */
static bool reached;    /* ranks read each other's rows */
static int64_t at_once; /* rows that are together; 0: as many as there is room for */

/* Tokens of a rank: some rows are those of many, one is that of the last rank alone, and some are nobody's. */
static int64_t tokens_of(int32_t rank, int32_t world, int32_t *tokens) {
    int64_t n = 0;
    for (int32_t row = 0; row < ROWS - 1; row++)
        if ((row * 7 + rank * 3) % 5 < 2 && row % 9)
            tokens[n++] = row;
    if (rank == world - 1)
        tokens[n++] = ROWS - 1;
    return n;
}

static void fill(ni_param_array *grads, int32_t rank, const int32_t *tokens, int64_t n) {
    float *x = grads->data;
    memset(x, 0, (size_t)grads->elements * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        for (int32_t c = 0; c < WIDTH; c++)
            x[tokens[i] * WIDTH + c] = (float)(1e-3 * normal((uint32_t)rank, tokens[i] * WIDTH + c));
    for (int32_t i = 0; head && i < TABLE; i++)
        x[i] += (float)normal((uint32_t)rank + 50, i);
    for (int32_t i = 0; i < REST; i++)
        x[tensors[1].offset + i] = (float)normal((uint32_t)rank + 100, i);
}

static ni_param_array gradients(nb_backend *be) {
    ni_param_array out;
    const int32_t sections[] = {0, 1, TENSORS};
    if (ni_param_array_create(be, tensors, TENSORS, NB_F32, NB_RULE_POW2, "gradients", &out, NULL) != NB_OK ||
        ni_param_array_take_sections(&out, 2, sections, NULL) != NB_OK)
        abort();
    return out;
}

/* Whether the other rank's rows came before the pass had left the table. */
static bool sum_behind(nb_ranks *r, ni_reducer *reducer, ni_param_array *grads) {
    ni_accumulator acc;
    ni_overlap overlap = {0};
    CHECK(ni_accumulator_create(grads, 1, &acc, NULL) == NB_OK);
    CHECK(ni_overlap_begin(&overlap, reducer, &acc, grads, NULL, 0));
    ni_overlap_final(&overlap, tensors[1].offset);
    CHECK(ni_overlap_end(&overlap, true, NULL) == NB_OK);
    ni_overlap_free(&overlap);
    ni_accumulator_free(&acc);
    return overlap.fetched;
}

static bool same(const ni_param_array *a, const ni_param_array *b, int64_t n) {
    return memcmp(a->data, b->data, (size_t)n * sizeof(float)) == 0;
}

static void sum(nb_ranks *r) {
    const int32_t rank = nb_ranks_rank(r), world = nb_ranks_world(r);
    const nb_backend_options one = {.threads = 1};
    int32_t tokens[ROWS + 1];
    const int64_t n = tokens_of(rank, world, tokens);
    card a_card = {0};
    nb_backend *be = reached ? take_card(&a_card, r, true) : NULL;
    ni_touched touched;
    ni_reducer whole, rows, owned;
    int64_t begin[6];
    CHECK(reached || nb_backend_open("cpu", &one, &be, NULL) == NB_OK);
    r->near = near;
    ni_param_array want = gradients(be), got = gradients(be);
    for (int32_t i = 0; i <= world; i++) /* the table is rank 0's */
        begin[i] = i == 0 ? 0 : tensors[1].offset + REST * i / world;
    CHECK(ni_touched_create(r, ROWS, WIDTH, &touched, NULL) == NB_OK);
    CHECK(ni_reducer_create(r, &want, NULL, NULL, &whole, NULL) == NB_OK);
    CHECK(ni_reducer_create(r, &got, NULL, &touched, &rows, NULL) == NB_OK);
    CHECK(ni_reducer_create(r, &got, begin, &touched, &owned, NULL) == NB_OK);
    touched.head = head;
    bool met[2] = {reached, reached};
    if (reached)
        CHECK(ni_reducer_meet_neighbours(&rows, &got, &met[0], NULL) == NB_OK &&
              ni_reducer_meet_neighbours(&owned, &got, &met[1], NULL) == NB_OK);
    CHECK(met[0] == reached && met[1] == reached);
    rows.rows.most = owned.rows.most = at_once ? at_once : rows.rows.most;
    if (reached) /* many, of which the first to go waits for others */
        rows.chunk = 112;
    if (reached && at_once)
        owned.chunk = 112;
    fill(&want, rank, tokens, n);
    CHECK(ni_reduce(&whole, &want, NULL) == NB_OK);
    for (int32_t step = 0; step < 3; step++) { /* marks of a step are not those of the next */
        ni_touched_begin(&touched);
        ni_touched_note(&touched, tokens, n / 2);
        ni_touched_note(&touched, tokens + n / 2, n - n / 2);
        fill(&got, rank, tokens, n);
        if (step == 1)
            sum_behind(r, &rows, &got);
        else
            CHECK(ni_reduce(&rows, &got, NULL) == NB_OK);
        CHECK(same(&got, &want, want.elements));
        hear(r);
        CHECK(touched.count > n && touched.count < ROWS - 4 && touched.list[touched.count - 1] == ROWS - 1);
    }
    const int64_t from = begin[rank], own = begin[rank + 1] - from;
    touched.owned = true;
    for (int32_t behind = 0; behind < 2; behind++) {
        fill(&got, rank, tokens, n);
        if (behind)
            CHECK(sum_behind(r, &owned, &got) == (reached && world == 2 && rank == 0 && !head && !at_once));
        else
            CHECK(ni_reduce(&owned, &got, NULL) == NB_OK);
        CHECK(memcmp((float *)got.data + from, (float *)want.data + from, (size_t)own * sizeof(float)) == 0);
        hear(r);
    }
    touched.owned = false;
    for (int32_t to = 0; !head && to < world; to++) {
        fill(&got, rank, tokens, n);
        CHECK(ni_reducer_meet_rows(&owned, NULL) == NB_OK);
        CHECK(ni_reduce_rows_to(&owned, got.data, to, NULL) == NB_OK);
        CHECK(rank != to || same(&got, &want, TABLE));
        hear(r);
    }
    ni_reducer_free(&whole);
    ni_reducer_free(&rows);
    ni_reducer_free(&owned);
    ni_touched_free(&touched);
    ni_param_array_free(&want);
    ni_param_array_free(&got);
    if (reached)
        free_card(&a_card);
    else
        nb_backend_free(be);
    nb_ranks_close(r, NULL);
}

static void rows_are_summed_as_a_whole_table(void **state) {
    (void)state;
    for (int32_t i = 0; i < 2; i++) {
        head = i;
        for (int32_t world = 2; world <= 5; world++)
            for (near = 1; near <= 2; near++)
                for (at_once = 0; at_once <= 4 && world % near == 0; at_once += 4)
                    run_ranks(world, 60, -1, sum);
    }
}

/* Two, who read all rows of each other, and four; in one round, in two and in many. */
static void rows_are_read_where_they_are(void **state) {
    (void)state;
    make_cards();
    reached = true;
    for (int32_t i = 0; i < 2; i++) {
        head = i;
        for (int32_t world = 2; world <= 4; world += 2)
            for (at_once = 0; at_once <= 20; at_once = at_once ? 5 * at_once : 4) {
                near = world;
                run_ranks(world, 60, -1, sum);
            }
    }
    reached = false;
}

static void nothing_is_noted_where_nobody_shares(void **state) {
    (void)state;
    const int32_t token = 3;
    ni_touched touched;
    assert_int_equal(ni_touched_create(NULL, ROWS, WIDTH, &touched, NULL), NB_OK);
    ni_touched_begin(&touched);
    ni_touched_note(&touched, &token, 1);
    assert_null(touched.mine);
    ni_touched_free(&touched);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_summed_as_a_whole_table),
                                       cmocka_unit_test(rows_are_read_where_they_are),
                                       cmocka_unit_test(nothing_is_noted_where_nobody_shares)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
