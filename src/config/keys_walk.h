/* keys_walk.h: inside the table of keys: numbers, ranges and paths, shared by reading and printing. */
#ifndef NB_CONFIG_KEYS_WALK_H
#define NB_CONFIG_KEYS_WALK_H

#include "config/keys.h"

#define NB_KEYS_PATH_SIZE 512

/* "a" + "b" -> "a.b"; either may be empty. Cut to `size`. */
void nb_keys_join(char *out, size_t size, const char *prefix, const char *path);

/* The range of a row in words: "0 to 1", "at least 1", "greater than 0", "" where any number goes. */
void nb_keys_range(const nb_key *row, char *out, size_t size);

/* The shortest decimal text that reads back as the same double. */
void nb_keys_number(double value, char *out, size_t size);

/* The number inside an INT, FLOAT, CHOICE or BOOL field. */
double nb_keys_value(const nb_key *row, const void *field);

/* The word that stands for a number in this row; NULL if none does. */
const char *nb_keys_word(const nb_key *row, double value);

#endif
