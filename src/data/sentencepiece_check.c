/* sentencepiece_check.c: walks a model's protocol buffer to its normalisation tables and checks their offsets.
 *
 * ModelProto of sentencepiece_model.proto: normalizer_spec = 3 and denormalizer_spec = 5, each with
 * precompiled_charsmap = 2: u32 size of the trie, the trie, then strings that end with 0. The trie is a double array of
 * u32 units (github.com/s-yata/darts-clone):
 *     a value   bit 31 set     bits 30..0: offset of a string
 *     a node    bit 31 clear   bits 30..10: offset of its children, times 256 if bit 9 is set
 * A child's place is the node's, xor offset, xor a byte.
 */
#include "sentencepiece_check.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct wire {
    const uint8_t *at, *end;
} wire;

static bool take_varint(wire *w, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 70 && w->at < w->end; shift += 7) {
        uint8_t byte = *w->at++;
        if (shift < 64)
            *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

/* The next field: its number, and its bytes where it has a length (else `bytes` is NULL) or its value where it is a
 * varint. */
static bool take_value(wire *w, uint64_t *number, wire *bytes, uint64_t *value) {
    enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 };
    uint64_t tag, length = 0;
    *bytes = (wire){NULL, NULL};
    if (!take_varint(w, &tag) || tag > UINT32_MAX)
        return false;
    *number = tag >> 3;
    switch (tag & 7) {
    case VARINT:
        return take_varint(w, value);
    case FIXED64:
        length = 8;
        break;
    case FIXED32:
        length = 4;
        break;
    case LENGTH:
        if (!take_varint(w, &length))
            return false;
        break;
    default:
        return false; /* groups: not in this format */
    }
    if (length > (uint64_t)(w->end - w->at))
        return false;
    if ((tag & 7) == LENGTH)
        *bytes = (wire){w->at, w->at + length};
    w->at += length;
    return true;
}

static bool take_field(wire *w, uint64_t *number, wire *bytes) {
    uint64_t value;
    return take_value(w, number, bytes, &value);
}

static bool table_is_sound(wire table) {
    uint32_t trie_bytes, unit;
    size_t size = (size_t)(table.end - table.at);
    if (size == 0)
        return true;
    if (size < sizeof trie_bytes)
        return false;
    memcpy(&trie_bytes, table.at, sizeof trie_bytes);
    size -= sizeof trie_bytes;
    if (trie_bytes > size || trie_bytes % sizeof unit != 0)
        return false;
    const uint8_t *trie = table.at + sizeof trie_bytes;
    size_t units = trie_bytes / sizeof unit, strings = size - trie_bytes;
    if (units == 0 || strings == 0 || table.end[-1] != 0)
        return false;
    for (size_t i = 0; i < units; i++) {
        memcpy(&unit, trie + i * sizeof unit, sizeof unit);
        if (unit >> 31) {
            if ((unit & 0x7FFFFFFFu) >= strings)
                return false;
            continue;
        }
        uint64_t offset = (uint64_t)(unit >> 10) << (unit & 0x200u ? 8 : 0);
        if (((i ^ offset) | 0xFF) >= units)
            return false;
    }
    return true;
}

static bool spec_is_sound(wire spec) {
    uint64_t number;
    wire bytes;
    while (spec.at < spec.end) {
        if (!take_field(&spec, &number, &bytes))
            return false;
        if (number == 2 && bytes.at && !table_is_sound(bytes))
            return false;
    }
    return true;
}

nb_status ni_sp_check(const void *model, size_t size, nb_error *err) {
    wire w = {model, (const uint8_t *)model + size}, bytes;
    uint64_t number;
    while (w.at < w.end) {
        if (!take_field(&w, &number, &bytes))
            return nb_fail(err, NB_BAD_FILE, "not a SentencePiece model: no protocol buffer from byte %td on",
                           w.at - (const uint8_t *)model);
        if ((number == 3 || number == 5) && bytes.at && !spec_is_sound(bytes))
            return nb_fail(err, NB_BAD_FILE,
                           "the SentencePiece model is damaged: its normalisation table points outside "
                           "itself");
    }
    return NB_OK;
}

/* TrainerSpec = 2: model_type = 3 (BPE is 2, unigrams are the default). NormalizerSpec = 3: the table = 2,
 * add_dummy_prefix = 3, remove_extra_whitespaces = 4, both true where they are not said.
 * Its twin for decoded text, 5, counts where it has a table. */
ni_sp_traits ni_sp_read_traits(const void *model, size_t size) {
    enum { TRAINER = 2, NORMALIZER = 3, DENORMALIZER = 5, TYPE = 3, TABLE = 2, PREFIX = 3, REMOVE = 4, BYTE_PAIRS = 2 };
    ni_sp_traits traits = {.dummy_prefix = true, .remove_extra_whitespace = true};
    wire w = {model, (const uint8_t *)model + size}, spec, bytes;
    uint64_t section, number, value = 0;
    while (w.at < w.end && take_field(&w, &section, &spec))
        while (spec.at && spec.at < spec.end && take_value(&spec, &number, &bytes, &value)) {
            if (section == TRAINER && number == TYPE)
                traits.byte_pairs = value == BYTE_PAIRS;
            else if (section == NORMALIZER && number == TABLE)
                traits.normalizes = bytes.at && bytes.at < bytes.end;
            else if (section == DENORMALIZER && number == TABLE)
                traits.rewrites = bytes.at && bytes.at < bytes.end;
            else if (section == NORMALIZER && number == PREFIX)
                traits.dummy_prefix = value != 0;
            else if (section == NORMALIZER && number == REMOVE)
                traits.remove_extra_whitespace = value != 0;
        }
    return traits;
}
