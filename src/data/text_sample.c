/* text_sample.c: every so many-th part of 64 KiB. */
#include "text_sample.h"

static size_t parts_of(const ni_text *text) {
    return (text->size + NI_SAMPLE_PART - 1) / NI_SAMPLE_PART;
}

ni_text_sample ni_text_sample_begin(const ni_text *texts, int32_t count, size_t most) {
    ni_text_sample s = {.texts = texts};
    for (int32_t i = 0; i < count; i++)
        s.parts += parts_of(&texts[i]);
    s.wanted = s.parts < most ? s.parts : most;
    return s;
}

bool ni_text_sample_next(ni_text_sample *s, ni_text *part) {
    if (s->taken == s->wanted)
        return false;
    size_t number = s->taken++ * s->parts / s->wanted;
    int32_t t = 0;
    while (number >= parts_of(&s->texts[t]))
        number -= parts_of(&s->texts[t++]);
    const size_t begin = number * NI_SAMPLE_PART, left = s->texts[t].size - begin;
    *part = (ni_text){s->texts[t].bytes + begin, left < NI_SAMPLE_PART ? left : NI_SAMPLE_PART};
    return true;
}
