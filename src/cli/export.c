/* export.c: `nibble export`: a checkpoint, or any folder of Hugging Face that nibble reads, for other programs: its
 * numbers here (one model.safetensors in the wanted type, config.json, tokenizer), its codes in serve.c. */
#include "cli/cli.h"
#include "cli/runs.h"
#include "cli/serve.h"
#include "files/file.h"
#include "files/folder.h"
#include "model/hf.h"
#include "nibble/train.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct export_options {
    const char *to, *type, *out, *recipe, *fused, *calibrate;
} export_options;

static const ni_option options_table[] = {
    {"to", 0, NI_OPTION_TEXT, offsetof(export_options, to), "hf|compressed-tensors|modelopt|gguf", "for whom (hf)"},
    {"type", 0, NI_OPTION_TEXT, offsetof(export_options, type), "bf16|f16|f32",
     "type of the parameters, or of those that are not codes (bf16)"},
    {"recipe", 0, NI_OPTION_TEXT, offsetof(export_options, recipe), "R",
     "whose codes (default: the trained one; a folder of another maker has none)"},
    {"fused", 0, NI_OPTION_TEXT, offsetof(export_options, fused), "exact|again|own",
     "one scale for q, k, v and for gate, up, as vLLM and TensorRT-LLM want: by an exact change of block scales or not "
     "at all (exact), quantized again as one matrix (again), or a scale each, as transformers reads (own)"},
    {"calibrate", 0, NI_OPTION_TEXT, offsetof(export_options, calibrate), "TEXT",
     "4-bit activations too: their scales from the beginning of this text"},
    {"out", 'o', NI_OPTION_TEXT, offsetof(export_options, out), "PATH", "folder to make; a file for gguf"},
    {0},
};

static const ni_command_line command_line = {
    .usage =
        "CHECKPOINT|RUN [--to hf] [--type bf16|f16|f32] -o DIR\n"
        "CHECKPOINT|RUN --to compressed-tensors|modelopt|gguf [--recipe R] [--fused HOW] [--calibrate TEXT] -o PATH",
    .about =
        "hf: numbers, in a folder that transformers (and, for gla, fla) loads.\n"
        "The others hold the very codes and scales that the forward pass multiplies, where the recipe's weights are\n"
        "plain NVFP4 or MXFP4; what is lost is said, and other layers are written as numbers:\n"
        "  compressed-tensors   vLLM, SGLang, transformers\n"
        "  modelopt             TensorRT-LLM\n"
        "  gguf                 llama.cpp, with the tokenizer, in one file\n"
        "CHECKPOINT may also be a folder of Hugging Face, in one file or many. Checksums of a checkpoint are verified\n"
        "first. docs/export.md has the layouts.\n"
        "Example: nibble export runs/demo/checkpoints/step-00001000 --to gguf -o my-model.gguf",
    .options = options_table,
    .least = 1,
    .most = 1,
};

static nb_status choose_type(const char *name, ni_tensor_dtype *type, nb_error *err) {
    static const struct {
        const char *name;
        ni_tensor_dtype type;
    } types[] = {{"bf16", NI_ST_BF16}, {"f16", NI_ST_F16}, {"f32", NI_ST_F32}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(name, types[i].name) == 0) {
            *type = types[i].type;
            return NB_OK;
        }
    return nb_fail(err, NB_BAD_USAGE, "--type %.40s: expected bf16, f16 or f32", name);
}

static nb_status write_folder(nb_backend *be, nb_model *model, const char *from, const char *to, ni_tensor_dtype type,
                              nb_error *err) {
    ni_folder *folder;
    ni_hf_marks marks;
    NB_TRY(ni_hf_marks_read(from, &marks, err));
    NB_TRY(ni_folder_begin(to, false, &folder, err));
    nb_status status = ni_hf_save(be, model, ni_folder_path(folder), type, marks, err);
    if (status == NB_OK)
        status = ni_cli_copy_tokenizer(from, ni_folder_path(folder), err);
    if (status == NB_OK)
        return ni_folder_commit(folder, err);
    ni_folder_abandon(folder);
    return status;
}

static nb_status export_folder(nb_backend *be, const char *from, const char *to, ni_tensor_dtype type, nb_error *err) {
    char manifest[4096];
    nb_model_config config;
    nb_recipe recipe = nb_recipe_bf16(); /* parameters alone: nothing is computed */
    snprintf(manifest, sizeof manifest, "%s/nibble.json", from);
    if (access(manifest, F_OK) == 0)
        NB_TRY(nb_checkpoint_verify(from, err));
    NB_TRY(ni_hf_config_read(from, &config, err));
    nb_model *model;
    NB_TRY(nb_model_create(be, &config, &recipe, 1, 1, false, &model, err));
    nb_status status = ni_hf_load(be, model, from, err);
    if (status == NB_OK)
        status = write_folder(be, model, from, to, type, err);
    if (status == NB_OK)
        printf("%s: %s, %d tensors as %s\n", to, nb_family_name(config.family), (int)nb_model_param_count(model),
               ni_tensor_dtype_name(type));
    nb_model_free(model);
    return status;
}

/* What has no model in any of the formats. A folder that cannot be read is refused by whoever reads it. */
static nb_status check_family(const char *from, nb_error *err) {
    nb_model_config config;
    nb_error unreadable = {0};
    if (ni_hf_config_read(from, &config, &unreadable) == NB_OK && config.family == NB_NGPT)
        return nb_fail(err, NB_UNSUPPORTED,
                       "%s: no other program has models of family ngpt, so there is nothing to export to; hint: its "
                       "model.safetensors holds the parameters",
                       from);
    return NB_OK;
}

/* Before a model is read that may take an hour to write. */
static nb_status check_out(const export_options *o, nb_error *err) {
    bool exists;
    if (strcmp(o->to, "gguf") != 0)
        return ni_folder_check(o->out, false, err);
    NB_TRY(ni_file_exists(o->out, &exists, err));
    return exists ? nb_fail(err, NB_IO_ERROR, "%s: exists already", o->out) : NB_OK;
}

nb_status ni_cli_export(int argc, char **argv, nb_error *err) {
    export_options o = {.to = "hf", .type = "bf16"};
    ni_tensor_dtype type = NI_ST_BF16;
    nb_backend *be;
    char from[NB_PATH_SIZE];
    int32_t count;
    NB_TRY(ni_cli_parse(&command_line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    const bool serves = ni_cli_serves(o.to);
    if (strcmp(o.to, "hf") != 0 && !serves)
        return nb_fail(err, NB_BAD_USAGE, "--to %.40s: expected hf, compressed-tensors, modelopt or gguf", o.to);
    if (!serves && (o.recipe || o.fused || o.calibrate))
        return nb_fail(err, NB_BAD_USAGE, "--to hf writes numbers: --recipe, --fused and --calibrate are for codes");
    if (!o.out)
        return nb_fail(err, NB_BAD_USAGE, "export: -o PATH is missing: where the folder or the file goes");
    NB_TRY(choose_type(o.type, &type, err));
    NB_TRY(check_out(&o, err));
    NB_TRY(ni_cli_checkpoint(argv[1], from, err));
    NB_TRY(check_family(from, err));
    NB_TRY(ni_cli_open("cpu", 0, &be, err));
    const ni_serve_options how = {o.to, o.recipe, o.fused, o.calibrate, type, o.out};
    nb_status status = serves ? ni_cli_serve(be, from, &how, err) : export_folder(be, from, o.out, type, err);
    nb_backend_free(be);
    return status;
}
