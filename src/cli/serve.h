/* serve.h: `nibble export` to the programs that serve codes. */
#ifndef NI_CLI_SERVE_H
#define NI_CLI_SERVE_H

#include "files/safetensors.h"
#include "nibble/train.h"

typedef struct ni_serve_options {
    const char *to;        /* "compressed-tensors", "modelopt", "gguf" */
    const char *recipe;    /* NULL: the trained one */
    const char *fused;     /* "exact", "own", "again" */
    const char *calibrate; /* a text; NULL: activations stay numbers */
    ni_tensor_dtype type;  /* of what is not coded */
    const char *out;
} ni_serve_options;

bool ni_cli_serves(const char *to);
nb_status ni_cli_serve(nb_backend *be, const char *from, const ni_serve_options *o, nb_error *err);

/* export_tokenizer.c: the tokenizer of one folder into another. */
nb_status ni_cli_copy_tokenizer(const char *from, const char *to, nb_error *err);

/* calibrate.c: runs the trained forward pass over the beginning of a text and returns for each of `count` modules the
 * largest magnitude of its input, 0 where it was not seen. `recipe` NULL: the trained one. */
nb_status ni_cli_calibrate(nb_backend *be, const char *from, const nb_recipe *recipe, const char *text,
                           const char *const *modules, int32_t count, float *amax, nb_error *err);

#endif
