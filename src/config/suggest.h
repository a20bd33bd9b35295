/* suggest.h: the word that was probably meant. */
#ifndef NI_CONFIG_SUGGEST_H
#define NI_CONFIG_SUGGEST_H

#include <stddef.h>

/* Edit distance with swaps of neighbours (optimal string alignment), letter case ignored; words beyond 63 bytes are
 * compared by their first 63. */
size_t ni_edit_distance(const char *a, const char *b);

/* Keeps the nearest of the words offered to it. */
typedef struct ni_suggestion {
    const char *word; /* what was typed */
    const char *best; /* NULL while nothing is near enough: at most a third of the letters wrong, at least one */
    size_t distance;
} ni_suggestion;

static inline ni_suggestion ni_suggest(const char *word) {
    ni_suggestion s = {word, NULL, 0};
    return s;
}
void ni_suggest_offer(ni_suggestion *s, const char *candidate);

#endif
