/* cudnn.c: libcudnn.so.9 found, its functions by name, and a handle on the GPU. */
#include "backend/cuda/cudnn.h"

#include "base/beside.h"

#include <stdio.h>
#include <stdlib.h>

/* 9.10.0 and 9.10.1 give wrong attentions (cudnn-frontend, sdpa_support_surface.h), and before 9.6 the sum of dQ had to
 * be cleared by who asked. */
enum { OLDEST = 91100 };

static bool find_all(ni_cudnn *c, void *library) {
    const struct {
        const char *name;
        void *function;
    } wanted[] = {{"cudnnCreate", &c->create_handle},
                  {"cudnnDestroy", &c->destroy_handle},
                  {"cudnnSetStream", &c->set_stream},
                  {"cudnnBackendCreateDescriptor", &c->create},
                  {"cudnnBackendDestroyDescriptor", &c->destroy},
                  {"cudnnBackendSetAttribute", &c->set},
                  {"cudnnBackendGetAttribute", &c->get},
                  {"cudnnBackendFinalize", &c->finish},
                  {"cudnnBackendExecute", &c->execute},
                  {"cudnnGetLastErrorString", &c->last_error}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!ni_find_function(library, wanted[i].name, wanted[i].function))
            return false;
    return true;
}

ni_cudnn *ni_cudnn_open(char *why, size_t size) {
    size_t (*version)(void) = NULL;
    char trouble[256];
    void *library = ni_open_beside("libcudnn.so.9", trouble, sizeof trouble);
    if (!library) {
        snprintf(why, size, "%s", trouble[0] ? trouble : "no libcudnn.so.9 on the path of libraries");
        return NULL;
    }
    ni_cudnn *c = calloc(1, sizeof *c);
    if (!c || !find_all(c, library) || !ni_find_function(library, "cudnnGetVersion", &version)) {
        snprintf(why, size, "libcudnn.so.9 lacks a function of the graph interface");
        free(c);
        return NULL;
    }
    c->version = version();
    if (c->version < OLDEST) {
        snprintf(why, size, "cuDNN is %zu.%zu.%zu; expected 9.11 or later", c->version / 10000, c->version / 100 % 100,
                 c->version % 100);
        free(c);
        return NULL;
    }
    return c;
}

bool ni_cudnn_start(ni_cudnn *c, char *why, size_t size) {
    const int status = c->create_handle(&c->handle);
    if (status)
        ni_cudnn_say(c, status, "cudnnCreate", why, size);
    return !status;
}

void ni_cudnn_close(ni_cudnn *c) {
    if (c && c->device)
        c->destroy(c->device);
    if (c && c->handle)
        c->destroy_handle(c->handle);
    free(c);
}

void ni_cudnn_say(const ni_cudnn *c, int status, const char *what, char *why, size_t size) {
    char text[160] = "";
    c->last_error(text, sizeof text);
    text[sizeof text - 1] = '\0';
    for (char *at = text; *at; at++)
        if (*at == '\n' || *at == '\r')
            *at = ' ';
    snprintf(why, size, "cuDNN says %d to %s%s%s", status, what, text[0] ? ": " : "", text);
}
