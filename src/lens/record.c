/* record.c: one place for the measurements of a step. */
#include "lens/record.h"
#include "backend/table.h"
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

void *nb_record_results(nb_record *record, nb_backend *be) {
    if (record->be != be) {
        nb_record_free_results(record);
        record->results = be->ops->alloc(be, NB_RESULT_BYTES, "results of the lens");
        record->be = record->results ? be : NULL;
    }
    return record->results;
}

void nb_record_free_results(nb_record *record) {
    if (record->be)
        nb_backend_release(record->be, record->results);
    record->be = NULL;
    record->results = NULL;
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
