/* load.h: the CUDA backend, out of a library that is opened at run time. */
#ifndef NI_BACKEND_LOAD_H
#define NI_BACKEND_LOAD_H

#include "backend/table.h"

/* GPU number `device`. NB_UNSUPPORTED, with the reason in one line, where there is no library, driver or GPU. */
nb_status ni_backend_load_cuda(int device, nb_backend **out, nb_error *err);

#endif
