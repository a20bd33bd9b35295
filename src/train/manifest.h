/* manifest.h: nibble.json, the page of a checkpoint that says where the run stood and what every file must hold.
 *
 * {"format": "nibble checkpoint 1", "step", "updates", "next_batch", "passed_over", "evaluated", "drowned",
 * "modules_in_bf16", "loss_window", "norm_window", "data_fingerprint", "data_sum", "val_sum", "products": {"bf16",
 * "f32"} (whose sums), "config": run file as text, "recipe": recipe as text, "files": {NAME: {"bytes", "xxh3",
 * "tensors": {NAME: xxh3}}}, "self": xxh3} Checksums are XXH3-128; "self" is that of nibble.json with these 32 digits
 * written as zeros.
 */
#ifndef NI_TRAIN_MANIFEST_H
#define NI_TRAIN_MANIFEST_H

#include "products.h"
#include "trainer.h"
#include <jansson.h>

#define NI_MANIFEST_NAME "nibble.json"
#define NI_MODEL_NAME "model.safetensors"
#define NI_OPTIMIZER_NAME "optimizer.safetensors"

typedef struct ni_manifest {
    ni_position at;
    int64_t updates; /* of the optimizer */
    uint64_t data_fingerprint;
    uint64_t data_sum, val_sum; /* of all the data; 0: not kept, as in checkpoints from before they were */
    ni_products products;       /* empty texts in checkpoints from before they were kept */
    nb_run_config config;
    char *recipe; /* text; owned */
    json_t *root; /* owned; NULL while being made */
} ni_manifest;

void ni_manifest_free(ni_manifest *manifest);

/* Takes the checksums of every file in `folder` and writes its nibble.json. */
nb_status ni_manifest_write(const char *folder, const ni_manifest *manifest, nb_error *err);

/* The text of nibble.json, sealed, with `files` as its entry of that name (free with free()); NULL if memory ran out.
 */
char *ni_manifest_text(const ni_manifest *manifest, json_t *files);

/* Writes the checksum of such a text (with a 0 after it) into the text; false where it has no place for one. */
bool ni_manifest_seal(char *text, size_t size);

/* Reads such a text (with a 0 after it); the digits of "self" are written anew. `path` stands in messages. */
nb_status ni_manifest_parse(char *text, size_t size, const char *path, ni_manifest *out, nb_error *err);

/* Reads nibble.json and verifies its own checksum; says what the folder is instead where it is no checkpoint. */
nb_status ni_manifest_read(const char *folder, ni_manifest *out, nb_error *err);

/* Whether it has a checksum for the file `name` of its folder. */
bool ni_manifest_lists(const ni_manifest *manifest, const char *name);

/* Verifies one file that the manifest lists. */
nb_status ni_manifest_verify_file(const char *folder, const ni_manifest *manifest, const char *name, nb_error *err);

/* The recipe that a manifest read from `folder` holds. */
nb_status ni_manifest_recipe(const ni_manifest *manifest, const char *folder, nb_recipe *out, nb_error *err);

/* Verifies every file that the manifest lists; names the tensor where one is wrong. */
nb_status ni_manifest_verify(const char *folder, const ni_manifest *manifest, nb_error *err);

#endif
