/* channels.h: the hot channels of an activation, and how long they stay hot (arXiv:2602.02047: spikes drift early in
 * training and become a small fixed set of channels later). */
#ifndef NI_LENS_CHANNELS_H
#define NI_LENS_CHANNELS_H

#include "lens/record.h"

/* The k largest of `amax` [count], ties to the lower index; ascending by index. Returns how many (min(k, count)). */
int32_t ni_top_channels(const float *amax, int64_t count, int32_t k, int32_t *channels);

/* The set at the last sample. */
typedef struct ni_hot_set {
    int32_t count;     /* 0: no sample yet */
    int32_t *channels; /* [k] ascending */
    float *since;      /* [k] step at which each became hot and stayed */
} ni_hot_set;

/* Takes the set of this step in and records under `prefix`: hot (channels), hot_since (steps), hot_mean (mean of their
 * maxima, k = 1 and k), and against the set before: hot_overlap = |both| / k, hot_born, hot_died. False if memory ran
 * out. */
bool ni_record_hot_channels(ni_record *record, const char *prefix, ni_hot_set *set, const float *amax, int64_t count,
                            int32_t k);
/* Takes a set over from vectors that were recorded before. */
bool ni_hot_set_restore(ni_hot_set *set, const float *channels, const float *since, int64_t count, int32_t k);
void ni_hot_set_free(ni_hot_set *set);

#endif
