/* report_probe.c: what nibble probe wrote (probe.json), as bars. */
#include "files/file.h"
#include "files/json.h"
#include "report/report_build.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_ROWS = 256 };
#define PROBE_LIMIT (1u << 20)

static nb_status bad(const char *path, nb_error *err) {
    return nb_fail(err, NB_BAD_FILE, "%s: expected the object that nibble probe -o writes, version 1", path);
}

static nb_status put_bars(json_t *run, const json_t *probe, const char *key, const char *title, const char *formula,
                          const char *path, nb_error *err) {
    const json_t *rows = json_object_get(probe, "rows"), *recipe = json_object_get(probe, "recipe");
    const char *names[MOST_ROWS];
    double values[MOST_ROWS];
    size_t count = json_array_size(rows), i;
    json_t *row;
    if (count < 1 || count > MOST_ROWS || !json_is_string(recipe))
        return bad(path, err);
    json_array_foreach(rows, i, row) {
        names[i] = json_string_value(json_object_get(row, "name"));
        values[i] = json_is_number(json_object_get(row, key)) ? json_number_value(json_object_get(row, key)) : NAN;
        if (!names[i])
            return bad(path, err);
    }
    char about[256];
    snprintf(about, sizeof about, "One kind of module at a time in %.60s, all others in BF16.",
             json_string_value(recipe));
    ni_bars bars = {
        .caption = {.theme = "Sensitivity", .title = title, .about = about, .formula = formula, .unit = "%"},
        .x_label = "loss gap to BF16",
        .names = names,
        .values = values,
        .count = (int32_t)count};
    return ni_report_put_bars(run, &bars, err);
}

nb_status ni_report_add_probe(json_t *run, const char *folder, nb_error *err) {
    char path[1024], *text;
    size_t size;
    if (snprintf(path, sizeof path, "%s/probe.json", folder) >= (int)sizeof path || access(path, F_OK) != 0)
        return NB_OK;
    NB_TRY(ni_file_read(path, PROBE_LIMIT, &text, &size, err));
    json_t *probe = ni_json_load(text, size, NULL);
    free(text);
    nb_status status =
        json_integer_value(json_object_get(probe, "version")) == 1
            ? put_bars(run, probe, "gapPerShare", "For its share of the parameters",
                       "(L − L_bf16) / L_bf16, divided by the kind's share of the parameters of linear layers", path,
                       err)
            : bad(path, err);
    if (status == NB_OK)
        status = put_bars(run, probe, "gap", "Loss gap", "(L − L_bf16) / L_bf16", path, err);
    json_decref(probe);
    return status;
}
