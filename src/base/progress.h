/* progress.h: a line of numbers that stays in place on a terminal and scrolls where output is a file.
 *
 * On a terminal the newest line is followed by a bar that is redrawn in place; elsewhere lines are written plainly and
 * the bar is left out. The caller gives the stream; nothing is global.
 */
#ifndef NI_BASE_PROGRESS_H
#define NI_BASE_PROGRESS_H

#include "nibble/status.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct ni_progress {
    FILE *out;
    bool terminal; /* out is a terminal that can redraw a line */
    bool drawn;    /* a bar stands at the end of the output */
    int32_t width; /* columns of the terminal */
    double last;   /* time of the last redraw, in seconds */
} ni_progress;

/* `out` may be NULL: then nothing is ever written. */
ni_progress ni_progress_open(FILE *out);

/* Draws the bar for `done` of `total` with `text` after it; at most some ten times a second unless done == total. */
void ni_progress_bar(ni_progress *progress, int64_t done, int64_t total, const char *text);

/* Writes a whole line above the bar. */
void ni_progress_line(ni_progress *progress, const char *format, ...) NB_PRINTF(2, 3);

/* Removes the bar. */
void ni_progress_close(ni_progress *progress);

/* Seconds on a clock that never runs backwards. */
double ni_seconds(void);

/* "1d 02h", "2h 05m", "3m 10s", "4.2s" for people; returns `text`. */
char *ni_duration_text(double seconds, char *text, size_t size);

#endif
