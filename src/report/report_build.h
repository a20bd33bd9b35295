/* report_build.h: what the files of the report share: the JSON object that the page will read. */
#ifndef NI_REPORT_REPORT_BUILD_H
#define NI_REPORT_REPORT_BUILD_H

#include "report/report.h"
#include <jansson.h>

struct ni_report {
    json_t *root; /* what the page gets; docs/report.md describes it */
    json_t *runs; /* its array of runs, borrowed */
};

/* Reads a run folder into a fresh JSON object. */
nb_status ni_report_read_run(const char *folder, json_t **out, nb_error *err);

/* Finds every run's twin and writes every run's summary, after the last run was added. */
nb_status ni_report_resolve(ni_report *report, nb_error *err);

/* Adds to a run what the lens measured (lens/series.nbs of its folder), and what stands out in it. */
nb_status ni_report_add_lens(json_t *run, const char *folder, nb_error *err);

/* Adds to a run what nibble probe found (probe.json of its folder). */
nb_status ni_report_add_probe(json_t *run, const char *folder, nb_error *err);

/* Adds a drawing to a run's panels. */
nb_status ni_report_put_heat_map(json_t *run, const ni_heat_map *map, nb_error *err);
nb_status ni_report_put_bars(json_t *run, const ni_bars *bars, nb_error *err);

/* [{name, about}] of the sections that drawings of the lens stand in. */
json_t *ni_report_themes(void);

/* Bytes as a JSON string in base64; NULL without memory. */
json_t *ni_report_base64(const unsigned char *bytes, size_t size);

/* A run's series {step: [], loss: [], ...} as the page reads them; fresh, NULL without memory. */
json_t *ni_report_packed_series(const json_t *series);

/* A number, or null where it is not finite: JSON has no NaN. */
json_t *ni_report_number(double value);

/* The files of src/report/page/ and of Dygraphs, put into the program by the build. */
typedef struct ni_page_file {
    const char *name; /* "page.html" */
    const char *text;
    size_t size;
} ni_page_file;
extern const ni_page_file ni_page_files[]; /* ends with a NULL name */

#endif
