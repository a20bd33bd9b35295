/* environment.h: who this process is, as its launcher says it. */
#ifndef NI_DIST_ENVIRONMENT_H
#define NI_DIST_ENVIRONMENT_H

#include "nibble/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum ni_launcher {
    NI_LAUNCHED_ALONE,
    NI_LAUNCHED_TCP, /* torchrun, Slurm's srun, a shell: ranks meet at an address */
    NI_LAUNCHED_MPI  /* mpirun */
} ni_launcher;

enum { NI_ADDRESS_SIZE = 256 };
typedef struct ni_place {
    ni_launcher launcher;
    int32_t rank, world;
    int32_t local, local_world;    /* on this machine; local_world 0: not known */
    bool numbered;                 /* the launcher gave `local` */
    char address[NI_ADDRESS_SIZE]; /* TCP: where rank 0 waits */
    int32_t port;
    double patience; /* seconds that a rank waits for another */
    bool neighbours; /* GPUs of one machine may read each other's memory */
} ni_place;

/* Variables are asked for by `get` (getenv, but for tests). NB_BAD_USAGE where they contradict or lack each other. */
nb_status ni_place_read(const char *(*get)(const char *name), ni_place *out, nb_error *err);

/* The first host of a list as Slurm writes it: "gpu[007-012,20],login1" is gpu007. False if that is no such list. */
bool ni_first_host(const char *list, char *host, size_t size);

#endif
