/* fuzz_series.c: any bytes as a series of measurements. What is read is finite in number, lies inside the reader's
 * memory, and what is left out is a tail. */
#include "fuzz.h"

#include "lens/series.h"
#include "lens/series_format.h"

#include <string.h>

void fuzz_repair(uint8_t *bytes, size_t size) {
    ni_series_chunk head;
    for (size_t at = NI_SERIES_MAGIC_SIZE; at + sizeof head <= size; at += sizeof head + head.bytes) {
        memcpy(&head, bytes + at, sizeof head);
        if (head.bytes > size - at - sizeof head)
            head.bytes = (uint32_t)(size - at - sizeof head);
        head.magic = NI_SERIES_CHUNK_MAGIC;
        head.checksum = ni_series_checksum(head.step, bytes + at + sizeof head, head.bytes);
        memcpy(bytes + at, &head, sizeof head);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    ni_series_reader *reader;
    nb_error err = {0};
    int64_t cut = 0;
    nb_status status = ni_series_parse(bytes, size, &reader, &cut, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status != NB_OK)
        return 0;
    FUZZ_CHECK(cut >= 0 && (size_t)cut <= size);
    double sum = 0;
    for (int32_t i = 0; i < ni_series_names(reader); i++) {
        FUZZ_CHECK(strcmp(ni_series_name(reader, ni_series_find(reader, ni_series_name(reader, i))),
                          ni_series_name(reader, i)) == 0);
        for (int64_t p = 0; p < ni_series_points(reader, i); p++) {
            ni_series_point point = ni_series_at(reader, i, p);
            for (int64_t v = 0; v < point.count; v++)
                sum += (double)point.values[v];
        }
    }
    FUZZ_CHECK(sum == sum || sum != sum); /* every value was touched */
    ni_series_reader_free(reader);
    /* What is good is all good: read again without the tail, nothing is cut. */
    FUZZ_CHECK(ni_series_parse(bytes, size - (size_t)cut, &reader, &cut, &err) == NB_OK && cut == 0);
    ni_series_reader_free(reader);
    ni_series_is_torn(bytes, size, 3);
    return 0;
}
