/* waiting.h: results that an operation leaves in backend memory, until many of them are fetched at one time: a GPU does
 * not wait for the host between two measurements. Where memory is the host's own each is taken at once.
 */
#ifndef NI_LENS_WAITING_H
#define NI_LENS_WAITING_H

#include "backend/arguments.h"
#include "lens/series_format.h"
#include "nibble/backend.h"
#include <stdbool.h>

struct ni_record;
typedef struct ni_asked ni_asked;

/* Records what came of it. `results` is the host's copy. */
typedef void ni_take(struct ni_record *record, const ni_asked *asked, const void *results);

struct ni_asked {
    char prefix[NI_SERIES_NAME_SIZE];
    ni_take *take;
    size_t at, bytes;   /* of the results, from the first one on */
    int64_t rows, cols; /* of the matrix that was measured */
    bool has_scales;    /* of an operand: its blocks have a scale byte each */
    bool is_gradient;   /* it is dY */
    ni_crest_map map;   /* crests NULL: there are none. They are summed up before results are fetched */
    bool channels;      /* maxima of columns are recorded */
    bool keeps_map;     /* the whole map is wanted: */
    float *map_here;    /* on the host, while it is taken; NULL: out of memory */
    void (*then)(void *owner, int32_t which, const float *columns, int64_t cols); /* who else wants them; may be NULL */
    void *owner;
    int32_t which;
};

typedef struct ni_waiting {
    nb_backend *be; /* whose memory `there` is; NULL: none yet */
    char *there;    /* results from its begin on, maps of crests up to its end */
    size_t room, results, maps;
    void *here; /* results on the host */
    size_t here_room;
    ni_asked *list;
    ni_crest_map *crests; /* [capacity] */
    int32_t count, capacity;
} ni_waiting;

/* Room for results of one more operation, which is 0, and for `tiles` crests, all of them 8-byte aligned; what waits
 * already is taken first where there is no more. The rest of the entry is 0. NULL if memory ran out. Valid until the
 * next call. */
ni_asked *ni_ask(struct ni_record *record, nb_backend *be, const char *prefix, size_t bytes, int64_t tiles,
                 ni_take *take);
void *ni_asked_results(const struct ni_record *record, const ni_asked *asked); /* in backend memory */

/* The operation was called: takes it at once where that is cheap. */
void ni_asked_now(struct ni_record *record);

/* Takes everything, in the order in which it was asked. */
void ni_take_all(struct ni_record *record);

void ni_drop_all(ni_waiting *waiting); /* takes nothing */
/* Backend memory that it takes for so much of it. */
size_t ni_waiting_room(const nb_backend *be, size_t need);
size_t ni_waiting_bytes(const ni_waiting *waiting);
void ni_waiting_free(ni_waiting *waiting); /* takes nothing */

#endif
