/* hf.h: folders that Hugging Face's transformers (and, for gla, fla) load, written and read.
 *
 *     config.json         the architecture
 *     model.safetensors   the parameters under Hugging Face's names; model-0000N-of-M.safetensors with an index are
 * read
 *
 * Reading checks that the file's architecture is one that nibble computes exactly as its maker does: what is not
 * (biases, RoPE scaled otherwise than LLaMA 3's, sliding windows, other activations) is an error that names the key.
 */
#ifndef NI_MODEL_HF_H
#define NI_MODEL_HF_H

#include "files/safetensors.h"
#include "nibble/model.h"
#include <jansson.h>

/* Tokens around a text, -1: none. What nibble trains begins and ends documents with the same one. */
typedef struct ni_hf_marks {
    int32_t begin, end;
} ni_hf_marks;

/* Writes config.json and model.safetensors into a folder that exists. `dtype`: NI_ST_F32 (exact masters), NI_ST_BF16 or
 * NI_ST_F16, rounded to nearest even. */
nb_status ni_hf_save(nb_backend *be, nb_model *model, const char *folder, ni_tensor_dtype dtype, ni_hf_marks marks,
                     nb_error *err);

/* The same, of masters that somebody else may have: parameter `index` in real, to host memory. */
typedef nb_status ni_hf_fetch(void *self, int32_t index, void *host, nb_error *err);
nb_status ni_hf_save_from(nb_backend *be, nb_model *model, ni_hf_fetch *fetch, void *self, const char *folder,
                          ni_tensor_dtype dtype, ni_hf_marks marks, nb_error *err);

/* Fills the parameters of a model that was created for this folder's config, but for those whose masters another rank
 * has. Every parameter must be there, with its shape, and nothing else. */
nb_status ni_hf_load(nb_backend *be, nb_model *model, const char *folder, nb_error *err);

/* Whether a run file's `model` means a folder rather than a model file: a name is one of models/, never a folder. */
bool ni_model_is_folder(const char *name_or_path);

/* Reads config.json into the configuration of a model. */
nb_status ni_hf_config_read(const char *folder, nb_model_config *out, nb_error *err);
/* The same over text; `name` stands for the file in messages and names the model. */
nb_status ni_hf_config_parse(const char *text, size_t size, const char *name, nb_model_config *out, nb_error *err);
/* The files that the text of a model.safetensors.index.json names, as keys of a new object, in its order; each lies in
 * the index's own folder. `path` stands for the file in messages. */
nb_status ni_hf_index_parse(const char *text, size_t size, const char *path, json_t **files, nb_error *err);
/* The tokens that a config.json names (the first of several). */
nb_status ni_hf_marks_read(const char *folder, ni_hf_marks *marks, nb_error *err);
/* Fresh JSON text of config.json (free with free()); NULL without memory. */
char *ni_hf_config_text(const nb_model_config *config, ni_tensor_dtype dtype, ni_hf_marks marks);

#endif
