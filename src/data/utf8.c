/* utf8.c: the table of well-formed byte sequences, Unicode 15 table 3-7. */
#include "utf8.h"

#include <stdbool.h>
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

size_t ni_utf8_space(const char *text, size_t size) {
    const unsigned char *c = (const unsigned char *)text;
    if (size >= 1 && (c[0] == ' ' || (c[0] >= '\t' && c[0] <= '\r')))
        return 1;
    if (size >= 2 && c[0] == 0xC2 && (c[1] == 0x85 || c[1] == 0xA0))
        return 2;
    if (size < 3)
        return 0;
    const unsigned code = (unsigned)(c[0] & 0x0F) << 12 | (unsigned)(c[1] & 0x3F) << 6 | (c[2] & 0x3Fu);
    const bool is = (c[0] & 0xF0) == 0xE0 && (code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
                                              code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000);
    return is ? 3 : 0;
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
