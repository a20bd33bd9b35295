/* utf8.c: the table of well-formed byte sequences, Unicode 15 table 3-7. */
#include "utf8.h"

#include <string.h>

size_t ni_utf8_character(const char *text, size_t size) {
    const unsigned char *c = (const unsigned char *)text;
    if (c[0] < 0x80)
        return 1;
    size_t length = c[0] >= 0xF0 ? 4 : c[0] >= 0xE0 ? 3 : 2;
    if (c[0] < 0xC2 || c[0] > 0xF4 || size < length)
        return 0;
    /* the second byte: no overlong forms, no surrogates, nothing above U+10FFFF */
    unsigned low = c[0] == 0xE0 ? 0xA0 : c[0] == 0xF0 ? 0x90 : 0x80;
    unsigned high = c[0] == 0xED ? 0x9F : c[0] == 0xF4 ? 0x8F : 0xBF;
    if (c[1] < low || c[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((c[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

size_t ni_utf8_repair(const char *text, size_t size, char *to, int64_t *invalid) {
    size_t used = 0;
    for (size_t at = 0; at < size;) {
        size_t length = ni_utf8_character(text + at, size - at);
        if (length) {
            memcpy(to + used, text + at, length);
        } else {
            memcpy(to + used, "\xEF\xBF\xBD", 3);
            if (invalid)
                ++*invalid;
        }
        used += length ? length : 3;
        at += length ? length : 1;
    }
    return used;
}
