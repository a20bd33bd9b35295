/* utf8.h: finding and repairing bytes that are not UTF-8 (RFC 3629); white space. */
#ifndef NI_DATA_UTF8_H
#define NI_DATA_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at the beginning of a text that is not empty; 0 if it is not one. */
size_t ni_utf8_character(const char *text, size_t size);

/* Bytes of the character of Unicode's White_Space that a text begins with; 0: none. */
size_t ni_utf8_space(const char *text, size_t size);

/* Copies text with each invalid byte as U+FFFD; `to` has room for 3 * size. Returns the new size and adds the number of
 * invalid bytes to *invalid (may be NULL). */
size_t ni_utf8_repair(const char *text, size_t size, char *to, int64_t *invalid);

#endif
