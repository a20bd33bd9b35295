/* bench.h: what the benchmarks of `nibble bench` share: the list of them, and fair timing.
 *
 * A benchmark checks what it measures before it prints a speed, and measures its peers in the same run, taking turns.
 */
#ifndef NI_CLI_BENCH_H
#define NI_CLI_BENCH_H

#include "cli/cli.h"
#include "nibble/backend.h"

/* name, one line of help. A benchmark is src/cli/bench_NAME.c with ni_bench_NAME; argv[0] is its name. */
#define NI_BENCHES(X)                                                                                                  \
    X(attention, "softmax attention under one order of sums and under any")                                            \
    X(gemm, "products of packed 4-bit operands beside OpenBLAS and oneDNN")                                            \
    X(lens, "training steps that the lens samples beside plain ones")                                                  \
    X(ops, "norms, attention, loss, optimizer beside the speed of a copy")                                             \
    X(quantize, "quantizing the operands of a layer beside a copy")                                                    \
    X(train, "the training step under several recipes")

#define NI_BENCH_DECLARE(name, help) ni_command_run ni_bench_##name;
NI_BENCHES(NI_BENCH_DECLARE)
#undef NI_BENCH_DECLARE

/* Something to be timed. */
typedef struct ni_contender {
    const char *name;
    nb_status (*run)(void *state, nb_error *err); /* returns when the work is done: on a backend it synchronizes */
    void *state;
    double best;         /* seconds: the fastest of all runs */
    const char *missing; /* why this machine cannot run it: it is left out; NULL if it can */
} ni_contender;

/* Runs all that can run in turns, at least five rounds and until each has had about `seconds`. */
nb_status ni_bench_rounds(ni_contender *list, int32_t count, double seconds, nb_error *err);

/* The same in processor time of the calling thread, for contenders that have no other: what a machine does besides
 * disturbs only through its caches. */
nb_status ni_bench_rounds_alone(ni_contender *list, int32_t count, double seconds, nb_error *err);

/* Prints the operations of one step, the longest first; those below a two-hundredth of it in one line. */
nb_status ni_bench_profile(nb_backend *be, const char *what, nb_status (*step)(void *state, nb_error *err), void *state,
                           nb_error *err);

/* "scalar", "portable", "avx2", "avx512", "auto". */
nb_status ni_bench_isa(const char *text, nb_isa *isa, nb_error *err);

/* "2048x768x1024". */
nb_status ni_bench_shape(const char *text, int64_t shape[3], nb_error *err);

/* The processor's name as the system gives it. */
const char *ni_bench_processor(char *text, size_t size);

#endif
