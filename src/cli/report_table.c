/* report_table.c: gaps of runs that are there already. Runs that differ in seeds alone are columns of one table; a row
 * is a recipe; each run stands under its own BF16 twin, so that the differences are paired. */
#include "cli/report_table.h"

#include "cli/compare_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct gaps {
    const ni_report *report;
    ni_report_summary *runs; /* [count] */
    int32_t count;
    bool *shown;      /* [count]: twins that stand in a table */
    int32_t *columns; /* [count]: the twins of this table */
    int32_t seeds;
    ni_compared *rows; /* [count] */
    double *losses;    /* [count, count]: row by row */
    int32_t row_count;
} gaps;

static bool is_twin(const gaps *g, int32_t run) {
    return strcmp(g->runs[run].recipe, "bf16") == 0;
}

/* Where what a run has is measured at its end, and its twin's too. */
static bool ended_together(const gaps *g, int32_t run) {
    const ni_report_summary *r = &g->runs[run], *twin = &g->runs[r->twin];
    return r->gap_step == r->steps && r->steps == twin->steps && isfinite(r->val_loss);
}

/* The twins of one table: `first`, and what differs from it in its seeds. The same seeds twice are one column. */
static void find_columns(gaps *g, int32_t first) {
    g->seeds = 0;
    for (int32_t i = first; i < g->count; i++) {
        if (!is_twin(g, i) || g->shown[i] || !ni_report_seeds_apart(g->report, first, i))
            continue;
        if (g->runs[i].steps != g->runs[first].steps)
            continue; /* a table of its own: one of the two was stopped */
        g->shown[i] = true;
        bool known = false;
        for (int32_t c = 0; c < g->seeds; c++)
            known |= ni_report_twins(g->report, g->columns[c], i);
        if (!known)
            g->columns[g->seeds++] = i;
    }
}

static double *row_of(gaps *g, const char *recipe) {
    for (int32_t i = 0; i < g->row_count; i++)
        if (strcmp(g->rows[i].name, recipe) == 0)
            return g->losses + (size_t)i * (size_t)g->count;
    double *losses = g->losses + (size_t)g->row_count * (size_t)g->count;
    for (int32_t s = 0; s < g->seeds; s++)
        losses[s] = NAN;
    g->rows[g->row_count++] = (ni_compared){.name = recipe, .losses = losses};
    return losses;
}

static void take_run(gaps *g, int32_t run, int32_t column) {
    if (!ended_together(g, run)) {
        fprintf(stderr, "note: %s: has no loss at step %lld, where its twin ends: left out\n", g->runs[run].name,
                (long long)g->runs[g->columns[column]].steps);
        return;
    }
    double *losses = row_of(g, g->runs[run].recipe);
    if (!isnan(losses[column]) && losses[column] != g->runs[run].val_loss)
        fprintf(stderr, "note: %s: the same recipe and seeds as a run before it, with another loss: left out\n",
                g->runs[run].name);
    else
        losses[column] = g->runs[run].val_loss;
}

static void print_table(gaps *g, int32_t first) {
    find_columns(g, first);
    g->row_count = 0;
    double *twins = row_of(g, g->runs[first].recipe);
    for (int32_t c = 0; c < g->seeds; c++)
        twins[c] = g->runs[g->columns[c]].val_loss;
    for (int32_t i = 0; i < g->count; i++)
        for (int32_t c = 0; c < g->seeds; c++)
            if (!is_twin(g, i) && g->runs[i].twin == g->columns[c])
                take_run(g, i, c);
    if (g->row_count == 1)
        return;
    const ni_compared_all all = {
        .rows = g->rows, .count = g->row_count, .seeds = g->seeds, .steps = g->runs[first].steps};
    ni_compare_print(&all);
}

static nb_status print_tables(gaps *g, nb_error *err) {
    bool any = false;
    for (int32_t i = 0; i < g->count; i++) {
        NB_TRY(ni_report_summarize(g->report, i, &g->runs[i], err));
        any |= g->runs[i].twin >= 0;
    }
    for (int32_t i = 0; any && i < g->count; i++)
        if (!is_twin(g, i) && g->runs[i].twin < 0)
            fprintf(stderr, "note: %s: its BF16 twin is not among the runs: left out\n", g->runs[i].name);
    if (!any)
        return nb_fail(
            err, NB_BAD_FILE,
            "report: no run among %d has its BF16 twin beside it; expected a run of recipe bf16 with the same "
            "model, data and seeds",
            (int)g->count);
    for (int32_t i = 0; i < g->count; i++)
        if (is_twin(g, i) && !g->shown[i])
            print_table(g, i);
    return NB_OK;
}

nb_status ni_report_print_gaps(const ni_report *report, nb_error *err) {
    const int32_t count = ni_report_run_count(report);
    const size_t n = (size_t)count;
    gaps g = {.report = report,
              .count = count,
              .runs = calloc(n, sizeof *g.runs),
              .shown = calloc(n, sizeof *g.shown),
              .columns = calloc(n, sizeof *g.columns),
              .rows = calloc(n, sizeof *g.rows),
              .losses = calloc(n * n, sizeof *g.losses)};
    nb_status status = g.runs && g.shown && g.columns && g.rows && g.losses
                           ? print_tables(&g, err)
                           : nb_fail(err, NB_NO_MEMORY, "report: no memory for a table of %d runs", (int)count);
    free(g.runs);
    free(g.shown);
    free(g.columns);
    free(g.rows);
    free(g.losses);
    return status;
}
