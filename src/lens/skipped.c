/* skipped.c: reasons, counted. */
#include "lens/skipped.h"

#include "base/text.h"
#include "files/file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ni_skip_note(ni_skipped *s, const char *what, const char *why, const char *where) {
    int32_t i = 0;
    while (i < s->count && (strcmp(s->items[i].what, what) != 0 || strcmp(s->items[i].why, why) != 0))
        i++;
    if (i == NI_SKIPS_MOST)
        return;
    if (i == s->count) {
        s->items[s->count++] = (ni_skip){.what = what, .why = why};
        snprintf(s->items[i].first, sizeof s->items[i].first, "%s", where);
    }
    s->items[i].count++;
    s->changed = true;
}

nb_status ni_skipped_write(ni_skipped *s, const char *path, nb_error *err) {
    char *text = NULL;
    size_t size = 0;
    if (!s->changed)
        return NB_OK;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", path);
    for (int32_t i = 0; i < s->count; i++)
        fprintf(to, "%s: %s (%d operand%s, the first %s)\n", s->items[i].what, s->items[i].why, s->items[i].count,
                s->items[i].count == 1 ? "" : "s", s->items[i].first);
    if (!ni_memory_text(to, &text, true))
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", path);
    nb_status status = ni_file_write(path, text, size, err);
    free(text);
    s->changed = status != NB_OK;
    return status;
}
