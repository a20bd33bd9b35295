/* test_quantize_cli.c: `nibble quantize` as a user runs it: golden blocks, files, refusals. */
#include "files/npy.h"
#include "format/element.h"
#include "quantize_cases.h"
#include "temporary.h"

#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "backend/ref/quantize.h"

/* Exit status of `nibble quantize ARGUMENTS`; what it says goes to the file `said`. */
static int run(void **state, const char *arguments) {
    char command[2000];
    snprintf(command, sizeof command, "'%s' quantize %s > '%s' 2>&1", NI_TEST_CLI, arguments, in_folder(state, "said"));
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *said(void **state) {
    static char text[1000];
    FILE *f = fopen(in_folder(state, "said"), "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

/* The golden blocks of test_quantize_golden.c, through the door. */
static void golden_blocks(void **state) {
    float x[2][16] = {{-4, -3.5f, -3, -2.5f, -2, -1.5f, -1, -.5f, 0, .5f, 1, 1.5f, 2, 2.5f, 3, 3.5f}, {100}};
    static const uint8_t codes[8] = {0xff, 0xee, 0xcd, 0x9b, 0x10, 0x43, 0x65, 0x76};
    char arguments[1500];
    assert_int_equal(ni_npy_write_f32(in_folder(state, "in.npy"), x[0], 2, 16, NULL), NB_OK);
    snprintf(arguments, sizeof arguments, "'%s' --as nvfp4 -o '%s'", in_folder(state, "in.npy"),
             in_folder(state, "out.safetensors"));
    if (run(state, arguments) != 0)
        fail_msg("%s", said(state));
    ni_safetensors *file;
    assert_int_equal(ni_safetensors_open(in_folder(state, "out.safetensors"), &file, NULL), NB_OK);
    const ni_file_tensor *t = ni_safetensors_find(file, "codes");
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[1], 8);
    assert_memory_equal(t->data, codes, 8);
    t = ni_safetensors_find(file, "scales");
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 1);
    assert_int_equal(*(const uint8_t *)t->data, 0x59);
    t = ni_safetensors_find(file, "tensor_scale");
    uint32_t bits;
    memcpy(&bits, t->data, 4);
    assert_int_equal(bits, 0x3d186186);
    ni_safetensors_close(file);
}

/* The file's tensors and the decoded matrix are the reference's, for any way to name the format. */
static void same_as_reference(void **state, const char *format, const nb_quantizer *q, const nb_noise *noise) {
    enum { ROWS = 32, COLS = 256 };
    nb_mat src = data_matrix(DATA_CORNERS, NB_F32, ROWS, COLS, COLS);
    nb_qtensor want = new_operand(q, ROWS, COLS);
    nb_mat decoded = nb_mat_of(poisoned(ROWS * COLS * 4), NB_F32, ROWS, COLS);
    assert_int_equal(ni_ref_quantize(NULL, &want, &src, false, noise, NULL, NULL), NB_OK);
    assert_int_equal(ni_ref_dequantize(NULL, &decoded, &want, false, true, NULL), NB_OK);
    assert_int_equal(ni_npy_write_f32(in_folder(state, "in.npy"), src.data, ROWS, COLS, NULL), NB_OK);
    char arguments[1900];
    snprintf(arguments, sizeof arguments, "--as %s '%s' -o '%s' --dequantized '%s'", format, in_folder(state, "in.npy"),
             in_folder(state, "out.safetensors"), in_folder(state, "out.npy"));
    if (run(state, arguments) != 0)
        fail_msg("%s: %s", format, said(state));
    ni_npy npy;
    assert_int_equal(ni_npy_read(in_folder(state, "out.npy"), &npy, NULL), NB_OK);
    same_buffer("decoded numbers", format, decoded.data, npy.tensor.data, ROWS * COLS * 4);
    ni_npy_free(&npy);
    nb_qtensor_size n = nb_qtensor_bytes(q, ROWS, COLS);
    bool vector = q->scale_type == NB_SCALE_F32;
    const struct {
        const char *name;
        const void *data;
        size_t bytes;
    } tensors[] = {{"codes", want.codes, n.codes},
                   {"scales", want.scales, n.scales},
                   {vector ? q->block_rows == 1 ? "row_scales" : "column_scales" : "outer_scales", want.outer_scales,
                    n.outer_scales},
                   {"tensor_scale", want.tensor_scale, n.tensor_scale}};
    ni_safetensors *file;
    assert_int_equal(ni_safetensors_open(in_folder(state, "out.safetensors"), &file, NULL), NB_OK);
    for (int i = 0; i < 4; i++) {
        const ni_file_tensor *t = ni_safetensors_find(file, tensors[i].name);
        assert_true(!t == !tensors[i].bytes);
        if (t) {
            assert_int_equal(t->bytes, tensors[i].bytes);
            same_buffer(tensors[i].name, format, tensors[i].data, t->data, t->bytes);
        }
    }
    ni_safetensors_close(file);
}

static void formats(void **state) {
    nb_noise noise = {.seed = 0, .tensor = nb_name_hash("quantize", NULL)};
    static const char *const aliases[] = {"nvfp4", "mxfp4", "mxfp8"};
    for (int i = 0; i < 3; i++)
        same_as_reference(state, aliases[i], &ni_format_family_find(aliases[i])->defaults, &noise);
    nb_quantizer q = ni_format_family_find("nvfp4")->defaults;
    q.block_rows = 16;
    same_as_reference(state, "nvfp4-2d", &q, &noise);
    q.block_rows = 1;
    q.outer = NB_OUTER_ROW128;
    same_as_reference(state, "nvfp4-outer128", &q, &noise);
    q = ni_format_family_find("e2m1")->defaults;
    same_as_reference(state, "fp4-row", &q, &noise);
    q.round = NB_ROUND_UP;
    same_as_reference(state, "fp4-row --round up --isa portable", &q, &noise);
    q.round = NB_ROUND_EVEN;
    q.block_rows = NB_BLOCK_ALL;
    same_as_reference(state, "fp4-tensor --isa scalar", &q, &noise);
    q.block_cols = 1;
    same_as_reference(state, "'{format: e2m1, block: column}'", &q, &noise);
    noise.seed = 9;
    noise.signs = 7;
    q = ni_format_family_find("nvfp4")->defaults;
    q.round = NB_ROUND_STOCHASTIC;
    q.hadamard_size = 16;
    q.hadamard_signs = NB_SIGNS_FRESH;
    q.hadamard_round_bf16 = true;
    same_as_reference(state, "nvfp4 --round stochastic --seed 9 --hadamard 16:7:bf16 --backend cpu", &q, &noise);
}

static void refuse(void **state, const char *arguments, int exit_status, const char *part) {
    char all[1500];
    snprintf(all, sizeof all, "'%s' %s", in_folder(state, "in.npy"), arguments);
    int got = run(state, all);
    const char *text = said(state);
    if (got != exit_status || !strstr(text, part) || strchr(text, '\n') != text + strlen(text) - 1)
        fail_msg("%s: exit %d, said: %s", arguments, got, text);
    struct stat file;
    assert_int_equal(stat(in_folder(state, "out.safetensors"), &file), -1);
}

static void refusals(void **state) {
    float x[3][24] = {{0}};
    char out[700], arguments[1000];
    snprintf(out, sizeof out, "-o '%s'", in_folder(state, "out.safetensors"));
    assert_int_equal(ni_npy_write_f32(in_folder(state, "in.npy"), x[0], 3, 24, NULL), NB_OK);
    static const struct {
        const char *options, *part;
        int exit_status;
    } cases[] = {
        {"--as nvfp4", "24", 2},
        {"--as nvfp5", "nvfp4", 2},
        {"--as bf16", "not quantized", 2},
        {"", "--as", 2},
        {"--as fp4-row --round down", "stochastic", 2},
        {"--as fp4-row --hadamard 20:fixed", "16, 32, 64 or 128", 2},
        {"--as fp4-row --hadamard 16:loud", "SIZE:fixed", 2},
        {"--as fp4-row --hadamard 16:fixed:x", "SIZE:fixed", 2},
        {"--as fp4-row --hadamard 16:fixed", "24", 2},
        {"--as fp4-row --seed -1", "seed", 2},
        {"--as fp4-row --isa mmx", "portable", 2},
        {"--as fp4-row --backend cuda", "cuda", 1},
        {"--as fp4-row --backend tpu", "cpu", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(arguments, sizeof arguments, "%s %s", cases[i].options, out);
        refuse(state, arguments, cases[i].exit_status, cases[i].part);
    }
    refuse(state, "--as fp4-row", 2, "nothing to write");
    FILE *f = fopen(in_folder(state, "in.npy"), "w");
    fputs("not an array", f);
    fclose(f);
    snprintf(arguments, sizeof arguments, "--as fp4-row %s", out);
    refuse(state, arguments, 2, "in.npy");
}

static void says(void **state, const float *x, const char *part) {
    char arguments[700];
    assert_int_equal(ni_npy_write_f32(in_folder(state, "in.npy"), x, 1, 32, NULL), NB_OK);
    snprintf(arguments, sizeof arguments, "'%s' --as nvfp4 -o '%s'", in_folder(state, "in.npy"),
             in_folder(state, "out.safetensors"));
    if (run(state, arguments) != 0 || !strstr(said(state), part))
        fail_msg("%s\nwanted: %s", said(state), part);
}

static void errors_are_told(void **state) {
    float x[32] = {0};
    says(state, x, "amax 0, exact, ");
    x[0] = 1;
    x[1] = 0.3f;
    says(state, x, "signal to noise ");
    x[17] = NAN;
    says(state, x, "amax nan, not finite, ");
    says(state, x, "holds NaN or Inf");
    x[17] = -INFINITY;
    says(state, x, "amax inf, not finite, ");
    says(state, x, "holds NaN or Inf");
}

static int clean(void **state) {
    int overrun = release_buffers_until(NULL);
    return remove_temporary_folder(state) || overrun;
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, temporary_folder, clean)

int main(void) {
    const struct CMUnitTest tests[] = {CASE(golden_blocks), CASE(formats), CASE(refusals), CASE(errors_are_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
