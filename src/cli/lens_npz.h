/* lens_npz.h: series as a file that numpy.load opens. */
#ifndef NI_CLI_LENS_NPZ_H
#define NI_CLI_LENS_NPZ_H

#include "cli/lens_rows.h"
#include "nibble/status.h"

/* For every wanted series two arrays: NAME, float32 [samples] or [samples, numbers], and NAME@step, int64 [samples].
 * A sample with fewer numbers than the longest ends in NaN. The file appears whole or not at all. */
nb_status ni_lens_npz(const ni_series_reader *r, ni_lens_wants *wants, const void *context, const char *path,
                      nb_error *err);

#endif
