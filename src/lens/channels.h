/* channels.h: the hot channels of an activation, and how long they stay hot (arXiv:2602.02047: spikes drift early in
 * training and become a small fixed set of channels later). */
#ifndef NB_LENS_CHANNELS_H
#define NB_LENS_CHANNELS_H

#include "lens/record.h"

/* The k largest of `amax` [count], ties to the lower index; ascending by index. Returns how many (min(k, count)). */
int32_t nb_top_channels(const float *amax, int64_t count, int32_t k, int32_t *channels);

/* The set at the last sample. */
typedef struct nb_hot_set {
    int32_t count;     /* 0: no sample yet */
    int32_t *channels; /* [k] ascending */
    float *since;      /* [k] step at which each became hot and stayed */
} nb_hot_set;

/* Takes the set of this step in and records under `prefix`: hot (channels), hot_since (steps), hot_mean (mean of their
 * maxima, k = 1 and k), and against the set before: hot_overlap = |both| / k, hot_born, hot_died. False if memory ran
 * out. */
bool nb_record_hot_channels(nb_record *record, const char *prefix, nb_hot_set *set, const float *amax, int64_t count,
                            int32_t k);
/* Takes a set over from vectors that were recorded before. */
bool nb_hot_set_restore(nb_hot_set *set, const float *channels, const float *since, int64_t count, int32_t k);
void nb_hot_set_free(nb_hot_set *set);

#endif
