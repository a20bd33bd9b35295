/* text_check.c: is it text? Known files by their first bytes, encodings by how their bytes are spread. */
#include "text_file.h"
#include "utf8.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Enough to tell: a text is of one kind from end to end. */
enum { LOOKED_AT = 1 << 20 };

typedef struct known_file {
    const char *bytes;
    size_t size, at;
    const char *what, *hint;
} known_file;

static const known_file known[] = {
    {"PAR1", 4, 0, "a Parquet file",
     "write its text column as JSON lines, as with pandas: read_parquet(NAME).to_json(OUT, orient='records', "
     "lines=True)"},
    {"ARROW1", 6, 0, "an Arrow file", "write its text column as JSON lines"},
    {"\xff\xfe\0\0", 4, 0, "UTF-32 text", "iconv -f UTF-32 -t UTF-8"},
    {"\xff\xfe", 2, 0, "UTF-16 text", "iconv -f UTF-16 -t UTF-8"},
    {"\xfe\xff", 2, 0, "UTF-16 text", "iconv -f UTF-16 -t UTF-8"},
    {"PK\3\4", 4, 0, "a zip archive (or an office document)", "unpack it and give the texts inside"},
    {"\xfd"
     "7zXZ\0",
     6, 0, "an xz file", "unpack it with xz -d"},
    {"BZh", 3, 0, "a bzip2 file", "unpack it with bunzip2"},
    {"7z\xbc\xaf\x27\x1c", 6, 0, "a 7-Zip archive", "unpack it and give the texts inside"},
    {"ustar", 5, 257, "a tar archive", "unpack it and give the texts inside"},
    {"%PDF-", 5, 0, "a PDF file", "pdftotext makes text of it"},
    {"\x7f"
     "ELF",
     4, 0, "a program", "give a text"},
    {"SQLite format 3", 15, 0, "an SQLite database", "write its texts as JSON lines"},
    {"\x93NUMPY", 6, 0, "a NumPy array", "token ids are data.train of a run file as they are"},
};

static nb_status refuse(const char *path, const char *what, const char *hint, nb_error *err) {
    return nb_fail(err, NB_BAD_FILE, "%s: is %s; expected UTF-8 text, JSON lines, or either in gzip or zstd; hint: %s",
                   path, what, hint);
}

typedef struct spread {
    size_t bytes, zeros[2]; /* at even and at odd positions */
    size_t control;         /* characters that no text has */
    size_t invalid, first_invalid;
} spread;

static bool is_control(unsigned char c) {
    return (c > 0 && c < 32 && !strchr("\t\n\v\f\r\b\x1a\x1b\x1c\x1d\x1e\x1f", c)) || c == 127;
}

static spread look(const char *bytes, size_t size) {
    spread s = {.bytes = size < LOOKED_AT ? size : LOOKED_AT};
    for (size_t at = 0, n; at < s.bytes; at += n) {
        n = ni_utf8_character(bytes + at, size - at);
        s.zeros[at % 2] += bytes[at] == 0;
        s.control += is_control((unsigned char)bytes[at]);
        if (n == 0 && s.invalid++ == 0)
            s.first_invalid = at;
        n += n == 0;
    }
    return s;
}

nb_status ni_text_check(const char *path, const char *bytes, size_t size, nb_error *err) {
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (size >= known[i].at + known[i].size && memcmp(bytes + known[i].at, known[i].bytes, known[i].size) == 0)
            return refuse(path, known[i].what, known[i].hint, err);
    spread s = look(bytes, size);
    for (size_t odd = 0; odd < 2 && s.bytes >= 8; odd++) /* letters of most alphabets have a zero byte there */
        if (s.zeros[odd] * 5 > s.bytes && s.zeros[1 - odd] * 20 < s.zeros[odd])
            return refuse(path, "UTF-16 text without a byte order mark",
                          odd ? "iconv -f UTF-16LE -t UTF-8" : "iconv -f UTF-16BE -t UTF-8", err);
    if (s.control * 100 > s.bytes)
        return refuse(path, "no text: it holds control characters, as programs and compressed files do",
                      "--as-is takes the bytes of any file", err);
    if (s.invalid * 1000 > s.bytes) {
        char what[160];
        snprintf(what, sizeof what,
                 "not UTF-8 (%zu of %zu bytes, the first at %zu); old texts are often Latin-1 or Windows-1252",
                 s.invalid, s.bytes, s.first_invalid);
        return refuse(path, what, "iconv -f WINDOWS-1252 -t UTF-8, or --as-is to take the bytes", err);
    }
    return NB_OK;
}
