/* trainer.c: one optimizer step, and what it needs: model, data, moments, accumulation. */
#include "trainer.h"
#include "backend/table.h"
#include "scales.h"

#include "base/progress.h"
#include "model/config_keys.h"
#include "model/hf.h"
#include "model/loss.h"
#include "model/masters.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory that ran out ---- */

static void append(nb_error *err, const char *format, ...) NB_PRINTF(2, 3);
static void append(nb_error *err, const char *format, ...) {
    const size_t used = strlen(err->message);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->message + used, sizeof err->message - used, format, arguments);
    va_end(arguments);
}

void ni_hint_at_memory(const nb_run_config *config, nb_error *err) {
    if (!err || err->status != NB_NO_MEMORY || strstr(err->message, "; hint: "))
        return;
    append(err, "; hint: ");
    if (config->recompute != NB_RECOMPUTE_BLOCK)
        append(err, "recompute: %s, ", config->recompute == NB_RECOMPUTE_NONE ? "mlp or block" : "block");
    if (config->micro_batch > 1)
        append(err, "micro_batch: %lld with accumulation: %lld, ", (long long)config->micro_batch / 2,
               (long long)config->accumulation * 2);
    append(err, "head_rows: 512; `nibble plan` with the same run file and keys says where the bytes go");
}

/* ---- making and unmaking ---- */

static nb_status open_data(nb_trainer *t, nb_error *err) {
    const nb_run_config *c = &t->config;
    NB_TRY(ni_run_tokenizer(c, t->model_config.vocab, &t->tokenizer, &t->end_of_text, err));
    ni_dataset_options options = {.seq = c->seq,
                                  .vocab = t->model_config.vocab,
                                  .end_of_text = t->end_of_text,
                                  .cross_documents = c->data.cross_documents,
                                  .shuffle = true,
                                  .seed = (uint32_t)c->seeds.data};
    const char *path = c->data.train;
    if (ni_dataset_open(&path, 1, &options, &t->train, err) != NB_OK)
        return nb_fail_within(err, "data.train");
    NB_TRY(ni_batch_buffer_create(c->micro_batch, c->seq, &t->batch, err));
    if (c->data.val[0])
        return ni_open_validation(c, c->data.val, t->model_config.vocab, t->end_of_text, &t->val, err);
    return NB_OK;
}

/* Sequences of one document each, all of the same token: what they hold matters to nobody. */
static nb_status write_paper_batch(nb_trainer *t, nb_error *err) {
    NB_TRY(ni_batch_buffer_create(t->config.micro_batch, t->config.seq, &t->batch, err));
    const ni_dataset_buffers *b = &t->batch.buffers;
    for (int64_t i = 0; i < t->config.micro_batch * t->config.seq; i++) {
        b->tokens[i] = b->targets[i] = b->doc_start[i] = 0;
        b->positions[i] = (int32_t)(i % t->config.seq);
    }
    return NB_OK;
}

static nb_status check_lengths(const nb_trainer *t, nb_error *err) {
    if (t->config.seq > t->model_config.max_seq)
        return nb_fail(err, NB_BAD_CONFIG, "seq: %lld tokens are beyond max_seq %d of model %s; hint: a shorter seq",
                       (long long)t->config.seq, t->model_config.max_seq, t->model_config.name);
    return NB_OK;
}

nb_status ni_trainer_renew_combiner(nb_trainer *t, nb_error *err) {
    int64_t first;
    const int64_t count = ni_trainer_share(t, &first);
    ni_combiner_free(&t->combiner);
    return ni_combiner_create(t->model, t->be, nb_ranks_world(t->ranks), count, &t->combiner, err);
}

static nb_status permit(nb_trainer *t, nb_error *err) {
    const nb_run_config *c = &t->config;
    const ni_permits permits = {.any_order = !c->deterministic,
                                .no_fp8 = c->fp8_units == NB_FP8_NONE,
                                .exact_fp8 = c->fp8_units == NB_FP8_EXACT || c->fp8_units == NB_FP8_MXFP4,
                                .mxfp4_fp8 = c->fp8_units == NB_FP8_MXFP4,
                                .native_fp4 = c->native_fp4};
    return t->be->ops->permit(t->be, &permits, err);
}

static nb_status check_share(const nb_trainer *t, nb_error *err) {
    const char *what = t->config.share == NB_SHARE_GRADIENTS ? "gradients" : "moments";
    if (t->config.share != NB_SHARE_NONE && t->recipe.mechanisms.has_qramping)
        return nb_fail(err, NB_BAD_USAGE,
                       "share: %s: the calibrations of qramping copy all moments, expected to be on every rank; hint: "
                       "share: none",
                       what);
    if (t->config.share == NB_SHARE_GRADIENTS && t->recipe.gradients.format != NB_F32)
        return nb_fail(err, NB_BAD_USAGE,
                       "share: gradients: recipe %s keeps them in %s; expected fp32; hint: share: moments",
                       t->recipe.name, nb_dtype_name(t->recipe.gradients.format));
    return NB_OK;
}

/* No pass will ask for a weight in BF16 that the recipe has in codes. */
static bool reads_codes_alone(const nb_trainer *t) {
    const nb_late_switch *late = &t->recipe.late_switch;
    return late->at >= 1 && late->rho == 0 && t->be->ops->take_codes;
}

nb_status ni_trainer_create_model(nb_trainer *t, nb_error *err) {
    const nb_model_options how = ni_run_model_options(&t->config);
    const bool many = nb_ranks_world(t->ranks) > 1, on_paper = !t->train; /* there ranks are counted afterwards */
    const bool codes = t->config.share != NB_SHARE_NONE && reads_codes_alone(t);
    const ni_model_shared shared = {.hands_on = many && t->config.share == NB_SHARE_GRADIENTS,
                                    .hands_codes = (many || on_paper) && codes,
                                    .parted = many && codes};
    NB_TRY(ni_model_create(t->be, &t->model_config, &t->working_recipe, &how, &shared, &t->model, err));
    if (!t->share.first) /* a model that is made anew has the same tensors */
        NB_TRY(ni_share_create(t->ranks, t->model, t->config.share, &t->share, err));
    return ni_model_part_masters(t->model, t->share.begin, t->share.end, ni_trainer_looks(t), err);
}

nb_status ni_trainer_renew_handed(nb_trainer *t, nb_error *err) {
    ni_hand_over_free(&t->handed);
    return ni_hand_over_create(&t->share, t->model, &t->reducer, NI_HANDED_BYTES, &t->handed, err);
}

/* An embedding lies first; what its rows get beside the step's tokens is nothing, or what the head gives them. */
static nb_status create_reducer(nb_trainer *t, nb_error *err) {
    const ni_param_array *grads = ni_model_gradients(t->model);
    const nb_param *table = nb_model_param(t->model, 0);
    const bool alone = grads->sections > 1 && grads->section[1] == 1 && grads->dtype == t->be->real;
    const bool head = t->model_config.tied;
    if (alone && table->embedding && !(head && t->share.gradients)) /* whose sums go to an owner whole */
        NB_TRY(ni_touched_create(t->ranks, table->rows, table->cols, &t->touched, err));
    t->touched.head = head;
    t->touched.owned = t->share.sums && ni_share_owner(&t->share, 0) == 0;
    return ni_reducer_create(t->ranks, grads, t->share.sums ? t->share.elements : NULL, &t->touched, &t->reducer, err);
}

static nb_status build(nb_trainer *t, const nb_trainer_options *o, nb_error *err) {
    const nb_run_config *c = &t->config;
    const bool on_paper = o && o->on_paper;
    int64_t first;
    NB_TRY(ni_share_of(c, nb_ranks_world(t->ranks), &first, err));
    NB_TRY(permit(t, err));
    NB_TRY(
        ni_model_config_load(c->model, t->models_dir, c->model_changes, c->model_change_count, &t->model_config, err));
    NB_TRY(nb_recipe_load(c->recipe, t->recipes_dir, &t->recipe, err));
    t->working_recipe = t->recipe;
    NB_TRY(nb_recipe_check_steps(&t->recipe, t->steps, err));
    NB_TRY(check_share(t, err));
    NB_TRY(check_lengths(t, err));
    NB_TRY(on_paper ? write_paper_batch(t, err) : open_data(t, err));
    if (o && o->before_memory)
        NB_TRY(o->before_memory(o->before_user, t, err));
    NB_TRY(ni_trainer_create_model(t, err));
    if (!on_paper)
        nb_model_init_within(t->model, (uint32_t)c->seeds.init, c->init.cut);
    NB_TRY(ni_optimizer_create(t->be, t->model, &t->recipe.optimizer_state, t->share.begin, t->share.end, &t->optimizer,
                               err));
    NB_TRY(ni_accumulator_create(ni_model_gradients(t->model), ni_trainer_share(t, &first), &t->accumulator, err));
    NB_TRY(create_reducer(t, err));
    NB_TRY(ni_trainer_renew_handed(t, err));
    NB_TRY(ni_shared_gradients_create(&t->share, &t->reducer, &t->accumulator, t->model, &t->shared, err));
    NB_TRY(ni_auto_scale_create(t->ranks, ni_model_gradients(t->model), &t->recipe.gradients, &t->auto_scale, err));
    t->reducer.joined = t->auto_scale.count > 0;
    NB_TRY(ni_trainer_renew_combiner(t, err));
    t->suspects = calloc((size_t)nb_ranks_world(t->ranks), sizeof *t->suspects);
    if (!t->suspects)
        return nb_fail(err, NB_NO_MEMORY, "trainer: out of memory");
    return ni_results_create(t->be, ni_model_gradients(t->model), c->accumulation, nb_ranks_world(t->ranks),
                             t->share.sums, &t->results, err);
}

nb_status nb_trainer_create(nb_backend *be, const nb_run_config *config, const nb_trainer_options *options,
                            nb_trainer **out, nb_error *err) {
    *out = NULL;
    if (be->real != NB_F32)
        return nb_fail(err, NB_UNSUPPORTED, "trainer: backend %s keeps masters in %s; expected f32", be->name,
                       nb_dtype_name(be->real));
    nb_trainer *t = calloc(1, sizeof *t);
    if (!t)
        return nb_fail(err, NB_NO_MEMORY, "trainer: out of memory");
    t->be = be;
    t->config = *config;
    t->steps = nb_run_steps(config);
    if (options) {
        t->callbacks = options->callbacks;
        t->peak_flops = options->peak_flops;
        t->branches = options->branches;
        t->branch_count = options->branch_count;
        t->ranks = options->ranks;
        t->guest = nb_ranks_rank(t->ranks) == 0 ? options->lens : NULL; /* micro-batch 0 is rank 0's */
        if (nb_ranks_rank(t->ranks) > 0)
            t->callbacks = (nb_train_callbacks){.user = options->callbacks.user, .stop = options->callbacks.stop};
    }
    snprintf(t->recipes_dir, sizeof t->recipes_dir, "%s",
             options && options->recipes_dir ? options->recipes_dir : "recipes");
    snprintf(t->models_dir, sizeof t->models_dir, "%s",
             options && options->models_dir ? options->models_dir : "models");
    nb_status status = build(t, options, err);
    if (status != NB_OK) {
        ni_hint_at_memory(config, err);
        nb_trainer_free(t);
        return status;
    }
    *out = t;
    return NB_OK;
}

void nb_trainer_free(nb_trainer *t) {
    if (!t)
        return;
    ni_overlap_free(&t->overlap);
    ni_results_free(&t->results);
    free(t->suspects);
    ni_combiner_free(&t->combiner);
    ni_auto_scale_free(&t->auto_scale);
    ni_hand_over_free(&t->handed);
    ni_shared_gradients_free(&t->shared);
    ni_reducer_free(&t->reducer);
    ni_touched_free(&t->touched);
    ni_accumulator_free(&t->accumulator);
    ni_optimizer_free(&t->optimizer);
    ni_share_free(&t->share);
    nb_model_free(t->model);
    ni_batch_buffer_free(&t->batch);
    ni_dataset_free(t->train);
    ni_dataset_free(t->val);
    ni_tokenizer_free(t->tokenizer);
    ni_kept_free(&t->kept);
    free(t);
}

void nb_trainer_set_peak(nb_trainer *t, double flops) {
    t->peak_flops = flops;
}

void nb_trainer_set_floor(nb_trainer *t, double seconds) {
    t->floor_seconds = seconds;
}

int64_t nb_trainer_steps_done(const nb_trainer *t) {
    return t->at.step;
}

nb_model *nb_trainer_model(nb_trainer *t) {
    return t->model;
}

const nb_recipe *nb_trainer_recipe(const nb_trainer *t) {
    return &t->working_recipe;
}

nb_model_options ni_run_model_options(const nb_run_config *config) {
    return (nb_model_options){.batch = config->micro_batch,
                              .seq = config->seq,
                              .training = true,
                              .recompute = config->recompute,
                              .head_rows = config->head_rows};
}

/* ---- where the run stands ---- */

static bool is_passed(const ni_position *at, int64_t number) {
    for (int32_t i = 0; i < at->passed_count; i++)
        if (at->passed[i] == number)
            return true;
    return false;
}

static void next_data(ni_position *at) {
    do
        at->next_batch++;
    while (is_passed(at, at->next_batch));
}

void ni_trainer_skip(nb_trainer *t) {
    t->at.step++;
    next_data(&t->at);
}

nb_status ni_trainer_pass_over(nb_trainer *t, int64_t number, nb_error *err) {
    ni_position *at = &t->at;
    if (number < 0 || is_passed(at, number))
        return NB_OK;
    if (at->passed_count == NI_PASSED_MAX)
        return nb_fail(err, NB_BAD_NUMBER, "bad_numbers: %d batches were passed over already; the run does not recover",
                       NI_PASSED_MAX);
    int32_t i = at->passed_count++;
    for (; i > 0 && at->passed[i - 1] > number; i--)
        at->passed[i] = at->passed[i - 1];
    at->passed[i] = number;
    if (at->next_batch == number)
        next_data(at);
    return NB_OK;
}

/* ---- one step ---- */

static nb_status bad_step(nb_trainer *t, const nb_step_report *r, ni_bad_kind kind, const char *what, double value,
                          nb_error *err) {
    t->bad = kind;
    value = isnan(value) ? fabs(value) : value; /* the sign of a NaN means nothing */
    return nb_fail(err, NB_BAD_NUMBER, "step %lld: %s %.4g", (long long)r->step, what, value);
}

static nb_status check_numbers(nb_trainer *t, const nb_step_report *r, nb_error *err) {
    const double limit = t->config.bad_numbers.spike_z > 0 ? t->config.bad_numbers.spike_z : INFINITY;
    char what[NI_SCALES_TEXT];
    t->bad = NI_BAD_NONE;
    if (!isfinite(r->loss))
        return bad_step(t, r, NI_BAD_NONFINITE, "loss is", r->loss, err);
    if (!isfinite(r->norm))
        return bad_step(t, r, NI_BAD_NONFINITE, "gradient norm is", r->norm, err);
    if (r->norm == 0)
        return bad_step(t, r, NI_BAD_ZERO, "every gradient is", 0, err);
    if (r->loss_z > limit)
        return bad_step(t, r, NI_BAD_SPIKE, "loss jumps by standard deviations:", r->loss_z, err);
    if (r->norm_z > limit)
        return bad_step(t, r, NI_BAD_SPIKE, "gradient norm jumps by standard deviations:", r->norm_z, err);
    if (t->dead && t->config.bad_numbers.scales == NB_SCALES_BAD) {
        t->bad = NI_BAD_DEAD;
        return nb_fail(err, NB_BAD_NUMBER, "step %lld: %d parameters get no gradient, %s among them",
                       (long long)r->step, t->dead, nb_model_param(t->model, t->first_dead)->name);
    }
    if (t->scales && ni_scale_watch_text(t->scales, what, sizeof what)) {
        t->bad = NI_BAD_SCALES;
        return nb_fail(err, NB_BAD_NUMBER, "step %lld: %s", (long long)r->step, what);
    }
    return NB_OK;
}

static void fill_times(nb_trainer *t, nb_step_report *r, double seconds) {
    r->ms = seconds * 1e3;
    r->tokens_per_second = (double)nb_run_tokens_per_step(&t->config) / seconds;
    double flops = nb_model_flops_per_token(t->model, t->config.seq);
    const double peak = t->peak_flops * nb_ranks_world(t->ranks);
    r->mfu = peak > 0 ? flops * r->tokens_per_second / peak : NAN;
    r->light = t->floor_seconds > 0 ? t->floor_seconds / seconds : NAN;
    t->mean_ms = t->mean_ms > 0 ? 0.9 * t->mean_ms + 0.1 * r->ms : r->ms;
    r->seconds_left = (double)(t->steps - r->step) * t->mean_ms * 1e-3;
}

/* The update, and what mechanisms do after it. */
static nb_status move(nb_trainer *t, const nb_lens *lens, const ni_param_array *grads, double lr, double grad_scale,
                      nb_error *err) {
    nb_pass pass = ni_trainer_pass(t, 0);
    pass.lens = nb_ranks_rank(t->ranks) == 0 ? lens : NULL;
    ni_combiner_before(&t->combiner, t->model, &t->reducer);
    ni_optimizer_update(&t->optimizer, t->model, grads, &t->config, lr, grad_scale, true);
    nb_status status = ni_hand_over_masters(&t->handed, err);
    if (status == NB_OK)
        status = nb_model_after_step(t->model, &pass, err);
    if (status == NB_OK)
        status = ni_combiner_after(&t->combiner, t->model, &t->reducer, err);
    nb_model_params_changed(t->model);
    if (status == NB_OK)
        status = ni_hand_over_codes(&t->handed, &pass, err);
    if (status != NB_OK || t->handed.seen.theirs) /* who reads parcels where they are has waited for what was made */
        return status;
    return t->be->ops->synchronize(t->be, err);
}

static const size_t *shared_parts(const nb_trainer *t) {
    return t->share.sums ? t->share.parts : NULL;
}

nb_status ni_trainer_rehearse(nb_trainer *t, int64_t step, nb_error *err) {
    const ni_param_array *grads = ni_trainer_gradients(t);
    double loss, squares;
    t->at.step = t->at.next_batch = step;
    NB_TRY(ni_trainer_accumulate(t, t->lens, err));
    NB_TRY(ni_results_fetch(&t->results, grads, t->ranks, shared_parts(t), &loss, &squares, err));
    return move(t, NULL, grads, t->config.optimizer.lr, 1, err);
}

/* The watch looks at micro-batch 0, which is rank 0's. */
static nb_status share_scales(nb_trainer *t, nb_error *err) {
    ni_scale_watch *w = t->scales;
    if (!w)
        return NB_OK;
    const nb_lens lens = w->lens;
    NB_TRY(ni_ranks_broadcast(t->ranks, w, sizeof *w, err));
    w->lens = lens;
    return NB_OK;
}

/* Parameters without a gradient, among all, and the first. */
static nb_status find_dead(nb_trainer *t, const ni_param_array *grads, nb_error *err) {
    struct {
        int32_t dead, first;
    } mine = {0}, *all;
    static_assert(sizeof mine <= NI_RANKS_WORD, "ranks tell each other so much at once");
    mine.dead = ni_results_dead(&t->results, grads, &mine.first);
    t->dead = mine.dead;
    t->first_dead = mine.first;
    if (!t->share.sums)
        return NB_OK;
    all = ni_ranks_words(t->ranks);
    NB_TRY(ni_ranks_gather(t->ranks, &mine, all, sizeof mine, err));
    t->dead = 0;
    for (int32_t i = nb_ranks_world(t->ranks) - 1; i >= 0; i--) { /* tensors of ranks lie one after the other */
        t->dead += all[i].dead;
        t->first_dead = all[i].dead ? all[i].first : t->first_dead;
    }
    return NB_OK;
}

/* Who looks at this step: the run's lens, the guest, and the recipe where it asks for it. */
static const nb_lens *lens_of_step(nb_trainer *t) {
    const nb_late_switch *late = &t->recipe.late_switch;
    const nb_lens *lens = ni_lens_join(&t->both, t->lens, t->guest);
    t->drowned.operands = t->drowned.drowned = 0;
    if (t->at.drowned || !ni_drowned_is_due(late, t->at.step))
        return lens;
    return ni_lens_join(&t->with_drowned, lens, ni_drowned_begin(&t->drowned, late));
}

/* What rank 0 saw, for all. */
static nb_status share_drowned(nb_trainer *t, nb_error *err) {
    const nb_late_switch *late = &t->recipe.late_switch;
    if (t->at.drowned || !ni_drowned_is_due(late, t->at.step))
        return NB_OK;
    const nb_lens lens = t->drowned.lens;
    NB_TRY(ni_ranks_broadcast(t->ranks, &t->drowned, sizeof t->drowned, err));
    t->drowned.lens = lens;
    return NB_OK;
}

static nb_status step(nb_trainer *t, nb_step_report *r, nb_error *err) {
    memset(r, 0, sizeof *r);
    double begin = ni_seconds(), squares;
    double scale = 1.0 / (double)t->config.accumulation;
    const nb_lens *lens = lens_of_step(t);
    r->step = t->at.step + 1;
    r->steps = t->steps;
    NB_TRY(ni_trainer_calibrate(t, err));
    NB_TRY(ni_trainer_accumulate(t, lens, err));
    const ni_param_array *grads = ni_trainer_gradients(t);
    NB_TRY(ni_results_fetch(&t->results, grads, t->ranks, shared_parts(t), &r->loss, &squares, err));
    NB_TRY(t->be->ops->synchronize(t->be, err)); /* the numbers are the backend's only if nothing went wrong */
    r->fp32_rows = t->be->mended ? t->be->mended(t->be) : 0;
    NB_TRY(share_scales(t, err));
    NB_TRY(share_drowned(t, err));
    r->norm = sqrt(squares) * scale;
    t->last_norm = r->norm;
    t->dead = 0;
    if (t->wants_dead && isfinite(squares))
        NB_TRY(find_dead(t, grads, err));
    r->lr = t->config.optimizer.lr * nb_schedule_factor(&t->config.schedule, t->at.step, t->steps);
    r->loss_z = ni_window_score(&t->at.loss_window, r->loss);
    r->norm_z = ni_window_score(&t->at.norm_window, r->norm);
    nb_status status = check_numbers(t, r, err);
    if (status == NB_OK) {
        t->torn = true;
        status = move(t, lens, grads, r->lr, scale * ni_clip_factor(r->norm, t->config.clip), err);
        if (status == NB_OK && t->seen) /* what looks at weights after a step does so with what was looked at in it */
            status = ni_hand_over_whole(&t->handed, err);
        t->torn = status != NB_OK;
        ni_window_push(&t->at.loss_window, r->loss);
        ni_window_push(&t->at.norm_window, r->norm);
        t->at.step++;
        next_data(&t->at);
        if (!t->at.drowned && ni_drowned_too_many(&t->drowned, &t->recipe.late_switch))
            t->at.drowned = t->at.step;
    } else {
        NB_TRY(ni_hand_over_whole(&t->handed, err)); /* who looks for the origin reads them */
    }
    fill_times(t, r, ni_seconds() - begin);
    return status;
}

nb_status nb_trainer_step(nb_trainer *t, nb_step_report *r, nb_error *err) {
    const nb_status status = step(t, r, err);
    if (status == NB_NO_MEMORY)
        ni_hint_at_memory(&t->config, err);
    return status;
}
