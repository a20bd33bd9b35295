/* text_file.c: what a file holds becomes text, step by step: unpacked, checked, taken out of JSON. */
#include "text_file.h"

#include <stdlib.h>
#include <string.h>

static nb_status make_text(const char *path, const ni_text_options *options, ni_text_file *out, nb_error *err) {
    size_t size;
    out->text = (ni_text){out->map.bytes, out->map.size};
    if (options->as_is)
        return NB_OK;
    NB_TRY(ni_text_unpack(path, out->text.bytes, out->text.size, &out->unpacked, &size, err));
    if (out->unpacked)
        out->text = (ni_text){out->unpacked, size};
    NB_TRY(ni_text_check(path, out->text.bytes, out->text.size, err));
    if (out->text.size >= 3 && memcmp(out->text.bytes, "\xef\xbb\xbf", 3) == 0) /* a mark, not a character */
        out->text = (ni_text){out->text.bytes + 3, out->text.size - 3};
    if (!ni_text_is_json_lines(path, out->text.bytes, out->text.size)) {
        if (options->field)
            return nb_fail(err, NB_BAD_USAGE, "--field %.40s: %s is not JSON lines; expected an object a line",
                           options->field, path);
        return NB_OK;
    }
    NB_TRY(ni_text_take_field(path, out->text.bytes, out->text.size, options->field ? options->field : "text",
                              &out->taken, &size, err));
    out->text = (ni_text){out->taken, size};
    return NB_OK;
}

nb_status ni_text_file_open(const char *path, const ni_text_options *options, ni_text_file *out, nb_error *err) {
    *out = (ni_text_file){0};
    NB_TRY(ni_file_map_open(path, &out->map, err));
    nb_status status = make_text(path, options, out, err);
    if (status != NB_OK)
        ni_text_file_close(out);
    return status;
}

void ni_text_file_close(ni_text_file *file) {
    ni_file_map_close(&file->map);
    free(file->unpacked);
    free(file->taken);
    *file = (ni_text_file){0};
}
