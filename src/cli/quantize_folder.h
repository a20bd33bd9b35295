/* quantize_folder.h: `nibble quantize` over a folder of safetensors. */
#ifndef NI_CLI_QUANTIZE_FOLDER_H
#define NI_CLI_QUANTIZE_FOLDER_H

#include "nibble/backend.h"
#include "nibble/format.h"

typedef struct ni_folder_task {
    const char *from;
    const char *codes;       /* the folder to make, or NULL */
    const char *dequantized; /* the same of decoded numbers */
    const char *keep;        /* patterns (fnmatch) with commas between, of matrices that stay numbers; may be NULL */
    nb_quantizer quantizer;
    nb_noise noise;
} ni_folder_task;

/* Quantizes every matrix of numbers whose columns make whole blocks: NAME.codes, NAME.scales, ... in the place of NAME,
 * or decoded numbers under the old names. What is no matrix, does not fit or is kept goes along as it is, and so do the
 * folder's small files (config.json, the tokenizer). */
nb_status ni_cli_quantize_folder(nb_backend *be, const ni_folder_task *task, nb_error *err);

#endif
