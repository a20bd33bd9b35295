/* load.h: the CUDA backend, out of a library that is opened at run time. */
#ifndef NI_BACKEND_LOAD_H
#define NI_BACKEND_LOAD_H

#include "backend/cuda/library.h"

/* GPU number `device`. NB_UNSUPPORTED, with the reason in one line, where there is no library, driver or GPU. */
nb_status ni_backend_load_cuda(int device, nb_backend **out, nb_error *err);

/* What there is, without taking it. The same reasons. */
nb_status ni_backend_describe_cuda(int device, ni_cuda_facts *facts, nb_error *err);

/* The number behind "cuda" or "cuda:1"; false for every other name. */
bool ni_cuda_device_of(const char *name, int *device);

#endif
