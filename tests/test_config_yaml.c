/* test_config_yaml.c: the YAML tree: line marks, refusals, base: and --set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "config/suggest.h"
#include "config/yaml.h"
#include "files/file.h"
#include "temporary.h"

static void nodes_know_their_lines(void **state) {
    (void)state;
    static const char text[] = "# a comment\n"
                               "a: 1\n"
                               "b:\n"
                               "  c: 'null'\n"
                               "  d: [x, \"y\"]\n"
                               "e:\n";
    ni_yaml doc;
    nb_error err = {0};
    assert_int_equal(ni_yaml_parse(text, strlen(text), "t.yaml", &doc, &err), NB_OK);
    assert_int_equal(ni_yaml_find(doc.root, "a")->line, 2);
    const ni_yaml_node *c = ni_yaml_find(doc.root, "b.c"), *d = ni_yaml_find(doc.root, "b.d");
    assert_int_equal(c->line, 4);
    assert_false(ni_yaml_is_null(c)); /* quoted */
    assert_string_equal(d->first->next->text, "y");
    assert_string_equal(d->file, "t.yaml");
    assert_true(ni_yaml_is_null(ni_yaml_find(doc.root, "e")));
    assert_null(ni_yaml_find(doc.root, "b.x"));
    assert_null(ni_yaml_find(doc.root, "a.x"));
    char path[8];
    assert_string_equal(ni_yaml_path(d->first, path, sizeof path), "b.d");
    ni_yaml_free(&doc);
    ni_yaml_free(&doc);
}

/* Text, what the message must say. */
static const struct {
    const char *text, *says;
} refused[] = {
    {"", "is empty"},
    {"# only a comment\n", "is empty"},
    {"a: [1\nb: 2\n", "t.yaml:"},
    {"a: \"unclosed\n", "not valid YAML"},
    {"a: [1,\n 2\nb: 3\n",
     "t.yaml:3: not valid YAML: did not find expected ',' or ']', while parsing a flow sequence that "
     "begins in line 1"},
    {"a:\n\tb: 1\n", "t.yaml:2: a tab indents this line; YAML wants spaces"},
    {"a: 1\na: 2\n", "t.yaml:2: the key 'a' stands here a second time (first in line 1)"},
    {"a: &x 1\nb: *x\n", "t.yaml:1: tags (!) and anchors (&)"},
    {"a: *x\n", "t.yaml:1:"},
    {"a: &x [1, 2]\n", "anchors"},
    {"a: !!float 3\n", "tags"},
    {"a: {b: !t {c: 1}}\n", "tags"},
    {"a: 1\n---\nb: 2\n", "t.yaml:2: a second document"},
    {"? [a, b]\n: 1\n", "a key must be a plain word"},
    {"a: \"x\\0y\"\n", "NUL"},
    {"a: \x01\n", "t.yaml:1: holds a control character"},
    {"a: [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]\n", "nested more than 16 levels deep"},
    {"a: \xff\xfe\n", "t.yaml"},
};

static void bad_text_is_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        ni_yaml doc;
        nb_error err = {0};
        nb_status status = ni_yaml_parse(refused[i].text, strlen(refused[i].text), "t.yaml", &doc, &err);
        if (status != NB_BAD_CONFIG || !strstr(err.message, refused[i].says))
            fail_msg("%s\ngave status %d: %s\nwanted: %s", refused[i].text, status, err.message, refused[i].says);
        assert_null(doc.memory);
    }
    static const char nul[] = "a: 1\nb: \0 2\n";
    ni_yaml doc;
    nb_error err = {0};
    assert_int_equal(ni_yaml_parse(nul, sizeof nul - 1, "t.yaml", &doc, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "t.yaml:2: holds a NUL character"));
}

static void big_files_are_refused(void **state) {
    (void)state;
    size_t size = NI_YAML_MAX_BYTES + 1;
    char *text = malloc(size);
    assert_non_null(text);
    memset(text, 'a', size);
    ni_yaml doc;
    nb_error err = {0};
    assert_int_equal(ni_yaml_parse(text, size, "t.yaml", &doc, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "too big"));
    for (size_t i = 0; i + 1 < size; i += 2)
        memcpy(text + i, "- ", 2); /* nesting in one line */
    assert_int_equal(ni_yaml_parse(text, size - 1, "t.yaml", &doc, &err), NB_BAD_CONFIG);
    text[0] = '[';
    for (size_t i = 1; i + 1 < size; i += 2)
        memcpy(text + i, "1,", 2); /* one long list */
    assert_int_equal(ni_yaml_parse(text, size - 1, "t.yaml", &doc, &err), NB_BAD_CONFIG);
    assert_non_null(strstr(err.message, "too many values"));
    free(text);
}

static bool format_replaces(const ni_yaml_node *over) {
    return ni_yaml_child(over, "format") != NULL;
}

static void assignments_write_over(void **state) {
    (void)state;
    static const char text[] = "a: {b: 1, c: 2}\nq: {format: x, block: 1}\n";
    ni_yaml doc;
    nb_error err = {0};
    assert_int_equal(ni_yaml_parse(text, strlen(text), "t.yaml", &doc, &err), NB_OK);
    assert_int_equal(ni_yaml_set(&doc, "", "a.b=[3, 4]", format_replaces, &err), NB_OK);
    assert_int_equal(ni_yaml_set(&doc, "", "new.deep.key=v=w", format_replaces, &err), NB_OK);
    assert_int_equal(ni_yaml_set(&doc, "", "q.format=y", format_replaces, &err), NB_OK);
    assert_int_equal(ni_yaml_set(&doc, "", "a.c=", format_replaces, &err), NB_OK);
    const ni_yaml_node *b = ni_yaml_find(doc.root, "a.b");
    assert_int_equal(b->kind, NI_YAML_LIST);
    assert_string_equal(b->file, "--set a.b=[3, 4]");
    assert_int_equal(b->line, 0);
    assert_string_equal(ni_yaml_find(doc.root, "new.deep.key")->text, "v=w");
    assert_true(ni_yaml_is_null(ni_yaml_find(doc.root, "a.c")));
    assert_string_equal(ni_yaml_find(doc.root, "q.format")->text, "y");
    assert_null(ni_yaml_find(doc.root, "q.block")); /* replaced whole */
    static const char *const bad[] = {"",       "=1",   "a",    ".a=1",       "a.=1",
                                      "a..b=1", "a={b", "a=*x", "a=1\n--- 2", "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q=1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (ni_yaml_set(&doc, "", bad[i], NULL, &err) != NB_BAD_CONFIG)
            fail_msg("--set '%s' was taken", bad[i]);
        assert_non_null(strstr(err.message, "--set"));
    }
    ni_yaml_free(&doc);
}

static void write_file(void **state, const char *name, const char *text) {
    assert_int_equal(ni_file_write(in_folder(state, name), text, strlen(text), NULL), NB_OK);
}

static void bases_are_laid_under(void **state) {
    write_file(state, "one.yaml", "name: one\nx: {p: 1, q: 2}\nl: [1, 2]\nz: {format: a, k: 1}\n");
    write_file(state, "two.yaml", "base: one\nname: two\nx: {q: 3}\nl: [9]\nz: {format: b}\n");
    write_file(state, "three.yaml", "base: ./two.yaml\nx:\n  p: null\n");
    ni_yaml doc;
    nb_error err = {0};
    nb_status status = ni_yaml_load_based("three", *state, "recipe", format_replaces, &doc, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, NB_OK);
    assert_string_equal(ni_yaml_find(doc.root, "name")->text, "three"); /* its file's, not the base's */
    assert_non_null(strstr(ni_yaml_find(doc.root, "name")->file, "three.yaml"));
    assert_true(ni_yaml_is_null(ni_yaml_find(doc.root, "x.p")));
    assert_string_equal(ni_yaml_find(doc.root, "x.q")->text, "3");
    assert_non_null(strstr(ni_yaml_find(doc.root, "x.q")->file, "two.yaml"));
    assert_null(ni_yaml_find(doc.root, "l")->first->next);
    assert_null(ni_yaml_find(doc.root, "z.k"));
    assert_null(ni_yaml_find(doc.root, "base"));
    assert_non_null(strstr(doc.root->file, "three.yaml"));
    ni_yaml_free(&doc);
}

static void expect_load(void **state, const char *name, nb_status want, const char *says) {
    ni_yaml doc;
    nb_error err = {0};
    nb_status status = ni_yaml_load_based(name, *state, "recipe", NULL, &doc, &err);
    if (status != want || !strstr(err.message, says))
        fail_msg("%s gave status %d: %s\nwanted: %s", name, status, err.message, says);
    ni_yaml_free(&doc);
}

static void bad_bases_are_refused(void **state) {
    write_file(state, "a.yaml", "base: b\n");
    write_file(state, "b.yaml", "# b\nbase: ./a.yaml\n");
    write_file(state, "self.yaml", "base: self\n");
    write_file(state, "lost.yaml", "x: 1\nbase: nvfp5\n");
    write_file(state, "nvfp4.yaml", "x: 1\n");
    write_file(state, "list.yaml", "base: [a, b]\n");
    write_file(state, "root.yaml", "- 1\n- 2\n");
    for (int i = 0; i <= NI_YAML_MAX_BASES; i++) {
        char name[32], text[32];
        snprintf(name, sizeof name, "c%d.yaml", i);
        snprintf(text, sizeof text, i < NI_YAML_MAX_BASES ? "base: c%d\n" : "x: %d\n", i + 1);
        write_file(state, name, text);
    }
    expect_load(state, "a", NB_BAD_CONFIG, "b.yaml:2: base: ");
    expect_load(state, "a", NB_BAD_CONFIG, "a.yaml comes back to itself");
    expect_load(state, "self", NB_BAD_CONFIG, "self.yaml:1: base: ");
    expect_load(state, "lost", NB_BAD_CONFIG, "lost.yaml:2: base: no recipe is called 'nvfp5'");
    expect_load(state, "lost", NB_BAD_CONFIG, "did you mean 'nvfp4'?");
    expect_load(state, "list", NB_BAD_CONFIG, "list.yaml:1: base: expected the name");
    expect_load(state, "root", NB_BAD_CONFIG, "root.yaml:1: expected keys with values");
    expect_load(state, "c0", NB_BAD_CONFIG, "a chain of more than 8 files");
    expect_load(state, "c1", NB_OK, "");
    expect_load(state, "nothing", NB_BAD_CONFIG, "no recipe is called 'nothing'");
    expect_load(state, "./nothing.yaml", NB_BAD_CONFIG, "./nothing.yaml: cannot open: No such file");
    expect_load(state, "", NB_BAD_CONFIG, "empty");
}

static void suggestions_are_near(void **state) {
    (void)state;
    assert_int_equal(ni_edit_distance("", ""), 0);
    assert_int_equal(ni_edit_distance("abc", ""), 3);
    assert_int_equal(ni_edit_distance("kitten", "sitting"), 3);
    assert_int_equal(ni_edit_distance("wieght", "weight"), 1); /* a swap is one edit */
    assert_int_equal(ni_edit_distance("LR", "lr"), 0);
    ni_suggestion s = ni_suggest("nvpf4");
    ni_suggest_offer(&s, "mxfp4");
    ni_suggest_offer(&s, "nvfp4");
    assert_string_equal(s.best, "nvfp4");
    s = ni_suggest("hcp");
    ni_suggest_offer(&s, "steps");
    ni_suggest_offer(&s, "x");
    assert_null(s.best);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_know_their_lines),
        cmocka_unit_test(bad_text_is_refused),
        cmocka_unit_test(big_files_are_refused),
        cmocka_unit_test(assignments_write_over),
        cmocka_unit_test_setup_teardown(bases_are_laid_under, temporary_folder, remove_temporary_folder),
        cmocka_unit_test_setup_teardown(bad_bases_are_refused, temporary_folder, remove_temporary_folder),
        cmocka_unit_test(suggestions_are_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
