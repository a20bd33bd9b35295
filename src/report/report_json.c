/* report_json.c: numbers and bytes as JSON can carry them. */
#include "report/report_build.h"

#include <math.h>
#include <stdlib.h>

json_t *ni_report_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *ni_report_base64(const unsigned char *bytes, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t length = (size + 2) / 3 * 4;
    char *text = malloc(length + 1);
    if (!text)
        return NULL;
    for (size_t i = 0, o = 0; i < size; i += 3, o += 4) {
        uint32_t b = (uint32_t)bytes[i] << 16 | (i + 1 < size ? (uint32_t)bytes[i + 1] << 8 : 0) |
                     (i + 2 < size ? bytes[i + 2] : 0);
        text[o] = digits[b >> 18];
        text[o + 1] = digits[b >> 12 & 63];
        text[o + 2] = i + 1 < size ? digits[b >> 6 & 63] : '=';
        text[o + 3] = i + 2 < size ? digits[b & 63] : '=';
    }
    json_t *made = json_stringn_nocheck(text, length);
    free(text);
    return made;
}
