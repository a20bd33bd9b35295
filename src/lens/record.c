/* record.c: one place for the measurements of a step. */
#include "lens/record.h"
#include "backend/table.h"
#include "lens/series_format.h"

#include <math.h>
#include <stdio.h>

static const char *join(char full[NI_SERIES_NAME_SIZE], const char *prefix, const char *name) {
    snprintf(full, NI_SERIES_NAME_SIZE, "%s/%s", prefix, name);
    return full;
}

void ni_record_scalar(ni_record *record, const char *prefix, const char *name, double value) {
    char full[NI_SERIES_NAME_SIZE];
    if (!isfinite(value))
        return;
    ni_series_put(record->series, join(full, prefix, name), value);
    if (record->failure.status == NB_OK)
        ni_tensorboard_scalar(record->events, full, record->step, value, &record->failure);
    record->any = true;
}

void ni_record_vector(ni_record *record, const char *prefix, const char *name, const float *values, int64_t count) {
    char full[NI_SERIES_NAME_SIZE];
    ni_series_put_vector(record->series, join(full, prefix, name), values, count);
    record->any = true;
}

void ni_record_shares(ni_record *record, const char *prefix, const char *name, const float *shares, int32_t count,
                      const double *limits, double total) {
    enum { MOST = 32 };
    char full[NI_SERIES_NAME_SIZE];
    double counts[MOST];
    ni_record_vector(record, prefix, name, shares, count);
    if (count > MOST || record->failure.status != NB_OK)
        return;
    for (int32_t i = 0; i < count; i++)
        counts[i] = round(shares[i] * total);
    ni_tensorboard_histogram(record->events, join(full, prefix, name), record->step, limits, counts, count,
                             &record->failure);
}

void ni_record_forget(ni_record *record) {
    ni_drop_all(&record->waiting);
    ni_series_forget(record->series);
    record->any = false;
}

nb_status ni_record_commit(ni_record *record, nb_error *err) {
    ni_take_all(record);
    nb_error failure = record->failure;
    bool any = record->any;
    record->any = false;
    record->failure = (nb_error){.status = NB_OK};
    if (any)
        NB_TRY(ni_series_commit(record->series, record->step, err));
    if (failure.status != NB_OK)
        return nb_fail(err, failure.status, "%s", failure.message);
    return any ? ni_tensorboard_flush(record->events, err) : NB_OK;
}
