/* test_config_keys.c: the table of keys: reading, refusing, printing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/keys.h"

typedef struct toy_part {
    double alpha;
    int32_t rank;
} toy_part;

typedef struct toy {
    int32_t steps;
    int64_t tokens;
    double lr, clamp;
    bool clip;
    char name[16];
    int32_t mode;
    char modules[3][8];
    int32_t module_count;
    bool has_part;
    toy_part part, always;
} toy;

static const ni_word modes[] = {{"even", 0, NULL}, {"stochastic", 2, "by noise"}, {NULL, 0, NULL}};
static const ni_word none[] = {{"none", -INFINITY, NULL}, {NULL, 0, NULL}};

static nb_status part_short(void *record, const ni_yaml_node *node, nb_error *err) {
    toy_part *part = record;
    if (strcmp(node->text, "half") != 0)
        return ni_keys_fail(err, node, NULL, "expected half, found '%s'", node->text);
    part->alpha = 0.5;
    return NB_OK;
}

static nb_status part_finish(void *record, const ni_yaml_node *node, nb_error *err) {
    const toy_part *part = record;
    if (part->alpha * part->rank > 100)
        return ni_keys_fail(err, node, "rank", "alpha x rank is beyond 100");
    return NB_OK;
}

static const ni_key part_rows[] = {
    {.path = "alpha", .type = NI_KEY_FLOAT, NI_FIELD(toy_part, alpha), .fallback = "0.99", .low = 0, .high = 1000},
    {.path = "rank", .type = NI_KEY_INT, NI_FIELD(toy_part, rank), .fallback = "4", .low = 1, .high = 1e9},
};
static const ni_keys part_keys = {.name = "part",
                                  .rows = part_rows,
                                  .count = NI_COUNT(part_rows),
                                  .size = sizeof(toy_part),
                                  .read_short = part_short,
                                  .finish = part_finish};

static const ni_key rows[] = {
    {.path = "steps", .type = NI_KEY_INT, NI_FIELD(toy, steps), .low = 1, .high = 1e10, .help = "optimizer steps"},
    {.path = "tokens", .type = NI_KEY_INT, NI_FIELD(toy, tokens), .fallback = "1e10", .positive = true, .help = "a|b"},
    {.path = "optimizer.lr", .type = NI_KEY_FLOAT, NI_FIELD(toy, lr), .fallback = "3e-4", .positive = true, .high = 1},
    {.path = "optimizer.clamp", .type = NI_KEY_FLOAT, NI_FIELD(toy, clamp), .fallback = "none", .words = none},
    {.path = "optimizer.clip", .type = NI_KEY_BOOL, NI_FIELD(toy, clip), .fallback = "true"},
    {.path = "name", .type = NI_KEY_TEXT, NI_FIELD(toy, name), .fallback = "", .source = "our choice"},
    {.path = "mode", .type = NI_KEY_CHOICE, NI_FIELD(toy, mode), .fallback = "even", .words = modes},
    {.path = "modules", .type = NI_KEY_TEXTS, NI_FIELD_TEXTS(toy, modules, module_count), .fallback = "[a, b]"},
    {.path = "part", .type = NI_KEY_TABLE, NI_FIELD(toy, part), .table = &part_keys, NI_OPTIONAL(toy, has_part)},
    {.path = "always", .type = NI_KEY_TABLE, NI_FIELD(toy, always), .table = &part_keys},
};
static const ni_keys toy_keys = {.name = "toy file", .rows = rows, .count = NI_COUNT(rows), .size = sizeof(toy)};

static nb_status read_toy(const char *text, toy *out, ni_yaml *doc, nb_error *err) {
    memset(out, 0xEE, sizeof *out);
    NB_TRY(ni_yaml_parse(text, strlen(text), "t.yaml", doc, err));
    return ni_keys_read(&toy_keys, out, doc->root, err);
}

static void defaults_fill_in(void **state) {
    (void)state;
    toy t;
    ni_yaml doc;
    nb_error err = {0};
    nb_status status = read_toy("steps: 7\n", &t, &doc, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, NB_OK);
    assert_int_equal(t.steps, 7);
    assert_true(t.tokens == 10000000000);
    assert_true(t.lr == 3e-4 && t.clamp == -INFINITY && t.clip);
    assert_string_equal(t.name, "");
    assert_int_equal(t.module_count, 2);
    assert_string_equal(t.modules[1], "b");
    assert_false(t.has_part);
    assert_true(t.part.rank == 4 && t.always.rank == 4);
    ni_yaml_free(&doc);
}

static void values_are_read(void **state) {
    (void)state;
    toy t;
    ni_yaml doc;
    nb_error err = {0};
    nb_status status = read_toy("steps: 1e3\noptimizer: {lr: 1, clamp: -3.5, clip: false}\nname: 12\nmode: stochastic\n"
                                "modules: []\npart: half\nalways: {rank: 9}\n",
                                &t, &doc, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, NB_OK);
    assert_true(t.steps == 1000 && t.lr == 1 && t.clamp == -3.5 && !t.clip && t.mode == 2 && t.module_count == 0);
    assert_string_equal(t.name, "12");
    assert_true(t.has_part && t.part.alpha == 0.5 && t.part.rank == 4 && t.always.rank == 9);
    ni_yaml_free(&doc);
}

static const struct {
    const char *text, *says;
} refused[] = {
    {"name: x\n", "t.yaml:1: the key 'steps' is missing (optimizer steps)"},
    {"steps: null\n", "'steps' is missing"},
    {"stepz: 1\n", "t.yaml:1: unknown key 'stepz'; did you mean 'steps'?"},
    {"steps: 1\nstep: 2\n", "t.yaml:2: unknown key 'step'; did you mean 'steps'?"},
    {"steps: 1\nlr: 2\n", "t.yaml:2: unknown key 'lr'; did you mean 'optimizer.lr'?"},
    {"steps: 1\noptimizer:\n  lrr: 2\n", "t.yaml:3: unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"},
    {"steps: 1\noptimizer:\n  zzzzzz: 2\n",
     "t.yaml:3: unknown key 'optimizer.zzzzzz'; the toy file knows here: lr, clamp, clip"},
    {"steps: 1\nhcp: {k: 3}\n", "t.yaml:2: unknown key 'hcp'; the toy file knows here: steps, tokens, optimizer,"},
    {"steps: 1\noptimizer.lr: 2\n", "unknown key 'optimizer.lr'"},
    {"steps: 1\noptimizer: 3\n", "t.yaml:2: optimizer: expected keys below it, found '3'"},
    {"steps: many\n", "t.yaml:1: steps: expected a whole number, found 'many'"},
    {"steps: 1.5\n", "steps: expected a whole number, found '1.5'"},
    {"steps: '7'\n", "steps: expected a whole number, found '7'"},
    {"steps: 0x10\n", "steps: expected a whole number"},
    {"steps: 0\n", "steps: 0 is out of range: expected 1 to 10000000000"},
    {"steps: 3000000000\n", "steps: 3000000000 is too large a number"},
    {"steps: 1e999\n", "steps: 1e999 is too large a number"},
    {"steps: [1]\n", "steps: expected a whole number, found a list"},
    {"steps: {a: 1}\n", "steps: expected a whole number, found keys"},
    {"steps: 1\ntokens: -4\n", "t.yaml:2: tokens: -4 is out of range: expected greater than 0"},
    {"steps: 1\ntokens: 99999999999999999999\n", "tokens: 99999999999999999999 is too large a number"},
    {"steps: 1\noptimizer: {lr: nan}\n", "optimizer.lr: expected a number, found 'nan'"},
    {"steps: 1\noptimizer: {lr: 0}\n", "optimizer.lr: 0 is out of range: expected greater than 0, at most 1"},
    {"steps: 1\noptimizer: {lr: 2}\n", "2 is out of range"},
    {"steps: 1\noptimizer: {lr: 1e-999}\n", "out of range"},
    {"steps: 1\noptimizer: {clamp: nine}\n", "optimizer.clamp: expected a number or none, found 'nine'"},
    {"steps: 1\noptimizer: {clip: yes}\n", "optimizer.clip: expected true or false, found 'yes'"},
    {"steps: 1\nname: a text of sixteen\n", "name: the text is too long: at most 15 bytes"},
    {"steps: 1\nname: [x]\n", "name: expected a text, found a list"},
    {"steps: 1\nmode: stochastc\n",
     "mode: expected one of even, stochastic, found 'stochastc'; did you mean 'stochastic'?"},
    {"steps: 1\nmodules: a\n", "modules: expected a list, as [a, b], found 'a'"},
    {"steps: 1\nmodules: [a, b, c, d]\n", "modules: the list is too long: at most 3 entries"},
    {"steps: 1\nmodules: [abcdefgh]\n", "modules: the text is too long: at most 7 bytes"},
    {"steps: 1\nmodules: [[a]]\n", "modules: expected a text, found a list"},
    {"steps: 1\npart: third\n", "t.yaml:2: part: expected half, found 'third'"},
    {"steps: 1\npart: [1]\n", "part: expected keys below it, found a list"},
    {"steps: 1\nalways:\n  alpha: 500\n  rank: 4\n", "t.yaml:4: always.rank: alpha x rank is beyond 100"},
    {"steps: 1\npart: {alhpa: 1}\n", "t.yaml:2: unknown key 'part.alhpa'; did you mean 'part.alpha'?"},
};

static void bad_values_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        toy t;
        ni_yaml doc;
        nb_error err = {0};
        nb_status status = read_toy(refused[i].text, &t, &doc, &err);
        if (status != NB_BAD_CONFIG || !strstr(err.message, refused[i].says))
            fail_msg("%s\ngave status %d: %s\nwanted: %s", refused[i].text, status, err.message, refused[i].says);
        ni_yaml_free(&doc);
    }
}

static char *print_toy(const toy *t, const ni_yaml_node *node, ni_keys_comments comments) {
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    assert_non_null(to);
    ni_keys_print(&toy_keys, t, node, comments, to);
    fclose(to);
    return text;
}

static void printing_is_read_back(void **state) {
    (void)state;
    static const char *const texts[] = {
        "steps: 7\n",
        "steps: 123456\nname: \"a: #\\\"\\\\b\"\npart: {alpha: 0.1, rank: 3}\n",
        "steps: 1\nname: 'true'\noptimizer: {lr: 0.0003000000000000001}\nmodules: ['*.o', \"1\", ' x']\n",
        "steps: 1\noptimizer: {clamp: -1e300}\n",
        "steps: 1\nname: '- x'\ntokens: 9007199254740992\nalways: half\n",
        "steps: 1\nname: \"\\tq\\x01\\x82\"\n",
        "steps: 1\nname: \"\\u2028 \\ufeff \\u20ac\"\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        for (int comments = NI_COMMENTS_NONE; comments <= NI_COMMENTS_ORIGIN; comments++) {
            toy first, second;
            ni_yaml doc, again;
            nb_error err = {0};
            assert_int_equal(read_toy(texts[i], &first, &doc, &err), NB_OK);
            char *printed = print_toy(&first, doc.root, (ni_keys_comments)comments);
            if (read_toy(printed, &second, &again, &err) != NB_OK)
                fail_msg("%s\nprinted as\n%s\n%s", texts[i], printed, err.message);
            if (memcmp(&first, &second, sizeof first) != 0)
                fail_msg("%s\nprinted as\n%s\nis another struct", texts[i], printed);
            free(printed);
            ni_yaml_free(&doc);
            ni_yaml_free(&again);
        }
}

static void origins_are_named(void **state) {
    (void)state;
    toy t;
    ni_yaml doc;
    nb_error err = {0};
    assert_int_equal(read_toy("steps: 7\noptimizer:\n  lr: 1\n", &t, &doc, &err), NB_OK);
    assert_int_equal(ni_yaml_set(&doc, "", "mode=stochastic", NULL, &err), NB_OK);
    char *text = print_toy(&t, doc.root, NI_COMMENTS_ORIGIN);
    assert_non_null(strstr(text, "optimizer:\n  lr: 1                                     # t.yaml:3\n"));
    assert_non_null(strstr(text, "# default: our choice\n"));
    assert_non_null(strstr(text, "# --set mode=stochastic\n"));
    free(text);
    ni_yaml_free(&doc);
}

static void pages_name_every_key(void **state) {
    (void)state;
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    assert_non_null(to);
    ni_keys_print_markdown(&toy_keys, to);
    fclose(to);
    assert_non_null(strstr(text, "# The toy file\n"));
    assert_non_null(strstr(text, "| `optimizer.lr` | number, greater than 0, at most 1 | `3e-4` |"));
    assert_non_null(strstr(text, "| `steps` | whole number, 1 to 10000000000 | required | optimizer steps |"));
    assert_non_null(strstr(text, "a\\|b"));
    assert_non_null(strstr(text, "| `part.alpha` |"));
    assert_non_null(strstr(text, "`stochastic`: by noise"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_fill_in),       cmocka_unit_test(values_are_read),
        cmocka_unit_test(bad_values_are_refused), cmocka_unit_test(printing_is_read_back),
        cmocka_unit_test(origins_are_named),      cmocka_unit_test(pages_name_every_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
