/* mpi.h: ranks that mpirun started, over the MPI library of the machine.
 *
 * MPI is in libnibble-mpi.so, which is opened where mpirun says that there are ranks: one program serves machines with
 * and without MPI, and nobody who runs it alone starts a library that may wait for others.
 */
#ifndef NI_DIST_MPI_H
#define NI_DIST_MPI_H

#include "dist/environment.h"
#include "dist/wire.h"

nb_status ni_mpi_open(const ni_place *place, ni_wire *out, nb_error *err);

/* ---- what the library has ---- */

#define NI_MPI_OPEN "ni_mpi_library_open"
/* `fit` is sizeof of what both sides share; other ranks are waited for `patience` seconds. Returns NULL, or a sentence.
 */
typedef const char *ni_mpi_library_open_function(size_t fit, double patience, ni_wire *out);
#define NI_MPI_FIT (sizeof(ni_wire) + 65536 * sizeof(ni_letter) + sizeof(ni_wire_news) + sizeof(double))

#endif
