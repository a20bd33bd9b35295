/* series_public.c: the reading part of nibble/lens.h over series.h. */
#include "lens/series.h"
#include "nibble/lens.h"

static const ni_series_reader *inside(const nb_series *series) {
    return (const ni_series_reader *)(const void *)series;
}

nb_status nb_series_read(const char *path, nb_series **out, nb_error *err) {
    ni_series_reader *made = NULL;
    nb_status status = ni_series_read(path, &made, NULL, err);
    *out = (nb_series *)(void *)made;
    return status;
}

void nb_series_free(nb_series *series) {
    ni_series_reader_free((ni_series_reader *)(void *)series);
}

int32_t nb_series_names(const nb_series *series) {
    return ni_series_names(inside(series));
}

const char *nb_series_name(const nb_series *series, int32_t name) {
    return ni_series_name(inside(series), name);
}

int64_t nb_series_points(const nb_series *series, int32_t name) {
    return ni_series_points(inside(series), name);
}

nb_series_point nb_series_at(const nb_series *series, int32_t name, int64_t index) {
    const ni_series_point p = ni_series_at(inside(series), name, index);
    return (nb_series_point){p.step, p.count, p.values};
}
