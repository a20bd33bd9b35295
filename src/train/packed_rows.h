/* packed_rows.h: rows of a table that lie apart, brought together so that ranks exchange them as one array, and put
 * back.
 */
#ifndef NI_TRAIN_PACKED_ROWS_H
#define NI_TRAIN_PACKED_ROWS_H

#include "neighbours.h"
#include "touched.h"

typedef struct ni_packed_rows {
    ni_touched *touched; /* NULL: there are none, and tables are summed whole */
    int64_t most;        /* rows that are together at a time */
    float *data;         /* backend: [most, width] */
    int32_t *list;       /* backend: touched->list, where its memory is not the host's */
    ni_neighbours seen;  /* ranks that read each other's rows; theirs NULL: they are sent */
} ni_packed_rows;

/* Room for rows of at most `elements` numbers together; none where that is less than a row, or nothing is noted.
 * `elsewhere`: the backend's memory is not the host's. */
nb_status ni_packed_rows_create(ni_touched *touched, nb_backend *be, bool elsewhere, int64_t elements,
                                ni_packed_rows *out, nb_error *err);
void ni_packed_rows_free(ni_packed_rows *p, nb_backend *be);
size_t ni_packed_rows_bytes(const ni_packed_rows *p);

/* Finds out which they are. `be` here and below: whose operations may be asked for where memory is elsewhere. */
nb_status ni_packed_rows_meet(const ni_packed_rows *p, nb_backend *be, nb_error *err);

/* `n` of them from the one numbered `from` on: out of a table to p->data; into it, from where they lie together. */
void ni_pack_rows(const ni_packed_rows *p, nb_backend *be, const float *table, int64_t from, int64_t n);
void ni_unpack_rows(const ni_packed_rows *p, nb_backend *be, float *table, const float *packed, int64_t from,
                    int64_t n);

#endif
