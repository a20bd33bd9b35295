/* text_sample.h: parts of texts, evenly spread, that stand for all of them where a tokenizer is trained: training takes
 * longer with more text, and hardly learns more. */
#ifndef NI_DATA_TEXT_SAMPLE_H
#define NI_DATA_TEXT_SAMPLE_H

#include "tokenizer.h"

enum { NI_SAMPLE_PART = 1 << 16 }; /* bytes */

typedef struct ni_text_sample {
    const ni_text *texts;
    size_t parts, taken, wanted; /* in all texts; given out so far; to give out */
} ni_text_sample;

/* `most`: parts; texts that have no more are given whole. */
ni_text_sample ni_text_sample_begin(const ni_text *texts, int32_t count, size_t most);
bool ni_text_sample_next(ni_text_sample *sample, ni_text *part);

#endif
