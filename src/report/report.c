/* report.c: a report in memory: its runs, and the drawings that are added to them. */
#include "report/report.h"

#include "report/report_build.h"
#include <stdlib.h>

nb_status ni_report_create(ni_report **out, nb_error *err) {
    *out = NULL;
    ni_report *report = calloc(1, sizeof *report);
    if (!report)
        return nb_fail(err, NB_NO_MEMORY, "report: out of memory");
    report->root = json_pack("{s:i, s:[], s:o}", "version", 3, "runs", "themes", ni_report_themes());
    if (!report->root) {
        free(report);
        return nb_fail(err, NB_NO_MEMORY, "report: out of memory");
    }
    report->runs = json_object_get(report->root, "runs");
    *out = report;
    return NB_OK;
}

void ni_report_free(ni_report *report) {
    if (!report)
        return;
    json_decref(report->root);
    free(report);
}

int32_t ni_report_run_count(const ni_report *report) {
    return (int32_t)json_array_size(report->runs);
}

nb_status ni_report_add_run(ni_report *report, const char *folder, int32_t *index, nb_error *err) {
    json_t *run;
    NB_TRY(ni_report_read_run(folder, &run, err));
    if (json_array_append_new(report->runs, run))
        return nb_fail(err, NB_NO_MEMORY, "report: out of memory");
    if (index)
        *index = ni_report_run_count(report) - 1;
    return NB_OK;
}

/* ---- panels ---- */

static nb_status owner_of(ni_report *report, int32_t run, const char *title, json_t **owner, nb_error *err) {
    *owner = json_array_get(report->runs, (size_t)(run < 0 ? INT32_MAX : run));
    return *owner ? NB_OK
                  : nb_fail(err, NB_BAD_USAGE, "report: panel \"%s\" is for run %d, and there are %d", title, run,
                            ni_report_run_count(report));
}

nb_status ni_report_add_heat_map(ni_report *report, int32_t run, const ni_heat_map *map, nb_error *err) {
    json_t *owner;
    NB_TRY(owner_of(report, run, map->caption.title, &owner, err));
    return ni_report_put_heat_map(owner, map, err);
}

nb_status ni_report_add_bars(ni_report *report, int32_t run, const ni_bars *bars, nb_error *err) {
    json_t *owner;
    NB_TRY(owner_of(report, run, bars->caption.title, &owner, err));
    return ni_report_put_bars(owner, bars, err);
}
