/* record.c: one place for the measurements of a step. */
#include "lens/record.h"
#include "lens/series_format.h"

#include <math.h>
#include <stdio.h>

static const char *join(char full[NB_SERIES_NAME_SIZE], const char *prefix, const char *name) {
    snprintf(full, NB_SERIES_NAME_SIZE, "%s/%s", prefix, name);
    return full;
}

void nb_record_scalar(nb_record *record, const char *prefix, const char *name, double value) {
    char full[NB_SERIES_NAME_SIZE];
    if (!isfinite(value))
        return;
    nb_series_put(record->series, join(full, prefix, name), value);
    if (record->failure.status == NB_OK)
        nb_tensorboard_scalar(record->events, full, record->step, value, &record->failure);
    record->any = true;
}

void nb_record_vector(nb_record *record, const char *prefix, const char *name, const float *values, int64_t count) {
    char full[NB_SERIES_NAME_SIZE];
    nb_series_put_vector(record->series, join(full, prefix, name), values, count);
    record->any = true;
}

nb_status nb_record_commit(nb_record *record, nb_error *err) {
    nb_error failure = record->failure;
    bool any = record->any;
    record->any = false;
    record->failure = (nb_error){.status = NB_OK};
    if (any)
        NB_TRY(nb_series_commit(record->series, record->step, err));
    if (failure.status != NB_OK)
        return nb_fail(err, failure.status, "%s", failure.message);
    return any ? nb_tensorboard_flush(record->events, err) : NB_OK;
}
