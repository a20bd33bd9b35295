/* text_file.c: what a file holds becomes text, step by step: unpacked, taken out of Parquet, checked, taken out of
 * JSON.
 */
#include "text_file.h"

#include "utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The name of the field or column. */
static const char *field_of(const ni_text_options *options) {
    return options->field ? options->field : "text";
}

static nb_status take_column(const char *path, const ni_text_options *options, ni_text_file *out, nb_error *err) {
    NB_TRY(ni_text_take_column(path, out->text.bytes, out->text.size, field_of(options), &out->spooled, err));
    out->text = (ni_text){out->spooled.bytes, out->spooled.size};
    return ni_text_check(path, out->text.bytes, out->text.size, true, &out->doubts, err);
}

static nb_status make_text(const char *path, const ni_text_options *options, ni_text_file *out, nb_error *err) {
    size_t size;
    if (options->as_is)
        return NB_OK;
    NB_TRY(ni_text_unpack(path, out->text.bytes, out->text.size, &out->unpacked, &size, err));
    if (out->unpacked)
        out->text = (ni_text){out->unpacked, size};
    if (ni_text_is_parquet(out->text.bytes, out->text.size))
        return take_column(path, options, out, err);
    NB_TRY(ni_text_check(path, out->text.bytes, out->text.size, false, &out->doubts, err));
    if (out->text.size >= 3 && memcmp(out->text.bytes, "\xef\xbb\xbf", 3) == 0) /* a mark, not a character */
        out->text = (ni_text){out->text.bytes + 3, out->text.size - 3};
    if (!ni_text_is_json_lines(path, out->text.bytes, out->text.size)) {
        if (options->field)
            return nb_fail(err, NB_BAD_USAGE,
                           "--field %.40s: %s is not JSON lines (an object a line), and no Parquet file",
                           options->field, path);
        return ni_text_check_json(path, out->text.bytes, out->text.size, err);
    }
    NB_TRY(ni_text_take_field(path, out->text.bytes, out->text.size, field_of(options), &out->taken, &size, err));
    out->text = (ni_text){out->taken, size};
    return NB_OK;
}

nb_status ni_text_file_open(const char *path, const ni_text_options *options, ni_text_file *out, nb_error *err) {
    *out = (ni_text_file){0};
    NB_TRY(ni_file_map_open(path, &out->map, err));
    out->text = (ni_text){out->map.bytes, out->map.size};
    nb_status status = make_text(path, options, out, err);
    if (status != NB_OK)
        ni_text_file_close(out);
    return status;
}

static nb_status read_all(const char *name, int from, ni_text_file *out, nb_error *err) {
    size_t size = 0, room = 0;
    for (ssize_t got = 1; got != 0; size += got > 0 ? (size_t)got : 0) {
        if (size == room) {
            room = room ? 2 * room : 1 << 20;
            char *larger = realloc(out->read, room);
            if (!larger)
                return nb_fail(err, NB_NO_MEMORY, "%s: %zu bytes of it do not fit in memory; hint: give files", name,
                               room);
            out->read = larger;
        }
        got = read(from, out->read + size, room - size);
        if (got < 0 && errno != EINTR)
            return nb_fail(err, NB_IO_ERROR, "%s: cannot be read: %s", name, strerror(errno));
    }
    out->text = (ni_text){out->read, size};
    return NB_OK;
}

nb_status ni_text_file_take(const char *name, int from, const ni_text_options *options, ni_text_file *out,
                            nb_error *err) {
    *out = (ni_text_file){0};
    nb_status status = read_all(name, from, out, err);
    if (status == NB_OK)
        status = make_text(name, options, out, err);
    if (status != NB_OK)
        ni_text_file_close(out);
    return status;
}

void ni_text_file_close(ni_text_file *file) {
    ni_file_map_close(&file->map);
    ni_file_map_close(&file->spooled);
    free(file->read);
    free(file->unpacked);
    free(file->taken);
    *file = (ni_text_file){0};
}

/* ---- how it begins ---- */

static bool is_blank(char c) {
    return (unsigned char)c <= ' ' || c == 127;
}

/* Characters of the word at `at`, at most `room` bytes of it, without what is not UTF-8; *whole: it ends there. */
static size_t take_word(const ni_text *text, size_t *at, size_t room, char *to, bool *whole) {
    size_t used = 0;
    for (size_t n; *at < text->size && !is_blank(text->bytes[*at]); *at += n ? n : 1) {
        n = ni_utf8_character(text->bytes + *at, text->size - *at);
        if (used + n > room) {
            *whole = false;
            return used;
        }
        memcpy(to + used, text->bytes + *at, n);
        used += n;
    }
    *whole = true;
    return used;
}

void ni_text_first_words(const ni_text *text, size_t most, char *to) {
    size_t used = 0, at = 0;
    for (bool whole = true; whole;) {
        while (at < text->size && is_blank(text->bytes[at]))
            at++;
        const size_t space = used > 0;
        if (at == text->size || used + space >= most)
            break;
        const size_t n = take_word(text, &at, most - used - space, to + used + space, &whole);
        if (n > 0 && (whole || used == 0)) {
            if (space)
                to[used] = ' ';
            used += space + n;
        }
    }
    to[used] = 0;
}
