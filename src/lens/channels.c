/* channels.c: top-k channels and their persistence. */
#include "lens/channels.h"

#include <stdlib.h>

int32_t ni_top_channels(const float *amax, int64_t count, int32_t k, int32_t *channels) {
    int32_t found = 0;
    for (int64_t c = 0; k > 0 && c < count; c++) { /* kept in descending order of amax; k is small */
        if (found == k && amax[c] <= amax[channels[k - 1]])
            continue;
        int32_t at = found < k ? found++ : k - 1;
        for (; at > 0 && amax[channels[at - 1]] < amax[c]; at--)
            channels[at] = channels[at - 1];
        channels[at] = (int32_t)c;
    }
    for (int32_t i = 1; i < found; i++) { /* and put in order of their index */
        int32_t c = channels[i], at = i;
        for (; at > 0 && channels[at - 1] > c; at--)
            channels[at] = channels[at - 1];
        channels[at] = c;
    }
    return found;
}

static bool reserve(ni_hot_set *set, int32_t k) {
    if (!set->channels)
        set->channels = calloc((size_t)k, sizeof *set->channels);
    if (!set->since)
        set->since = calloc((size_t)k, sizeof *set->since);
    return set->channels && set->since;
}

static int32_t position(const ni_hot_set *set, int32_t channel) {
    for (int32_t i = 0; i < set->count; i++)
        if (set->channels[i] == channel)
            return i;
    return -1;
}

bool ni_record_hot_channels(ni_record *record, const char *prefix, ni_hot_set *set, const float *amax, int64_t count,
                            int32_t k) {
    int32_t *channels = malloc((size_t)k * sizeof *channels);
    float *numbers = calloc((size_t)k * 2, sizeof *numbers);
    if (!channels || !numbers || !reserve(set, k)) {
        free(channels);
        free(numbers);
        return false;
    }
    float *since = numbers + k;
    int32_t found = ni_top_channels(amax, count, k, channels), stayed = 0;
    double sum = 0, largest = 0;
    for (int32_t i = 0; i < found; i++) {
        int32_t before = position(set, channels[i]);
        stayed += before >= 0;
        since[i] = before >= 0 ? set->since[before] : (float)record->step;
        numbers[i] = (float)channels[i];
        sum += amax[channels[i]];
        largest = amax[channels[i]] > largest ? amax[channels[i]] : largest;
    }
    if (set->count) {
        ni_record_scalar(record, prefix, "hot_overlap", (double)stayed / found);
        ni_record_scalar(record, prefix, "hot_born", found - stayed);
        ni_record_scalar(record, prefix, "hot_died", set->count - stayed);
    }
    ni_record_scalar(record, prefix, "hot_top1", largest);
    ni_record_scalar(record, prefix, "hot_mean", sum / found);
    ni_record_vector(record, prefix, "hot", numbers, found);
    ni_record_vector(record, prefix, "hot_since", since, found);
    ni_hot_set_restore(set, numbers, since, found, k);
    free(channels);
    free(numbers);
    return true;
}

bool ni_hot_set_restore(ni_hot_set *set, const float *channels, const float *since, int64_t count, int32_t k) {
    if (!reserve(set, k))
        return false;
    set->count = count < k ? (int32_t)count : k;
    for (int32_t i = 0; i < set->count; i++) {
        set->channels[i] = channels[i] >= 0 && channels[i] < 1e9f ? (int32_t)channels[i] : 0;
        set->since[i] = since[i];
    }
    return true;
}

void ni_hot_set_free(ni_hot_set *set) {
    free(set->channels);
    free(set->since);
    *set = (ni_hot_set){0};
}
