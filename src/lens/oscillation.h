/* oscillation.h: how weights move against their quantized values (arXiv:2510.27527; arXiv:2502.20853 section 6.1).
 *
 * Over a window of steps, for each followed element of a weight w with quantized value q:
 *     R = sum |q_t - q_{t-1}| / sum |w_t - w_{t-1}|     0 where w did not move
 * Followed are the first 16 rows of each weight: whole scale tiles, and every input channel.
 */
#ifndef NI_LENS_OSCILLATION_H
#define NI_LENS_OSCILLATION_H

#include "lens/record.h"
#include "nibble/lens.h"

enum { NI_FOLLOWED_ROWS = 16 };

typedef struct ni_followed_weight {
    nb_backend *be;   /* whose memory it is; NULL: none yet */
    int64_t elements; /* followed */
    int64_t seen;     /* steps of this window */
    void *memory;     /* flips [1]; then [elements] each: w, q, both distances, codes (ni_tracked) */
    size_t bytes;     /* of memory */
} ni_followed_weight;

/* Bytes of backend memory that following a weight [rows, cols] takes. */
size_t ni_followed_bytes(int64_t rows, int64_t cols);

/* Begins a window. */
void ni_follow_begin(ni_followed_weight *weight);

/* Takes the operand fprop.w of one step, on the device. False if memory ran out, or the operand is of no use. */
bool ni_follow_step(ni_followed_weight *weight, const nb_lens_operand *seen);

/* Records under `prefix` what the window saw: ratios (shares of elements with R in [0, 0], (0, 1/2], (1/2, 1], (1, 2],
 * ... (256, inf)), ratio_above_16, ratio_above_8, flip_rate (changes of a code an element and step). False if memory
 * ran out. */
bool ni_follow_end(ni_followed_weight *weight, ni_record *record, const char *prefix);
void ni_follow_free(ni_followed_weight *weight);

/* Working memory of ni_record_bin_distances: kept on a GPU, which waits where memory is released. */
typedef struct ni_bin_room {
    nb_backend *be; /* whose memory it is; NULL: none yet */
    float *memory;
    size_t bytes;
} ni_bin_room;
size_t ni_bin_bytes(int64_t rows, int64_t cols); /* of a weight */
void ni_bin_room_free(ni_bin_room *room);

/* Records under `prefix` how far w is from the centre of its E2M1 bin in units of the bin's width, 0 .. 1/2: |w - q| /
 * width; shares over ten bins, of the followed rows; what lies farther, as Inf does, is in the last. Nothing of weights
 * that are not in E2M1 or are rotated. False if memory ran out. */
bool ni_record_bin_distances(ni_record *record, const char *prefix, ni_bin_room *room, const nb_lens_operand *seen);

#endif
