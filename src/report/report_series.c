/* report_series.c: the series of a run as the page gets them: a hundred thousand numbers as text would take a second to
 * read, so they travel as float32 in base64, and steps as spans [first, distance, count]. */
#include "files/json.h"
#include "report/report_build.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *packed_steps(const json_t *steps) {
    json_t *spans = json_array();
    size_t count = json_array_size(steps);
    for (size_t from = 0, next; from < count; from = next) {
        json_int_t first = json_integer_value(json_array_get(steps, from));
        json_int_t every = from + 1 < count ? json_integer_value(json_array_get(steps, from + 1)) - first : 1;
        next = from + 1;
        while (next < count &&
               json_integer_value(json_array_get(steps, next)) == first + (json_int_t)(next - from) * every)
            next++;
        ni_json_push(&spans, json_pack("[I, I, I]", first, every, (json_int_t)(next - from)));
    }
    return spans;
}

static json_t *packed_numbers(const json_t *values) {
    size_t count = json_array_size(values);
    unsigned char *bytes = malloc(4 * count + 1);
    if (!bytes)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(values, i);
        float number = json_is_number(value) ? (float)json_number_value(value) : NAN;
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        for (int b = 0; b < 4; b++)
            bytes[4 * i + (size_t)b] = (unsigned char)(bits >> (8 * b));
    }
    json_t *text = ni_report_base64(bytes, 4 * count);
    free(bytes);
    return text;
}

json_t *ni_report_packed_series(const json_t *series) {
    json_t *packed = json_object(), *values;
    const char *name;
    json_object_foreach((json_t *)series, name, values) {
        json_t *made = strcmp(name, "step") == 0 ? packed_steps(values) : packed_numbers(values);
        if (!made || json_object_set_new(packed, name, made)) {
            json_decref(packed);
            return NULL;
        }
    }
    return packed;
}
