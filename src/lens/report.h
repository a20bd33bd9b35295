/* report.h: one page for one run or many: curves, gaps, tables, and drawings of what the lens measured.
 *
 * A report is built up in memory (a run, another run, panels) and written as a single HTML file that needs no network.
 * The page is src/lens/page/; what passes between here and there is one JSON object, described in docs/report.md.
 *
 * To show a new measurement, hand its numbers over as a panel (a heat map or bars): the page draws every panel it is
 * given, under the run it belongs to. No line of the page changes.
 */
#ifndef NB_LENS_REPORT_H
#define NB_LENS_REPORT_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct nb_report nb_report;

/* A matrix as colours: layer x step, channel x step, tile x tile. */
typedef struct nb_heat_map {
    const char *title;        /* "Kurtosis of fprop.x" */
    const char *about;        /* one sentence on how to read it; may be NULL */
    const char *unit;         /* of the values; may be NULL */
    const char *x_label;      /* "step" */
    const char *y_label;      /* "layer" */
    const double *x;          /* [cols] where each column stands, rising */
    const char *const *y;     /* [rows] a name for each row, the first at the top */
    const float *values;      /* [rows, cols] row-major; NaN = not measured */
    int32_t rows, cols;       /* at most NB_PANEL_CELLS together */
    bool log_colour;          /* colours spread over the logarithm; values <= 0 are drawn as the least colour */
    const double *marks;      /* [mark_count] places on x to mark, as resets; may be NULL */
    const char *mark_meaning; /* "weights reset" */
    int32_t mark_count;
} nb_heat_map;

/* A row of bars: a histogram, or one number for each module. */
typedef struct nb_bars {
    const char *title, *about, *unit; /* as above */
    const char *x_label;
    const char *const *names; /* [count] */
    const double *values;     /* [count]; NaN = not measured */
    int32_t count;            /* at most NB_PANEL_CELLS */
} nb_bars;

#define NB_PANEL_CELLS 4000000

nb_status nb_report_create(nb_report **out, nb_error *err);
void nb_report_free(nb_report *report); /* NULL is allowed */

/* Reads a run folder (run.yaml, metrics.jsonl; recipe.yaml and census.txt where they are there).
 * A last line of metrics that a crash cut short is left out. *index is the run's number for the panels. */
nb_status nb_report_add_run(nb_report *report, const char *folder, int32_t *index, nb_error *err);

/* Adds a drawing to run `run`. Numbers and names are copied. */
nb_status nb_report_add_heat_map(nb_report *report, int32_t run, const nb_heat_map *map, nb_error *err);
nb_status nb_report_add_bars(nb_report *report, int32_t run, const nb_bars *bars, nb_error *err);

/* How one run ended, as the page's table has it; NaN where the run has no such number. */
typedef struct nb_report_summary {
    const char *name, *recipe;
    int32_t twin; /* the run with recipe bf16 and otherwise the same configuration; -1 = none among the runs */
    int64_t steps;
    double train_loss; /* mean over the last 20 steps */
    double val_loss;   /* of the last evaluation */
    double gap;        /* to the twin's, in %, at the last step that both evaluated */
    int64_t gap_step;
    double tokens_per_second; /* median over the steps */
} nb_report_summary;
int32_t nb_report_run_count(const nb_report *report);
nb_status nb_report_summarize(const nb_report *report, int32_t run, nb_report_summary *out, nb_error *err);

/* Writes the page atomically. */
nb_status nb_report_write(nb_report *report, const char *path, nb_error *err);

#endif
