/* test_recipe.c: recipes: what ships, what is refused, what `base:` does, and that showing one loses nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "files/file.h"
#include "recipe/mechanism.h"
#include "recipe/recipe_yaml.h"
#include "temporary.h"

#define RECIPES NI_TEST_SOURCE "/recipes"

/* ---- helpers ---- */

static bool same_rule(const nb_operand_rule *a, const nb_operand_rule *b) {
    return a->from == b->from && (!a->from || a->source == b->source) && a->requantize == b->requantize &&
           a->via == b->via && a->headroom == b->headroom && nb_quantizer_equal(&a->quantizer, &b->quantizer);
}

/* Whether two records that a table of keys describes hold the same, key by key. */
static bool same_record(const ni_keys *table, const void *a, const void *b) {
    for (size_t i = 0; i < table->count; i++) {
        const ni_key *key = &table->rows[i];
        const char *x = (const char *)a + key->offset, *y = (const char *)b + key->offset;
        assert_true(key->type <= NI_KEY_CHOICE);
        if (key->type == NI_KEY_TEXT ? strcmp(x, y) != 0 : memcmp(x, y, key->size) != 0)
            return false;
    }
    return true;
}

/* Every mechanism that the table of recipes knows: there in both or in neither, and set alike. */
static bool same_mechanisms(const nb_recipe *a, const nb_recipe *b) {
    const ni_recipe_file x = {.recipe = *a}, y = {.recipe = *b};
    size_t compared = 0;
    for (size_t i = 0; i < ni_recipe_keys.count; i++) {
        const ni_key *key = &ni_recipe_keys.rows[i];
        if (!key->optional)
            continue;
        bool has = *(const bool *)((const char *)&x + key->present_offset);
        if (has != *(const bool *)((const char *)&y + key->present_offset) ||
            (has && !same_record(key->table, (const char *)&x + key->offset, (const char *)&y + key->offset)))
            return false;
        compared++;
    }
    assert_true(compared >= 6);
    return true;
}

static bool same_recipe(const nb_recipe *a, const nb_recipe *b) {
    bool same = strcmp(a->name, b->name) == 0 && strcmp(a->about, b->about) == 0 && strcmp(a->paper, b->paper) == 0 &&
                memcmp(a->keep.modules, b->keep.modules, sizeof a->keep.modules) == 0 &&
                a->keep.module_count == b->keep.module_count && a->keep.first_blocks == b->keep.first_blocks &&
                a->keep.last_blocks == b->keep.last_blocks && a->late_switch.at == b->late_switch.at &&
                a->late_switch.forward == b->late_switch.forward && a->late_switch.backward == b->late_switch.backward;
    same = same && a->optimizer_state.m == b->optimizer_state.m && a->optimizer_state.v == b->optimizer_state.v &&
           a->optimizer_state.master == b->optimizer_state.master &&
           a->optimizer_state.scale == b->optimizer_state.scale && a->gradients.format == b->gradients.format &&
           a->gradients.scale == b->gradients.scale && a->gradients.exchange.rule == b->gradients.exchange.rule &&
           a->gradients.exchange.mu == b->gradients.exchange.mu &&
           a->gradients.exchange.saturated == b->gradients.exchange.saturated &&
           a->gradients.exchange.steps == b->gradients.exchange.steps;
    for (int role = 0; role < NB_ROLE_COUNT; role++)
        same = same && same_rule(&a->roles[role], &b->roles[role]);
    return same && same_mechanisms(a, b);
}

static nb_recipe load(const char *name) {
    nb_recipe recipe;
    nb_error err = {0};
    if (nb_recipe_load(name, RECIPES, &recipe, &err) != NB_OK)
        fail_msg("%s", err.message);
    return recipe;
}

static nb_status parse(const char *text, nb_recipe *out, nb_error *err) {
    ni_yaml doc;
    NB_TRY(ni_yaml_parse(text, strlen(text), "r.yaml", &doc, err));
    nb_status status = ni_recipe_read(doc.root, out, err);
    ni_yaml_free(&doc);
    return status;
}

static char *print(const nb_recipe *recipe) {
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    assert_non_null(to);
    ni_recipe_print(recipe, NULL, NI_COMMENTS_NONE, to);
    fclose(to);
    return text;
}

/* ---- what ships ---- */

static const char *const shipped[] = {"bf16", "fp8", "fp4-direct", "fp4-dge-occ", "nvfp4", "tetrajet-v2-base"};

static void shown_recipes_are_read_back(void **state) {
    (void)state;
    for (size_t i = 0; i < NI_COUNT(shipped); i++) {
        nb_recipe first = load(shipped[i]), second = {0};
        nb_error err = {0};
        assert_string_equal(first.name, shipped[i]);
        char *text = print(&first);
        if (parse(text, &second, &err) != NB_OK)
            fail_msg("%s\n%s", text, err.message);
        if (!same_recipe(&first, &second))
            fail_msg("%s, shown and read back, is another recipe:\n%s", shipped[i], text);
        free(text);
    }
}

static void expect_text(const nb_recipe *recipe, nb_role role, const char *want) {
    char text[256];
    assert_string_equal(nb_quantizer_text(&recipe->roles[role].quantizer, text, sizeof text), want);
}

/* arXiv:2509.25149 section 4, as the table of operands. */
static void nvfp4_is_nvidias(void **state) {
    (void)state;
    nb_recipe r = load("nvfp4");
    expect_text(&r, NB_FPROP_X, "{format: nvfp4, block: 1x16}");
    expect_text(&r, NB_FPROP_W, "{format: nvfp4, block: 16x16}");
    expect_text(&r, NB_DGRAD_DY, "{format: nvfp4, block: 1x16, round: stochastic, sr_bits: 8}");
    expect_text(&r, NB_WGRAD_DY,
                "{format: nvfp4, block: 1x16, round: stochastic, sr_bits: 8, "
                "hadamard: {size: 16, signs: fixed, round_bf16: true}}");
    expect_text(&r, NB_WGRAD_X, "{format: nvfp4, block: 1x16, hadamard: {size: 16, signs: fixed, round_bf16: true}}");
    const nb_operand_rule *w = &r.roles[NB_DGRAD_W];
    assert_true(w->from && w->source == NB_FPROP_W && !w->requantize && w->via == NB_VIA_NONE);
    expect_text(&r, NB_DGRAD_W, "{format: nvfp4, block: 16x16}"); /* the source's */
    assert_true(r.keep.last_blocks == 0.15 && r.keep.module_count == 2 && r.late_switch.at == 1);
}

static void direct_cast_decodes_backward(void **state) {
    (void)state;
    nb_recipe r = load("fp4-direct");
    expect_text(&r, NB_FPROP_X, "{format: e2m1, block: row, round: up}");
    expect_text(&r, NB_DGRAD_DY, "{format: e5m2, block: tensor}");
    assert_int_equal(r.roles[NB_DGRAD_W].via, NB_VIA_BF16);
    assert_int_equal(r.roles[NB_WGRAD_X].via, NB_VIA_BF16);
}

/* arXiv:2501.17116: direct cast, either mechanism alone and both differ in nothing but the mechanisms. */
static void arms_differ_by_their_mechanisms(void **state) {
    (void)state;
    nb_recipe direct = load("fp4-direct"), dge = load("fp4-dge"), occ = load("fp4-occ"), both = load("fp4-dge-occ-f32");
    const nb_recipe *arms[] = {&dge, &occ, &both};
    for (size_t i = 0; i < NI_COUNT(arms); i++) {
        nb_recipe renamed = *arms[i];
        memcpy(renamed.name, direct.name, sizeof renamed.name);
        memcpy(renamed.about, direct.about, sizeof renamed.about);
        assert_false(same_recipe(&renamed, &direct));
        renamed.mechanisms = direct.mechanisms;
        assert_true(same_recipe(&renamed, &direct));
    }
    assert_false(direct.mechanisms.has_dge || direct.mechanisms.has_occ);
    assert_true(dge.mechanisms.has_dge && !dge.mechanisms.has_occ);
    assert_true(occ.mechanisms.has_occ && !occ.mechanisms.has_dge);
    assert_true(both.mechanisms.has_dge &&
                same_record(&ni_dge_section.keys, &both.mechanisms.dge, &dge.mechanisms.dge));
    assert_true(both.mechanisms.has_occ &&
                same_record(&ni_occ_section.keys, &both.mechanisms.occ, &occ.mechanisms.occ));
}

/* arXiv:2501.17116 section 4.1: gradients and first moments in FP8, second moments in FP16; any recipe can say so, and
 * one that does not keeps FP32. */
static void state_between_steps(void **state) {
    nb_recipe paper = load("fp4-dge-occ"), wide = load("nvfp4"), mine;
    assert_int_equal(paper.gradients.format, NB_E4M3);
    assert_int_equal(paper.optimizer_state.m, NB_E4M3);
    assert_int_equal(paper.optimizer_state.v, NB_F16);
    assert_int_equal(paper.optimizer_state.scale, NB_RULE_POW2);
    assert_int_equal(paper.optimizer_state.master, NB_F32);
    assert_int_equal(load("fp4-msamp").optimizer_state.master, NB_F16);
    assert_int_equal(load("fp4-msamp").optimizer_state.v, NB_F16);
    assert_true(wide.gradients.format == NB_F32 && wide.optimizer_state.m == NB_F32 &&
                wide.optimizer_state.v == NB_F32);
    static const char text[] = "base: nvfp4\nname: mine\noptimizer_state: {v: bf16, scale: absmax}\n"
                               "gradients: {format: e5m2}\n";
    nb_error err = {0};
    const char *path = in_folder(state, "mine.yaml");
    assert_int_equal(ni_file_write(path, text, strlen(text), &err), NB_OK);
    assert_int_equal(nb_recipe_load(path, NI_TEST_SOURCE "/recipes", &mine, &err), NB_OK);
    assert_true(mine.optimizer_state.m == NB_F32 && mine.optimizer_state.v == NB_BF16);
    assert_true(mine.optimizer_state.scale == NB_RULE_ABSMAX && mine.gradients.format == NB_E5M2);
}

/* arXiv:2510.27527: Q4 and Q6 quantize the decoded forward operands again. */
static void tetrajet_quantizes_twice(void **state) {
    (void)state;
    nb_recipe r = load("tetrajet-v2-base");
    expect_text(&r, NB_FPROP_W, "{format: nvfp4, block: 1x16, outer: {block: 1x128, scale: fp32}}");
    expect_text(&r, NB_WGRAD_X,
                "{format: nvfp4, block: 1x16, scale: headroom, outer: {block: 1x128, scale: fp32}, round: stochastic, "
                "sr_bits: 16, hadamard: {size: 16, signs: fresh, round_bf16: false}}");
    assert_true(r.roles[NB_DGRAD_W].requantize && r.roles[NB_DGRAD_W].source == NB_FPROP_W);
    assert_true(r.roles[NB_WGRAD_X].requantize && r.roles[NB_WGRAD_X].source == NB_FPROP_X);
    assert_false(r.roles[NB_WGRAD_DY].from);
}

/* ---- base ---- */

static void ablations_are_three_lines(void **state) {
    static const char text[] = "base: nvfp4\n"
                               "name: nvfp4-bf16-wgrad\n"
                               "wgrad: {dy: {format: bf16}, x: bf16}\n"
                               "dgrad: {dy: {round: even, sr_bits: null}}\n"
                               "keep: {last_blocks: null}\n";
    nb_recipe base = load("nvfp4"), r;
    nb_error err = {0};
    const char *path = in_folder(state, "mine.yaml");
    assert_int_equal(ni_file_write(path, text, strlen(text), NULL), NB_OK);
    nb_status status = nb_recipe_load(path, RECIPES, &r, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, NB_OK);
    expect_text(&r, NB_WGRAD_DY, "{format: bf16}"); /* names a format: replaced whole, rotation and all */
    expect_text(&r, NB_WGRAD_X, "{format: bf16}");
    expect_text(&r, NB_DGRAD_DY, "{format: nvfp4, block: 1x16}"); /* does not: only the rounding changed */
    assert_true(r.keep.last_blocks == 0 && r.keep.module_count == 2);
    assert_string_equal(r.paper, base.paper);
}

/* ---- refusals ---- */

/* A recipe from six operands, one a line: fprop.x in line 2, fprop.w 3, dgrad.dy 5, dgrad.w 6, wgrad.dy 8, wgrad.x 9.
 */
#define RECIPE(x, w, dy, wt, dyt, xt)                                                                                  \
    "fprop:\n  x: " x "\n  w: " w "\ndgrad:\n  dy: " dy "\n  w: " wt "\nwgrad:\n  dy: " dyt "\n  x: " xt "\nname: r\n"
#define NV "{format: nvfp4}"
#define NV2D "{format: nvfp4, block: 16x16}"
#define ROW "{format: e2m1, block: row}"
#define NVH "{format: nvfp4, hadamard: {size: 16, signs: fixed}}"

static const struct {
    const char *text, *says; /* says NULL: accepted */
} cases[] = {
    {RECIPE(NV, NV2D, NV, "{from: fprop.w}", NV, NV), NULL},
    {RECIPE("nvfp4", "nvfp4-2d", "bf16", "mxfp4", "mxfp8", "mxfp4"), NULL},
    {RECIPE(NV, NV, NVH, NVH, NV, NV), NULL},
    {RECIPE(NV, ROW, NV, NV, NV, NV), NULL},
    {RECIPE(ROW, ROW, ROW, "{from: fprop.w, via: fold}", ROW, "{from: fprop.x, via: fold}"), NULL},
    {RECIPE(NV, NV, NV, "{from: fprop.w, via: bf16}", NV, "{from: fprop.x, format: nvfp4}"), NULL},
    {RECIPE("fp4-tensor", "fp4-tensor", "{from: wgrad.dy}", "{from: fprop.w}", "fp4-tensor", "{from: fprop.x}"), NULL},
    {RECIPE("{format: fp8-e4m3, block: column}", "{format: fp4, block: column}", NV, "{from: fprop.w}", NV, NV), NULL},
    /* operands */
    {RECIPE("{format: nvfp5}", NV, NV, NV, NV, NV), "r.yaml:2: fprop.x.format: expected one of bf16, nvfp4,"},
    {RECIPE("{block: 1x16}", NV, NV, NV, NV, NV), "r.yaml:2: fprop.x: `format` is missing"},
    {RECIPE("nvfp4-3d", NV, NV, NV, NV, NV),
     "r.yaml:2: fprop.x: expected {format: ...} or one of bf16, nvfp4, nvfp4-2d"},
    {RECIPE("[nvfp4]", NV, NV, NV, NV, NV), "r.yaml:2: fprop.x: expected keys below it, found a list"},
    {RECIPE("{format: nvfp4, blok: 1x16}", NV, NV, NV, NV, NV),
     "r.yaml:2: unknown key 'fprop.x.blok'; did you mean 'fprop.x.block'?"},
    {RECIPE("{format: nvfp4, block: 1x17}", NV, NV, NV, NV, NV), "r.yaml:2: fprop.x.block: expected one of"},
    {RECIPE("{format: nvfp4, block: 1x32}", NV, NV, NV, NV, NV),
     "r.yaml:2: fprop.x: nvfp4: block must be 1x16 or 16x16"},
    {RECIPE("{format: nvfp4, four_six: {top: 256}}", NV, NV, NV, NV, NV),
     "r.yaml:2: fprop.x.four_six: without an error"},
    {RECIPE("{format: nvfp4, four_six: {error: mse, top: 300}}", NV, NV, NV, NV, NV),
     "four_six.top: must be 256 or 448"},
    {RECIPE("{format: mxfp4, four_six: {error: mse}}", NV, NV, NV, NV, NV), "four_six: needs format nvfp4"},
    {RECIPE("{format: nvfp4, four_six: {error: mae, top: 448, order: fouroversix}}", NV, NV, NV, NV, NV), NULL},
    {RECIPE("{format: nvfp4, scale: floor}", NV, NV, NV, NV, NV), "r.yaml:2: fprop.x: nvfp4: scale must be"},
    {RECIPE("{format: nvfp4, outer: {block: 1x64}}", NV, NV, NV, NV, NV),
     "r.yaml:2: fprop.x.outer: expected none, tensor, unit, delayed or"},
    {RECIPE("{format: nvfp4, outer: delayed}", NV, "{format: nvfp4, outer: delayed, headroom: 3}", NV, NV, NV), NULL},
    {RECIPE("{format: nvfp4, headroom: 3}", NV, NV, NV, NV, NV), "fprop.x: `headroom` is for `outer: delayed`"},
    {RECIPE("{format: nvfp4, outer: delayed, headroom: 65}", NV, NV, NV, NV, NV), "headroom: 65 is out of range"},
    {RECIPE(NV, "{format: nvfp4, outer: delayed}", NV, NV, NV, NV),
     "r.yaml:3: fprop.w: has `outer: delayed`, which is for X and dY"},
    {RECIPE(NV, NV, NV, NV, NV, "{from: fprop.x, format: nvfp4, outer: delayed}"),
     "wgrad.x: has `outer: delayed` and is made of the codes of fprop.x"},
    {RECIPE("{format: mxfp4, outer: delayed}", "mxfp4", NV, NV, NV, NV),
     "r.yaml:2: fprop.x: mxfp4, mxfp8: there is no outer scale"},
    {RECIPE("{format: nvfp4, outer: delayed}", NV, NV, NV, NV, NV) "hcp: {share: 0.1}\n",
     "fprop.x: has `outer: delayed`, and hcp makes operands"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "policy: {formats: [\"{format: nvfp4, outer: delayed}\"]}\n",
     "outer: is delayed, which needs the steps of a run"},
    {RECIPE("{format: nvfp4, outer: {blok: 1x128}}", NV, NV, NV, NV, NV),
     "unknown key 'blok'; outer knows block and scale"},
    {RECIPE("{format: nvfp4, sr_bits: 8}", NV, NV, NV, NV, NV),
     "r.yaml:2: fprop.x.sr_bits: is for `round: stochastic`"},
    {RECIPE("{format: nvfp4, round: stochastic, sr_bits: 12}", NV, NV, NV, NV, NV), "sr_bits: must be 8 or 16, not 12"},
    {RECIPE("{format: nvfp4, round: stochastic, sr_bits: 32}", NV, NV, NV, NV, NV), "sr_bits: 32 is out of range"},
    {RECIPE("{format: nvfp4, hadamard: {signs: fresh}}", NV, NV, NV, NV, NV),
     "r.yaml:2: fprop.x.hadamard: without a size"},
    {RECIPE("{format: nvfp4, hadamard: {size: 24}}", NV, NV, NV, NV, NV),
     "hadamard: size must be 16, 32, 64 or 128, not 24"},
    {RECIPE("{format: bf16, round: up}", NV, NV, NV, NV, NV), "r.yaml:2: fprop.x: format bf16 is not quantized"},
    /* from and via */
    {RECIPE("{from: wgrad.x}", NV, NV, NV, NV, NV),
     "r.yaml:2: fprop.x: a forward operand cannot come from a backward one"},
    {RECIPE(NV, NV, NV, "{from: fprop.x}", NV, NV),
     "r.yaml:6: dgrad.w: cannot come from fprop.x, which is another tensor"},
    {RECIPE(NV, NV, NV, "{from: dgrad.w}", NV, NV), "r.yaml:6: dgrad.w: is taken from itself"},
    {RECIPE(NV, NV, "{from: wgrad.dy, via: bf16}", NV, "{from: dgrad.dy, via: bf16}", NV),
     "r.yaml:5: dgrad.dy: comes from wgrad.dy, which comes from dgrad.dy itself"},
    {RECIPE(NV, NV, NV, "{from: fprop.w}", NV, NV),
     "r.yaml:6: dgrad.w: the scales of fprop.w lie on the contraction here; add `via: bf16`, or"},
    {RECIPE(ROW, ROW, ROW, "{from: fprop.w}", ROW, ROW), "add `via: bf16` or `via: fold`, or a format"},
    {RECIPE(NV, NV2D, NV, "{from: fprop.w, via: bf16}", NV, NV),
     "r.yaml:6: dgrad.w: `via` is not needed: the codes of fprop.w serve as they are; hint: `dgrad: {w: {via: null}}`"},
    {RECIPE(NV, "bf16", NV, "{from: fprop.w, via: bf16}", NV, NV),
     "`via` is not needed: fprop.w is in BF16; hint: `dgrad: {w: {via: null}}` drops one that came from `base`"},
    {RECIPE(NV, NV, NV, "{from: fprop.w, via: fold}", NV, NV), "`via: fold` needs one scale a row"},
    {RECIPE(NV, NV, NV, "{from: fprop.w, via: bf16, format: nvfp4}", NV, NV),
     "r.yaml:6: dgrad.w: `via` is for `from` without a format"},
    {RECIPE(NV, NV, NV, "{format: nvfp4, via: bf16}", NV, NV), "`via` is for `from`"},
    {RECIPE(NV, NV, NV, "{from: fprop.w, round: up}", NV, NV), "r.yaml:6: dgrad.w: `format` is missing"},
    {RECIPE(NV, "bf16", NV, "{from: fprop.w, format: nvfp4}", NV, NV),
     "fprop.w is not quantized, so there is nothing to quantize again"},
    {RECIPE(NV, NV, NV, "{from: fprop.w, format: bf16}", NV, NV), "write {from: fprop.w, via: bf16}"},
    {RECIPE(NVH, NVH, NV, "{from: fprop.w, format: nvfp4}", NV, NV),
     "r.yaml:6: dgrad.w: fprop.w is rotated along its own contraction"},
    {RECIPE(ROW, ROW, ROW, "{from: fprop.w, via: fold}", "{from: dgrad.dy, via: fold}", "{from: fprop.x, via: fold}"),
     "r.yaml:8: wgrad.dy: `via: fold` puts the scales into wgrad.x before it is quantized, but that comes from "
     "fprop.x"},
    /* pairs */
    {RECIPE(NV, NV, NVH, NV, NV, NV), "r.yaml:6: dgrad.w: is not rotated, dgrad.dy rotated by Hadamard 16"},
    {RECIPE(NV, NV, NVH, "{format: nvfp4, hadamard: {size: 32, signs: fixed}}", NV, NV),
     "r.yaml:6: dgrad.w: is rotated by Hadamard 32, dgrad.dy rotated by Hadamard 16"},
    {RECIPE(NV, NV, NVH, "{format: nvfp4, hadamard: {size: 16, signs: fresh}}", NV, NV),
     "r.yaml:6: dgrad.w: has other Hadamard signs than dgrad.dy"},
    {RECIPE(NV, "mxfp4", NV, NV, NV, NV), "r.yaml:3: fprop.w: has blocks of 32 along the contraction, fprop.x has 16"},
    /* the rest */
    {RECIPE(NV, NV, NV, NV, NV, "null"), "wgrad.x: is missing; expected an operand"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "hotchannels: {k: 64}\n",
     "r.yaml:11: unknown key 'hotchannels'; the recipe file knows here: name, family, about,"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "kep: {modules: []}\n", "r.yaml:11: unknown key 'kep'; did you mean 'keep'?"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "keep: {last_blocks: 1.5}\n",
     "keep.last_blocks: expected a share below 1 or a whole number"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "keep: {last_blocks: -1}\n", "keep.last_blocks: -1 is out of range"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "keep: {modules: lm_head}\n",
     "keep.modules: expected a list, as [a, b], found 'lm_head'"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "late_switch: {at: 1.5}\n",
     "r.yaml:11: late_switch.at: 1.5 is out of range: expected 0 to 1"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "optimizer_state: {v: e4m3}\n",
     "r.yaml:11: optimizer_state.v: expected one of fp32, bf16, fp16, found 'e4m3'"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "gradients: {format: e5m2, exchange: {rule: fp8-lm, mu: 2, steps: 10}}\n", NULL},
    {RECIPE(NV, NV, NV, NV, NV, NV) "gradients: {format: bf16, exchange: {rule: fp8-lm}}\n",
     "r.yaml:11: gradients.exchange.rule: is fp8-lm, which adds codes of 8 bits, and gradients are bf16; expected "
     "gradients.format e4m3 or e5m2"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "gradients: {format: e4m3, exchange: {rule: fp8-lm, mu: -1}}\n",
     "gradients.exchange.mu: -1 is out of range"},
    {RECIPE(NV, NV, NV, NV, NV, NV) "name: s\n", "the key 'name' stands here a second time"},
    {"name: r\n", "r.yaml:1: fprop.x: is missing"},
    {"fprop: {x: bf16}\n", "the key 'name' is missing"},
    {"", "is empty"},
};

static void impossible_recipes_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < NI_COUNT(cases); i++) {
        nb_recipe r;
        nb_error err = {0};
        nb_status status = parse(cases[i].text, &r, &err);
        if (!cases[i].says && status != NB_OK)
            fail_msg("%s\nwas refused: %s", cases[i].text, err.message);
        if (cases[i].says && (status != NB_BAD_CONFIG || !strstr(err.message, cases[i].says)))
            fail_msg("%s\ngave status %d: %s\nwanted: %s", cases[i].text, status, err.message, cases[i].says);
        if (status == NB_OK) { /* what is accepted survives being shown */
            nb_recipe again = {0};
            char *text = print(&r);
            assert_int_equal(parse(text, &again, &err), NB_OK);
            assert_true(same_recipe(&r, &again));
            free(text);
        }
    }
}

/* ---- quantizers alone ---- */

/* Grammar, and the text that nb_quantizer_text gives it back as. */
static const struct {
    const char *text, *means;
} quantizers[] = {
    {"bf16", "{format: bf16}"},
    {"nvfp4", "{format: nvfp4, block: 1x16}"},
    {"nvfp4-2d", "{format: nvfp4, block: 16x16}"},
    {"nvfp4-outer128", "{format: nvfp4, block: 1x16, outer: {block: 1x128, scale: fp32}}"},
    {"mxfp4", "{format: mxfp4, block: 1x32}"},
    {"mxfp8", "{format: mxfp8, block: 1x32}"},
    {"fp4-row", "{format: e2m1, block: row}"},
    {"fp4-tensor", "{format: e2m1, block: tensor}"},
    {"{format: int4}", "{format: int4, block: row}"},
    {"{format: fp8-e4m3}", "{format: e4m3, block: tensor}"},
    {"{format: fp8-e5m2, block: row, scale: pow2}", "{format: e5m2, block: row, scale: pow2}"},
    {"{format: mxfp4, scale: ceil}", "{format: mxfp4, block: 1x32, scale: ceil}"},
    {"{format: nvfp4, scale: headroom, round: stochastic}",
     "{format: nvfp4, block: 1x16, scale: headroom, round: stochastic, sr_bits: 8}"},
    {"{format: nvfp4, outer: {block: 1x128, scale: pow2}, hadamard: {size: 128, signs: fresh}}",
     "{format: nvfp4, block: 1x16, outer: {block: 1x128, scale: pow2}, hadamard: {size: 128, signs: fresh, "
     "round_bf16: false}}"},
};

static void quantizers_are_parsed(void **state) {
    (void)state;
    for (size_t i = 0; i < NI_COUNT(quantizers); i++) {
        nb_quantizer q, again;
        nb_error err = {0};
        char text[256];
        if (nb_quantizer_parse(quantizers[i].text, &q, &err) != NB_OK)
            fail_msg("%s: %s", quantizers[i].text, err.message);
        assert_string_equal(nb_quantizer_text(&q, text, sizeof text), quantizers[i].means);
        assert_int_equal(nb_quantizer_parse(text, &again, &err), NB_OK);
        assert_true(nb_quantizer_equal(&q, &again));
    }
    static const char *const bad[] = {
        "", "nvfp", "[nvfp4]", "{}", "{format: nvfp4, from: fprop.x}", "{format: nvfp4", "{a: 1}"};
    for (size_t i = 0; i < NI_COUNT(bad); i++) {
        nb_quantizer q;
        nb_error err = {0};
        assert_int_equal(nb_quantizer_parse(bad[i], &q, &err), NB_BAD_CONFIG);
        assert_non_null(strstr(err.message, "quantizer: "));
    }
}

/* The arms of figure 6 of arXiv:2501.17116 differ from the direct cast in the operands that the figure names. */
static void figure_six_has_its_arms(void **state) {
    (void)state;
    static const struct {
        const char *name;
        nb_element x, w;
        double k, alpha; /* 0: without */
    } arms[] = {{"fp4-w4a8", NB_ELEMENT_E4M3, NB_ELEMENT_E2M1, 0, 0},
                {"fp4-w4a8-dge-k3", NB_ELEMENT_E4M3, NB_ELEMENT_E2M1, 3, 0},
                {"fp4-w4a8-dge-k5", NB_ELEMENT_E4M3, NB_ELEMENT_E2M1, 5, 0},
                {"fp4-w4a8-dge-k10", NB_ELEMENT_E4M3, NB_ELEMENT_E2M1, 10, 0},
                {"fp4-w8a4", NB_ELEMENT_E2M1, NB_ELEMENT_E4M3, 0, 0},
                {"fp4-w8a4-occ-999", NB_ELEMENT_E2M1, NB_ELEMENT_E4M3, 0, 0.999},
                {"fp4-w8a4-occ-99", NB_ELEMENT_E2M1, NB_ELEMENT_E4M3, 0, 0.99},
                {"fp4-w8a4-occ-97", NB_ELEMENT_E2M1, NB_ELEMENT_E4M3, 0, 0.97},
                {"fp4-coarse-a", NB_ELEMENT_E2M1, NB_ELEMENT_E2M1, 0, 0},
                {"fp4-coarse-w", NB_ELEMENT_E2M1, NB_ELEMENT_E2M1, 0, 0},
                {"fp4-coarse", NB_ELEMENT_E2M1, NB_ELEMENT_E2M1, 0, 0}};
    for (size_t i = 0; i < NI_COUNT(arms); i++) {
        char path[512];
        nb_error err = {0};
        nb_recipe r, direct = load("fp4-direct");
        snprintf(path, sizeof path, NI_TEST_SOURCE "/examples/recipes/%s.yaml", arms[i].name);
        if (nb_recipe_load(path, NI_TEST_SOURCE "/recipes", &r, &err) != NB_OK)
            fail_msg("%s", err.message);
        const nb_quantizer *x = &r.roles[NB_FPROP_X].quantizer, *w = &r.roles[NB_FPROP_W].quantizer;
        bool coarse_x = arms[i].x == NB_ELEMENT_E4M3 || strcmp(arms[i].name, "fp4-coarse-a") == 0 ||
                        strcmp(arms[i].name, "fp4-coarse") == 0;
        bool coarse_w = arms[i].w == NB_ELEMENT_E4M3 || strcmp(arms[i].name, "fp4-coarse-w") == 0 ||
                        strcmp(arms[i].name, "fp4-coarse") == 0;
        assert_int_equal(x->element, arms[i].x);
        assert_int_equal(w->element, arms[i].w);
        assert_int_equal(x->block_rows, coarse_x ? NB_BLOCK_ALL : 1);
        assert_int_equal(w->block_rows, coarse_w ? NB_BLOCK_ALL : 1);
        assert_true(r.mechanisms.has_dge == (arms[i].k > 0) && r.mechanisms.has_occ == (arms[i].alpha > 0));
        assert_true(arms[i].k == 0 || r.mechanisms.dge.k == arms[i].k);
        assert_true(arms[i].alpha == 0 || r.mechanisms.occ.alpha == arms[i].alpha);
        assert_true(nb_quantizer_equal(&r.roles[NB_DGRAD_DY].quantizer, &direct.roles[NB_DGRAD_DY].quantizer));
    }
}

/* The public dialects, as read in their code (Azure/MS-AMP 9746ea8; Mr-Philo/MS-AMP, branches fp4 and pai). */
static void dialects_scale_as_their_code(void **state) {
    (void)state;
    nb_recipe msamp = load("fp4-msamp"), fork = load("fp4-fork"), absmax = load("tetrajet-v2-absmax");
    assert_int_equal(msamp.roles[NB_DGRAD_DY].quantizer.rule, NB_RULE_POW2);
    assert_int_equal(msamp.roles[NB_WGRAD_DY].quantizer.rule, NB_RULE_POW2);
    assert_int_equal(fork.roles[NB_DGRAD_DY].quantizer.rule, NB_RULE_ABSMAX);
    assert_int_equal(fork.gradients.scale, NB_RULE_ABSMAX);
    assert_int_equal(fork.optimizer_state.scale, NB_RULE_ABSMAX);
    assert_true(fork.roles[NB_DGRAD_W].requantize);
    assert_int_equal(fork.roles[NB_DGRAD_W].quantizer.element, NB_ELEMENT_E4M3);
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++) {
        assert_int_equal(absmax.roles[role].quantizer.rule, NB_RULE_ABSMAX);
        assert_false(absmax.roles[role].shared_noise);
    }
    assert_true(absmax.mechanisms.has_outcontrol && absmax.mechanisms.has_oscireset);
    assert_int_equal(load("chon-normalized").mechanisms.hcp.score, NB_HCP_NORMALIZED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shown_recipes_are_read_back),
        cmocka_unit_test(nvfp4_is_nvidias),
        cmocka_unit_test(direct_cast_decodes_backward),
        cmocka_unit_test(arms_differ_by_their_mechanisms),
        cmocka_unit_test(tetrajet_quantizes_twice),
        cmocka_unit_test_setup_teardown(state_between_steps, temporary_folder, remove_temporary_folder),
        cmocka_unit_test_setup_teardown(ablations_are_three_lines, temporary_folder, remove_temporary_folder),
        cmocka_unit_test(impossible_recipes_are_refused),
        cmocka_unit_test(figure_six_has_its_arms),
        cmocka_unit_test(dialects_scale_as_their_code),
        cmocka_unit_test(quantizers_are_parsed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
