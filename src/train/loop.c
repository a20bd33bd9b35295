/* loop.c: a whole run in its folder (run_folder.c): start or resume, steps, evaluations, checkpoints, metrics, and what
 * happens when a number goes bad. */
#include "alike.h"
#include "announce.h"
#include "arrivals.h"
#include "checkpoint.h"
#include "checkpoint_state.h"
#include "recorder.h"
#include "run_folder.h"
#include "scales.h"
#include "trainer.h"

#include "backend/table.h"
#include "dist/nccl.h"
#include "model/hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct run {
    nb_trainer *t;
    ni_recorder *recorder;
    const char *from; /* FORK, BRANCH: the checkpoint of another run that this one began with; NULL: none */
    nb_start as;
    int lock;      /* the run folder, held against a second writer */
    int64_t saved; /* step of the last checkpoint, and of the last one that failed; -1 = none */
    int64_t unsaved;
    int64_t bad_in_row;
    ni_scale_watch scales;
    ni_lens_pair both;                        /* what the run records, and the watch over its scales */
    bool scales_told, dead_told, mended_told; /* once is enough for people; metrics.jsonl has every look */
    int64_t bad_until;                        /* newest step that was bad: past it the run has recovered */
} run;

/* ---- where it begins ---- */

static nb_status open_recorder(run *r, nb_error *err) {
    ni_recorder_close(r->recorder);
    r->recorder = NULL;
    if (!ni_writes(r->t))
        return NB_OK;
    NB_TRY(ni_recorder_open(&r->t->config, r->t->at.step, r->t->at.evaluated, &r->recorder, err));
    return NB_OK;
}

/* An evaluation of this step whose line was lost is made again. */
static nb_status look_for_evaluation(nb_trainer *t, nb_error *err) {
    char path[NI_RUN_PATH_SIZE];
    bool told = true;
    nb_status status = NB_OK;
    snprintf(path, sizeof path, "%s/metrics.jsonl", t->config.out);
    if (ni_writes(t) && t->at.step > 0 && t->at.evaluated == t->at.step)
        status = ni_metrics_tell(path, t->at.step, &told, err);
    NB_TRY(nb_ranks_agree(t->ranks, status, err));
    NB_TRY(ni_ranks_broadcast(t->ranks, &told, sizeof told, err));
    if (!told)
        t->at.evaluated = t->at.step - 1;
    return NB_OK;
}

/* Loads it; rank 0 says which it is. */
static nb_status load_newest(run *r, char *path, size_t size, nb_error *err) {
    nb_trainer *t = r->t;
    memset(path, 0, size);
    NB_TRY(nb_ranks_agree(t->ranks, ni_writes(t) ? ni_run_folder_newest(t, path, size, err) : NB_OK, err));
    NB_TRY(ni_ranks_broadcast(t->ranks, path, size, err));
    path[size - 1] = 0;
    return path[0] ? nb_ranks_agree(t->ranks, nb_trainer_load(t, path, NB_START_RESUME, err), err) : NB_OK;
}

static nb_status take_over(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    NB_TRY(nb_ranks_agree(t->ranks, nb_trainer_load(t, r->from, r->as, err), err));
    ni_note(t, NB_NOTE_INFO, "%s from %s at step %lld", r->as == NB_START_FORK ? "forked" : "branched", r->from,
            (long long)t->at.step);
    return NB_OK;
}

/* From the run's own newest checkpoint; without one from another run's, or from step 0 where there is none. */
static nb_status go_on(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    char path[NI_RUN_PATH_SIZE];
    NB_TRY(load_newest(r, path, sizeof path, err));
    if (!path[0] && r->from)
        return take_over(r, err);
    NB_TRY(look_for_evaluation(t, err));
    if (path[0])
        ni_note(t, NB_NOTE_INFO, "resumed from %s", path);
    else
        ni_note(t, NB_NOTE_INFO, "no checkpoint in %s: starting at step 0", t->config.out);
    r->saved = path[0] ? t->at.step : -1;
    return NB_OK;
}

/* A folder named as the model gives its sizes alone: who meant its parameters is told. */
static void say_random_parameters(const run *r, nb_start start) {
    const nb_trainer *t = r->t;
    if (start == NB_START_FORK || r->saved >= 0 || t->at.step > 0 || !ni_model_is_folder(t->config.model))
        return;
    ni_note(t, NB_NOTE_WARNING,
            "model: %s is a folder of trained parameters, and this run takes its sizes alone and begins with random "
            "numbers; hint: --from %s goes on from what it learnt",
            t->config.model, t->config.model);
}

/* ---- evaluations and checkpoints ---- */

static bool is_due(int64_t every, int64_t step, int64_t steps) {
    return step == steps || (every > 0 && step > 0 && step % every == 0);
}

static bool branches_here(const nb_trainer *t) {
    for (int32_t i = 0; i < t->branch_count; i++)
        if (t->branches[i] == t->at.step)
            return true;
    return false;
}

/* What side logs have to say: a run goes on without them. */
static void tell_notes(run *r) {
    char text[NI_RECORDER_NOTE];
    while (r->recorder && ni_recorder_take_note(r->recorder, text, sizeof text))
        ni_note(r->t, NB_NOTE_WARNING, "%s", text);
}

static nb_status write_checkpoint(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    char path[NI_RUN_PATH_SIZE];
    ni_checkpoint_path(t->config.out, t->at.step, path, sizeof path);
    if (r->recorder)
        ni_recorder_sync(r->recorder);
    tell_notes(r);
    r->unsaved = t->at.step;
    NB_TRY(nb_trainer_save(t, path, err));
    r->unsaved = -1;
    ni_note(t, NB_NOTE_INFO, "checkpoint %s", path);
    nb_error kept = {0};
    if (ni_checkpoint_prune(t->config.out, t->config.checkpoint.keep, t->at.step, t->branches, t->branch_count,
                            &kept) != NB_OK)
        ni_note(t, NB_NOTE_WARNING, "old checkpoints stay: %s", kept.message);
    return NB_OK;
}

/* Rank 0 writes, the others give it what it lacks. */
static nb_status write_together(run *r, ni_state_server *server, nb_error *err) {
    nb_error ignored = {0};
    if (!ni_writes(r->t))
        return ni_state_serve(server, err);
    const nb_status status = write_checkpoint(r, err), served = ni_state_served(r->t, status == NB_OK ? err : &ignored);
    return status == NB_OK ? served : status;
}

/* Those that do not write, before rank 0 looks at its own parameters and begins. */
static nb_status get_ready(const run *r, ni_state_server **server, nb_error *err) {
    if (ni_writes(r->t) || !r->t->share.out)
        return NB_OK;
    if (ni_trainer_check_params(r->t, err) != NB_OK)
        return nb_fail_within(err, "no checkpoint is written");
    return ni_state_server_create(r->t, server, err);
}

static nb_status save(run *r, nb_error *err) {
    ni_state_server *server = NULL;
    if (r->saved == r->t->at.step)
        return NB_OK;
    nb_status status = nb_ranks_agree(r->t->ranks, get_ready(r, &server, err), err);
    if (status == NB_OK)
        status = nb_ranks_agree(r->t->ranks, write_together(r, server, err), err);
    ni_state_server_free(server);
    if (status == NB_OK)
        r->saved = r->t->at.step;
    return status;
}

static nb_status stop_here(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    if (t->at.step == 0)
        return nb_fail(err, NB_INTERRUPTED, "stopped before the first step was done");
    NB_TRY(save(r, err));
    return nb_fail(err, NB_INTERRUPTED, "stopped after step %lld of %lld, checkpoint written; hint: --resume goes on",
                   (long long)t->at.step, (long long)t->steps);
}

static nb_status evaluate(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    if (!t->val || t->at.evaluated == t->at.step)
        return NB_OK;
    nb_eval_report report;
    nb_status status = nb_trainer_evaluate(t, &report, err);
    if (status == NB_INTERRUPTED)
        return stop_here(r, err);
    NB_TRY(status);
    t->at.evaluated = t->at.step;
    if (t->callbacks.evaluation)
        t->callbacks.evaluation(t->callbacks.user, &report);
    ni_recorder_evaluation(r->recorder, &report);
    tell_notes(r);
    if (r->saved != t->at.step)
        return NB_OK;
    r->saved = -1; /* the checkpoint of this step says that it was not evaluated */
    return save(r, err);
}

/* The way out of a run that fails: the last good state becomes a checkpoint, where there is one and the disk lets it.
 * Rank 0 has all of it, and asks nobody: the others may be gone. Where it has not (share), nothing is kept. Returns
 * whether the newest checkpoint is that of the present step. */
static bool keep_last_good(run *r) {
    nb_trainer *t = r->t;
    nb_error none = {0};
    if (!ni_writes(t) || t->share.out || t->torn || t->at.step == 0 || r->unsaved == t->at.step || !t->model)
        return false;
    if (r->saved != t->at.step && write_checkpoint(r, &none) != NB_OK)
        return false;
    r->saved = t->at.step;
    return true;
}

/* How long a thread that waits for another rank's news looks for it before it sleeps: one that slept woke up to 2.6 ms
 * late on a busy host. */
static const double LOOK_SECONDS = 2e-3;

/* GPUs exchange among themselves where they can. */
static nb_status meet_devices(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    char how[256] = "";
    bool met;
    if (!t->ranks || strncmp(t->be->name, "cuda", 4) != 0)
        return NB_OK;
    NB_TRY(ni_ranks_use_nccl(t->ranks, how, sizeof how, err));
    if (t->ranks->device.trade)
        ni_note(t, NB_NOTE_INFO, "gradients go from GPU to GPU by %s", how);
    else
        ni_note(t, NB_NOTE_WARNING, "gradients of other ranks go through the host's memory: %s", how);
    t->reducer.look = ni_ranks_look(t->ranks, LOOK_SECONDS);
    NB_TRY(ni_reducer_meet_neighbours(&t->reducer, ni_model_gradients(t->model), &met, err));
    NB_TRY(ni_arrivals_meet(&t->handed, err));
    if (met)
        ni_note(t, NB_NOTE_INFO, "GPUs of one machine read each other's gradients where they are");
    return NB_OK;
}

static nb_status begin(run *r, nb_start start, nb_error *err) {
    nb_trainer *t = r->t;
    NB_TRY(nb_ranks_agree(t->ranks, nb_trainer_check(t, start, r->from, err), err));
    NB_TRY(ni_trainer_check_alike(t, err));
    NB_TRY(meet_devices(r, err));
    if (start == NB_START_FORK) /* before there is a folder: a damaged checkpoint leaves none behind */
        NB_TRY(take_over(r, err));
    NB_TRY(nb_ranks_agree(t->ranks, ni_run_folder_take(t, &r->lock, err), err));
    if (start == NB_START_RESUME || start == NB_START_BRANCH)
        NB_TRY(go_on(r, err));
    NB_TRY(nb_ranks_agree(t->ranks, ni_run_folder_sweep(t, err), err));
    say_random_parameters(r, start);
    ni_announce_run(t);
    NB_TRY(nb_ranks_agree(t->ranks, ni_run_folder_describe(t, err), err));
    if (start == NB_START_FORK) /* --resume must never begin elsewhere */
        NB_TRY(save(r, err));
    return nb_ranks_agree(t->ranks, open_recorder(r, err), err);
}

/* ---- bad numbers ---- */

static const char *policy_name(nb_bad_policy policy) {
    static const char *const names[] = {"stop", "skip", "rollback", "bf16"};
    return names[policy];
}

/* The sentence with which the run ends. */
static nb_status give_up(run *r, const char *what, const char *where, nb_error *err) {
    nb_trainer *t = r->t;
    char path[NI_RUN_PATH_SIZE] = "";
    nb_error none;
    if (t->share.out && !t->torn && t->at.step > 0) /* all ranks give up alike */
        save(r, &none);
    keep_last_good(r);
    bool good = nb_checkpoint_newest(t->config.out, path, sizeof path, NULL, NULL, &none) == NB_OK;
    return nb_fail(err, NB_BAD_NUMBER,
                   "%s%s%s; parameters are those of step %lld, newest good checkpoint: %s; hint: --resume with a "
                   "bad_numbers.policy of skip, rollback or bf16, or a lower optimizer.lr",
                   what, where[0] ? ni_trainer_origin_words(t) : "", where, (long long)t->at.step,
                   good ? path : "none");
}

static void skip_step(run *r, nb_step_report *report) {
    nb_trainer *t = r->t;
    ni_trainer_skip(t);
    report->skipped = true;
    if (t->callbacks.step)
        t->callbacks.step(t->callbacks.user, report);
    ni_recorder_step(r->recorder, report, t->at.step * nb_run_tokens_per_step(&t->config), t->model);
    tell_notes(r);
}

static nb_status roll_back(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    int64_t bad = t->at.next_batch, passed = t->at.passed_count;
    int64_t *earlier = malloc(sizeof t->at.passed);
    if (!earlier)
        return nb_fail(err, NB_NO_MEMORY, "rollback: out of memory");
    memcpy(earlier, t->at.passed, sizeof t->at.passed);
    char path[NI_RUN_PATH_SIZE];
    nb_status status = load_newest(r, path, sizeof path, err);
    if (status == NB_OK && !path[0])
        status = nb_ranks_agree(t->ranks,
                                r->from ? nb_trainer_load(t, r->from, r->as, err) : ni_trainer_restart(t, err), err);
    for (int64_t i = 0; status == NB_OK && i < passed; i++)
        status = ni_trainer_pass_over(t, earlier[i], err);
    for (int64_t i = 0; status == NB_OK && i < t->config.bad_numbers.pass_over; i++)
        status = ni_trainer_pass_over(t, bad - i, err);
    free(earlier);
    if (status != NB_OK)
        return nb_fail_within(err, "rollback");
    r->saved = path[0] ? t->at.step : -1;
    return nb_ranks_agree(t->ranks, open_recorder(r, err), err);
}

/* Deals with a step that nb_trainer_step refused. NB_OK: the run goes on from where the trainer stands now. */
static nb_status deal_with(run *r, nb_step_report *report, nb_error *err) {
    nb_trainer *t = r->t;
    nb_bad_policy policy = t->config.bad_numbers.policy;
    char what[sizeof err->message], where[3 * NB_NAME_SIZE];
    snprintf(what, sizeof what, "%s", err->message);
    ni_trainer_find_origin(t, where, sizeof where);
    const char *words = where[0] ? ni_trainer_origin_words(t) : "";
    r->bad_in_row++;
    if (report->step > r->bad_until)
        r->bad_until = report->step;
    bool exhausted = r->bad_in_row > t->config.bad_numbers.patience || (policy == NB_BAD_BF16 && t->at.modules_in_bf16);
    if (policy == NB_BAD_STOP || exhausted) {
        ni_recorder_bad_number(r->recorder, report->step, what, where, "stop", false);
        return give_up(r, what, where, err);
    }
    if (policy == NB_BAD_ROLLBACK)
        NB_TRY(roll_back(r, err));
    if (policy == NB_BAD_BF16)
        NB_TRY(nb_ranks_agree(t->ranks, ni_trainer_modules_to_bf16(t, err), err));
    ni_note(t, NB_NOTE_WARNING, "%s%s%s; policy %s: on from step %lld", what, words, where, policy_name(policy),
            (long long)t->at.step);
    ni_recorder_bad_number(r->recorder, t->at.step, what, where, policy_name(policy), policy == NB_BAD_BF16);
    if (policy == NB_BAD_SKIP)
        skip_step(r, report);
    tell_notes(r);
    return NB_OK;
}

/* ---- the loop ---- */

/* Who looks at the step that comes now. */
static void choose_lens(run *r) {
    nb_trainer *t = r->t;
    int64_t every = t->config.bad_numbers.scales_every;
    t->lens = ni_recorder_lens(r->recorder, t->at.step);
    r->scales.operands = 0;
    t->scales = t->config.bad_numbers.scales == NB_SCALES_BAD ? &r->scales : NULL;
    t->wants_dead = every > 0 && t->at.step % every == 0;
    if (t->wants_dead)
        t->lens = ni_lens_join(&r->both, t->lens, ni_scale_watch_begin(&r->scales, t->config.bad_numbers.scales_limit));
}

static void tell_scales(run *r) {
    nb_trainer *t = r->t;
    char what[NI_SCALES_TEXT];
    if (!ni_scale_watch_text(&r->scales, what, sizeof what))
        return;
    if (!r->scales_told)
        ni_note(t, NB_NOTE_WARNING, "step %lld: %s, %s", (long long)t->at.step, what, r->scales.where);
    r->scales_told = true;
    ni_recorder_warning(r->recorder, t->at.step, "bad scales", what, r->scales.where);
}

static void tell_dead(run *r) {
    nb_trainer *t = r->t;
    char what[64];
    if (!t->dead)
        return;
    const char *where = nb_model_param(t->model, t->first_dead)->name;
    snprintf(what, sizeof what, "%d parameters get no gradient", t->dead);
    if (!r->dead_told)
        ni_note(t, NB_NOTE_WARNING, "step %lld: %s, %s among them", (long long)t->at.step, what, where);
    r->dead_told = true;
    ni_recorder_warning(r->recorder, t->at.step, "no gradient", what, where);
}

/* The step that was just taken was the last with a quantized backward pass. */
static nb_status tell_drowned(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    const ni_drowned_watch *w = &t->drowned;
    char what[128];
    if (t->at.drowned != t->at.step || w->drowned == 0)
        return NB_OK;
    snprintf(what, sizeof what, "%d of %d gradients drown in their rounding noise; from here on backward in BF16",
             w->drowned, w->operands);
    ni_note(t, NB_NOTE_WARNING, "step %lld: %s (least rho %.3g, %s)", (long long)t->at.step, what, w->least, w->where);
    ni_recorder_warning(r->recorder, t->at.step, "drowned gradients", what, w->where);
    return ni_run_folder_census(t, err);
}

/* The first step in which FP8 units did not hold all rows. */
static void tell_mended(run *r, int64_t rows) {
    if (rows == 0 || r->mended_told)
        return;
    r->mended_told = true;
    ni_note(r->t, NB_NOTE_INFO,
            "step %lld: %lld rows of operands span more than FP8 holds exactly and were multiplied in FP32; "
            "fp32_rows in metrics.jsonl counts them",
            (long long)r->t->at.step, (long long)rows);
}

static nb_status advance(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    nb_step_report report;
    choose_lens(r);
    nb_status status = nb_trainer_step(t, &report, err);
    if (status == NB_INTERRUPTED)
        return stop_here(r, err);
    if (status == NB_BAD_NUMBER)
        return deal_with(r, &report, err);
    NB_TRY(status);
    if (t->at.step > r->bad_until)
        r->bad_in_row = 0;
    if (t->callbacks.step)
        t->callbacks.step(t->callbacks.user, &report);
    tell_scales(r);
    tell_dead(r);
    tell_mended(r, report.fp32_rows);
    NB_TRY(tell_drowned(r, err));
    ni_recorder_step(r->recorder, &report, t->at.step * nb_run_tokens_per_step(&t->config), t->model);
    tell_notes(r);
    return NB_OK;
}

/* What follows a step. */
static nb_status look_back(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    if (is_due(t->config.eval.every, t->at.step, t->steps))
        NB_TRY(evaluate(r, err));
    if (is_due(t->config.checkpoint.every, t->at.step, t->steps) || branches_here(t))
        NB_TRY(save(r, err));
    return NB_OK;
}

static nb_status loop(run *r, nb_error *err) {
    nb_trainer *t = r->t;
    if (r->saved == t->at.step) /* an evaluation that a stop cut off */
        NB_TRY(look_back(r, err));
    while (t->at.step < t->steps) {
        NB_TRY(advance(r, err));
        NB_TRY(look_back(r, err));
    }
    return NB_OK;
}

nb_status nb_trainer_run(nb_trainer *t, nb_start start, const char *from, nb_error *err) {
    bool other = start == NB_START_FORK || start == NB_START_BRANCH;
    run r = {.t = t, .from = other ? from : NULL, .as = start, .lock = -1, .saved = -1, .unsaved = -1, .bad_until = -1};
    nb_status status = begin(&r, start, err);
    if (status == NB_OK) {
        status = loop(&r, err);
        if (status != NB_OK && status != NB_INTERRUPTED && status != NB_BAD_NUMBER && keep_last_good(&r) && err) {
            size_t used = strlen(err->message);
            snprintf(err->message + used, sizeof err->message - used, "; the state after step %lld is saved%s",
                     (long long)t->at.step, strstr(err->message, "--resume") ? "" : "; hint: --resume goes on");
        }
    }
    if (status == NB_OK || status == NB_INTERRUPTED || status == NB_BAD_NUMBER) { /* what all came to alike, one says */
        ni_arrivals_part(&t->handed);
        ni_neighbours_free(&t->reducer.neighbours); /* before that word: memory that nobody reads may be freed */
        status = nb_ranks_agree(t->ranks, status, err);
    }
    ni_announce_waits(t);
    ni_recorder_close(r.recorder);
    t->lens = NULL;
    t->scales = NULL;
    if (r.lock >= 0)
        close(r.lock);
    return status;
}
