/* state_copy.c: what mechanisms keep between steps, copied to the host and put back. */
#include "state_copy.h"
#include "backend/table.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

void ni_state_copy_free(ni_state_copy *copy) {
    for (int32_t i = 0; i < copy->count; i++)
        free(copy->tensors[i].data);
    free(copy->tensors);
    memset(copy, 0, sizeof *copy);
}

nb_status ni_state_copy_take(nb_trainer *t, ni_state_copy *out, nb_error *err) {
    int32_t count = nb_model_state(t->model, NULL, 0);
    out->count = 0;
    out->tensors = calloc((size_t)count + 1, sizeof *out->tensors);
    if (!out->tensors)
        return nb_fail(err, NB_NO_MEMORY, "state of mechanisms: out of memory");
    nb_model_state(t->model, out->tensors, count);
    for (int32_t i = 0; i < count; i++) {
        nb_state_tensor *tensor = &out->tensors[i];
        size_t bytes = (size_t)tensor->elements * nb_dtype_size(tensor->dtype);
        const void *live = tensor->data;
        tensor->data = malloc(bytes + 1);
        out->count = i + 1;
        if (!tensor->data)
            return nb_fail(err, NB_NO_MEMORY, "state of mechanisms: out of memory for %s", tensor->name);
        if (tensor->on_host)
            memcpy(tensor->data, live, bytes);
        else
            t->be->ops->download(t->be, tensor->data, live, bytes);
    }
    return NB_OK;
}

nb_status ni_state_copy_put(nb_trainer *t, const ni_state_copy *copy, const char *leave, nb_error *err) {
    int32_t count = nb_model_state(t->model, NULL, 0);
    nb_state_tensor *fresh = calloc((size_t)count + 1, sizeof *fresh);
    if (!fresh)
        return nb_fail(err, NB_NO_MEMORY, "state of mechanisms: out of memory");
    nb_model_state(t->model, fresh, count);
    for (int32_t i = 0; i < count; i++)
        for (int32_t j = 0; j < copy->count; j++) {
            const nb_state_tensor *old = &copy->tensors[j];
            if (strcmp(fresh[i].name, old->name) != 0 || fresh[i].elements != old->elements ||
                (leave && ni_ends_with(old->name, leave)))
                continue;
            size_t bytes = (size_t)old->elements * nb_dtype_size(old->dtype);
            if (fresh[i].on_host)
                memcpy(fresh[i].data, old->data, bytes);
            else
                t->be->ops->upload(t->be, fresh[i].data, old->data, bytes);
        }
    free(fresh);
    return nb_model_state_loaded(t->model, err);
}
