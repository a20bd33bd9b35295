/* touched.c: a bit a row, gathered from all ranks. */
#include "touched.h"

#include <stdlib.h>
#include <string.h>

nb_status ni_touched_create(nb_ranks *ranks, int64_t rows, int64_t width, ni_touched *out, nb_error *err) {
    *out = (ni_touched){.ranks = ranks, .rows = rows, .width = width, .bytes = (size_t)(rows + 7) / 8};
    if (!ranks)
        return NB_OK;
    out->mine = calloc(out->bytes, 1);
    out->all = calloc((size_t)ranks->world, out->bytes);
    out->list = calloc((size_t)rows, sizeof *out->list);
    if (out->mine && out->all && out->list)
        return NB_OK;
    ni_touched_free(out);
    return nb_fail(err, NB_NO_MEMORY, "rows that ranks touch: out of memory");
}

void ni_touched_free(ni_touched *t) {
    free(t->mine);
    free(t->all);
    free(t->list);
    memset(t, 0, sizeof *t);
}

void ni_touched_begin(ni_touched *t) {
    if (t->mine)
        memset(t->mine, 0, t->bytes);
}

void ni_touched_note(ni_touched *t, const int32_t *tokens, int64_t n) {
    for (int64_t i = 0; t->mine && i < n; i++)
        t->mine[tokens[i] >> 3] |= (uint8_t)(1 << (tokens[i] & 7));
}

static bool is_marked(const ni_touched *t, int64_t row) {
    for (int32_t r = t->owned && !t->head ? 1 : 0; r < t->ranks->world; r++)
        if (t->all[(size_t)r * t->bytes + (size_t)(row >> 3)] >> (row & 7) & 1)
            return true;
    return false;
}

static void list_rows(ni_touched *t) {
    int64_t n = 0;
    for (int marked = 1; marked >= 0; marked--) {
        for (int64_t row = 0; row < t->rows; row++)
            if (is_marked(t, row) == marked)
                t->list[n++] = (int32_t)row;
        t->count = marked ? n : t->count;
    }
}

nb_status ni_touched_meet(ni_touched *t, nb_error *err) {
    NB_TRY(ni_ranks_gather(t->ranks, t->mine, t->all, t->bytes, err));
    list_rows(t);
    return NB_OK;
}
