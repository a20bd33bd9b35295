/* lens_rows.h: all that the lens wrote, for other programs. */
#ifndef NI_CLI_LENS_ROWS_H
#define NI_CLI_LENS_ROWS_H

#include "lens/series.h"
#include <stdbool.h>
#include <stdio.h>

/* Whether a name is asked for. */
typedef bool ni_lens_wants(const void *context, const char *name);

/* run,step,module,role,metric,index,value: a line a number; `index` counts in a vector and is empty for a number. */
void ni_lens_csv_head(FILE *to);
void ni_lens_csv(const ni_series_reader *reader, const char *run, ni_lens_wants *wants, const void *context, FILE *to);

/* {"run", "module", "role", "metric", "steps": [...], "values": [...]} a series, a line each; a value is a number or a
 * list. What is not finite is null. */
void ni_lens_json(const ni_series_reader *reader, const char *run, ni_lens_wants *wants, const void *context, FILE *to);

#endif
