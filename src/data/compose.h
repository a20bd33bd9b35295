/* compose.h: Unicode's composed form, NFC (UAX 15). */
#ifndef NI_DATA_COMPOSE_H
#define NI_DATA_COMPOSE_H

#include "nibble/status.h"
#include <stddef.h>

/* The composed form (NFC) of a text of whole characters: fresh memory (free with free()); *out is NULL where the text
 * is composed as it is. */
nb_status ni_compose(const char *text, size_t size, char **out, size_t *out_size, nb_error *err);

#endif
