/* mpi.c: opens libnibble-mpi.so. */
#include "dist/mpi.h"

#include "base/beside.h"

#define LIBRARY "libnibble-mpi.so"

nb_status ni_mpi_open(const ni_place *place, ni_wire *out, nb_error *err) {
    char why[512];
    ni_mpi_library_open_function *open;
    void *library = ni_open_beside(LIBRARY, why, sizeof why);
    if (!library && why[0])
        return nb_fail(err, NB_UNSUPPORTED, "mpi: " LIBRARY " cannot be opened: %s", why);
    if (!library)
        return nb_fail(err, NB_UNSUPPORTED,
                       "mpi: mpirun started this as rank %d of %d, and there is no " LIBRARY " beside the program; "
                       "hint: make, where MPI's headers are (Debian: libopenmpi-dev), or torchrun's variables",
                       (int)place->rank, (int)place->world);
    if (!ni_find_function(library, NI_MPI_OPEN, &open))
        return nb_fail(err, NB_UNSUPPORTED, "mpi: " LIBRARY " is of another version than this program; hint: make");
    const char *said = open(NI_MPI_FIT, place->patience, out);
    if (said)
        return nb_fail(err, NB_UNSUPPORTED, "mpi: " LIBRARY " %s", said);
    if (out->rank == place->rank && out->world == place->world)
        return NB_OK;
    out->close(out->self);
    return nb_fail(err, NB_UNSUPPORTED,
                   "mpi: mpirun says rank %d of %d and " LIBRARY
                   " rank %d of %d; hint: build with the MPI whose mpirun "
                   "starts it",
                   (int)place->rank, (int)place->world, (int)out->rank, (int)out->world);
}
