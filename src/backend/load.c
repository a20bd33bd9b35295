/* load.c: opens libnibble-cuda.so at run time, so that one program serves machines with and without a GPU. */
#define _GNU_SOURCE /* dladdr, which POSIX has since 2024 */
#include "backend/load.h"

#include "backend/cuda/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libnibble-cuda.so"

/* Folder of the running program, without a final slash; "" if the system does not say. */
static void program_folder(char *folder, size_t size) {
    ssize_t length = readlink("/proc/self/exe", folder, size - 1);
    folder[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
}

/* Folder of libnibble.so, for a program of one's own; that of the program where the library is part of it. */
static void own_folder(char *folder, size_t size) {
    static const char here; /* an address inside of whatever holds this code */
    Dl_info info;
    snprintf(folder, size, "%s", dladdr(&here, &info) && info.dli_fname ? info.dli_fname : "");
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
}

/* Beside the program (a build folder, a folder that was carried), where `make install` puts it, where the system looks.
 */
static void *open_library(char *why, size_t size) {
    static const struct {
        void (*folder)(char *folder, size_t size);
        const char *path;
    } places[] = {{program_folder, "%s/" LIBRARY},
                  {program_folder, "%s/../lib/nibble/" LIBRARY},
                  {own_folder, "%s/nibble/" LIBRARY}};
    char folder[4096], path[4200];
    why[0] = '\0';
    for (size_t i = 0; i <= sizeof places / sizeof *places; i++) {
        if (i < sizeof places / sizeof *places) {
            places[i].folder(folder, sizeof folder);
            snprintf(path, sizeof path, places[i].path, folder);
        } else
            snprintf(path, sizeof path, LIBRARY);
        if (strchr(path, '/') && access(path, R_OK) != 0)
            continue;
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
        const char *text = dlerror(); /* names the file */
        if (strchr(path, '/'))        /* it is there, and something that it needs is not */
            snprintf(why, size, "%.500s", text ? text : "unknown");
    }
    return NULL;
}

/* ISO C has no cast between objects and functions; POSIX has, through memory. */
static bool find(void *library, const char *name, void *function) {
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool fits(ni_cuda_library_fit its) {
    const ni_cuda_library_fit ours = NI_CUDA_LIBRARY_FIT;
    return its.table == ours.table && its.mat == ours.mat && its.qtensor == ours.qtensor && its.error == ours.error &&
           its.facts == ours.facts;
}

typedef struct doors {
    ni_cuda_library_open_function *open;
    ni_cuda_library_describe_function *describe;
} doors;

/* The library stays open: its code runs until the end. */
static nb_status find_doors(doors *out, nb_error *err) {
    char why[512];
    ni_cuda_library_fit_function *its_fit;
    void *library = open_library(why, sizeof why);
    if (!library && why[0])
        return nb_fail(err, NB_UNSUPPORTED, "cuda: " LIBRARY " cannot be opened: %s; hint: make cuda, or backend: cpu",
                       why);
    if (!library)
        return nb_fail(err, NB_UNSUPPORTED,
                       "cuda: there is no " LIBRARY " beside the program; hint: `make cuda` builds it (needs CUDA's "
                       "compiler), or backend: cpu");
    if (!find(library, "ni_cuda_library_open", &out->open) ||
        !find(library, "ni_cuda_library_describe", &out->describe) ||
        !find(library, "ni_cuda_library_fits", &its_fit) || !fits(its_fit()))
        return nb_fail(err, NB_UNSUPPORTED,
                       "cuda: " LIBRARY " is of another version than this program; hint: make cuda");
    return NB_OK;
}

nb_status ni_backend_load_cuda(int device, nb_backend **out, nb_error *err) {
    doors library;
    NB_TRY(find_doors(&library, err));
    return library.open(device, out, err);
}

nb_status ni_backend_describe_cuda(int device, ni_cuda_facts *facts, nb_error *err) {
    doors library;
    NB_TRY(find_doors(&library, err));
    return library.describe(device, facts, err);
}
