/* plan.c: `nibble plan`: a training step on paper: memory, bytes, FLOPs, calls, and the least time on a machine. */
#include "backend/paper/paper.h"
#include "cli/cli.h"
#include "cli/on_paper.h"
#include "cli/plan_process.h"
#include "cli/plan_ranks.h"
#include "cli/runs.h"
#include "cli/screen.h"
#include "model/handed.h"
#include "model/hf.h"
#include "nibble/train.h"
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct plan_options {
    ni_texts set;
    const char *machine;
    int64_t step, ranks;
} plan_options;

static const ni_option options[] = {
    {"set", 0, NI_OPTION_TEXTS, offsetof(plan_options, set), "KEY=VALUE", "change a key of the run file; repeatable"},
    {"machine", 0, NI_OPTION_TEXT, offsetof(plan_options, machine), "FILE",
     "a machine file, or a name in machines/: times, and how operands lie"},
    {"step", 0, NI_OPTION_INT, offsetof(plan_options, step), "N",
     "the step that is planned (default 2: the first has beginnings in it)"},
    {"ranks", 0, NI_OPTION_INT, offsetof(plan_options, ranks), "N",
     "processes that share the micro-batches of the step; of a MODEL each has accumulation of them"},
    {0},
};

static const ni_command_line line = {
    .usage = "RUN.yaml [--set KEY=VALUE]... [--machine FILE [--ranks N]] [--step N]\n"
             "MODEL [--set KEY=VALUE]... [--machine FILE [--ranks N]]",
    .about =
        "What a training run would hold in memory, and what one step of it would move and compute, before anything\n"
        "runs: no data is read, nothing is allocated, a model of any size takes a second. MODEL is a model file, a "
        "name\n"
        "in models/ or a folder: 4 sequences of 2048 tokens (or the model's max_seq) in BF16, unless --set says\n"
        "otherwise.\n"
        "  nibble plan examples/tiny.yaml\n"
        "  nibble plan models/llama-1.3b.yaml --set recipe=nvfp4 --machine h100\n"
        "  nibble plan llama-8b --set recompute=block --machine b200-nvlink-ib --ranks 1024",
    .options = options,
    .least = 1,
    .most = 1,
};

/* ---- which run ---- */

/* True for a model: a name, a folder, a file that names no model itself. */
static nb_status is_model(const char *path, bool *model, nb_error *err) {
    const char *end = strrchr(path, '.');
    *model = ni_model_is_folder(path) || (!strchr(path, '/') && !(end && strcmp(end, ".yaml") == 0));
    if (*model)
        return NB_OK;
    ni_yaml doc;
    NB_TRY(ni_yaml_load(path, &doc, err));
    *model = !ni_yaml_child(doc.root, "model");
    ni_yaml_free(&doc);
    return NB_OK;
}

/* A run of that model with every key at its default; nothing follows weights. */
static nb_status run_of_model(const char *path, const plan_options *o, nb_run_config *out, nb_error *err) {
    enum { SEQUENCES = 4, TOKENS = 2048 };
    char models[NB_PATH_SIZE], text[NB_PATH_SIZE + 200];
    nb_model_config model;
    NB_TRY(ni_cli_folder("models", models, sizeof models, err));
    NB_TRY(nb_model_config_load(path, models, &model, err));
    snprintf(text, sizeof text,
             "{model: \"%s\", out: none, data: {train: none}, steps: 1000, seq: %d, micro_batch: %d, lens: {every: 0}}",
             path, model.max_seq < TOKENS ? model.max_seq : TOKENS, SEQUENCES);
    return nb_run_config_parse(text, strlen(text), path, o->set.items, o->set.count, out, err);
}

/* What one rank has of it. */
static nb_status take_share(const plan_options *o, nb_run_config *config, nb_error *err) {
    int64_t share;
    NB_TRY(ni_share_of(config, o->ranks, &share, err));
    config->accumulation = share;
    return NB_OK;
}

static nb_status load_run(const char *path, const plan_options *o, nb_run_config *out, nb_error *err) {
    bool model;
    NB_TRY(is_model(path, &model, err));
    if (model) {
        NB_TRY(ni_cli_check_model(path, err));
        return run_of_model(path, o, out, err);
    }
    NB_TRY(nb_run_config_load(path, o->set.items, o->set.count, out, err));
    return take_share(o, out, err);
}

/* ---- a step on paper ---- */

static nb_status open_paper(const nb_run_config *config, const ni_machine *machine, nb_backend **out, nb_error *err) {
    const bool hopper = machine ? machine->operands == NI_OPERANDS_HOPPER : strncmp(config->backend, "cuda", 4) == 0;
    nb_backend_options how = {.threads = config->threads, .isa = config->isa};
    if (machine && machine->threads)
        how.threads = machine->threads;
    if (machine && machine->isa != NB_ISA_AUTO)
        how.isa = machine->isa;
    return nb_backend_open(hopper ? "paper:hopper" : "paper", &how, out, err);
}

/* The step before goes first, so that what is made once and kept is there. */
static nb_status rehearse(nb_backend *be, nb_trainer *trainer, int64_t step, nb_error *err) {
    if (step > 0)
        NB_TRY(ni_trainer_rehearse(trainer, step - 1, err));
    ni_paper_start_over(ni_paper_of(be));
    return ni_trainer_rehearse(trainer, step, err);
}

nb_status ni_plan_step(const nb_run_config *config, const ni_machine *machine, double *seconds, double *model_flops,
                       nb_error *err) {
    nb_backend *be;
    nb_trainer *trainer = NULL;
    NB_TRY(open_paper(config, machine, &be, err));
    nb_status status = ni_cli_trainer_on_paper(be, config, NULL, &trainer, err);
    if (status == NB_OK)
        status = rehearse(be, trainer, 1, err);
    *seconds = *model_flops = 0;
    if (status == NB_OK) {
        const ni_paper *paper = ni_paper_of(be);
        for (int32_t i = 0; i < paper->entry_count; i++)
            *seconds += ni_machine_seconds(machine, &paper->entries[i], NULL);
        *model_flops =
            nb_model_flops_per_token(nb_trainer_model(trainer), config->seq) * (double)nb_run_tokens_per_step(config);
    }
    nb_trainer_free(trainer);
    nb_backend_free(be);
    return status;
}

/* ---- what is printed ---- */

static void print_head(nb_backend *be, nb_trainer *trainer, const nb_run_config *config, int64_t step) {
    const nb_model_config *model = nb_model_get_config(nb_trainer_model(trainer));
    const ni_paper *paper = ni_paper_of(be);
    char params[32];
    printf("%s: %s, %s parameters; recipe %s\n", model->name, nb_family_name(model->family),
           ni_short_count_text((double)nb_model_param_elements(nb_trainer_model(trainer)), params, sizeof params),
           nb_trainer_recipe(trainer)->name);
    printf("step %lld of %lld: %lld x %lld sequences of %lld tokens, %lld in all; ", (long long)step + 1,
           (long long)nb_run_steps(config), (long long)config->accumulation, (long long)config->micro_batch,
           (long long)config->seq, (long long)nb_run_tokens_per_step(config));
    if (paper->hopper)
        puts("operands as on Hopper");
    else
        printf("operands as on a CPU with %s, %d thread%s\n", nb_isa_name(paper->cpu.isa), (int)paper->cpu.threads,
               paper->cpu.threads == 1 ? "" : "s");
}

static int largest_first(const void *a, const void *b) {
    const size_t x = ((const ni_paper_purpose *)a)->peak, y = ((const ni_paper_purpose *)b)->peak;
    return (x < y) - (x > y);
}

enum { MEMORY_ROWS = NI_PAPER_PURPOSES + 4 };

/* What the step holds, largest first; returns how many rows. */
static int32_t memory_rows(const ni_paper *paper, const nb_trainer *trainer, ni_paper_purpose rows[MEMORY_ROWS],
                           double *total) {
    int32_t count = paper->purpose_count;
    memcpy(rows, paper->purposes, (size_t)count * sizeof *rows);
    rows[count++] = (ni_paper_purpose){.what = "micro-batch of tokens, on the host", .peak = trainer->batch.bytes};
    rows[count++] = (ni_paper_purpose){.what = "lens: weights that are followed, at most",
                                       .peak = ni_trainer_followed_bytes(trainer)};
    rows[count++] =
        (ni_paper_purpose){.what = "lens: what it measures, at most", .peak = ni_trainer_measured_bytes(trainer)};
    rows[count++] =
        (ni_paper_purpose){.what = "working memory of the processor", .peak = ni_paper_working_bytes(paper)};
    qsort(rows, (size_t)count, sizeof *rows, largest_first);
    *total = 0;
    for (int32_t i = 0; i < count; i++)
        *total += (double)rows[i].peak;
    return count;
}

nb_status ni_plan_memory(const nb_run_config *config, nb_ranks *ranks, ni_plan_seen *seen, void *user, double *bytes,
                         nb_error *err) {
    ni_paper_purpose rows[MEMORY_ROWS];
    nb_backend *be;
    nb_trainer *trainer = NULL;
    const bool alone = nb_ranks_world(ranks) == 1;
    NB_TRY(open_paper(config, NULL, &be, err));
    nb_status status = ni_cli_trainer_on_paper(be, config, ranks, &trainer, err);
    if (status == NB_OK && seen)
        seen(user, trainer);
    if (status == NB_OK && alone)
        status = rehearse(be, trainer, nb_run_steps(config) > 1, err);
    if (status == NB_OK && alone)
        memory_rows(ni_paper_of(be), trainer, rows, bytes);
    else if (status == NB_OK)
        *bytes = ni_memory_total(trainer); /* a step they would have to take together */
    nb_trainer_free(trainer);
    nb_backend_free(be);
    return status;
}

static void print_memory(const ni_paper *paper, const nb_trainer *trainer, double program) {
    ni_paper_purpose rows[MEMORY_ROWS];
    double total;
    char text[32];
    const int32_t count = memory_rows(paper, trainer, rows, &total);
    printf("\nmemory%62s %7s\n", "", "share");
    for (int32_t i = 0; i < count && rows[i].peak > 0; i++)
        printf("  %-52s %13s %6.1f %%\n", rows[i].what, ni_bytes_text((double)rows[i].peak, text, sizeof text),
               100 * (double)rows[i].peak / total);
    printf("  %-52s %13s\n", "total, beside program and libraries", ni_bytes_text(total, text, sizeof text));
    if (!paper->hopper)
        ni_process_print(trainer, program, total);
}

static void print_kinds(const ni_paper *paper, const nb_model *model, const nb_run_config *config) {
    double flops[NI_PAPER_KIND_COUNT] = {0}, total = 0;
    static const char *const help[] = {
#define HELP(name, text) text,
        NI_PAPER_KINDS(HELP)
#undef HELP
    };
    for (int32_t i = 0; i < paper->entry_count; i++) {
        const ni_paper_entry *e = &paper->entries[i];
        flops[e->kind] += e->flops;
        flops[e->beside] += e->also;
        total += e->flops + e->also;
    }
    printf("\n%-75s %13s %7s\n", "arithmetic of the step", "GFLOP", "share");
    for (int k = 0; k < NI_PAPER_KIND_COUNT; k++)
        if (flops[k] > 0)
            printf("  %-10s %-62s %13.3f %6.1f %%\n", ni_paper_kind_name((ni_paper_kind)k), help[k], flops[k] / 1e9,
                   100 * flops[k] / total);
    printf("  %-73s %13.3f\n", "of a model, by the formula of MFU",
           nb_model_flops_per_token(model, config->seq) * (double)nb_run_tokens_per_step(config) / 1e9);
}

/* What one row of the table of operations says, with its time. */
typedef struct timed {
    const ni_paper_entry *entry;
    double seconds;
    const char *bound;
} timed;

static int longest_first(const void *a, const void *b) {
    const timed *x = a, *y = b;
    return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

/* Without a machine bytes stand for seconds in the order of rows. */
static int32_t time_rows(const ni_paper *paper, const ni_machine *machine, timed *rows, double *total) {
    *total = 0;
    for (int32_t i = 0; i < paper->entry_count; i++) {
        const ni_paper_entry *e = &paper->entries[i];
        rows[i] = (timed){e, e->read + e->written, ""};
        if (machine)
            rows[i].seconds = ni_machine_seconds(machine, e, &rows[i].bound);
        *total += rows[i].seconds;
    }
    qsort(rows, (size_t)paper->entry_count, sizeof *rows, longest_first);
    return paper->entry_count;
}

static void print_row(const timed *row, const ni_machine *machine, double total) {
    const ni_paper_entry *e = row->entry;
    char name[128];
    snprintf(name, sizeof name, "%s%s%s", ni_paper_row_name(e->row), e->formats[0] ? " " : "", e->formats);
    printf("  %-42s %8lld %10.4f %10.4f %12.3f", name, (long long)e->calls, e->read / 1e9, e->written / 1e9,
           (e->flops + e->also) / 1e9);
    if (machine)
        printf(" %10.3f %6.1f %%  %s", row->seconds * 1e3, 100 * row->seconds / total, row->bound);
    putchar('\n');
}

static void print_rows(const ni_paper *paper, const ni_machine *machine, const nb_run_config *config) {
    timed rows[NI_PAPER_ENTRIES];
    double total, calls = 0, read = 0, written = 0, flops = 0;
    int32_t count = time_rows(paper, machine, rows, &total);
    printf("\n%-44s %8s %10s %10s %12s", "operations of the step", "calls", "GB read", "written", "GFLOP");
    printf(machine ? " %10s %8s  %s\n" : "\n", "ms", "share", "bound by");
    for (int32_t i = 0; i < count; i++) {
        const ni_paper_entry *e = rows[i].entry;
        print_row(&rows[i], machine, total);
        calls += (double)e->calls;
        read += e->read;
        written += e->written;
        flops += e->flops + e->also;
    }
    printf("  %-42s %8.0f %10.4f %10.4f %12.3f", "total", calls, read / 1e9, written / 1e9, flops / 1e9);
    if (machine)
        printf(" %10.3f\n\non %s at least %.3f ms a step, at most %.0f tokens/s\n", total * 1e3, machine->name,
               total * 1e3, (double)nb_run_tokens_per_step(config) / total);
    else
        putchar('\n');
}

/* Kinds that the machine file has no rate for. */
static void print_unknown(const ni_paper *paper, const ni_machine *machine) {
    double flops[NI_PAPER_KIND_COUNT] = {0};
    for (int32_t i = 0; i < paper->entry_count; i++) {
        flops[paper->entries[i].kind] += paper->entries[i].flops;
        flops[paper->entries[i].beside] += paper->entries[i].also;
    }
    for (int k = NI_PAPER_moves + 1; k < NI_PAPER_KIND_COUNT; k++)
        if (flops[k] > 0 && machine->rate[k] <= 0)
            printf("rates.%s of %s is unknown: counted by bytes alone\n", ni_paper_kind_name((ni_paper_kind)k),
                   machine->name);
}

/* ---- many ranks ---- */

/* The most that was there for a purpose. */
static double purpose_bytes(const ni_paper *paper, const char *what) {
    double bytes = 0;
    for (int32_t i = 0; i < paper->purpose_count; i++)
        bytes += strcmp(paper->purposes[i].what, what) == 0 ? (double)paper->purposes[i].peak : 0;
    return bytes;
}

/* Seconds of the step, and of what belongs to its micro-batches: all but the update and the norm. */
static double seconds_of(const ni_paper *paper, const ni_machine *machine, double *micro_batches) {
    double all = 0, after = 0;
    for (int32_t i = 0; i < paper->entry_count; i++) {
        const ni_paper_entry *e = &paper->entries[i];
        const double seconds = ni_machine_seconds(machine, e, NULL);
        all += seconds;
        after += e->row == NI_PAPER_ROW_adamw || e->row == NI_PAPER_ROW_sum_squares ? seconds : 0;
    }
    *micro_batches = all - after;
    return all;
}

/* Bytes of a rank that has its part of the gradients and the window that one section at a time is worked on in; those
 * of a tied embedding stay there besides, and sections on their way. */
static double kept_gradients(const ni_param_array *grads, bool tied, int64_t ranks) {
    int64_t largest = 0, behind = 0;
    for (int32_t s = 0; s < grads->sections; s++) {
        const int32_t next = grads->section[s + 1], first = grads->section[s];
        const int64_t end = next < grads->count ? grads->at[next].offset : grads->elements;
        const int64_t n = end - grads->at[first].offset;
        largest = n > largest && (!tied || s > 0) ? n : largest;
        behind = n > behind && s > 0 ? n : behind;
    }
    const int64_t window = largest + (tied ? grads->at[0].length : 0) + NI_BEHIND_SECTIONS * behind;
    return ((double)grads->elements / (double)ranks + (double)window) * sizeof(float);
}

/* Weights as they go to other ranks: codes and BF16 numbers, through a room, whose masters are their owners'; the
 * others as masters. Where GPUs read each other's memory all parcels are in the room, and numbers nowhere else. */
static void add_weights(const nb_model *model, bool read, ni_ranks_plan *plan) {
    double handed = 0, largest = 0, masters = 0, laid = 0;
    const char *why;
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *param = nb_model_param(model, i);
        const size_t bytes = ni_model_handed_bytes(model, i);
        const double master =
            (double)(param->rows * param->cols) * (double)nb_dtype_size(ni_model_master(model, i).dtype);
        handed += (double)bytes;
        largest = fmax(largest, (double)bytes);
        laid += ni_model_handed(model, i, &why) == NI_HANDED_NUMBERS && !param->embedding ? (double)bytes : 0;
        masters += bytes ? 0 : master;
        plan->masters += bytes && !param->embedding ? master : 0; /* an embedding has its place on all ranks */
    }
    plan->weights = handed + masters;
    plan->parcels = read ? handed - laid : fmax(fmin(handed, NI_HANDED_BYTES), largest); /* one at least at a time */
    plan->weights_behind = read;
}

static void print_ranks(const ni_paper *paper, nb_trainer *trainer, const ni_machine *machine, int64_t ranks) {
    const nb_run_config *config = &trainer->config;
    const ni_param_array *grads = ni_model_gradients(trainer->model);
    const double share = (double)(ranks - 1) / (double)ranks;
    double micro_batches;
    ni_ranks_plan p = {.ranks = ranks,
                       .micro_batches = config->accumulation,
                       .gradients = (double)ni_param_array_bytes(grads),
                       .tokens = (double)nb_run_tokens_per_step(config) * (double)ranks,
                       .moments = purpose_bytes(paper, "first moments") + purpose_bytes(paper, "second moments")};
    static const char *const shares[] = {"none", "moments", "gradients"};
    p.share = shares[config->share];
    if (grads->dtype == NB_F32)
        p.kept = kept_gradients(grads, nb_model_get_config(trainer->model)->tied, ranks);
    const bool read = paper->hopper && ranks <= machine->links.near_ranks && (ranks & (ranks - 1)) == 0;
    p.owned = config->share == NB_SHARE_GRADIENTS ||
              (config->share == NB_SHARE_MOMENTS && ranks == 2 && grads->dtype == NB_F32);
    if (config->share != NB_SHARE_NONE)
        add_weights(trainer->model, read && config->share == NB_SHARE_MOMENTS, &p);
    p.seconds = seconds_of(paper, machine, &micro_batches);
    p.backward = micro_batches / (double)config->accumulation * 2 / 3; /* a forward and two of its size */
    p.flops = nb_model_flops_per_token(trainer->model, config->seq) * p.tokens;
    const double room = grads->dtype == NB_F32 ? (double)NI_REDUCED_BYTES : p.gradients;
    p.memory = (double)paper->peak + (room < p.gradients ? room : p.gradients) * (p.owned && ranks == 2 ? 1 : share);
    ni_print_ranks(machine, &p);
}

/* ---- the command ---- */

static nb_status check_step(int64_t step, const nb_run_config *config, nb_error *err) {
    const int64_t steps = nb_run_steps(config);
    if (step >= 1 && step <= steps)
        return NB_OK;
    return nb_fail(err, NB_BAD_USAGE, "--step: %lld is not a step of the run; expected 1 to %lld", (long long)step,
                   (long long)steps);
}

static nb_status plan(nb_backend *be, const nb_run_config *config, const ni_machine *machine, int64_t step,
                      int64_t ranks, nb_error *err) {
    double program = 0;
    nb_trainer *trainer;
    NB_TRY(ni_cli_trainer_on_paper(be, config, NULL, &trainer, err));
    nb_status status = rehearse(be, trainer, step, err);
    if (status == NB_OK && !ni_paper_of(be)->hopper)
        status = ni_process_measure(ni_paper_of(be), &program, err);
    if (status == NB_OK) {
        const ni_paper *paper = ni_paper_of(be);
        print_head(be, trainer, config, step);
        print_memory(paper, trainer, program);
        print_kinds(paper, nb_trainer_model(trainer), config);
        print_rows(paper, machine, config);
        if (machine)
            print_unknown(paper, machine);
        if (machine && ranks > 1)
            print_ranks(paper, trainer, machine, ranks);
    }
    nb_trainer_free(trainer);
    return status;
}

/* Units for four bits are there only for a run that asks for them. */
static nb_status load_machine(const plan_options *o, const nb_run_config *config, ni_machine *out, nb_error *err) {
    if (!o->machine)
        return NB_OK;
    NB_TRY(ni_machine_load(o->machine, out, err));
    out->nvfp4 = config->native_fp4 ? out->nvfp4 : 0;
    return o->ranks > 1 ? ni_check_links(out, o->ranks, err) : NB_OK;
}

nb_status ni_cli_plan(int argc, char **argv, nb_error *err) {
    plan_options o = {.ranks = 1};
    nb_run_config config;
    ni_machine machine;
    nb_backend *be;
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    if (o.ranks < 1 || o.ranks > NI_MOST_RANKS || (o.ranks > 1 && !o.machine))
        return nb_fail(err, NB_BAD_USAGE, "--ranks: %lld; expected 1 to %d, and --machine, which says what links carry",
                       (long long)o.ranks, NI_MOST_RANKS);
    NB_TRY(load_run(argv[1], &o, &config, err));
    NB_TRY(ni_cli_check_model(config.model, err));
    NB_TRY(load_machine(&o, &config, &machine, err));
    const int64_t step = o.step ? o.step : nb_run_steps(&config) > 1 ? 2 : 1;
    NB_TRY(check_step(step, &config, err));
    NB_TRY(open_paper(&config, o.machine ? &machine : NULL, &be, err));
    nb_status status = plan(be, &config, o.machine ? &machine : NULL, step - 1, o.ranks, err);
    nb_backend_free(be);
    return status;
}
