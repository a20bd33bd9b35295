/* text_file.h: files that people have, as texts.
 *
 * UTF-8 is mapped as it is; gzip and zstd are unpacked; of JSON lines one field of each line becomes a document, of
 * Parquet a column of each row. What is no text is refused: the message says what the file is and how to make text of
 * it.
 */
#ifndef NI_DATA_TEXT_FILE_H
#define NI_DATA_TEXT_FILE_H

#include "files/file.h"
#include "tokenizer.h"

typedef struct ni_text_options {
    const char *field; /* of JSON lines, column of Parquet; NULL: "text" */
    bool as_is;        /* the bytes of the file, whatever they are */
} ni_text_options;

/* Bytes of a text that are not UTF-8, though few enough to be one. */
typedef struct ni_text_doubts {
    int64_t invalid, first; /* how many; where the first is */
} ni_text_doubts;

typedef struct ni_text_file {
    ni_text text; /* NUL between the documents of JSON lines and Parquet */
    ni_text_doubts doubts;
    ni_file_map map, spooled;
    char *read, *unpacked, *taken; /* NULL where they were not needed */
} ni_text_file;

nb_status ni_text_file_open(const char *path, const ni_text_options *options, ni_text_file *out, nb_error *err);
/* The same of what can be read from a descriptor until its end, all of it in memory; `name` names it in messages. */
nb_status ni_text_file_take(const char *name, int from, const ni_text_options *options, ni_text_file *out,
                            nb_error *err);
void ni_text_file_close(ni_text_file *file); /* {0} is allowed */

/* How a text begins: its first words with single spaces between them, at most `most` bytes and no part of a word; of a
 * first word that is longer, its first characters. `to` has room for most + 1. */
void ni_text_first_words(const ni_text *text, size_t most, char *to);

/* ---- the parts ---- */

/* Reads all of it and fails where the bytes are no UTF-8 text; `path` names them. `separated`: NUL ends a document, so
 * it is no sign of UTF-16. */
nb_status ni_text_check(const char *path, const char *bytes, size_t size, bool separated, ni_text_doubts *doubts,
                        nb_error *err);

/* Unpacks gzip (of any number of members) or zstd (of any number of frames) into fresh memory, NULL where the bytes are
 * neither. */
nb_status ni_text_unpack(const char *path, const char *bytes, size_t size, char **out, size_t *out_size, nb_error *err);

/* Whether a text is JSON lines: by its name, or because its first lines are objects. */
bool ni_text_is_json_lines(const char *path, const char *bytes, size_t size);

/* Fails where a text is JSON, but not an object a line: an array, or an object over several lines. */
nb_status ni_text_check_json(const char *path, const char *bytes, size_t size, nb_error *err);

/* One field of each line into fresh memory, NUL between them. */
nb_status ni_text_take_field(const char *path, const char *bytes, size_t size, const char *field, char **out,
                             size_t *out_size, nb_error *err);

/* Whether the first bytes are those of a Parquet file. */
bool ni_text_is_parquet(const char *bytes, size_t size);

/* A column of each row, a NUL behind each, in a spool (files/spool.h) that is mapped to *out; fails where nibble was
 * built without the part that reads Parquet. */
nb_status ni_text_take_column(const char *path, const char *bytes, size_t size, const char *column, ni_file_map *out,
                              nb_error *err);

#endif
