/* lens.c: `nibble lens`: what the lens of one run or of several measured, as a table by steps. */
#include "cli/cli.h"
#include "cli/lens_npz.h"
#include "cli/lens_rows.h"
#include "cli/runs.h"
#include "config/suggest.h"
#include "lens/series.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_LIMIT 1024
#define MOST_RUNS 16

typedef struct lens_options {
    const char *metric, *module, *role, *drift, *npz;
    bool csv, json;
} lens_options;

static const ni_option options[] = {
    {"metric", 0, NI_OPTION_TEXT, offsetof(lens_options, metric), "NAME",
     "what to show: a number of docs/lens.md, as flip_rate; without it the names are listed"},
    {"module", 0, NI_OPTION_TEXT, offsetof(lens_options, module), "PATTERN",
     "of which modules, as '*down_proj' (default: all)"},
    {"drift", 0, NI_OPTION_TEXT, offsetof(lens_options, drift), "PATTERN",
     "of one run: which share of the hot channels two samples have in common, mean over these modules"},
    {"csv", 0, NI_OPTION_FLAG, offsetof(lens_options, csv), NULL,
     "every number by module and role, vectors too: run,step,module,role,metric,index,value"},
    {"json", 0, NI_OPTION_FLAG, offsetof(lens_options, json), NULL, "the same, an object a series and line"},
    {"npz", 0, NI_OPTION_TEXT, offsetof(lens_options, npz), "FILE",
     "of one run, the same as arrays for numpy.load: NAME, float32 [samples] or [samples, numbers], and NAME@step"},
    {"role", 0, NI_OPTION_TEXT, offsetof(lens_options, role), "ROLE",
     "of which operand, as fprop.x; needed where a number is measured of several"},
    {0},
};

static const ni_command_line line = {
    .usage = "RUN... [--metric NAME] [--role ROLE] [--module PATTERN] [--csv | --json | --npz FILE]",
    .about = "Prints a number that the lens measured while training (lens.every in the run file), one row a step and "
             "one column a\n"
             "run: the mean over the modules that have it; of several runs over those that all of them have. RUN is a "
             "run\n"
             "folder, or one that holds runs.\n"
             "  nibble lens runs/twins/*-seed1 --metric flip_rate",
    .options = options,
    .least = 1,
    .most = -1,
};

/* ---- names: MODULE/ROLE/METRIC or MODULE/METRIC ---- */

static const char *metric_of(const char *name) {
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

/* What stands between the module and the metric: "fprop.x", "occ"; nothing where a number is one of the module. */
static void role_of(const char *name, char *role, size_t size) {
    const char *first = strchr(name, '/'), *last = strrchr(name, '/');
    int length = first && last > first ? (int)(last - first) - 1 : 0;
    snprintf(role, size, "%.*s", length, length ? first + 1 : "");
}

/* Whether a series is of the metric, the modules and the role that are asked for; all where nothing is said. */
static bool wants(const void *context, const char *name) {
    const lens_options *o = context;
    char module[PATH_LIMIT], role[64];
    snprintf(module, sizeof module, "%.*s", (int)strcspn(name, "/"), name);
    role_of(name, role, sizeof role);
    return (!o->metric || strcmp(metric_of(name), o->metric) == 0) &&
           (!o->module || fnmatch(o->module, module, 0) == 0) && (!o->role || strcmp(o->role, role) == 0);
}

static bool is_number(const ni_series_reader *r, int32_t name) {
    return ni_series_points(r, name) > 0 && ni_series_at(r, name, 0).count == 1;
}

/* ---- the table ---- */

typedef struct column {
    ni_series_reader *reader;
    char title[64]; /* the folder's name */
    bool *counts;   /* [names] is of what is asked for, and every run that has any of it has it */
    int32_t found, left_out;
} column;

static bool has_any(const column *c, const lens_options *o) {
    for (int32_t n = 0; n < ni_series_names(c->reader); n++)
        if (is_number(c->reader, n) && wants(o, ni_series_name(c->reader, n)))
            return true;
    return false;
}

/* A module that one recipe leaves in BF16 would be missing from one mean alone. */
static bool all_have(const column *columns, int32_t runs, const lens_options *o, const char *name) {
    for (int32_t r = 0; r < runs; r++) {
        int32_t n = ni_series_find(columns[r].reader, name);
        if (has_any(&columns[r], o) && (n < 0 || !is_number(columns[r].reader, n)))
            return false;
    }
    return true;
}

static nb_status choose_names(column *columns, int32_t runs, const lens_options *o, nb_error *err) {
    for (int32_t r = 0; r < runs; r++) {
        column *c = &columns[r];
        c->counts = calloc((size_t)ni_series_names(c->reader) + 1, sizeof *c->counts);
        if (!c->counts)
            return nb_fail(err, NB_NO_MEMORY, "no memory for the names of %s", c->title);
        for (int32_t n = 0; n < ni_series_names(c->reader); n++) {
            const char *name = ni_series_name(c->reader, n);
            if (!is_number(c->reader, n) || !wants(o, name))
                continue;
            c->counts[n] = all_have(columns, runs, o, name);
            c->found += c->counts[n];
            c->left_out += !c->counts[n];
        }
    }
    return NB_OK;
}

/* A mean over X, W and dY together is one of different things. */
static nb_status one_role(const column *columns, int32_t runs, const lens_options *o, nb_error *err) {
    char first[64] = "", role[64];
    bool any = false;
    for (int32_t r = 0; r < runs; r++)
        for (int32_t n = 0; n < ni_series_names(columns[r].reader); n++) {
            const char *name = ni_series_name(columns[r].reader, n);
            if (!is_number(columns[r].reader, n) || !wants(o, name))
                continue;
            role_of(name, role, sizeof role);
            if (any && strcmp(role, first) != 0)
                return nb_fail(err, NB_BAD_USAGE,
                               "--metric: %s is measured of %s and of %s, say; expected --role with "
                               "one of them, for their mean means nothing",
                               o->metric, *first ? first : "modules", *role ? role : "modules");
            snprintf(first, sizeof first, "%s", role);
            any = true;
        }
    return NB_OK;
}

/* Mean of the metric over the modules that have it at this step; NaN if none has. */
static double mean_at(const column *c, int64_t step) {
    double sum = 0;
    int64_t count = 0;
    for (int32_t n = 0; n < ni_series_names(c->reader); n++) {
        if (!c->counts[n])
            continue;
        const ni_series_samples samples = ni_series_samples_of(c->reader, n);
        for (int64_t i = 0; i < ni_series_points(c->reader, n); i++) {
            ni_series_point p = ni_series_at(c->reader, n, i);
            if (ni_series_sample(&samples, p.step) != step)
                continue;
            sum += p.values[0];
            count++;
        }
    }
    return count ? sum / (double)count : NAN;
}

/* The smallest step above `after` at which any run has the metric; -1 if there is none. */
static int64_t next_step(const column *columns, int32_t runs, int64_t after) {
    int64_t next = -1;
    for (int32_t r = 0; r < runs; r++)
        for (int32_t n = 0; n < ni_series_names(columns[r].reader); n++) {
            if (!columns[r].counts[n])
                continue;
            const ni_series_samples samples = ni_series_samples_of(columns[r].reader, n);
            for (int64_t i = 0; i < ni_series_points(columns[r].reader, n); i++) {
                const int64_t step = ni_series_sample(&samples, ni_series_at(columns[r].reader, n, i).step);
                if (step > after && (next < 0 || step < next))
                    next = step;
            }
        }
    return next;
}

static void print_what(const column *columns, int32_t runs, const lens_options *o) {
    int32_t found = 0, left_out = 0;
    for (int32_t r = 0; r < runs; r++) {
        found = columns[r].found > found ? columns[r].found : found;
        left_out += columns[r].left_out;
    }
    printf("\n\n%s%s%s, mean over %d modules", o->metric, o->role ? " of " : "", o->role ? o->role : "", found);
    if (left_out)
        printf(" that every run has; %d that not every run has are left out", left_out);
    printf(". Steps count from 0.\n");
}

static nb_status no_such_number(const column *columns, int32_t runs, const lens_options *o, nb_error *err) {
    ni_suggestion near = ni_suggest(o->metric);
    for (int32_t r = 0; r < runs; r++)
        for (int32_t n = 0; n < ni_series_names(columns[r].reader); n++)
            if (is_number(columns[r].reader, n))
                ni_suggest_offer(&near, metric_of(ni_series_name(columns[r].reader, n)));
    const bool typo = near.best && strcmp(near.best, o->metric) != 0;
    return nb_fail(err, NB_BAD_USAGE, "--metric: no run has a number called %s%s%s%s%s; %s%s%s", o->metric,
                   o->role ? " of " : "", o->role ? o->role : "", o->module ? " in modules " : "",
                   o->module ? o->module : "", typo ? "did you mean '" : "hint: without --metric the names are listed",
                   typo ? near.best : "", typo ? "'?" : "");
}

static nb_status print_table(column *columns, int32_t runs, const lens_options *o, nb_error *err) {
    NB_TRY(one_role(columns, runs, o, err));
    NB_TRY(choose_names(columns, runs, o, err));
    int64_t step = next_step(columns, runs, -1);
    if (step < 0)
        return no_such_number(columns, runs, o, err);
    printf("%8s", "step");
    for (int32_t r = 0; r < runs; r++)
        printf("  %*s", strlen(columns[r].title) < 12 ? 12 : (int)strlen(columns[r].title), columns[r].title);
    for (; step >= 0; step = next_step(columns, runs, step)) {
        printf("\n%8lld", (long long)step);
        for (int32_t r = 0; r < runs; r++) {
            double mean = mean_at(&columns[r], step);
            int width = strlen(columns[r].title) < 12 ? 12 : (int)strlen(columns[r].title);
            if (isnan(mean))
                printf("  %*s", width, "-");
            else
                printf("  %*.5g", width, mean);
        }
    }
    print_what(columns, runs, o);
    return NB_OK;
}

/* ---- the names ---- */

/* Whether a name before `name` has the same metric. */
static bool is_repeated(const ni_series_reader *r, int32_t name) {
    for (int32_t n = 0; n < name; n++)
        if (is_number(r, n) && strcmp(metric_of(ni_series_name(r, n)), metric_of(ni_series_name(r, name))) == 0)
            return true;
    return false;
}

static void list_names(const column *columns, int32_t runs) {
    for (int32_t r = 0; r < runs; r++) {
        const ni_series_reader *reader = columns[r].reader;
        printf("%s:", columns[r].title);
        for (int32_t n = 0; n < ni_series_names(reader); n++)
            if (is_number(reader, n) && !is_repeated(reader, n))
                printf(" %s", metric_of(ni_series_name(reader, n)));
        printf("%s\n", ni_series_names(reader) ? "" : " nothing was measured yet");
    }
}

/* ---- the drift of hot sets ---- */

enum { MOST_SAMPLES = 16 }; /* columns of the table: spread evenly over the run */

/* The share of the first set that is in the second; NaN where the module has no sample at a step. */
static double common_share(const ni_series_reader *r, int32_t name, int64_t a_step, int64_t b_step) {
    const ni_series_samples samples = ni_series_samples_of(r, name);
    ni_series_point a = {0}, b = {0};
    int64_t common = 0;
    for (int64_t i = 0; i < ni_series_points(r, name); i++) {
        ni_series_point p = ni_series_at(r, name, i);
        const int64_t step = ni_series_sample(&samples, p.step);
        a = step == a_step ? p : a;
        b = step == b_step ? p : b;
    }
    for (int64_t i = 0; i < a.count; i++)
        for (int64_t j = 0; j < b.count; j++)
            common += a.values[i] == b.values[j];
    return a.count && b.count ? (double)common / (double)a.count : NAN;
}

static bool is_drifting(const ni_series_reader *r, int32_t name, const lens_options *o) {
    lens_options of = {.metric = "hot", .module = o->drift, .role = o->role ? o->role : "fprop.x"};
    return wants(&of, ni_series_name(r, name)) && ni_series_points(r, name) > 0;
}

static nb_status print_drift(const column *c, const lens_options *o, nb_error *err) {
    const ni_series_reader *r = c->reader;
    int64_t steps[MOST_SAMPLES], points = 0;
    int32_t first = -1, modules = 0;
    for (int32_t n = 0; n < ni_series_names(r); n++)
        if (is_drifting(r, n, o)) {
            first = first < 0 ? n : first;
            modules++;
        }
    if (first < 0)
        return nb_fail(err, NB_BAD_USAGE, "--drift: no module fits '%s'; expected one with hot channels of %s",
                       o->drift, o->role ? o->role : "fprop.x");
    points = ni_series_points(r, first);
    int32_t shown = points < MOST_SAMPLES ? (int32_t)points : MOST_SAMPLES;
    const ni_series_samples samples = ni_series_samples_of(r, first);
    int64_t least = modules;
    printf("%8s", "step");
    for (int32_t i = 0; i < shown; i++) {
        steps[i] =
            ni_series_sample(&samples, ni_series_at(r, first, shown > 1 ? i * (points - 1) / (shown - 1) : 0).step);
        printf(" %6lld", (long long)steps[i]);
    }
    for (int32_t i = 0; i < shown; i++) {
        printf("\n%8lld", (long long)steps[i]);
        for (int32_t j = 0; j < shown; j++) {
            double sum = 0;
            int64_t count = 0;
            for (int32_t n = 0; n < ni_series_names(r); n++) {
                double share = is_drifting(r, n, o) ? common_share(r, n, steps[i], steps[j]) : NAN;
                sum += isnan(share) ? 0 : share;
                count += !isnan(share);
            }
            printf(" %6.3f", count ? sum / (double)count : NAN);
            least = count < least ? count : least;
        }
    }
    printf("\n\nShare of the hot channels of %s that two samples have in common, mean over %d modules",
           o->role ? o->role : "fprop.x", modules);
    if (least < modules)
        printf(" (%lld at the least, where samples lack some)", (long long)least);
    printf(". Steps count from 0.\n");
    return NB_OK;
}

/* ---- for other programs ---- */

static nb_status write_rows(const column *columns, int32_t runs, const lens_options *o, nb_error *err) {
    int32_t found = 0;
    for (int32_t r = 0; r < runs; r++)
        for (int32_t n = 0; n < ni_series_names(columns[r].reader); n++)
            found += wants(o, ni_series_name(columns[r].reader, n));
    if (!found)
        return nb_fail(err, NB_BAD_USAGE,
                       "--metric, --module, --role: no run has such a series; hint: without --metric the "
                       "names are listed");
    if (o->npz && runs != 1)
        return nb_fail(err, NB_BAD_USAGE, "--npz: %d runs; expected one", runs);
    if (o->npz)
        return ni_lens_npz(columns[0].reader, wants, o, o->npz, err);
    if (o->csv)
        ni_lens_csv_head(stdout);
    for (int32_t r = 0; r < runs; r++)
        (o->csv ? ni_lens_csv : ni_lens_json)(columns[r].reader, columns[r].title, wants, o, stdout);
    return NB_OK;
}

/* ---- runs ---- */

typedef struct opened {
    column columns[MOST_RUNS];
    int32_t count, without; /* runs; those that hold no measurements */
    char names[PATH_LIMIT]; /* of these, as many as fit */
} opened;

static void pass_over(opened *all, const char *run) {
    size_t used = strlen(all->names);
    snprintf(all->names + used, sizeof all->names - used, "%s%s", all->without++ ? ", " : "", run);
}

static nb_status say_passed_over(const opened *all, nb_error *err) {
    if (all->count == 0)
        return nb_fail(err, NB_BAD_FILE, "%s: %s no measurements; expected a run with lens.every in its run file",
                       all->names, all->without > 1 ? "hold" : "holds");
    if (all->without)
        fprintf(stderr, "note: %s: %s no measurements\n", all->names, all->without > 1 ? "hold" : "holds");
    return NB_OK;
}

static nb_status open_column(void *context, const char *run, nb_error *err) {
    opened *all = context;
    char path[PATH_LIMIT];
    size_t length = strlen(run);
    while (length > 1 && run[length - 1] == '/')
        length--;
    size_t begin = length;
    while (begin > 0 && run[begin - 1] != '/')
        begin--;
    snprintf(path, sizeof path, "%.*s/lens/series.nbs", (int)length, run);
    if (access(path, F_OK) != 0) {
        pass_over(all, run);
        return NB_OK;
    }
    if (all->count == MOST_RUNS)
        return nb_fail(err, NB_BAD_USAGE, "lens: more than %d runs", MOST_RUNS);
    column *c = &all->columns[all->count];
    snprintf(c->title, sizeof c->title, "%.*s", (int)(length - begin), run + begin);
    NB_TRY(ni_series_read(path, &c->reader, NULL, err));
    all->count++;
    return NB_OK;
}

nb_status ni_cli_lens(int argc, char **argv, nb_error *err) {
    lens_options o = {0};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    if (o.csv + o.json + (o.npz != NULL) > 1)
        return nb_fail(err, NB_BAD_USAGE, "--csv, --json and --npz: expected one of them");
    opened all = {.count = 0};
    nb_status status = ni_cli_each_run(count, argv + 1, open_column, &all, err);
    if (status == NB_OK)
        status = say_passed_over(&all, err);
    if (status == NB_OK && (o.csv || o.json || o.npz))
        status = write_rows(all.columns, all.count, &o, err);
    else if (status == NB_OK && o.drift && all.count != 1)
        status = nb_fail(err, NB_BAD_USAGE, "--drift: %d runs; expected one", all.count);
    else if (status == NB_OK && o.drift)
        status = print_drift(&all.columns[0], &o, err);
    else if (status == NB_OK && o.metric)
        status = print_table(all.columns, all.count, &o, err);
    else if (status == NB_OK)
        list_names(all.columns, all.count);
    for (int32_t r = 0; r < all.count; r++) {
        ni_series_reader_free(all.columns[r].reader);
        free(all.columns[r].counts);
    }
    return status;
}
