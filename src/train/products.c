/* products.c: a run keeps the kernels of its plain products, which decide its last bits, from machine to machine. */
#include "products.h"

#include "backend/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ni_products ni_products_of(nb_backend *be) {
    ni_products p = {.choices = NULL};
    if (be->ops->gemm_sums) {
        be->ops->gemm_sums(be, NB_BF16, NB_BF16, p.bf16, sizeof p.bf16);
        be->ops->gemm_sums(be, NB_F32, NB_F32, p.f32, sizeof p.f32);
    }
    if (be->ops->gemm_choices)
        p.choices = be->ops->gemm_choices(be);
    return p;
}

void ni_products_free(ni_products *products) {
    free(products->choices);
    products->choices = NULL;
}

static void warn(const char *folder, const char *types, const char *was, const char *is,
                 const nb_train_callbacks *callbacks) {
    char sentence[1024];
    if (!callbacks->note)
        return;
    if (was[0])
        snprintf(
            sentence, sizeof sentence,
            "%s: its %s products were summed by \"%s\", which this machine does not have, and go on by \"%s\": the "
            "rest is not to the bit that of a run that never stopped",
            folder, types, was, is);
    else
        snprintf(
            sentence, sizeof sentence,
            "%s: does not say what its %s products were summed by; they go on by \"%s\", and the rest may not be to "
            "the bit that of a run that never stopped",
            folder, types, is);
    callbacks->note(callbacks->user, NB_NOTE_WARNING, sentence);
}

static void take(nb_backend *be, nb_dtype type, const char *was, const char *is, const char *folder,
                 const nb_train_callbacks *callbacks) {
    bool taken = was[0] && be->ops->gemm_take && be->ops->gemm_take(be, type, type, was, NULL) == NB_OK;
    if (!taken)
        warn(folder, type == NB_BF16 ? "bf16" : "f32", was, is, callbacks);
}

/* Where the sums are another machine's already that was said, and choices of shapes mean nothing here. */
static void choose(nb_backend *be, const char *choices, const char *folder, const nb_train_callbacks *callbacks) {
    nb_error err = {0};
    char sentence[1400];
    if (be->ops->gemm_choose(be, choices, &err) == NB_OK || !callbacks->note)
        return;
    snprintf(sentence, sizeof sentence, "%s: %s: the rest is not to the bit that of a run that never stopped", folder,
             err.message);
    callbacks->note(callbacks->user, NB_NOTE_WARNING, sentence);
}

void ni_products_take(nb_backend *be, const ni_products *saved, const char *folder,
                      const nb_train_callbacks *callbacks) {
    ni_products here = ni_products_of(be);
    if (strcmp(saved->bf16, here.bf16) != 0)
        take(be, NB_BF16, saved->bf16, here.bf16, folder, callbacks);
    if (strcmp(saved->f32, here.f32) != 0)
        take(be, NB_F32, saved->f32, here.f32, folder, callbacks);
    if (saved->choices && saved->choices[0] && strcmp(saved->bf16, here.bf16) == 0)
        choose(be, saved->choices, folder, callbacks);
    ni_products_free(&here);
}
