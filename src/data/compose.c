/* compose.c: NFC by utf8proc, which is not asked where nothing can compose. */
#include "compose.h"

#include <stdbool.h>
#include <utf8proc.h>

/* Below U+0300 nothing composes, and without what lies above nothing below is composed. */
static bool is_composed(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] >= 0xCC)
            return false;
    return true;
}

nb_status ni_compose(const char *text, size_t size, char **out, size_t *out_size, nb_error *err) {
    *out = NULL;
    if (is_composed(text, size))
        return NB_OK;
    const utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size,
                                            (utf8proc_uint8_t **)out, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0)
        return nb_fail(err, n == UTF8PROC_ERROR_NOMEM ? NB_NO_MEMORY : NB_BAD_FILE,
                       "a text of %zu bytes has no NFC: %s", size, utf8proc_errmsg(n));
    *out_size = (size_t)n;
    return NB_OK;
}
