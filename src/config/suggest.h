/* suggest.h: the word that was probably meant. */
#ifndef NB_CONFIG_SUGGEST_H
#define NB_CONFIG_SUGGEST_H

#include <stddef.h>

/* Edit distance with swaps of neighbours (optimal string alignment), letter case ignored; words beyond 63 bytes are
 * compared by their first 63. */
size_t nb_edit_distance(const char *a, const char *b);

/* Keeps the nearest of the words offered to it. */
typedef struct nb_suggestion {
    const char *word; /* what was typed */
    const char *best; /* NULL while nothing is near enough: at most a third of the letters wrong, at least one */
    size_t distance;
} nb_suggestion;

static inline nb_suggestion nb_suggest(const char *word) {
    nb_suggestion s = {word, NULL, 0};
    return s;
}
void nb_suggest_offer(nb_suggestion *s, const char *candidate);

#endif
