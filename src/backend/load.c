/* load.c: opens libnibble-cuda.so at run time, so that one program serves machines with and without a GPU. */
#include "backend/load.h"

#include "backend/cuda/library.h"
#include "base/beside.h"

#define LIBRARY "libnibble-cuda.so"

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
    void *library = ni_open_beside(LIBRARY, why, sizeof why);
    if (!library && why[0])
        return nb_fail(err, NB_UNSUPPORTED, "cuda: " LIBRARY " cannot be opened: %s; hint: make cuda, or backend: cpu",
                       why);
    if (!library)
        return nb_fail(err, NB_UNSUPPORTED,
                       "cuda: there is no " LIBRARY " beside the program; hint: `make cuda` builds it (needs CUDA's "
                       "compiler), or backend: cpu");
    if (!ni_find_function(library, "ni_cuda_library_open", &out->open) ||
        !ni_find_function(library, "ni_cuda_library_describe", &out->describe) ||
        !ni_find_function(library, "ni_cuda_library_fits", &its_fit) || !fits(its_fit()))
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
