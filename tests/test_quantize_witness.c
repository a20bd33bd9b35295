/* test_quantize_witness.c: independent implementations of the same formats: ml_dtypes for the casts,
 * TransformerEngine's Python reference for NVFP4. Their results are data in tests/golden; the scripts that made them
 * are in scripts/. */
#include "files/safetensors.h"
#include "format/e8m0.h"
#include "quantize_cases.h"

#include "backend/ref/quantize.h"

/* ---- ml_dtypes ---- */

static nb_element element_named(const char *name) {
    for (int e = 0; e < NB_ELEMENT_COUNT; e++)
        if (strcmp(ni_element_info((nb_element)e)->name, name) == 0)
            return (nb_element)e;
    return NB_ELEMENT_COUNT;
}

static void check_value(const char *format, unsigned code, unsigned bits) {
    float value = strcmp(format, "e8m0") == 0 ? ni_e8m0_value((uint8_t)code)
                                              : ni_element_info(element_named(format))->value((uint8_t)code);
    if (ni_f32_bits(value) != bits)
        fail_msg("%s code %02x: %a, ml_dtypes %a", format, code, (double)value, (double)ni_f32_from(bits));
}

/* The float `bits` is the first that rounds to `code`, on both sides of zero. */
static void check_first(const char *format, unsigned code, unsigned bits) {
    const ni_element_row *row = ni_element_info(element_named(format));
    unsigned sign = row->bits == 4 ? 8 : 0x80;
    assert_int_equal(row->even(ni_f32_from(bits)), code);
    assert_int_equal(row->even(ni_f32_from(bits - 1)), code - 1);
    assert_int_equal(row->even(-ni_f32_from(bits)), code | sign);
    assert_int_equal(row->even(-ni_f32_from(bits - 1)), (code - 1) | sign);
}

static void ml_dtypes(void **state) {
    (void)state;
    char line[200], kind[8], format[8];
    unsigned code, bits;
    int values = 0, firsts = 0;
    FILE *f = fopen(NI_TEST_GOLDEN "/ml_dtypes.txt", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (line[0] == '#')
            continue;
        assert_int_equal(sscanf(line, "%7s %7s %x %x", kind, format, &code, &bits), 4);
        if (strcmp(kind, "value") == 0) {
            check_value(format, code, bits);
            values++;
        } else {
            check_first(format, code, bits);
            firsts++;
        }
    }
    fclose(f);
    assert_int_equal(values, 16 + 254 + 250 + 255);
    assert_int_equal(firsts, 7 + 0x7e + 0x7b);
}

/* ---- TransformerEngine ---- */

static const ni_file_tensor *tensor_of(const ni_safetensors *file, const char *name, const char *kind,
                                       const char *part) {
    char full[200];
    snprintf(full, sizeof full, "%s/%s/%s", name, kind, part);
    return ni_safetensors_find(file, full);
}

/* Their codes and ours say the same: equal; or the block's byte is 0, so that it decodes to zero whatever the codes; or
 * both are zero (their -0.0 becomes +0). */
static bool same_code(uint8_t theirs, uint8_t ours, uint8_t byte) {
    return theirs == ours || byte == 0 || ((theirs & 7) == 0 && (ours & 7) == 0);
}

static void compare(const ni_safetensors *file, const char *name, const char *kind, const nb_quantizer *q,
                    const nb_mat *x, bool transpose) {
    const ni_file_tensor *codes = tensor_of(file, name, kind, "codes"), *scales = tensor_of(file, name, kind, "scales");
    const ni_file_tensor *amax = tensor_of(file, name, kind, "amax");
    int64_t rows = transpose ? x->cols : x->rows, cols = transpose ? x->rows : x->cols;
    assert_true(codes && scales && amax);
    assert_int_equal(codes->bytes, rows * cols / 2);
    assert_int_equal(scales->bytes, rows * cols / 16);
    nb_qtensor t = new_operand(q, rows, cols);
    nb_quantize_stats stats;
    assert_int_equal(ni_ref_quantize(NULL, &t, x, transpose, NULL, &stats, NULL), NB_OK);
    float want;
    memcpy(&want, amax->data, sizeof want);
    if (stats.amax != (double)want)
        fail_msg("%s %s: amax %a, TransformerEngine %a", name, kind, stats.amax, (double)want);
    for (int64_t e = 0; e < rows * cols; e++) {
        uint8_t byte = ((const uint8_t *)scales->data)[e / 16];
        uint8_t theirs = ((const uint8_t *)codes->data)[e / 2] >> (4 * (e % 2)) & 15;
        uint8_t ours = t.codes[e / 2] >> (4 * (e % 2)) & 15;
        if (t.scales[e / 16] != byte || !same_code(theirs, ours, byte))
            fail_msg("%s %s element %d: byte %02x code %x, TransformerEngine %02x %x", name, kind, (int)e,
                     t.scales[e / 16], ours, byte, theirs);
    }
}

static void transformer_engine(void **state) {
    (void)state;
    ni_safetensors *file;
    nb_error err = {0};
    if (ni_safetensors_open(NI_TEST_GOLDEN "/transformer_engine.safetensors", &file, &err) != NB_OK)
        fail_msg("%s", err.message);
    nb_quantizer block = ni_format_family_find("nvfp4")->defaults, tile = block, rotated = block;
    tile.block_rows = 16;
    rotated.hadamard_size = 16;
    rotated.hadamard_signs = NB_SIGNS_FIXED;
    rotated.hadamard_round_bf16 = true;
    int inputs = 0, rotations = 0;
    for (int32_t i = 0; i < ni_safetensors_count(file); i++) {
        const ni_file_tensor *t = ni_safetensors_at(file, i);
        size_t n = strlen(t->name);
        if (n < 2 || strcmp(t->name + n - 2, "/x") != 0)
            continue;
        char name[100];
        snprintf(name, sizeof name, "%.*s", (int)(n - 2), t->name);
        nb_mat x = nb_mat_of(poisoned(t->bytes), t->dtype == NI_ST_BF16 ? NB_BF16 : NB_F32, t->shape[0], t->shape[1]);
        memcpy(x.data, t->data, t->bytes);
        compare(file, name, "1x16", &block, &x, false);
        compare(file, name, "1x16t", &block, &x, true);
        compare(file, name, "16x16", &tile, &x, false);
        if (tensor_of(file, name, "rht", "codes")) {
            compare(file, name, "rht", &rotated, &x, true);
            rotations++;
        }
        inputs++;
    }
    ni_safetensors_close(file);
    assert_int_equal(inputs, 16);
    assert_int_equal(rotations, 7);
}

#define CASE(test) cmocka_unit_test_teardown(test, release_buffers)

int main(void) {
    const struct CMUnitTest tests[] = {CASE(ml_dtypes), CASE(transformer_engine)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
