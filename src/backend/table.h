/* table.h: the table of operations. The model is written once over it.
 *
 * ops.inc lists the operations. An implementation fills every entry or leaves NULL what it cannot do; nothing falls
 * back in silence. All operations are deterministic: results do not depend on the number of threads.
 */
#ifndef NI_BACKEND_TABLE_H
#define NI_BACKEND_TABLE_H

#include "backend/operand.h"
#include "backend/rope.h"
#include "nibble/backend.h"

enum { NI_RATIO_COUNTS = 12, NI_DISTANCE_COUNTS = 10 }; /* bins of count_ratios, of count_distances */

typedef struct ni_backend_ops {
#define NI_OP_MEMORY(type, name, arguments) type(*name) arguments;
#define NI_OP_TYPED(type, name, arguments) type(*name) arguments;
#define NI_OP_PLAIN(type, name, arguments) type(*name) arguments;
#include "backend/ops.inc"
} ni_backend_ops;

enum { NI_MOST_THREADS = 1024 }; /* of a CPU backend */

/* The backends of the library itself, as nb_backend_open makes them. */
nb_status ni_backend_cpu(const nb_backend_options *options, nb_backend **out, nb_error *err);
nb_status ni_backend_ref64(nb_backend **out, nb_error *err);
nb_status ni_backend_paper(const nb_backend_options *options, bool hopper, nb_backend **out, nb_error *err);

/* Logits that a head makes at one time where nobody says: every chunk of tokens reads its weight and dW anew. A
 * processor's caches forget them between chunks anyway; on a GPU 512 MiB of BF16 leave a few chunks of a micro-batch.
 * The number decides the order of sums, so it does not depend on how much memory a card has. */
enum { NI_LOGITS_CPU = 1 << 24, NI_LOGITS_GPU = 1 << 28 };

/* Where the time of a machine goes that works by itself while the program goes on: what it did between two marks is
 * the later one's. */
typedef struct ni_profile_line {
    const char *what; /* the backend's, until it is freed */
    double ms;
    int64_t calls;
} ni_profile_line;

typedef struct ni_profiler {
    nb_status (*start)(nb_backend *be, nb_error *err);
    /* Waits; at most `room` lines, the longest first. *count is how many there are. */
    nb_status (*stop)(nb_backend *be, ni_profile_line *lines, int32_t room, int32_t *count, nb_error *err);
} ni_profiler;

/* By what another process finds memory that is lent to it. */
typedef struct ni_lent {
    char words[64];
} ni_lent;

/* A second backend on the same memory, for another thread: what it is asked for is done beside the work of the first.
 */
typedef struct ni_companion {
    nb_status (*open)(nb_backend *be, nb_backend **worker, nb_error *err); /* for nb_backend_free, before `be` */
    nb_status (*enter)(nb_backend *worker, nb_error *err);                 /* first, by the thread that asks it */
    /* Stands behind all that `be` was asked for so far; NULL: there is no memory, or a fault. */
    void *(*mark)(nb_backend *be);
    nb_status (*await)(nb_backend *worker, void *mark, nb_error *err); /* until that is done, or failed */
    void (*forget)(void *mark);                                        /* NULL: nothing */
    /* What `be` is asked for from here on waits for `mark` of its worker, which is forgotten. NULL: for nothing. */
    void (*follow)(nb_backend *be, void *mark);
    /* Memory that `be` allocated, for another process of this machine: false where it cannot be lent. Who borrows it
     * reads it as the source of `copy`; NULL where this GPU does not reach it. `peek` is such a copy, which waits:
     * false where it is refused, and that is no fault of `be`. lend NULL: none can be. */
    bool (*lend)(nb_backend *be, void *memory, ni_lent *out);
    void *(*borrow)(nb_backend *be, const ni_lent *lent);
    bool (*peek)(nb_backend *be, void *to, const void *borrowed, size_t bytes);
    void (*give_back)(nb_backend *be, void *borrowed);
} ni_companion;

struct nb_backend {
    const ni_backend_ops *ops;
    const char *name; /* "cpu", "ref64", "paper" */
    nb_dtype act, real;
    int64_t logit_elements; /* NI_LOGITS_CPU, NI_LOGITS_GPU */
    bool paper;             /* nothing is computed: memory is counted and holds nothing */
    bool host_memory;       /* its memory is the host's, or counted as if it were */
    bool wants_amax;        /* producers fill amaxes for less than its quantizers take to find them */
    /* make_many makes such an operand of a master in few bits (ni_source.scale); NULL: none. */
    bool (*takes_kept)(const nb_quantizer *q, const ni_scaled *kept, int64_t rows, int64_t cols);
    /* make_many makes such operands of codes, or of parts, the other way up (transpose) by few launches: a step's are
     * worth keeping from the one call to the pass that reads them. NULL: none. */
    bool (*remakes)(const nb_operand *out, const nb_operand *from);
    /* The codes as `canonical` gives them, where they lie: false where they do not lie so. NULL: the same. */
    bool (*lends_codes)(const nb_operand *from, nb_qtensor *out);
    /* multiply of each; none reads what another writes. NULL: nothing is gained by asking for many. */
    nb_status (*multiply_many)(nb_backend *be, const ni_sum *products, int32_t count, nb_error *err);
    /* Words of maxima (nb_mat.amax and the like) become 0, and whatever fills one of them for the first time from here
     * on may rely on it: nothing else writes there. NULL: nothing is gained by that. */
    void (*clear_maxima)(nb_backend *be, void *words, size_t bytes);
    /* sum_squares, and fill_zero, of each; NULL: nothing is gained by asking for many. */
    void (*square_many)(nb_backend *be, double *out, const void *const *x, const int64_t *n, int32_t count);
    void (*clear_many)(nb_backend *be, void *const *at, const size_t *bytes, int32_t count);
    bool makes_gates;   /* gated linear attention makes its gates of what they are made of (ni_gla.made) */
    bool any_first_key; /* attention takes doc_start that fall along a sequence: a row may look at itself alone */
    const ni_profiler *profiler;       /* NULL: it cannot say */
    const ni_companion *companion;     /* NULL: it has none */
    int64_t (*mended)(nb_backend *be); /* rows of operands since it was last asked that units for 8 bits did not hold
                                          and FP32 multiplied; waits. NULL: there are none */
    /* Bytes of memory that are left for it, and that there are; false: nobody knows. NULL: the same. */
    bool (*left)(nb_backend *be, size_t *left, size_t *all);
    void *state;                                                          /* of the implementation */
    nb_status (*use_stream)(nb_backend *be, void *stream, nb_error *err); /* NULL: it has none */
    bool on_their_stream; /* the program's, who waits for what it needs: a call need not */
};

/* A tensor of AdamW with nothing narrow, and nothing to leave behind. */
static inline ni_adamw_tensor ni_adamw_plain(nb_dtype real, void *param, void *m, void *v, const void *grad, int64_t n,
                                             double weight_decay) {
    const ni_adamw_tensor tensor = {.param = {.data = param, .dtype = real},
                                    .m = {.data = m, .dtype = real},
                                    .v = {.data = v, .dtype = real},
                                    .grad = {.data = (void *)grad, .dtype = real},
                                    .n = n,
                                    .weight_decay = weight_decay};
    return tensor;
}

/* alloc, or the one sentence of all refusals: "no memory for WHAT: 12.3 MiB". */
nb_status ni_backend_take(nb_backend *be, size_t bytes, const char *what, void **memory, nb_error *err);

/* make_produced by the table's other operations. */
nb_status ni_compose_produced(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count,
                              nb_error *err);

/* decode_columns by `decode`. */
nb_status ni_compose_decode_columns(nb_backend *be, const nb_mat *out, const nb_operand *const *from,
                                    const ni_columns *columns, int32_t count, nb_error *err);

/* A making of parts for make_many, by `decode_columns` and `make_operands`. */
nb_status ni_compose_parts(nb_backend *be, const ni_parts *parts, const ni_making *making, nb_error *err);

/* make_clamped, decode_with_rest and make_compensated by the table's other operations. */
nb_status ni_compose_clamped(nb_backend *be, const ni_clamping *c, const ni_making *making, nb_error *err);
nb_status ni_compose_decoded(nb_backend *be, const nb_mat *out, const nb_operand *from, const ni_sparse *s,
                             nb_error *err);
nb_status ni_compose_compensated(nb_backend *be, const ni_clamping *c, const ni_making *making, const ni_making *dense,
                                 nb_error *err);

/* scaled_encode_many and scaled_squares_many by the table's other operations. */
void ni_compose_encode(nb_backend *be, const ni_scaled *to, const float *const *from, const int64_t *n, int32_t count);
void ni_compose_squares(nb_backend *be, double *out, const ni_scaled *x, const int64_t *n, int32_t count);

/* At the end of a call of a program outside: synchronize, but on a stream of theirs. */
nb_status ni_backend_finish(nb_backend *be, nb_error *err);

#endif
