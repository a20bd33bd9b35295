/* parquet.h: one column of a Parquet file, as texts.
 *
 * Parquet is read by Apache Arrow's library, which is in libnibble-parquet.so (an optional part of the build). That is
 * opened where somebody gives such a file: one program serves machines with and without Arrow.
 */
#ifndef NI_DATA_PARQUET_H
#define NI_DATA_PARQUET_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { NI_PARQUET_WHY = 512 };

typedef enum ni_parquet_said {
    NI_PARQUET_DONE,
    NI_PARQUET_STOPPED,  /* by `take` */
    NI_PARQUET_BAD_FILE, /* the file is damaged, or holds no such text */
    NI_PARQUET_NO_MEMORY,
    NI_PARQUET_UNFIT /* the library is of another version than its caller */
} ni_parquet_said;

/* Takes the text of a row, which lives until it returns; false: no more is wanted. */
typedef bool ni_parquet_take(void *context, const char *text, size_t size);

#define NI_PARQUET_READ "ni_parquet_library_read"
#define NI_PARQUET_FIT 1 /* counted up where the function below changes */

/* Gives the rows of `column` one after another, rows without a value left out: memory for a page at a time. The file
 * lies at bytes[size]. BAD_FILE and NO_MEMORY: `why` has one sentence without the file's name. No exception leaves
 * it. `fit` is the caller's NI_PARQUET_FIT. */
typedef ni_parquet_said ni_parquet_library_read_function(int fit, const void *bytes, size_t size, const char *column,
                                                         ni_parquet_take *take, void *context,
                                                         char why[NI_PARQUET_WHY]);

#ifdef __cplusplus
}
#endif
#endif
