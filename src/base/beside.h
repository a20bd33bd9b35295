/* beside.h: opens a library of nibble's own at run time, so that one program serves machines with and without what the
 * library needs. */
#ifndef NI_BASE_BESIDE_H
#define NI_BASE_BESIDE_H

#include <stdbool.h>
#include <stddef.h>

/* "libnibble-cuda.so" beside the program (a build folder, a folder that was carried), where `make install` puts it,
 * where the system looks. NULL: `why` says why a file that is there cannot be opened, and is empty where there is none.
 * What is opened stays open: its code runs until the end. */
void *ni_open_beside(const char *library, char *why, size_t size);

/* A function of it, into the pointer to a function that `function` points to; false if it has none of that name. */
bool ni_find_function(void *library, const char *name, void *function);

#endif
