/* report.h: one page for one run or many: curves, gaps, tables, and drawings of what the lens measured.
 *
 * A report is built up in memory (a run, another run, panels) and written as a single HTML file that needs no network.
 * The page is src/report/page/; what passes between here and there is one JSON object, described in docs/report.md.
 *
 * To show a new measurement, hand its numbers over as a panel (a heat map or bars): the page draws every panel it is
 * given, under the run it belongs to. No line of the page changes.
 */
#ifndef NI_REPORT_REPORT_H
#define NI_REPORT_REPORT_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ni_report ni_report;

/* Along what the colours of a heat map are spread evenly: the value, its logarithm (zero stands apart), or its inverse
 * hyperbolic sine (near zero the value, far from it the logarithm, either sign). */
typedef enum ni_colours { NI_COLOURS_LINEAR, NI_COLOURS_LOG, NI_COLOURS_ASINH } ni_colours;

/* What every drawing says about itself. Drawings of one theme share a section; in it the reader chooses by title, then
 * operand, then module, and sees the choice for all runs side by side, under one scale of colours. */
typedef struct ni_caption {
    const char *theme;   /* "Outliers"; NULL = "More" */
    const char *title;   /* "Excess kurtosis" */
    const char *operand; /* "fprop.x"; may be NULL */
    const char *module;  /* where the rows are not modules; may be NULL */
    const char *about;   /* one sentence on what the picture shows; may be NULL */
    const char *formula; /* may be NULL */
    const char *unit;    /* of the values; may be NULL */
} ni_caption;

/* A matrix as colours: layer x step, channel x step, tile x tile. */
typedef struct ni_heat_map {
    ni_caption caption;
    const char *x_label;  /* "step" */
    const char *y_label;  /* "module": rows of several runs are matched by name; anything else: by place */
    const double *x;      /* [cols] where each column stands, rising */
    const char *const *y; /* [rows] a name for each row, the first at the top; NULL: 0, y_every, 2 y_every, ... */
    int32_t y_every;
    const float *values;      /* [rows, cols] row-major; NaN = not measured */
    int32_t rows, cols;       /* at most NI_PANEL_CELLS together */
    ni_colours colours;       /* LOG: values below 0 count as 0 */
    double floor;             /* LOG: what lies below takes the least colour; 0 = down to the least value */
    int32_t bits;             /* 16 or 8: steps between the least and the greatest value in the page; 0 = 16 */
    bool low_is_bad;          /* where several cells share a pixel the worst is drawn */
    const double *marks;      /* [mark_count] places on x to mark, as resets; may be NULL */
    const char *mark_meaning; /* "weights reset" */
    int32_t mark_count;
} ni_heat_map;

/* A row of bars: a histogram, or one number for each module. */
typedef struct ni_bars {
    ni_caption caption;
    const char *x_label;
    const char *const *names; /* [count] */
    const double *values;     /* [count]; NaN = not measured */
    int32_t count;            /* at most NI_PANEL_CELLS */
} ni_bars;

#define NI_PANEL_CELLS 4000000

nb_status ni_report_create(ni_report **out, nb_error *err);
void ni_report_free(ni_report *report); /* NULL is allowed */

/* Reads a run folder: run.yaml, metrics.jsonl; where they are there, recipe.yaml, census.txt, what the lens measured
 * (lens/series.nbs) and what nibble probe found (probe.json). A last line of metrics that a crash cut short is left
 * out. *index is the run's number for the panels. */
nb_status ni_report_add_run(ni_report *report, const char *folder, int32_t *index, nb_error *err);

/* Adds a drawing to run `run`. Numbers and names are copied. */
nb_status ni_report_add_heat_map(ni_report *report, int32_t run, const ni_heat_map *map, nb_error *err);
nb_status ni_report_add_bars(ni_report *report, int32_t run, const ni_bars *bars, nb_error *err);

/* How one run ended, as the page's table has it; NaN where the run has no such number. */
typedef struct ni_report_summary {
    const char *name, *recipe;
    int32_t twin; /* the run with recipe bf16 and otherwise the same configuration; -1 = none among the runs */
    int64_t steps;
    double train_loss; /* mean over the last 20 steps */
    double val_loss;   /* of the last evaluation */
    double gap;        /* to the twin's, in %, at the last step that both evaluated */
    int64_t gap_step;
    double tokens_per_second; /* median over the steps */
} ni_report_summary;
int32_t ni_report_run_count(const ni_report *report);
/* Their configurations agree but for the recipe and what twins may differ in; ... and the seeds. */
bool ni_report_twins(const ni_report *report, int32_t a, int32_t b);
bool ni_report_seeds_apart(const ni_report *report, int32_t a, int32_t b);
nb_status ni_report_summarize(const ni_report *report, int32_t run, ni_report_summary *out, nb_error *err);

/* Writes the page atomically. */
nb_status ni_report_write(ni_report *report, const char *path, nb_error *err);

#endif
