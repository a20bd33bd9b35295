/* test_hand_over.c: ranks that keep the masters of their own weights alone compute what one does that has all, however
 * many rounds codes go in; and rank 0 gets masters where it has a place for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "format/bf16.h"
#include "model/masters.h"
#include "model_case.h"
#include "rank_card.h"
#include "train/arrivals.h"

static const nb_pass first = {.step = 3, .steps = 10, .rounding_seed = 9};

typedef struct own_part {
    nb_model *model;
    ni_share share;
    ni_reducer reducer;
    ni_hand_over handed;
} own_part;

/* This rank's part of a model; rank 0 has a place for all masters where it `looks`. */
static void make_part(nb_ranks *r, nb_backend *be, const nb_model_config *config, const nb_recipe *recipe, bool looks,
                      size_t most, own_part *out) {
    const nb_model_options how = {.batch = CASE_BATCH, .seq = CASE_SEQ, .training = true};
    const ni_model_shared shared = {.hands_codes = true, .parted = true};
    r->near = nb_ranks_world(r);
    CHECK(ni_model_create(be, config, recipe, &how, &shared, &out->model, NULL) == NB_OK);
    CHECK(ni_share_create(r, out->model, NB_SHARE_MOMENTS, &out->share, NULL) == NB_OK);
    CHECK(ni_model_part_masters(out->model, out->share.begin, out->share.end, looks && nb_ranks_rank(r) == 0, NULL) ==
          NB_OK);
    CHECK(ni_reducer_create(r, ni_model_gradients(out->model), NULL, NULL, &out->reducer, NULL) == NB_OK);
    CHECK(ni_hand_over_create(&out->share, out->model, &out->reducer, most, &out->handed, NULL) == NB_OK);
    if (r->neighbours) {
        bool met;
        CHECK(ni_reducer_meet_neighbours(&out->reducer, ni_model_gradients(out->model), &met, NULL) == NB_OK && met);
        CHECK(ni_arrivals_meet(&out->handed, NULL) == NB_OK && out->handed.seen.theirs);
    }
    out->handed.looks = looks;
    nb_model_init(out->model, 1234);
}

static void free_part(own_part *p) {
    ni_hand_over_free(&p->handed);
    ni_reducer_free(&p->reducer);
    ni_share_free(&p->share);
    nb_model_free(p->model);
}

/* Owners move their masters: so that what was drawn at the start is old. */
static void move(nb_model *model, int32_t begin, int32_t end) {
    for (int32_t i = begin; i < end; i++) {
        const nb_param *p = nb_model_param(model, i);
        float *w = ni_model_master(model, i).data;
        for (int64_t j = 0; j < p->rows * p->cols; j++)
            w[j] += (float)(0.1 * normal((uint32_t)i, j));
    }
    nb_model_params_changed(model);
}

static void expect_gradients(nb_ranks *r, nb_model *part, nb_model *whole) {
    const size_t bytes = (size_t)nb_model_param_elements(whole) * sizeof(float);
    case_batch b;
    double loss[2];
    make_case_batch(&b, nb_model_get_config(whole)->vocab, 5);
    memset(nb_model_grads(part), 0, bytes);
    memset(nb_model_grads(whole), 0, bytes);
    CHECK(nb_model_loss_and_grads(part, &b.batch, &first, &loss[0], NULL) == NB_OK);
    CHECK(nb_model_loss_and_grads(whole, &b.batch, &first, &loss[1], NULL) == NB_OK);
    CHECK(loss[0] == loss[1]);
    CHECK(memcmp(nb_model_grads(part), nb_model_grads(whole), bytes) == 0);
}

static void hand_over(nb_ranks *r, const nb_recipe *recipe, bool looks, size_t most) {
    card a_card = {0};
    nb_backend *cpu = cpu_with(1, NB_ISA_AUTO), *be = cards.memory ? take_card(&a_card, r, true) : cpu;
    nb_model_config config = case_config(NB_LLAMA, false);
    nb_model *whole = case_model(cpu, &config, recipe, true);
    own_part p = {0};
    make_part(r, be, &config, recipe, looks, most, &p);
    CHECK(p.handed.any && p.handed.due);
    CHECK(most > 1 || r->neighbours ? p.handed.rounds == 1 : p.handed.rounds > 8);
    CHECK(ni_hand_over_due(&p.handed, &first, NULL) == NB_OK && !p.handed.due);
    expect_gradients(r, p.model, whole);
    hear(r); /* as of losses: the others' passes have read what was laid out */
    move(whole, 0, nb_model_param_count(whole));
    move(p.model, p.share.begin, p.share.end);
    CHECK(ni_hand_over_masters(&p.handed, NULL) == NB_OK);
    nb_model_params_changed(p.model);
    for (int i = 0; i < 2; i++) /* again, though no pass came between */
        CHECK(ni_hand_over_codes(&p.handed, &first, NULL) == NB_OK);
    expect_gradients(r, p.model, whole);
    CHECK(ni_hand_over_whole(&p.handed, NULL) == NB_OK);
    int lacking = 0;
    for (int32_t i = 0; i < nb_model_param_count(whole); i++) {
        const nb_param *param = nb_model_param(whole, i);
        const float *here = ni_model_master(p.model, i).data, *want = (float *)nb_model_params(whole) + param->offset;
        const bool read = param->embedding && !ni_hand_over_has(&p.handed, i) && !(looks && nb_ranks_rank(r) == 0);
        lacking += !here;
        for (int64_t j = 0; here && j < param->rows * param->cols; j++) /* of an embedding others have what is read */
            CHECK(here[j] == (read ? ni_bf16_value(ni_bf16_even(want[j])) : want[j]));
    }
    CHECK((lacking == 0) == (looks && nb_ranks_rank(r) == 0));
    hear(r);
    free_part(&p);
    nb_model_free(whole);
    if (be != cpu)
        free_card(&a_card);
    nb_backend_free(cpu);
}

static void of_every_kind(nb_ranks *r) {
    const nb_recipe recipes[] = {nvfp4_recipe(), bf16_recipe()};
    for (int i = 0; i < 2; i++)
        for (int looks = 0; looks < 2; looks++) {
            hand_over(r, &recipes[i], looks, NI_HANDED_BYTES);
            hand_over(r, &recipes[i], looks, 1); /* a parcel a round */
        }
    nb_ranks_close(r, NULL);
}

static void ranks_compute_of_codes(void **state) {
    (void)state;
    run_ranks(2, 60, -1, of_every_kind);
    run_ranks(3, 60, -1, of_every_kind);
}

static void ranks_read_what_others_laid_out(void **state) {
    make_cards();
    ranks_compute_of_codes(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranks_compute_of_codes),
                                       cmocka_unit_test(ranks_read_what_others_laid_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
