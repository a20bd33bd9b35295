/* layer_metrics.h: the numbers of a layer that is more than one product: attention, gates, what stands for a tensor. */
#ifndef NI_LENS_LAYER_METRICS_H
#define NI_LENS_LAYER_METRICS_H

#include "lens/operand_metrics.h"

/* Each records under MODULE. False if memory ran out. Names begin with words that series_reader.c knows as those of
 * samples: other numbers of a module are what mechanisms tell, and stay at their step where samples are spread. */
bool ni_record_attention(ni_record *record, const char *module, nb_backend *be, const nb_attention *attention,
                         const void *q, const void *k, int64_t stride);

/* GLA's forget gate before its sigmoid: pre_activation act [rows, cols] plus bias real [cols] (NULL = none).
 * False if memory ran out. */
bool ni_record_gate(ni_record *record, const char *module, nb_backend *be, const nb_mat *pre_activation,
                    const void *bias);

/* SNR and cosine of a whole tensor and what stands for it, and the moments of that, under MODULE/MECHANISM. False if
 * memory ran out. */
bool ni_record_approximation(ni_record *record, const char *module, const char *mechanism, nb_backend *be,
                             const nb_mat *exact, const nb_mat *approximate);

/* Moments and channels of what a layer gives, and its map of tiles where that is wanted, under MODULE/output. False if
 * memory ran out. */
bool ni_record_output(ni_record *record, const char *module, nb_backend *be, const nb_mat *y, bool tiles);

/* Two weights whose rows belong together: mean |cos(gate[i], up[i])|, both in backend memory. False if memory ran out.
 */
bool ni_record_alignment(ni_record *record, const char *module, nb_backend *be, const nb_mat *gate, const nb_mat *up);

#endif
