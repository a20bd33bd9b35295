/* tcp.h: ranks that meet at an address and keep a connection each with each. */
#ifndef NI_DIST_TCP_H
#define NI_DIST_TCP_H

#include "dist/environment.h"
#include "dist/wire.h"

nb_status ni_tcp_open(const ni_place *place, ni_wire *out, nb_error *err);

/* Whether no name service knows the address of rank 0 now, and why, which may change while ranks try. */
bool ni_tcp_is_unknown(const ni_place *place, char *why, size_t size);

/* ---- for tcp.c, of rendezvous.c ---- */

/* Connections to all ranks, in their order; -1 for oneself. */
nb_status ni_tcp_meet(const ni_place *place, int *sockets, nb_error *err);

#endif
