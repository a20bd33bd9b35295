/* serve.c: `nibble export --to compressed-tensors | modelopt | gguf`: codes, and a sentence about all that is not in
 * them. */
#include "cli/serve.h"
#include "cli/cli.h"
#include "data/tokenizer.h"
#include "data/tokenizer_files.h"
#include "data/tokenizer_gguf.h"
#include "data/tokenizer_kept.h"
#include "files/folder.h"
#include "model/serve.h"
#include "train/foreign.h"
#include "train/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool ni_cli_serves(const char *to) {
    return strcmp(to, "compressed-tensors") == 0 || strcmp(to, "modelopt") == 0 || strcmp(to, "gguf") == 0;
}

/* ---- whose codes ---- */

static nb_status load_recipe(const char *from, const char *wanted, nb_recipe *recipe, nb_error *err) {
    char recipes[NB_PATH_SIZE];
    const bool foreign = ni_is_foreign(from);
    if (foreign && !wanted)
        return nb_fail(err, NB_BAD_USAGE,
                       "%s was not trained by nibble: --recipe says how its weights are quantized, as "
                       "in --recipe nvfp4",
                       from);
    if (!foreign)
        NB_TRY(nb_checkpoint_verify(from, err));
    if (wanted) {
        NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
        return nb_recipe_load(wanted, recipes, recipe, err);
    }
    ni_manifest manifest;
    NB_TRY(ni_manifest_read(from, &manifest, err));
    nb_status status = ni_manifest_recipe(&manifest, from, recipe, err);
    ni_manifest_free(&manifest);
    return status;
}

/* GGUF's readers fuse nothing. */
static nb_status choose_sharing(const ni_serve_options *o, ni_sharing *sharing, nb_error *err) {
    const bool gguf = strcmp(o->to, "gguf") == 0;
    *sharing = gguf ? NI_SHARING_OWN : NI_SHARING_EXACT;
    if (!o->fused)
        return NB_OK;
    if (strcmp(o->fused, "own") == 0)
        *sharing = NI_SHARING_OWN;
    else if (strcmp(o->fused, "again") == 0)
        *sharing = NI_SHARING_AGAIN;
    else if (strcmp(o->fused, "exact") == 0)
        *sharing = NI_SHARING_EXACT;
    else
        return nb_fail(err, NB_BAD_USAGE, "--fused %.40s: expected exact, again or own", o->fused);
    return NB_OK;
}

/* ---- what is said of it ---- */

static void print_uncoded(const ni_coded_model *coded, const char *type) {
    for (int32_t i = 0; i < coded->count; i++) {
        const char *why = coded->layers[i].why;
        int32_t same = 0;
        bool told = false;
        for (int32_t j = 0; j < coded->count; j++) {
            const bool alike = coded->layers[j].coding == NI_CODING_NONE && strcmp(coded->layers[j].why, why) == 0;
            same += alike;
            told |= alike && j < i;
        }
        if (coded->layers[i].coding == NI_CODING_NONE && !told)
            printf("  in %s: %s%s (%s)\n", type, coded->layers[i].module, same > 1 ? " and others" : "", why);
    }
}

static void print_summary(const ni_coded_model *coded, const nb_recipe *recipe, const ni_serve_options *o) {
    const char *loss, *type = ni_tensor_dtype_name(o->type);
    bool exact = true, narrow = true;
    const char *family = nb_family_name(nb_model_get_config(coded->model)->family);
    if (coded->coded == 0)
        printf("%s: %s, no layer in codes by recipe %s, all in %s\n", o->out, family, recipe->name, type);
    else
        printf("%s: %s, %d of %d layers in %s by recipe %s, the rest in %s\n", o->out, family, (int)coded->coded,
               (int)coded->count, coded->coding == NI_CODING_NVFP4 ? "NVFP4" : "MXFP4", recipe->name, type);
    print_uncoded(coded, type);
    if (coded->coded == 0)
        return;
    for (int32_t i = 0; (loss = ni_coded_loss(recipe, i)); i++)
        printf("  not in it: %s\n", loss);
    if (coded->changed)
        printf(
            "  %lld layers have other codes than were trained: quantized again as one matrix with their neighbours\n",
            (long long)coded->changed);
    for (int32_t i = 0; i < coded->count; i++) {
        float divisor;
        bool same = true;
        if (coded->layers[i].coding == NI_CODING_NVFP4)
            narrow &= ni_coded_divisor(coded->layers[i].scale, &divisor, &same);
        exact &= same;
    }
    if (strcmp(o->to, "compressed-tensors") == 0 && coded->coding == NI_CODING_NVFP4)
        printf("  decoded as nibble decodes: %s\n", exact ? "bit for bit"
                                                    : narrow
                                                        ? "bit for bit in BF16 (the reader divides in FP32)"
                                                        : "but for the last bit of BF16, where a scale is subnormal");
}

/* ---- writing ---- */

/* One sentence about a tokenizer that llama.cpp cannot have is an error: the file would not run. */
static nb_status put_tokenizer(const char *from, int32_t vocab, ni_gguf *file, nb_error *err) {
    ni_tokenizer *tokenizer = NULL;
    ni_tokenizer_kept kept = {0};
    ni_hf_marks marks;
    NB_TRY(ni_kept_read(from, &kept, err));
    const ni_kept_file *json = ni_kept_find(&kept, NI_TOKENIZER_JSON);
    const bool is_other = json->bytes && !ni_kept_find(&kept, NI_TOKENIZER_MODEL)->bytes &&
                          !ni_is_bytes_config(ni_kept_find(&kept, NI_TOKENIZER_CONFIG)->bytes,
                                              ni_kept_find(&kept, NI_TOKENIZER_CONFIG)->size);
    nb_status status = NB_OK;
    if (is_other) {
        status = ni_hf_marks_read(from, &marks, err);
        if (status == NB_OK)
            status = ni_tokenizer_json_gguf(json->bytes, json->size, vocab, marks.begin, marks.end, file, err);
    } else {
        status = ni_tokenizer_load(from, &tokenizer, err);
        if (status == NB_OK)
            status = ni_tokenizer_gguf(tokenizer, vocab, file, err);
        ni_tokenizer_free(tokenizer);
    }
    ni_kept_free(&kept);
    return status;
}

static nb_status write_gguf(ni_coded_model *coded, const char *from, const ni_serve_options *o, nb_error *err) {
    ni_gguf *file = ni_gguf_new();
    if (!file)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for its keys", o->out);
    nb_status status = put_tokenizer(from, nb_model_get_config(coded->model)->vocab, file, err);
    if (status == NB_OK)
        status = ni_serve_gguf(coded, file, o->out, o->type, err);
    ni_gguf_free(file);
    return status;
}

static nb_status write_folder(ni_coded_model *coded, const char *from, const ni_serve_options *o, nb_error *err) {
    ni_folder *folder;
    ni_hf_marks marks;
    NB_TRY(ni_hf_marks_read(from, &marks, err));
    NB_TRY(ni_folder_begin(o->out, false, &folder, err));
    const char *path = ni_folder_path(folder);
    nb_status status = strcmp(o->to, "modelopt") == 0 ? ni_serve_modelopt(coded, path, o->type, marks, err)
                                                      : ni_serve_compressed_tensors(coded, path, o->type, marks, err);
    if (status == NB_OK)
        status = ni_cli_copy_tokenizer(from, path, err);
    if (status == NB_OK)
        return ni_folder_commit(folder, err);
    ni_folder_abandon(folder);
    return status;
}

/* ---- the whole ---- */

static nb_status measure_inputs(nb_backend *be, const char *from, const nb_recipe *recipe, const ni_serve_options *o,
                                ni_coded_model *coded, nb_error *err) {
    const size_t n = (size_t)coded->count + 1;
    const char **modules = calloc(n, sizeof *modules);
    float *amax = calloc(n, sizeof *amax);
    nb_status status = modules && amax ? NB_OK : nb_fail(err, NB_NO_MEMORY, "no memory to calibrate");
    for (int32_t i = 0; status == NB_OK && i < coded->count; i++)
        modules[i] = coded->layers[i].module;
    if (status == NB_OK)
        status = ni_cli_calibrate(be, from, o->recipe ? recipe : NULL, o->calibrate, modules, coded->count, amax, err);
    for (int32_t i = 0; status == NB_OK && i < coded->count; i++)
        coded->layers[i].input_amax = amax[i];
    free(modules);
    free(amax);
    return status;
}

static nb_status serve_model(nb_backend *be, nb_model *model, const nb_recipe *recipe, const char *from,
                             const ni_serve_options *o, nb_error *err) {
    const bool gguf = strcmp(o->to, "gguf") == 0;
    ni_sharing sharing;
    ni_coded_model coded;
    NB_TRY(choose_sharing(o, &sharing, err));
    nb_status status = ni_coded_open(be, model, recipe, sharing, gguf, &coded, err);
    if (status == NB_OK && o->calibrate)
        status = measure_inputs(be, from, recipe, o, &coded, err);
    if (status == NB_OK)
        status = gguf ? write_gguf(&coded, from, o, err) : write_folder(&coded, from, o, err);
    if (status == NB_OK)
        print_summary(&coded, recipe, o);
    ni_coded_close(&coded);
    return status;
}

nb_status ni_cli_serve(nb_backend *be, const char *from, const ni_serve_options *o, nb_error *err) {
    nb_model_config config;
    nb_recipe recipe;
    nb_model *model;
    const nb_recipe numbers = nb_recipe_bf16(); /* parameters alone: nothing is computed with this model */
    if (o->calibrate && strcmp(o->to, "gguf") == 0)
        return nb_fail(err, NB_BAD_USAGE, "--calibrate: llama.cpp chooses the numbers of activations itself");
    NB_TRY(load_recipe(from, o->recipe, &recipe, err));
    NB_TRY(ni_hf_config_read(from, &config, err));
    NB_TRY(nb_model_create(be, &config, &numbers, 1, 1, false, &model, err));
    nb_status status = ni_hf_load(be, model, from, err);
    if (status == NB_OK)
        status = serve_model(be, model, &recipe, from, o, err);
    nb_model_free(model);
    return status;
}
