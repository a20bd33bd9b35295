/* status.h: how the library reports failure.
 *
 * Every function that can fail returns an nb_status and takes an optional nb_error for the sentence.
 * The library never prints and never exits; the caller decides what a failure means.
 * A message is one line: what failed, where, what was expected, and a hint where one is known.
 */
#ifndef NIBBLE_STATUS_H
#define NIBBLE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* Marks what the library exports; everything else stays inside. */
#ifndef NB_API
#if defined(__GNUC__)
#define NB_API __attribute__((visibility("default")))
#else
#define NB_API
#endif
#endif

/* code, process exit status of the command-line tool, short name */
#define NB_STATUS_MAP(X)                                                                                               \
    X(NB_OK, 0, "ok")                                                                                                  \
    X(NB_BAD_USAGE, 2, "bad usage")          /* an argument that no input could make right */                          \
    X(NB_BAD_FILE, 2, "bad file")            /* a file whose content is not what its kind demands */                   \
    X(NB_BAD_CONFIG, 2, "bad configuration") /* a recipe, model or run file, or a --set */                             \
    X(NB_IO_ERROR, 1, "input/output error")  /* the operating system said no */                                        \
    X(NB_NO_MEMORY, 1, "out of memory")                                                                                \
    X(NB_UNSUPPORTED, 1, "unsupported") /* right in principle, not on this backend or machine */                       \
    X(NB_BAD_NUMBER, 1, "bad number")   /* NaN, Inf or a spike where training cannot go on */                          \
    X(NB_INTERRUPTED, 1, "interrupted") /* a signal asked for a stop; state was saved */                               \
    X(NB_INTERNAL, 1, "internal error") /* a bug in nibble: an invariant did not hold */

typedef enum nb_status {
#define NB_STATUS_ENUM(code, exit_status, name) code,
    NB_STATUS_MAP(NB_STATUS_ENUM)
#undef NB_STATUS_ENUM
} nb_status;

typedef struct nb_error {
    nb_status status;
    char message[1024]; /* one line, no trailing newline; empty while status is NB_OK */
} nb_error;

/* The library's version: "0.1.0". */
NB_API const char *nb_version(void);

/* Short name of a status ("bad file"). Never NULL. */
NB_API const char *nb_status_name(nb_status status);

/* Exit status that the command-line tool gives for it: 0, 1 or 2. */
NB_API int nb_status_exit(nb_status status);

#if defined(__GNUC__)
#define NB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define NB_PRINTF(fmt, args)
#endif

/* Records a failure and returns its status, so that `return nb_fail(err, NB_BAD_FILE, "...")` reads well.
 * `err` may be NULL. Control characters in the formatted text are replaced, so it stays one line. */
NB_API nb_status nb_fail(nb_error *err, nb_status status, const char *format, ...) NB_PRINTF(3, 4);

#ifdef __clang_analyzer__
/* The analyzer sees one file at a time: this tells it that a failure is never NB_OK. */
#define nb_fail(err, status, ...) (nb_fail(err, status, __VA_ARGS__), (status))
#endif

/* Puts "prefix: " before a message already recorded (to say in which file or layer it happened). Returns err's status.
 */
NB_API nb_status nb_fail_within(nb_error *err, const char *format, ...) NB_PRINTF(2, 3);

#ifdef __clang_analyzer__
#define nb_fail_within(err, ...) (nb_fail_within(err, __VA_ARGS__), NB_INTERNAL)
#endif

/* Returns from the enclosing function if `call` fails. */
#define NB_TRY(call)                                                                                                   \
    do {                                                                                                               \
        nb_status nb_try_status_ = (call);                                                                             \
        if (nb_try_status_ != NB_OK)                                                                                   \
            return nb_try_status_;                                                                                     \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
