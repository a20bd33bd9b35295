/* keys_walk.h: inside the table of keys: numbers, ranges and paths, shared by reading and printing. */
#ifndef NI_CONFIG_KEYS_WALK_H
#define NI_CONFIG_KEYS_WALK_H

#include "config/keys.h"

#define NI_KEYS_PATH_SIZE 512

/* "a" + "b" -> "a.b"; either may be empty. Cut to `size`. */
void ni_keys_join(char *out, size_t size, const char *prefix, const char *path);

/* The range of a row in words: "0 to 1", "at least 1", "greater than 0", "" where any number goes. */
void ni_keys_range(const ni_key *row, char *out, size_t size);

/* The shortest decimal text that reads back as the same double. */
void ni_keys_number(double value, char *out, size_t size);

/* The number inside an INT, FLOAT, CHOICE or BOOL field. */
double ni_keys_value(const ni_key *row, const void *field);

/* The word that stands for a number in this row; NULL if none does. */
const char *ni_keys_word(const ni_key *row, double value);

#endif
