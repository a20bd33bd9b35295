/* screen.c: numbers for people, on a terminal or in a file. */
#include "cli/screen.h"
#include "base/whole.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- signals ---- */

static volatile sig_atomic_t stop_flag;

/* A second signal ends the process at once; but a pipe that is gone signals at each line. */
static void on_signal(int number) {
    stop_flag = 1;
    if (number != SIGPIPE)
        signal(number, SIG_DFL);
}

void ni_stop_on_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, before;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i] != SIGHUP || (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN))
            sigaction(numbers[i], &action, NULL); /* under nohup a hang-up stays ignored */
}

bool ni_stop_requested(void) {
    return stop_flag != 0;
}

/* ---- numbers as text ---- */

char *ni_count_text(int64_t count, char *text, size_t size) {
    char digits[32];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)count);
    size_t at = 0;
    for (int i = 0; i < n && at + 2 < size; i++) {
        if (i > 0 && (n - i) % 3 == 0 && digits[i - 1] != '-')
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    return text;
}

char *ni_short_count_text(double count, char *text, size_t size) {
    static const char *const units[] = {"", "K", "M", "G", "T", "P"};
    size_t unit = 0;
    for (; count >= 999.5 && unit + 1 < sizeof units / sizeof units[0]; unit++)
        count /= 1000;
    snprintf(text, size, unit && count < 99.95 ? "%.1f%s" : "%.0f%s", count, units[unit]);
    return text;
}

char *ni_bytes_text(double bytes, char *text, size_t size) {
    if (bytes < 1048576)
        snprintf(text, size, "%.1f KiB", bytes / 1024);
    else if (bytes < 1073741824.0)
        snprintf(text, size, "%.1f MiB", bytes / 1048576);
    else
        snprintf(text, size, "%.2f GiB", bytes / 1073741824.0);
    return text;
}

size_t ni_resident_bytes(void) {
    FILE *from = fopen("/proc/self/statm", "r");
    long pages = 0;
    if (!from)
        return 0;
    if (fscanf(from, "%*s %ld", &pages) != 1)
        pages = 0;
    fclose(from);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* ---- steps ---- */

ni_screen ni_screen_open(bool quiet, const char *label, int64_t print_every) {
    ni_screen screen = {.progress = ni_progress_open(quiet ? NULL : stdout),
                        .label = label,
                        .print_every = print_every,
                        .began = ni_seconds(),
                        .last_loss = NAN,
                        .last_val_loss = NAN};
    return screen;
}

void ni_screen_close(ni_screen *screen) {
    ni_progress_close(&screen->progress);
}

static void print_step(ni_screen *s, const nb_step_report *r) {
    char rate[32], left[32], mfu[16] = "  -", light[24] = "";
    int digits = snprintf(NULL, 0, "%lld", (long long)r->steps);
    if (isfinite(r->mfu))
        snprintf(mfu, sizeof mfu, "%4.1f%%", 100 * r->mfu);
    if (isfinite(r->light))
        snprintf(light, sizeof light, "  light %4.1f%%", 100 * r->light);
    ni_progress_line(&s->progress,
                     "step %*lld/%lld  loss %7.4f  norm %7.3f  lr %.2e  %7.1f ms  %9s tok/s  MFU %s%s  left %s%s",
                     digits, (long long)r->step, (long long)r->steps, r->loss, r->norm, r->lr, r->ms,
                     ni_count_text(ni_whole(r->tokens_per_second), rate, sizeof rate), mfu, light,
                     ni_duration_text(r->seconds_left, left, sizeof left), r->skipped ? "  SKIPPED" : "");
}

static void on_step(void *user, const nb_step_report *r) {
    ni_screen *s = user;
    s->last_step = r->step;
    s->last_loss = r->loss;
    if (r->step == 1 || r->step % s->print_every == 0 || r->step == r->steps || r->skipped)
        print_step(s, r);
    char text[160], left[32];
    snprintf(text, sizeof text, "%s%s%lld/%lld  loss %.4f  left %s", s->label, s->label[0] ? "  " : "",
             (long long)r->step, (long long)r->steps, r->loss, ni_duration_text(r->seconds_left, left, sizeof left));
    ni_progress_bar(&s->progress, r->step, r->steps, text);
}

static void on_evaluation(void *user, const nb_eval_report *r) {
    ni_screen *s = user;
    char tokens[32];
    s->last_val_loss = r->loss;
    ni_progress_line(&s->progress, "step %lld  validation loss %.4f  perplexity %.2f  (%s tokens, %.1fs)",
                     (long long)r->step, r->loss, exp(r->loss), ni_count_text(r->tokens, tokens, sizeof tokens),
                     r->seconds);
}

static void on_note(void *user, nb_note_kind kind, const char *sentence) {
    ni_screen *s = user;
    if (kind == NB_NOTE_INFO) {
        ni_progress_line(&s->progress, "%s", sentence);
        return;
    }
    ni_progress_close(&s->progress); /* the bar must not share a line with the warning */
    fprintf(stderr, "nibble: warning: %s\n", sentence);
}

static bool on_stop(void *user) {
    (void)user;
    return ni_stop_requested();
}

nb_train_callbacks ni_screen_callbacks(ni_screen *screen) {
    nb_train_callbacks callbacks = {
        .user = screen, .step = on_step, .evaluation = on_evaluation, .note = on_note, .stop = on_stop};
    return callbacks;
}

/* ---- tables ---- */

int32_t ni_memory_rows(const nb_trainer *trainer, nb_memory_row rows[NI_MEMORY_ROWS]) {
    const int32_t count = nb_trainer_memory(trainer, rows, NI_MEMORY_ROWS);
    return count < NI_MEMORY_ROWS ? count : NI_MEMORY_ROWS;
}

double ni_memory_total(const nb_trainer *trainer) {
    nb_memory_row rows[NI_MEMORY_ROWS];
    const int32_t count = ni_memory_rows(trainer, rows);
    double total = 0;
    for (int32_t i = 0; i < count; i++)
        total += (double)rows[i].bytes;
    return total;
}

/* A column that holds this too. */
static int wide_enough(int width, const char *text) {
    const int length = (int)strlen(text);
    return length > width ? length : width;
}

void ni_screen_memory(ni_screen *screen, const nb_trainer *trainer, size_t program_bytes) {
    nb_memory_row rows[NI_MEMORY_ROWS];
    char text[32];
    const int32_t count = ni_memory_rows(trainer, rows);
    const double total = ni_memory_total(trainer) + (double)program_bytes;
    int width = 44;
    for (int32_t i = 0; i < count; i++)
        width = wide_enough(width, rows[i].what);
    ni_progress_line(&screen->progress, "memory");
    for (int32_t i = 0; i < count; i++)
        ni_progress_line(&screen->progress, "  %-*s %12s", width, rows[i].what,
                         ni_bytes_text((double)rows[i].bytes, text, sizeof text));
    ni_progress_line(&screen->progress, "  %-*s %12s", width, "program and libraries (measured)",
                     ni_bytes_text((double)program_bytes, text, sizeof text));
    ni_progress_line(&screen->progress, "  %-*s %12s", width, "total", ni_bytes_text(total, text, sizeof text));
    const int64_t saved = nb_trainer_memory_saved(trainer);
    if (saved != 0)
        ni_progress_line(&screen->progress, "  %-*s %12s", width, "saved by state in fewer bits than FP32",
                         ni_bytes_text((double)saved, text, sizeof text));
}

/* GEMMs that run alike. */
typedef struct census_group {
    const nb_census_row *like;
    int32_t count;
    char gemms[32];    /* each once: "fprop dgrad" */
    char modules[160]; /* last parts of the names, each once: "q_proj k_proj" */
} census_group;

static bool runs_alike(const nb_census_row *a, const nb_census_row *b) {
    const char *why_a = a->reason ? a->reason : "", *why_b = b->reason ? b->reason : "";
    return strcmp(a->formats, b->formats) == 0 && strcmp(a->kernel, b->kernel) == 0 && strcmp(why_a, why_b) == 0;
}

static bool holds_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at++)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == 0))
            return true;
    return false;
}

static void add_word(char *list, size_t size, const char *word) {
    size_t used = strlen(list);
    if (!holds_word(list, word) && used + strlen(word) + 2 < size)
        snprintf(list + used, size - used, "%s%s", used ? " " : "", word);
}

static void add_to_group(census_group *group, const nb_census_row *row) {
    const char *dot = strrchr(row->module, '.');
    group->count++;
    add_word(group->gemms, sizeof group->gemms, row->gemm);
    add_word(group->modules, sizeof group->modules, dot ? dot + 1 : row->module);
}

static int32_t group_census(const nb_census_row *rows, int32_t count, census_group *groups) {
    int32_t found = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t g = 0;
        while (g < found && !runs_alike(groups[g].like, &rows[i]))
            g++;
        if (g == found)
            groups[found++].like = &rows[i];
        add_to_group(&groups[g], &rows[i]);
    }
    return found;
}

static void print_groups(ni_screen *screen, const census_group *groups, int32_t count) {
    int formats = 42, kernel = 18;
    for (int32_t i = 0; i < count; i++) {
        formats = wide_enough(formats, groups[i].like->formats);
        kernel = wide_enough(kernel, groups[i].like->kernel);
    }
    for (int32_t i = 0; i < count; i++) {
        const nb_census_row *row = groups[i].like;
        const char *why = row->reason ? row->reason : "";
        ni_progress_line(&screen->progress, "  %4d %-17s  %-*s  %-*s  %s%s%s%s", groups[i].count, groups[i].gemms,
                         formats, row->formats, kernel, row->kernel, groups[i].modules, *why ? "  (" : "", why,
                         *why ? ")" : "");
    }
}

void ni_screen_census(ni_screen *screen, nb_trainer *trainer, const char *file) {
    nb_model *model = nb_trainer_model(trainer);
    int32_t count = nb_model_census(model, NULL, 0);
    nb_census_row *rows = calloc((size_t)count + 1, sizeof *rows);
    census_group *groups = calloc((size_t)count + 1, sizeof *groups);
    if (rows && groups) {
        nb_model_census(model, rows, count);
        ni_progress_line(&screen->progress, "precision census (every GEMM: %s)", file);
        print_groups(screen, groups, group_census(rows, count, groups));
    }
    free(rows);
    free(groups);
}
