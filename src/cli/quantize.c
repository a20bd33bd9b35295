/* quantize.c: `nibble quantize`: one matrix in, codes and scales out; a whole folder in quantize_folder.c. */
#include "backend/backend.h"
#include "cli/cli.h"
#include "cli/quantize_folder.h"
#include "files/npy.h"
#include "files/safetensors.h"
#include "format/element.h"
#include "recipe/quantizer_yaml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct quantize_options {
    const char *as, *out, *dequantized, *round, *hadamard, *backend, *isa, *keep;
    int64_t seed;
} quantize_options;

static const ni_option options[] = {
    {"as", 0, NI_OPTION_TEXT, offsetof(quantize_options, as), "FORMAT",
     "an alias, or the grammar of recipes: '{format: nvfp4, block: 16x16}'"},
    {"out", 'o', NI_OPTION_TEXT, offsetof(quantize_options, out), "FILE.safetensors", "codes and scales"},
    {"dequantized", 0, NI_OPTION_TEXT, offsetof(quantize_options, dequantized), "FILE.npy",
     "the decoded numbers, float32, in the rotated domain"},
    {"round", 0, NI_OPTION_TEXT, offsetof(quantize_options, round), "RULE", "even, up or stochastic"},
    {"seed", 0, NI_OPTION_INT, offsetof(quantize_options, seed), "N", "key of the random bits (0)"},
    {"hadamard", 0, NI_OPTION_TEXT, offsetof(quantize_options, hadamard), "SIZE:SIGNS",
     "rotate first: 16:fixed, 32:none, 16:7 (signs drawn from 7); with :bf16 behind, rounded to BF16"},
    {"keep", 0, NI_OPTION_TEXT, offsetof(quantize_options, keep), "PATTERNS",
     "of a folder: tensors that stay as they are ('*embed*,*lm_head*')"},
    {"backend", 0, NI_OPTION_TEXT, offsetof(quantize_options, backend), "NAME",
     "cpu (default), cuda or cuda:NUMBER; folders: cpu alone"},
    {"isa", 0, NI_OPTION_TEXT, offsetof(quantize_options, isa), "NAME",
     "auto, scalar, portable, avx2 or avx512: the same bits from each"},
    {0},
};

static const ni_command_line line = {
    .usage = "IN.npy --as FORMAT -o OUT.safetensors [--dequantized OUT.npy]\n"
             "FOLDER --as FORMAT [-o OUT_FOLDER] [--dequantized OUT_FOLDER] [--keep PATTERNS]",
    .about =
        "Quantizes a float32 matrix [rows, cols] along its columns, or every matrix of a folder of safetensors:\n"
        "NAME.codes, NAME.scales, ... in the place of NAME; with --dequantized decoded numbers under the old names,\n"
        "which transformers loads.\n\n"
        "Aliases: nvfp4, nvfp4-2d, nvfp4-outer128, mxfp4, mxfp8, hifloat4, fp4-row, fp4-tensor.\n"
        "The output holds `codes` (U8; 4-bit: [rows, cols/2], element 2i in the low nibble), `scales` (U8 bytes\n"
        "[rows, cols/16 or 32]), and where the format has them `tensor_scale`, `outer_scales`, `row_scales`,\n"
        "`column_scales` (F32; what a code is multiplied by). docs/formats.md says what every bit means.",
    .options = options,
    .least = 1,
    .most = 1,
};

/* ---- options ---- */

/* What stands between the colons: fixed, none, or a number that the signs are drawn from. */
static bool read_signs(const char *word, nb_signs *signs, uint32_t *draw) {
    if (strcmp(word, "fixed") == 0 || strcmp(word, "none") == 0) {
        *signs = strcmp(word, "fixed") == 0 ? NB_SIGNS_FIXED : NB_SIGNS_NONE;
        return true;
    }
    char *end;
    unsigned long long number = strtoull(word, &end, 10);
    *signs = NB_SIGNS_FRESH;
    *draw = (uint32_t)number;
    return *word >= '0' && *word <= '9' && !*end && number <= UINT32_MAX;
}

/* "16:fixed", "16:fixed:bf16", "32:7" */
static nb_status read_hadamard(const char *text, nb_quantizer *q, nb_noise *noise, nb_error *err) {
    int size;
    char signs[12], bf16[6] = "", rest;
    int words = sscanf(text, "%d:%11[a-z0-9]%5s%c", &size, signs, bf16, &rest);
    bool known = words == 2 || (words == 3 && strcmp(bf16, ":bf16") == 0);
    if (!known || !read_signs(signs, &q->hadamard_signs, &noise->signs))
        return nb_fail(err, NB_BAD_USAGE, "--hadamard %.40s: expected SIZE:fixed, SIZE:none or SIZE:NUMBER", text);
    q->hadamard_size = size;
    q->hadamard_round_bf16 = words == 3;
    return NB_OK;
}

static nb_status read_round(const char *text, nb_rounding *round, nb_error *err) {
    for (int i = 0; ni_rounding_name((nb_rounding)i); i++)
        if (strcmp(text, ni_rounding_name((nb_rounding)i)) == 0) {
            *round = (nb_rounding)i;
            return NB_OK;
        }
    return nb_fail(err, NB_BAD_USAGE, "--round %.40s: expected even, up or stochastic", text);
}

static nb_status read_quantizer(const quantize_options *o, nb_quantizer *q, nb_noise *noise, nb_error *err) {
    if (!o->as)
        return nb_fail(err, NB_BAD_USAGE, "--as is missing: expected a format, as in --as nvfp4");
    if (!o->out && !o->dequantized)
        return nb_fail(err, NB_BAD_USAGE, "nothing to write: expected -o FILE.safetensors or --dequantized FILE.npy");
    if (nb_quantizer_parse(o->as, q, err) != NB_OK)
        return nb_fail_within(err, "--as");
    if (nb_quantizer_is_bf16(q))
        return nb_fail(err, NB_BAD_USAGE, "--as bf16: BF16 is not quantized; expected nvfp4, mxfp4, ...");
    NB_TRY(ni_cli_range("seed", (double)o->seed, 0, UINT32_MAX, err));
    noise->seed = (uint32_t)o->seed;
    noise->tensor = nb_name_hash("quantize", NULL);
    if (o->round)
        NB_TRY(read_round(o->round, &q->round, err));
    if (o->hadamard)
        NB_TRY(read_hadamard(o->hadamard, q, noise, err));
    return nb_quantizer_check(q, err);
}

static nb_status open_backend(const quantize_options *o, nb_backend **be, nb_error *err) {
    nb_backend_options cpu = {0, NB_ISA_AUTO};
    if (o->isa) {
        int isa = NB_ISA_AUTO;
        while (isa <= NB_ISA_AVX512 && strcmp(o->isa, nb_isa_name((nb_isa)isa)) != 0)
            isa++;
        if (isa > NB_ISA_AVX512)
            return nb_fail(err, NB_BAD_USAGE, "--isa %.40s: expected auto, scalar, portable, avx2 or avx512", o->isa);
        cpu.isa = (nb_isa)isa;
    }
    return nb_backend_open(o->backend, &cpu, be, err);
}

/* ---- files ---- */

static nb_status check_input(const char *path, const ni_npy *in, const nb_quantizer *q, nb_error *err) {
    if (in->tensor.dtype != NI_ST_F32)
        return nb_fail(err, NB_BAD_FILE, "%s: numbers of type %s; expected float32 (<f4)", path, in->descr);
    if (in->tensor.rank != 2)
        return nb_fail(err, NB_BAD_FILE, "%s: an array of %d dimensions; expected [rows, cols]", path,
                       (int)in->tensor.rank);
    if (nb_quantizer_check_shape(q, in->tensor.shape[0], in->tensor.shape[1], err) != NB_OK)
        return nb_fail_within(err, "%s", path);
    return NB_OK;
}

static ni_file_tensor tensor_of(const char *name, ni_tensor_dtype dtype, const void *data, size_t bytes, int64_t rows,
                                int64_t cols) {
    ni_file_tensor t = {.name = name, .dtype = dtype, .rank = cols ? 2 : 1, .data = data, .bytes = bytes};
    t.shape[0] = rows;
    t.shape[1] = cols;
    return t;
}

static nb_status write_codes(const char *path, const nb_qtensor *t, const quantize_options *o, nb_error *err) {
    const nb_quantizer *q = &t->quantizer;
    nb_qtensor_size n = nb_qtensor_bytes(q, t->rows, t->cols);
    ni_file_tensor tensors[4];
    int32_t count = 0;
    tensors[count++] = tensor_of("codes", NI_ST_U8, t->codes, n.codes, t->rows, (int64_t)n.codes / t->rows);
    if (n.scales)
        tensors[count++] = tensor_of("scales", NI_ST_U8, t->scales, n.scales, t->rows, (int64_t)n.scales / t->rows);
    if (n.outer_scales && q->scale_type == NB_SCALE_F32)
        tensors[count++] = tensor_of(q->block_rows == 1 ? "row_scales" : "column_scales", NI_ST_F32, t->outer_scales,
                                     n.outer_scales, q->block_rows == 1 ? t->rows : t->cols, 0);
    else if (n.outer_scales)
        tensors[count++] =
            tensor_of("outer_scales", NI_ST_F32, t->outer_scales, n.outer_scales, t->rows, t->cols / 128);
    if (n.tensor_scale)
        tensors[count++] = tensor_of("tensor_scale", NI_ST_F32, t->tensor_scale, n.tensor_scale, 1, 0);
    char text[256], seed[32], cols[32];
    snprintf(seed, sizeof seed, "%lld", (long long)o->seed);
    snprintf(cols, sizeof cols, "%lld", (long long)t->cols);
    ni_metadata metadata[] = {{"quantizer", nb_quantizer_text(q, text, sizeof text)}, {"seed", seed}, {"cols", cols}};
    return ni_safetensors_write(path, tensors, count, metadata, 3, err);
}

/* How far the decoded numbers are from those that were given. */
static const char *noise_text(const nb_quantize_stats *s, char *text, size_t size) {
    const double ratio = s->sum_sq / s->sum_sq_error;
    if (s->sum_sq_error == 0)
        return "exact";
    if (!isfinite(ratio))
        return "not finite";
    snprintf(text, size, "signal to noise %.2f dB", 10 * log10(ratio));
    return text;
}

static void print_summary(const nb_qtensor *t, const nb_quantize_stats *s) {
    char text[256], noise[48];
    double n = s->elements ? (double)s->elements : 1;
    printf("%lld x %lld as %s\n", (long long)t->rows, (long long)t->cols,
           nb_quantizer_text(&t->quantizer, text, sizeof text));
    printf("amax %.6g, %s, %.3f %% flushed to zero, %.3f %% saturated", s->amax, noise_text(s, noise, sizeof noise),
           100 * (double)s->flushed / n, 100 * (double)s->saturated / n);
    if (t->quantizer.scale_type == NB_SCALE_E4M3)
        printf(", %lld of %lld block scales zero", (long long)s->zero_scales, (long long)s->blocks);
    printf("\n");
    if (!isfinite(s->amax))
        fprintf(stderr, "nibble: warning: holds NaN or Inf; what shares a scale with them is lost (docs/formats.md)\n");
}

/* ---- the command ---- */

/* Memory of both sides: the input and its codes on the backend, what the files get on the host. */
typedef struct arrays {
    void *numbers, *codes, *counted;    /* of the backend */
    nb_operand operand;                 /* of which the codes are */
    void *codes_on_host, *decoded_host; /* NULL where no file asks for them */
} arrays;

static nb_status write_files(nb_backend *be, const nb_qtensor *t, const quantize_options *o, arrays *a, nb_error *err) {
    const size_t codes = nb_qtensor_bytes(&t->quantizer, t->rows, t->cols).total;
    const size_t decoded = (size_t)(t->rows * t->cols) * sizeof(float);
    if (o->out) {
        size_t room = codes;
        a->codes_on_host = ni_host_reserve(&room);
        if (!a->codes_on_host)
            return nb_fail(err, NB_NO_MEMORY, "no memory for %lld x %lld codes", (long long)t->rows,
                           (long long)t->cols);
        be->ops->download(be, a->codes_on_host, a->codes, codes);
        NB_TRY(be->ops->synchronize(be, err)); /* a fault on the way: what came is nothing to write */
        const nb_qtensor here = nb_qtensor_place(&t->quantizer, t->rows, t->cols, a->codes_on_host);
        NB_TRY(write_codes(o->out, &here, o, err));
    }
    if (!o->dequantized)
        return NB_OK;
    a->decoded_host = malloc(decoded);
    if (!a->decoded_host)
        return nb_fail(err, NB_NO_MEMORY, "no memory for the decoded %lld x %lld numbers", (long long)t->rows,
                       (long long)t->cols);
    const nb_mat out = nb_mat_of(a->numbers, NB_F32, t->rows, t->cols); /* the input has served */
    NB_TRY(be->ops->decode(be, &out, &a->operand, false, NULL, true, err));
    be->ops->download(be, a->decoded_host, a->numbers, decoded);
    NB_TRY(be->ops->synchronize(be, err));
    return ni_npy_write_f32(o->dequantized, a->decoded_host, t->rows, t->cols, err);
}

static nb_status quantize_into(nb_backend *be, const ni_npy *in, const nb_quantizer *q, const nb_noise *noise,
                               const quantize_options *o, arrays *a, nb_error *err) {
    const int64_t rows = in->tensor.shape[0], cols = in->tensor.shape[1];
    const size_t bytes = (size_t)(rows * cols) * sizeof(float);
    NB_TRY(ni_backend_take(be, bytes, "the numbers", &a->numbers, err));
    NB_TRY(ni_backend_take(be, nb_qtensor_bytes(q, rows, cols).total, "codes", &a->codes, err));
    const nb_qtensor t = nb_qtensor_place(q, rows, cols, a->codes);
    const nb_mat src = nb_mat_of(a->numbers, NB_F32, rows, cols);
    a->operand = (nb_operand){.quantizer = *q, .other = *q, .rows = rows, .cols = cols, .reread = true};
    NB_TRY(ni_backend_take(be, be->ops->operand_bytes(be, &a->operand), "an operand", &a->operand.memory, err));
    nb_quantize_stats stats;
    NB_TRY(ni_backend_take(be, sizeof stats, "what is counted", &a->counted, err));
    const ni_making making = {.out = &a->operand, .shown = true, .noise = noise, .stats = a->counted};
    be->ops->upload(be, a->numbers, in->tensor.data, bytes);
    NB_TRY(be->ops->make_operands(be, &(ni_source){.numbers = &src}, &making, 1, err));
    NB_TRY(be->ops->canonical(be, &t, &a->operand, err));
    NB_TRY(write_files(be, &t, o, a, err));
    be->ops->download(be, &stats, a->counted, sizeof stats);
    print_summary(&t, &stats);
    return NB_OK;
}

static nb_status quantize(nb_backend *be, const ni_npy *in, const nb_quantizer *q, const nb_noise *noise,
                          const quantize_options *o, nb_error *err) {
    arrays a = {0};
    const nb_status status = quantize_into(be, in, q, noise, o, &a, err);
    void *const memory[] = {a.numbers, a.codes, a.operand.memory, a.counted};
    for (int i = 0; i < 4; i++)
        nb_backend_release(be, memory[i]);
    free(a.codes_on_host);
    free(a.decoded_host);
    return status;
}

static nb_status quantize_folder(nb_backend *be, const char *from, const nb_quantizer *q, const nb_noise *noise,
                                 const quantize_options *o, nb_error *err) {
    if (strcmp(be->name, "cpu") != 0)
        return nb_fail(err, NB_UNSUPPORTED, "--backend %s: folders are quantized on the cpu", be->name);
    const ni_folder_task task = {from, o->out, o->dequantized, o->keep ? o->keep : "*embed*,*lm_head*", *q, *noise};
    return ni_cli_quantize_folder(be, &task, err);
}

nb_status ni_cli_quantize(int argc, char **argv, nb_error *err) {
    quantize_options o = {0};
    int32_t count;
    nb_quantizer q;
    nb_noise noise = {0};
    nb_backend *be = NULL;
    ni_npy in;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    NB_TRY(read_quantizer(&o, &q, &noise, err));
    NB_TRY(open_backend(&o, &be, err));
    if (ni_cli_is_folder(argv[1])) {
        nb_status status = quantize_folder(be, argv[1], &q, &noise, &o, err);
        nb_backend_free(be);
        return status;
    }
    nb_status status = o.keep ? nb_fail(err, NB_BAD_USAGE, "--keep is for folders") : ni_npy_read(argv[1], &in, err);
    if (status == NB_OK) {
        status = check_input(argv[1], &in, &q, err);
        if (status == NB_OK)
            status = quantize(be, &in, &q, &noise, &o, err);
        ni_npy_free(&in);
    }
    nb_backend_free(be);
    return status;
}
