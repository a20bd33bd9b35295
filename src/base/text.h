/* text.h: the ends of texts: what they end with, and where one was printed into memory. */
#ifndef NI_BASE_TEXT_H
#define NI_BASE_TEXT_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline bool ni_ends_with(const char *text, const char *end) {
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* Closes what open_memstream opened on *text and returns the text; NULL, and nothing to free, where it is not `whole`
 * or a piece of it found no memory. */
static inline char *ni_memory_text(FILE *to, char **text, bool whole) {
    whole = !ferror(to) && whole;
    whole = fclose(to) == 0 && whole;
    if (whole)
        return *text;
    free(*text);
    return *text = NULL;
}

#endif
