/* quantizer_yaml.c: the keys of a quantizer, and what they come to. */
#include "recipe/quantizer_yaml.h"

#include "config/yaml_memory.h"
#include "format/element.h"
#include "nibble/recipe.h"

#include <string.h>

#define NOT_SAID (-1)
#define NULL_WORD                                                                                                      \
    { "null", NOT_SAID, NULL } /* printed as nothing at all */

/* ---- words ---- */

static const struct {
    const char *name;
    int32_t rows, cols;
} shapes[] = {
    {"1x16", 1, 16},          {"16x16", 16, 16},           {"1x32", 1, 32},
    {"row", 1, NB_BLOCK_ALL}, {"column", NB_BLOCK_ALL, 1}, {"tensor", NB_BLOCK_ALL, NB_BLOCK_ALL},
    {"1x64", 1, 64},
};

static const ni_word from_words[] = {
    NULL_WORD,
    {"fprop.x", NB_FPROP_X, NULL},
    {"fprop.w", NB_FPROP_W, NULL},
    {"dgrad.dy", NB_DGRAD_DY, NULL},
    {"dgrad.w", NB_DGRAD_W, NULL},
    {"wgrad.dy", NB_WGRAD_DY, NULL},
    {"wgrad.x", NB_WGRAD_X, NULL},
    {NULL, 0, NULL},
};
static const ni_word via_words[] = {
    NULL_WORD,
    {"fold", NB_VIA_FOLD, "the scales go into the other operand before that is quantized"},
    {"bf16", NB_VIA_BF16, "the operand is decoded and rounded to BF16"},
    {NULL, 0, NULL},
};
static const ni_word noise_words[] = {
    NULL_WORD,
    {"own", 0, "each operand draws bits of its own"},
    {"shared", 1, "both operands of the GEMM draw the same, by the position of the element"},
    {NULL, 0, NULL},
};
static const ni_word block_words[] = {
    NULL_WORD,
    {"1x16", 0, NULL},
    {"16x16", 1, NULL},
    {"1x32", 2, NULL},
    {"row", 3, "one scale a row: a token of X, an output channel of W"},
    {"column", 4, "one scale a column of the operand: an input channel"},
    {"tensor", 5, NULL},
    {"1x64", 6, NULL},
    {NULL, 0, NULL},
};
static const ni_word scale_words[] = {
    NULL_WORD,
    {"absmax", NB_RULE_ABSMAX, "the largest magnitude maps to the largest code"},
    {"floor", NB_RULE_FLOOR, "MX: exponent rounded down; may saturate"},
    {"ceil", NB_RULE_CEIL, "MX: the least power of two under which nothing saturates"},
    {"pow2", NB_RULE_POW2, "a float scale restricted to powers of two"},
    {"headroom", NB_RULE_HEADROOM, "NVFP4: the largest magnitude maps to 6*16/17, so that no scale saturates"},
    {"quest", NB_RULE_QUEST, "MXFP4: from the spread of the block, clipping what is far out (arXiv:2505.14669)"},
    {"eden", NB_RULE_EDEN,
     "NVFP4, rotated: scales corrected so that rounding is unbiased over rotations, and rounded by "
     "`sr_bits` random bits in the place of the elements (MS-EDEN, arXiv:2601.22813)"},
    {"ceil-log2", NB_RULE_CEIL_LOG2, "MX: log2 of the largest magnitude rounded up"},
    {"three-quarters", NB_RULE_THREE_QUARTERS,
     "MXFP4: exponent rounded down, of numbers times 3/4, so that none saturates; 4/3 on each side of the product "
     "makes "
     "up for it (arXiv:2502.20586)"},
    {NULL, 0, NULL},
};
static const ni_word round_words[] = {
    NULL_WORD,
    {"even", NB_ROUND_EVEN, "nearest, ties to the even code"},
    {"up", NB_ROUND_UP, "nearest, ties toward +inf (arXiv:2501.17116 appendix A)"},
    {"stochastic", NB_ROUND_STOCHASTIC, "up with the probability of the distance"},
    {"away", NB_ROUND_AWAY, "HiFloat4: nearest, ties away from zero (arXiv:2602.11287)"},
    {NULL, 0, NULL},
};
static const ni_word headroom_words[] = {NULL_WORD, {NULL, 0, NULL}};
static const ni_word bits_words[] = {NULL_WORD, {NULL, 0, NULL}};
static const ni_word size_words[] = {NULL_WORD, {"none", 0, NULL}, {NULL, 0, NULL}};
static const ni_word signs_words[] = {
    NULL_WORD,
    {"none", NB_SIGNS_NONE, "plain Hadamard"},
    {"fixed", NB_SIGNS_FIXED, "one pattern for the whole run (TransformerEngine's)"},
    {"fresh", NB_SIGNS_FRESH, "a new pattern each call, shared by the two operands of the GEMM"},
    {NULL, 0, NULL},
};
static const ni_word error_words[] = {
    NULL_WORD,
    {"none", NB_FOUR_SIX_NONE, "always 6"},
    {"mse", NB_FOUR_SIX_MSE, "the smaller sum of squares"},
    {"mae", NB_FOUR_SIX_MAE, "the smaller sum of magnitudes"},
    {"max", NB_FOUR_SIX_MAX, "the smaller of the largest"},
    {NULL, 0, NULL},
};
static const ni_word top_words[] = {NULL_WORD, {NULL, 0, NULL}};
static const ni_word order_words[] = {
    NULL_WORD,
    {"transformer-engine", NB_FOUR_SIX_IN_ORDER, "as they lie; of a tile in pairs of rows"},
    {"fouroversix", NB_FOUR_SIX_IN_EIGHTS, "in eight lanes, as the authors' code in PyTorch"},
    {NULL, 0, NULL},
};
static const ni_word truth_words[] = {NULL_WORD, {"true", 1, NULL}, {"false", 0, NULL}, {NULL, 0, NULL}};

/* Other spellings of a family's name. */
static const struct {
    const char *spelling, *family;
} spellings[] = {{"fp4", "e2m1"}, {"fp8-e4m3", "e4m3"}, {"fp8-e5m2", "e5m2"}};

static const char *family_name(const char *text) {
    for (size_t i = 0; i < NI_COUNT(spellings); i++)
        if (strcmp(text, spellings[i].spelling) == 0)
            return spellings[i].family;
    return text;
}

/* The words of `format` are the families of src/format; the row reads them itself. */
static nb_status read_format(void *field, const ni_yaml_node *node, nb_error *err) {
    bool scalar = node->kind == NI_YAML_SCALAR;
    if (scalar && strcmp(node->text, "null") == 0) {
        *(int32_t *)field = NOT_SAID;
        return NB_OK;
    }
    char known[200] = "";
    size_t used = 0;
    for (int32_t i = 0; ni_format_family_at(i); i++) {
        const char *name = ni_format_family_at(i)->name;
        if (scalar && strcmp(family_name(node->text), name) == 0) {
            *(int32_t *)field = i;
            return NB_OK;
        }
        if (used < sizeof known - 1)
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", name);
    }
    return ni_keys_fail(err, node, NULL, "expected one of %s; found '%.60s'", known, scalar ? node->text : "no word");
}

static void print_format(const void *field, FILE *to) {
    int32_t index = *(const int32_t *)field;
    if (index >= 0)
        fputs(ni_format_family_at(index)->name, to);
}

/* ---- outer ---- */

static nb_status read_outer(void *field, const ni_yaml_node *node, nb_error *err) {
    int32_t *outer = field;
    if (node->kind == NI_YAML_SCALAR) {
        *outer = strcmp(node->text, "null") == 0      ? NOT_SAID
                 : strcmp(node->text, "none") == 0    ? NB_OUTER_NONE
                 : strcmp(node->text, "tensor") == 0  ? NB_OUTER_TENSOR
                 : strcmp(node->text, "unit") == 0    ? NB_OUTER_UNIT
                 : strcmp(node->text, "delayed") == 0 ? NI_OUTER_DELAYED
                                                      : -2;
        if (*outer != -2)
            return NB_OK;
    }
    for (const ni_yaml_node *n = node->kind == NI_YAML_MAP ? node->first : NULL; n; n = n->next)
        if (strcmp(n->key, "block") != 0 && strcmp(n->key, "scale") != 0)
            return ni_yaml_fail(err, n, "unknown key '%.60s'; outer knows block and scale", n->key);
    const ni_yaml_node *block = ni_yaml_child(node, "block"), *scale = ni_yaml_child(node, "scale");
    bool is_block = block && block->kind == NI_YAML_SCALAR && strcmp(block->text, "1x128") == 0;
    bool known = !scale || (scale->kind == NI_YAML_SCALAR &&
                            (strcmp(scale->text, "fp32") == 0 || strcmp(scale->text, "pow2") == 0));
    if (!is_block || !known)
        return ni_keys_fail(err, node, NULL,
                            "expected none, tensor, unit, delayed or {block: 1x128, scale: fp32} (or pow2)");
    *outer = scale && strcmp(scale->text, "pow2") == 0 ? NB_OUTER_ROW128_POW2 : NB_OUTER_ROW128;
    return NB_OK;
}

static void print_outer(const void *field, FILE *to) {
    switch (*(const int32_t *)field) {
    case NB_OUTER_NONE:
        fputs("none", to);
        break;
    case NB_OUTER_TENSOR:
        fputs("tensor", to);
        break;
    case NB_OUTER_UNIT:
        fputs("unit", to);
        break;
    case NI_OUTER_DELAYED:
        fputs("delayed", to);
        break;
    case NB_OUTER_ROW128:
        fputs("{block: 1x128, scale: fp32}", to);
        break;
    case NB_OUTER_ROW128_POW2:
        fputs("{block: 1x128, scale: pow2}", to);
        break;
    default: /* not said */
        break;
    }
}

/* ---- the tables ---- */

#define FIELD(name) NI_FIELD(ni_operand_fields, name)

static const ni_key rows[] = {
    {.path = "from",
     .type = NI_KEY_CHOICE,
     FIELD(from),
     .fallback = "null",
     .words = from_words,
     .default_text = "the tensor itself",
     .help = "take another role's quantized operand, transposed: alone the same codes; with `format` its decoded "
             "values are quantized again"},
    {.path = "via",
     .type = NI_KEY_CHOICE,
     FIELD(via),
     .fallback = "null",
     .words = via_words,
     .default_text = "absent",
     .help = "with `from` alone, where the scales then lie on the contraction"},
    {.path = "noise",
     .type = NI_KEY_CHOICE,
     FIELD(noise),
     .fallback = "null",
     .words = noise_words,
     .default_text = "own",
     .help = "whose random bits `round: stochastic` draws; shared ones bias the products of equal rows",
     .source = "independent factors: the mean of their product is the product of their means"},
    {.path = "headroom",
     .type = NI_KEY_INT,
     FIELD(headroom),
     .fallback = "null",
     .default_text = "2",
     .low = 1,
     .high = 64,
     .words = headroom_words,
     .help = "with `outer: delayed`: the scale has room for so many times the largest magnitude of the step before",
     .source = "our choice: a power of two leaves the scale's bits, and a maximum may double"},
    {.path = "format",
     .type = NI_KEY_CUSTOM,
     FIELD(format),
     .fallback = "null",
     .read = read_format,
     .print = print_format,
     .default_text = "required",
     .range_text = "bf16 (not quantized), nvfp4, mxfp4, mxfp8, mxfp8-e5m2, e2m1 (or fp4), int4, e4m3 (or fp8-e4m3), "
                   "e5m2 (or fp8-e5m2), hifloat4",
     .help = "what the numbers become"},
    {.path = "block",
     .type = NI_KEY_CHOICE,
     FIELD(block),
     .fallback = "null",
     .words = block_words,
     .default_text = "by format: nvfp4 1x16, mxfp 1x32, hifloat4 1x64, e2m1 and int4 row, e4m3 and e5m2 tensor",
     .help = "rows x columns that share a scale; columns run along the contraction",
     .source = "the format"},
    {.path = "scale",
     .type = NI_KEY_CHOICE,
     FIELD(scale),
     .fallback = "null",
     .words = scale_words,
     .default_text = "by format: mxfp4 floor, mxfp8 ceil, others absmax",
     .help = "how the largest magnitude of a block becomes its scale",
     .source = "the format"},
    {.path = "outer",
     .type = NI_KEY_CUSTOM,
     FIELD(outer),
     .fallback = "null",
     .read = read_outer,
     .print = print_outer,
     .range_text = "none, tensor, unit, delayed, {block: 1x128, scale: fp32}, {block: 1x128, scale: pow2}",
     .default_text = "by format: nvfp4 tensor, others none",
     .help =
         "the scale above the block scales; unit: that of a tensor whose largest magnitude is 1, which is not looked "
         "for, so that what lies beyond saturates (arXiv:2605.06067); delayed, for X and dY: from the largest "
         "magnitude "
         "of the step before, times `headroom`",
     .source = "the format"},
    {.path = "round",
     .type = NI_KEY_CHOICE,
     FIELD(round),
     .fallback = "null",
     .default_text = "even; hifloat4: away",
     .words = round_words,
     .help = "rounding of the elements",
     .source = "IEEE 754 and OCP MX: nearest, ties to even; the code of arXiv:2602.11287: away"},
    {.path = "sr_bits",
     .type = NI_KEY_INT,
     FIELD(sr_bits),
     .fallback = "null",
     .low = 8,
     .high = 16,
     .words = bits_words,
     .range_text = "8 or 16",
     .default_text = "8",
     .help = "random bits of an element; only with `round: stochastic` or, of a scale, with `scale: eden`",
     .source = "TransformerEngine and Blackwell's cvt.rs draw 8"},
    {.path = "hadamard.size",
     .type = NI_KEY_INT,
     FIELD(hadamard_size),
     .fallback = "null",
     .default_text = "none",
     .low = 16,
     .high = 128,
     .words = size_words,
     .range_text = "none, 16, 32, 64, 128",
     .help = "rotate so many neighbours along the contraction before quantizing",
     .source = "no rotation unless the recipe says so"},
    {.path = "hadamard.signs",
     .type = NI_KEY_CHOICE,
     FIELD(hadamard_signs),
     .fallback = "null",
     .words = signs_words,
     .default_text = "none",
     .help = "signs flipped before the rotation",
     .source = "plain Hadamard"},
    {.path = "hadamard.round_bf16",
     .type = NI_KEY_CHOICE,
     FIELD(hadamard_round_bf16),
     .fallback = "null",
     .words = truth_words,
     .default_text = "false",
     .help = "round the rotated numbers to BF16 before quantizing",
     .source = "an exact rotation"},
    {.path = "four_six.error",
     .type = NI_KEY_CHOICE,
     FIELD(four_six),
     .fallback = "null",
     .words = error_words,
     .default_text = "none",
     .help = "NVFP4: a block's largest magnitude becomes 6 or 4, whichever errs less; random bits have no say",
     .source = "arXiv:2512.02010 (Four Over Six) takes mse; TransformerEngine's default is mae"},
    {.path = "four_six.top",
     .type = NI_KEY_INT,
     FIELD(four_six_top),
     .fallback = "null",
     .default_text = "256",
     .low = 256,
     .high = 448,
     .words = top_words,
     .range_text = "256, 448",
     .help = "the largest block scale that the tensor's amax is given; above 256 it leaves no room for 1.5 times it",
     .source = "arXiv:2512.02010"},
    {.path = "four_six.order",
     .type = NI_KEY_CHOICE,
     FIELD(four_six_order),
     .fallback = "null",
     .words = order_words,
     .default_text = "transformer-engine",
     .help = "how the errors of a block are added up; decides where both scales err alike but for the last bit",
     .source = "TransformerEngine's reference"},
};

enum { OF_ROLE = 4 }; /* rows that say something of the role, not of its quantizer */

static const struct {
    const char *name, *yaml;
} aliases[] = {
    {"bf16", "{format: bf16}"},
    {"nvfp4", "{format: nvfp4, block: 1x16}"},
    {"nvfp4-2d", "{format: nvfp4, block: 16x16}"},
    {"nvfp4-outer128", "{format: nvfp4, block: 1x16, outer: {block: 1x128, scale: fp32}}"},
    {"mxfp4", "{format: mxfp4, block: 1x32}"},
    {"mxfp8", "{format: mxfp8, block: 1x32}"},
    {"hifloat4", "{format: hifloat4, block: 1x64}"},
    {"fp4-row", "{format: fp4, block: row}"},
    {"fp4-tensor", "{format: fp4, block: tensor}"},
};

static nb_status read_alias(void *record, const ni_yaml_node *node, nb_error *err) {
    char known[200] = "";
    size_t used = 0;
    for (size_t i = 0; i < NI_COUNT(aliases); i++) {
        if (strcmp(node->text, aliases[i].name) == 0) {
            ni_yaml doc;
            NB_TRY(ni_yaml_parse(aliases[i].yaml, strlen(aliases[i].yaml), aliases[i].name, &doc, err));
            nb_status status = ni_keys_read(&ni_quantizer_keys, record, doc.root, err);
            ni_yaml_free(&doc);
            return status;
        }
        if (used < sizeof known - 1)
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", aliases[i].name);
    }
    return ni_keys_fail(err, node, NULL, "expected {format: ...} or one of %s; found '%.60s'", known, node->text);
}

/* The rows of a quantizer leave the others at zero, which says something. */
static nb_status say_no_source(void *record, const ni_yaml_node *node, nb_error *err) {
    (void)node, (void)err;
    ni_operand_fields *fields = record;
    fields->from = fields->via = fields->noise = fields->headroom = NOT_SAID;
    return NB_OK;
}

const ni_keys ni_operand_keys = {.name = "operand",
                                 .rows = rows,
                                 .count = NI_COUNT(rows),
                                 .size = sizeof(ni_operand_fields),
                                 .read_short = read_alias};
const ni_keys ni_quantizer_keys = {.name = "quantizer",
                                   .rows = rows + OF_ROLE,
                                   .count = NI_COUNT(rows) - OF_ROLE,
                                   .size = sizeof(ni_operand_fields),
                                   .read_short = read_alias,
                                   .finish = say_no_source};

/* ---- fields and quantizers ---- */

ni_operand_fields ni_operand_no_fields(void) {
    ni_operand_fields f = {.from = NOT_SAID,
                           .via = NOT_SAID,
                           .noise = NOT_SAID,
                           .headroom = NOT_SAID,
                           .format = NOT_SAID,
                           .block = NOT_SAID,
                           .scale = NOT_SAID,
                           .outer = NOT_SAID,
                           .round = NOT_SAID,
                           .sr_bits = NOT_SAID,
                           .hadamard_size = NOT_SAID,
                           .hadamard_signs = NOT_SAID,
                           .hadamard_round_bf16 = NOT_SAID,
                           .four_six = NOT_SAID,
                           .four_six_top = NOT_SAID,
                           .four_six_order = NOT_SAID};
    return f;
}

/* All members are int32_t, so there is no padding between them. */
static bool same_fields(const ni_operand_fields *a, const ni_operand_fields *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

bool ni_operand_says_no_quantizer(const ni_operand_fields *fields) {
    ni_operand_fields nothing = ni_operand_no_fields();
    nothing.from = fields->from;
    nothing.via = fields->via;
    nothing.noise = fields->noise;
    return same_fields(fields, &nothing);
}

static nb_status resolve_hadamard(const ni_operand_fields *f, const ni_yaml_node *node, nb_quantizer *q,
                                  nb_error *err) {
    if (f->hadamard_size <= 0 && (f->hadamard_signs != NOT_SAID || f->hadamard_round_bf16 != NOT_SAID))
        return ni_keys_fail(err, node, "hadamard", "without a size nothing is rotated; add `size: 16`");
    q->hadamard_size = f->hadamard_size == NOT_SAID ? 0 : f->hadamard_size;
    q->hadamard_signs = f->hadamard_signs == NOT_SAID ? NB_SIGNS_NONE : (nb_signs)f->hadamard_signs;
    q->hadamard_round_bf16 = f->hadamard_round_bf16 == 1;
    return NB_OK;
}

static nb_status resolve_four_six(const ni_operand_fields *f, const ni_yaml_node *node, nb_quantizer *q,
                                  nb_error *err) {
    if (f->four_six <= NB_FOUR_SIX_NONE && (f->four_six_top != NOT_SAID || f->four_six_order != NOT_SAID))
        return ni_keys_fail(err, node, "four_six", "without an error every block takes 6; add `error: mse`");
    if (f->four_six != NOT_SAID)
        q->four_six = (nb_four_six)f->four_six;
    if (f->four_six_top != NOT_SAID)
        q->four_six_top = f->four_six_top;
    if (f->four_six_order != NOT_SAID)
        q->four_six_order = (nb_four_six_order)f->four_six_order;
    return NB_OK;
}

nb_status ni_quantizer_resolve(const ni_operand_fields *f, const ni_yaml_node *node, nb_quantizer *out, nb_error *err) {
    if (f->format == NOT_SAID)
        return ni_keys_fail(err, node, NULL, "`format` is missing, as in {format: nvfp4}");
    nb_quantizer q = ni_format_family_at(f->format)->defaults;
    ni_operand_fields plain = ni_operand_no_fields();
    plain.format = f->format;
    plain.from = f->from;
    plain.via = f->via;
    plain.noise = f->noise;
    if (nb_quantizer_is_bf16(&q) && !same_fields(f, &plain))
        return ni_keys_fail(err, node, NULL, "format bf16 is not quantized, so no other key applies to it");
    if (f->sr_bits != NOT_SAID && f->round != NB_ROUND_STOCHASTIC && f->scale != NB_RULE_EDEN)
        return ni_keys_fail(err, node, "sr_bits",
                            "is for `round: stochastic` and `scale: eden`, and this operand is rounded otherwise");
    if (f->block != NOT_SAID) {
        q.block_rows = shapes[f->block].rows;
        q.block_cols = shapes[f->block].cols;
    }
    if (f->scale != NOT_SAID)
        q.rule = (nb_scale_rule)f->scale;
    if (f->outer != NOT_SAID)
        q.outer = f->outer == NI_OUTER_DELAYED ? NB_OUTER_TENSOR : (nb_outer_scale)f->outer;
    if (f->round != NOT_SAID)
        q.round = (nb_rounding)f->round;
    if (f->sr_bits != NOT_SAID)
        q.sr_bits = f->sr_bits;
    NB_TRY(resolve_four_six(f, node, &q, err));
    NB_TRY(resolve_hadamard(f, node, &q, err));
    nb_error inner = {0};
    if (nb_quantizer_check(&q, &inner) != NB_OK)
        return ni_keys_fail(err, node, NULL, "%s", inner.message);
    *out = q;
    return NB_OK;
}

static int32_t family_of(const nb_quantizer *q) {
    for (int32_t i = 0; ni_format_family_at(i); i++) {
        const nb_quantizer *d = &ni_format_family_at(i)->defaults;
        if (d->element == q->element && d->scale_type == q->scale_type)
            return i;
    }
    return NOT_SAID;
}

ni_operand_fields ni_quantizer_to_fields(const nb_quantizer *q) {
    ni_operand_fields f = ni_operand_no_fields();
    f.format = family_of(q);
    if (nb_quantizer_is_bf16(q))
        return f;
    for (size_t i = 0; i < NI_COUNT(shapes); i++)
        if (shapes[i].rows == q->block_rows && shapes[i].cols == q->block_cols)
            f.block = (int32_t)i;
    f.scale = (int32_t)q->rule;
    f.outer = (int32_t)q->outer;
    f.round = (int32_t)q->round;
    if (nb_quantizer_draws_bits(q))
        f.sr_bits = q->sr_bits;
    if (q->scale_type == NB_SCALE_E4M3)
        f.four_six = (int32_t)q->four_six;
    if (q->four_six) {
        f.four_six_top = q->four_six_top;
        f.four_six_order = (int32_t)q->four_six_order;
    }
    f.hadamard_size = q->hadamard_size;
    if (q->hadamard_size) {
        f.hadamard_signs = (int32_t)q->hadamard_signs;
        f.hadamard_round_bf16 = q->hadamard_round_bf16;
    }
    return f;
}

nb_status nb_quantizer_parse(const char *text, nb_quantizer *out, nb_error *err) {
    ni_yaml doc = {0};
    ni_operand_fields fields;
    nb_status status = ni_yaml_parse_into(&doc, text, strlen(text), "quantizer", false, &doc.root, err);
    if (status == NB_OK && doc.root->kind == NI_YAML_LIST)
        status = ni_yaml_fail(err, doc.root, "expected {format: ...} or an alias, found a list");
    if (status == NB_OK)
        status = ni_keys_read(&ni_quantizer_keys, &fields, doc.root, err);
    if (status == NB_OK && fields.outer == NI_OUTER_DELAYED)
        status = ni_keys_fail(err, doc.root, "outer",
                              "is delayed, which needs the steps of a run: it is for the operands of a recipe");
    if (status == NB_OK)
        status = ni_quantizer_resolve(&fields, doc.root, out, err);
    ni_yaml_free(&doc);
    return status;
}
