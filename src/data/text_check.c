/* text_check.c: is it text? Known files by their first bytes, encodings by how their bytes are spread. */
#include "text_file.h"
#include "utf8.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Files put together from several kinds are told by their parts. */
enum { PART = 1 << 20 };

/* Limits, as docs/data.md gives them: one byte in so many. */
enum { CONTROL_ONE_IN = 100, INVALID_OF_PART_ONE_IN = 20, INVALID_ONE_IN = 1000 };

typedef struct known_file {
    const char *bytes;
    size_t size, at;
    const char *what, *hint;
} known_file;

static const known_file known[] = {
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
    return nb_fail(err, NB_BAD_FILE,
                   "%s: is %s; expected UTF-8 text, JSON lines, either in gzip or zstd, or Parquet; hint: %s", path,
                   what, hint);
}

typedef struct spread {
    size_t bytes, zeros[2]; /* at even and at odd positions; of texts that zeros separate: none */
    size_t control;         /* characters that no text has */
    size_t invalid, first_invalid;
} spread;

static bool is_control(unsigned char c) {
    return (c > 0 && c < 32 && !strchr("\t\n\v\f\r\b\x1a\x1b\x1c\x1d\x1e\x1f", c)) || c == 127;
}

/* Eight bytes of 32 to 126: nothing to count. The sums keep their carries within a byte, for none has the top bit. */
static bool are_plain(const char *bytes) {
    const uint64_t each = 0x0101010101010101u, top = 0x80 * each;
    uint64_t w;
    memcpy(&w, bytes, sizeof w);
    return (w & top) == 0 && ((w + 0x60 * each) & top) == top && ((w + each) & top) == 0;
}

/* From *at on, whole characters of about a part; the last part is not a small one, in which few bytes would weigh much.
 */
static spread look(const char *bytes, size_t size, bool separated, size_t *at) {
    const size_t begin = *at, end = size - begin < 2 * (size_t)PART ? size : begin + PART;
    spread s = {0};
    size_t i = begin;
    for (size_t n; i < end; i += n) {
        n = 8;
        if (end - i >= n && are_plain(bytes + i))
            continue;
        n = ni_utf8_character(bytes + i, size - i);
        s.zeros[i % 2] += bytes[i] == 0 && !separated;
        s.control += is_control((unsigned char)bytes[i]);
        if (n == 0 && s.invalid++ == 0)
            s.first_invalid = i;
        n += n == 0;
    }
    s.bytes = i - begin;
    *at = i;
    return s;
}

static nb_status refuse_encoding(const char *path, const spread *s, const char *of, nb_error *err) {
    char what[200];
    snprintf(what, sizeof what,
             "not UTF-8 (%zu of %zu bytes%s, the first at %zu); old texts are often Latin-1 or Windows-1252",
             s->invalid, s->bytes, of, s->first_invalid);
    return refuse(path, what, "iconv -f WINDOWS-1252 -t UTF-8, or --as-is to take the bytes", err);
}

static nb_status check_part(const char *path, const spread *s, size_t size, nb_error *err) {
    for (size_t odd = 0; odd < 2 && s->bytes >= 8; odd++) /* letters of most alphabets have a zero byte there */
        if (s->zeros[odd] * 5 > s->bytes && s->zeros[1 - odd] * 20 < s->zeros[odd])
            return refuse(path, "UTF-16 text without a byte order mark",
                          odd ? "iconv -f UTF-16LE -t UTF-8" : "iconv -f UTF-16BE -t UTF-8", err);
    if (s->control * CONTROL_ONE_IN > s->bytes)
        return refuse(path, "no text: it holds control characters, as programs and compressed files do",
                      "--as-is takes the bytes of any file", err);
    if (s->bytes < size && s->invalid * INVALID_OF_PART_ONE_IN > s->bytes)
        return refuse_encoding(path, s, " of a part", err);
    return NB_OK;
}

nb_status ni_text_check(const char *path, const char *bytes, size_t size, bool separated, ni_text_doubts *doubts,
                        nb_error *err) {
    spread all = {0};
    *doubts = (ni_text_doubts){0};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (size >= known[i].at + known[i].size && memcmp(bytes + known[i].at, known[i].bytes, known[i].size) == 0)
            return refuse(path, known[i].what, known[i].hint, err);
    for (size_t at = 0; at < size;) {
        const spread s = look(bytes, size, separated, &at);
        NB_TRY(check_part(path, &s, size, err));
        if (all.invalid == 0)
            all.first_invalid = s.first_invalid;
        all.invalid += s.invalid;
        all.bytes += s.bytes;
    }
    if (all.invalid * INVALID_ONE_IN > all.bytes)
        return refuse_encoding(path, &all, "", err);
    *doubts = (ni_text_doubts){(int64_t)all.invalid, (int64_t)all.first_invalid};
    return NB_OK;
}
