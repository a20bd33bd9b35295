/* tensorboard.h: TensorBoard event files: scalars and histograms over steps.
 *
 * A file is a run of TFRecords (length, masked CRC-32C, bytes, masked CRC-32C), each a protocol-buffer message of type
 * Event (tensorflow/core/util/event.proto). Only the few fields that TensorBoard's scalar and histogram pages read are
 * written.
 */
#ifndef NI_LENS_TENSORBOARD_H
#define NI_LENS_TENSORBOARD_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ni_tensorboard ni_tensorboard;

/* Creates a new event file in `folder`, named so that TensorBoard finds it: events.out.tfevents.SECONDS.nibble.N. */
nb_status ni_tensorboard_open(const char *folder, ni_tensorboard **out, nb_error *err);
nb_status ni_tensorboard_close(ni_tensorboard *tb, nb_error *err); /* writes what is buffered, too. NULL is allowed */

nb_status ni_tensorboard_scalar(ni_tensorboard *tb, const char *tag, int64_t step, double number, nb_error *err);

/* `counts[i]` values lie in (limits[i-1], limits[i]]. */
nb_status ni_tensorboard_histogram(ni_tensorboard *tb, const char *tag, int64_t step, const double *limits,
                                   const double *counts, int32_t buckets, nb_error *err);

/* Hands what was written to the operating system, so that a watching TensorBoard sees it. */
nb_status ni_tensorboard_flush(ni_tensorboard *tb, nb_error *err);
nb_status ni_tensorboard_sync(ni_tensorboard *tb, nb_error *err); /* and to the disk */

/* How many bytes of an event file are whole records whose checksums agree. *torn: what follows is the beginning of one
 * more, as a crash leaves it, rather than damage. */
size_t ni_events_good(const void *bytes, size_t size, bool *torn);

/* CRC-32C (Castagnoli), as TFRecords use it before masking. */
uint32_t ni_crc32c(const void *bytes, size_t size);

#endif
