/* suggest.c: edit distance. */
#include "config/suggest.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#define LONGEST 63

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

static bool same(char a, char b) {
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* d[i][j] = edits from the first i letters of a to the first j of b; three rows are enough. */
size_t ni_edit_distance(const char *a, const char *b) {
    size_t na = least(strlen(a), LONGEST), nb = least(strlen(b), LONGEST);
    size_t rows[3][LONGEST + 1];
    size_t *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t j = 0; j <= nb; j++)
        before[j] = last[j] = j;
    for (size_t i = 1; i <= na; i++) {
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t d = last[j - 1] + (same(a[i - 1], b[j - 1]) ? 0 : 1);
            d = least(d, least(last[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
                d = least(d, before[j - 2] + 1);
            row[j] = d;
        }
        size_t *free_row = before;
        before = last;
        last = row;
        row = free_row;
    }
    return last[nb];
}

void ni_suggest_offer(ni_suggestion *s, const char *candidate) {
    size_t length = strlen(s->word);
    size_t allowed = length < 6 ? (length < 3 ? 1 : 2) : length / 3;
    size_t distance = ni_edit_distance(s->word, candidate);
    if (distance > allowed || distance >= strlen(candidate) || (s->best && distance >= s->distance))
        return;
    s->best = candidate;
    s->distance = distance;
}
