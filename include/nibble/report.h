/* report.h: the page that `nibble report` writes, from a program: runs are added, the page is written. */
#ifndef NIBBLE_REPORT_H
#define NIBBLE_REPORT_H

#include "status.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nb_report nb_report;

NB_API nb_status nb_report_create(nb_report **out, nb_error *err);
NB_API void nb_report_free(nb_report *report); /* NULL is allowed */

/* Reads a run folder: run.yaml, metrics.jsonl and what else is there (docs/report.md). */
NB_API nb_status nb_report_add_run(nb_report *report, const char *folder, nb_error *err);

/* Writes one self-contained HTML file, which appears whole or not at all. */
NB_API nb_status nb_report_write(nb_report *report, const char *path, nb_error *err);

#ifdef __cplusplus
}
#endif
#endif
