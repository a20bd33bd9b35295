/* open.c: a backend by its name. */
#include "backend/load.h"

#include <stdlib.h>
#include <string.h>

bool ni_cuda_device_of(const char *name, int *device) {
    char *end = NULL;
    if (strncmp(name, "cuda", 4) != 0)
        return false;
    *device = 0;
    if (name[4] == '\0')
        return true;
    long number = name[4] == ':' && name[5] >= '0' && name[5] <= '9' ? strtol(name + 5, &end, 10) : -1;
    *device = (int)number;
    return end && *end == '\0' && number >= 0 && number < 1024;
}

nb_status nb_backend_open(const char *name, const nb_backend_options *options, nb_backend **out, nb_error *err) {
    int device;
    *out = NULL;
    if (!name || !*name || strcmp(name, "cpu") == 0)
        return ni_backend_cpu(options, out, err);
    if (strcmp(name, "ref64") == 0)
        return ni_backend_ref64(out, err);
    if (strcmp(name, "paper") == 0 || strcmp(name, "paper:hopper") == 0)
        return ni_backend_paper(options, name[5] == ':', out, err);
    if (ni_cuda_device_of(name, &device))
        return ni_backend_load_cuda(device, out, err);
    return nb_fail(err, NB_BAD_USAGE,
                   "backend: there is no \"%s\"; expected cpu, cuda, cuda:NUMBER, ref64, "
                   "paper or paper:hopper",
                   name);
}
