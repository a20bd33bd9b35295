/* guarded.c: a backend whose memory the host cannot read, for tests: the CPU's operations over pages that are open only
 * inside of them (mprotect). Who reads or writes such memory by a pointer of its own dies on the spot, as it would over
 * a GPU's; who hands an operation the host's memory as the backend's is told which argument of which operation it was.
 *
 * Tests are linked with --wrap=nb_backend_open. The names "guarded" and "guarded:ISA..." open it; with
 * NIBBLE_TEST_BACKEND=guarded in the environment, so does "cpu", for whole programs that were written for the CPU.
 */
#include "backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096 };
static const size_t RESERVED = (size_t)1 << 36; /* addresses, not memory */

typedef struct block {
    struct block *next; /* by address */
    uint8_t *at;
    size_t bytes; /* whole pages */
} block;

typedef struct guarded {
    nb_backend *inside;
    uint8_t *base, *end; /* of the reserved addresses; used below `end` */
    block *blocks;
    int32_t depth; /* of operations that run */
} guarded;

nb_status __real_nb_backend_open(const char *name, const nb_backend_options *options, nb_backend **out, nb_error *err);
nb_status __wrap_nb_backend_open(const char *name, const nb_backend_options *options, nb_backend **out, nb_error *err);

static guarded *guarded_of(nb_backend *be) {
    return be->state;
}

static nb_backend *guarded_inside(nb_backend *be) {
    return guarded_of(be)->inside;
}

static void protect(guarded *g, int protection) {
    if (g->end > g->base && mprotect(g->base, (size_t)(g->end - g->base), protection) != 0) {
        perror("guarded: mprotect");
        abort();
    }
}

static void guarded_enter(nb_backend *be) {
    if (guarded_of(be)->depth++ == 0)
        protect(guarded_of(be), PROT_READ | PROT_WRITE);
}

static void guarded_leave(nb_backend *be) {
    if (--guarded_of(be)->depth == 0)
        protect(guarded_of(be), PROT_NONE);
}

/* ---- what arguments are made of ---- */

static void held(nb_backend *be, const char *operation, const char *argument, const void *memory) {
    const guarded *g = guarded_of(be);
    const uint8_t *at = memory;
    if (!at || (at >= g->base && at < g->end))
        return;
    fprintf(stderr, "guarded: %s: %s is not memory of the backend\n", operation, argument);
    abort();
}

static void held_mat(nb_backend *be, const char *operation, const char *argument, const nb_mat *m) {
    if (m) {
        held(be, operation, argument, m->data);
        held(be, operation, argument, m->amax);
    }
}

static void held_codes(nb_backend *be, const char *operation, const char *argument, const nb_qtensor *q) {
    held(be, operation, argument, q->codes);
    held(be, operation, argument, q->scales);
    held(be, operation, argument, q->outer_scales);
    held(be, operation, argument, q->tensor_scale);
}

static void held_operand(nb_backend *be, const char *operation, const char *argument, const nb_operand *o) {
    if (!o)
        return;
    held(be, operation, argument, o->memory);
    if (nb_quantizer_is_bf16(&o->quantizer))
        held_mat(be, operation, argument, &o->numbers);
    held(be, operation, argument, o->factor);
}

static void held_source(nb_backend *be, const char *operation, const char *argument, const ni_source *s) {
    held_mat(be, operation, argument, s->numbers);
    held_operand(be, operation, argument, s->operand);
    held_operand(be, operation, argument, s->minus);
    held_operand(be, operation, argument, s->row_scales);
    held_operand(be, operation, argument, s->column_scales);
    held(be, operation, argument, s->columns);
}

static void held_sparse(nb_backend *be, const char *operation, const char *argument, const ni_sparse *s) {
    if (s) {
        held(be, operation, argument, s->count);
        held(be, operation, argument, s->column);
        held(be, operation, argument, s->value);
        held(be, operation, argument, s->exact);
    }
}

static void held_outer(nb_backend *be, const char *operation, const char *argument, const ni_outer *outer) {
    for (int32_t i = 0; outer && i < outer->count; i++) {
        held(be, operation, argument, outer->left[i]);
        held(be, operation, argument, outer->right[i]);
    }
}

/* The first of a list: how many there are, the type does not say. */
static void held_making(nb_backend *be, const char *operation, const char *argument, const ni_making *m) {
    held_operand(be, operation, argument, m->out);
    held(be, operation, argument, m->past);
    held(be, operation, argument, m->now);
    if (m->noise)
        held(be, operation, argument, m->noise->clock);
}

/* A backend may keep of an operand what its product reads and no codes, unless it was told that they will be read.
 * Under one scale the same values serve both kinds of partner. */
static void made_for(const char *operation, const nb_operand *o, const nb_operand *partner) {
    const bool plain = nb_quantizer_is_bf16(&o->quantizer), other = nb_quantizer_is_bf16(&o->other);
    const bool one = o->quantizer.scale_type == NB_SCALE_F32 && o->quantizer.block_rows == NB_BLOCK_ALL &&
                     o->quantizer.block_cols == NB_BLOCK_ALL;
    if (plain || one || o->reread || (partner && other == nb_quantizer_is_bf16(&partner->quantizer)))
        return;
    fprintf(stderr, "guarded: %s: an operand was made for another product, and not to be reread\n", operation);
    abort();
}

static void held_term(nb_backend *be, const char *operation, const char *argument, const ni_term *term) {
    if (term) {
        held_operand(be, operation, argument, term->a);
        held_sparse(be, operation, argument, term->sparse);
        held_operand(be, operation, argument, term->b);
        held(be, operation, argument, term->columns);
        held_outer(be, operation, argument, term->outer);
        if (term->b)
            made_for(operation, term->b, term->a);
        if (term->a)
            made_for(operation, term->a, term->b);
    }
}

static void held_noise(nb_backend *be, const char *operation, const char *argument, const nb_noise *n) {
    if (n)
        held(be, operation, argument, n->clock);
}

static void held_attention(nb_backend *be, const char *operation, const char *argument, const nb_attention *a) {
    held(be, operation, argument, a->doc_start);
    held(be, operation, argument, a->doc_end);
}

static void held_gla(nb_backend *be, const char *operation, const char *argument, const ni_gla *g) {
    held(be, operation, argument, g->doc_start);
    held(be, operation, argument, g->left);
    for (int i = 0; i < 3; i++) {
        held(be, operation, argument, g->amax[i]);
        held(be, operation, argument, g->turned_amax[i]);
    }
}

static void held_scaled(nb_backend *be, const char *operation, const char *argument, const ni_scaled *s) {
    held(be, operation, argument, s->data);
    held(be, operation, argument, s->scale);
}

static void held_adamw(nb_backend *be, const char *operation, const char *argument, const ni_adamw_tensor *t) {
    if (t) {
        held_scaled(be, operation, argument, &t->param);
        held_scaled(be, operation, argument, &t->m);
        held_scaled(be, operation, argument, &t->v);
        held_scaled(be, operation, argument, &t->grad);
        held(be, operation, argument, t->copy);
        held(be, operation, argument, t->amax);
    }
}

static void held_ramped(nb_backend *be, const char *operation, const char *argument, const ni_ramped *t) {
    const void *const all[] = {t->param, t->m, t->v, t->grad, t->sum, t->steps, t->period};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        held(be, operation, argument, all[i]);
}

/* Numbers of the host's, counts, errors: not the backend's memory. */
static void nothing(nb_backend *be, const char *operation, const char *argument, const void *any) {
    (void)be, (void)operation, (void)argument, (void)any;
}

static void no_number(nb_backend *be, const char *operation, const char *argument, double any) {
    (void)be, (void)operation, (void)argument, (void)any;
}

#define GUARDED_CHECK(be, operation, x)                                                                                \
    _Generic((x), void *: held, const void *: held, float *: held, const float *: held, double *: held,                \
             const double *: held, int32_t *: held, const int32_t *: held, uint32_t *: held, const uint32_t *: held,   \
             int64_t *: held, const int64_t *: held, uint8_t *: held, const uint8_t *: held,                           \
             const nb_mat *: held_mat, const nb_qtensor *: held_codes, nb_operand *: held_operand,                     \
             const nb_operand *: held_operand, const ni_source *: held_source, const ni_making *: held_making,         \
             const ni_term *: held_term, const ni_sparse *: held_sparse, const nb_noise *: held_noise,                 \
             const nb_attention *: held_attention, const ni_gla *: held_gla, const ni_scaled *: held_scaled,           \
             const ni_adamw_tensor *: held_adamw, const ni_ramped *: held_ramped, int32_t: no_number, int64_t: no_number, double: no_number,           \
             ni_moments *: held, ni_attention_stats *: held, float: no_number, size_t: no_number, bool: no_number,     \
             nb_dtype: no_number, nb_signs: no_number,                                                                 \
             default: nothing)(be, operation, #x, x)

/* ---- memory ---- */

static void *guarded_alloc(nb_backend *be, size_t bytes, const char *what) {
    (void)what;
    guarded *g = guarded_of(be);
    const size_t whole = bytes ? (bytes + PAGE - 1) / PAGE * PAGE : PAGE;
    block **link = &g->blocks;
    uint8_t *at = g->base;
    while (*link && (size_t)((*link)->at - at) < whole) {
        at = (*link)->at + (*link)->bytes;
        link = &(*link)->next;
    }
    block *b = (size_t)(g->base + RESERVED - at) >= whole ? malloc(sizeof *b) : NULL;
    if (!b)
        return NULL;
    *b = (block){*link, at, whole};
    *link = b;
    if (at + whole > g->end)
        g->end = at + whole;
    return at;
}

static void guarded_release(nb_backend *be, void *memory) {
    guarded *g = guarded_of(be);
    for (block **link = &g->blocks; *link; link = &(*link)->next) {
        block *b = *link;
        if (b->at != memory)
            continue;
        madvise(b->at, b->bytes, MADV_DONTNEED); /* the next who gets these pages finds zeros */
        *link = b->next;
        free(b);
        return;
    }
    if (memory)
        held(be, "release", "memory", &g);
}

#include "thunks.inc"

/* With NIBBLE_TEST_REFUSES=attention: heads of 24 are refused, as kernels refuse what they have no tiles for. */
static nb_status refuse_some(nb_backend *be, const nb_attention *a, void *o, void *lse, const void *q, const void *k,
                             const void *v, nb_error *err) {
    if (a->head_dim == 24)
        return nb_fail(err, NB_UNSUPPORTED, "guarded: attention with heads of 24; expected others");
    return guarded_attention_forward(be, a, o, lse, q, k, v, err);
}

/* ---- the object ---- */

static void destroy(nb_backend *be) {
    guarded *g = guarded_of(be);
    munmap(g->base, RESERVED);
    while (g->blocks) {
        block *b = g->blocks;
        g->blocks = b->next;
        free(b);
    }
    nb_backend_free(g->inside);
    free(g);
}

static nb_status guard(nb_backend *inside, nb_backend **out, nb_error *err) {
    ni_backend_object *object;
    guarded *g = calloc(1, sizeof *g);
    if (!g)
        return nb_fail(err, NB_NO_MEMORY, "guarded: no memory");
    g->base = mmap(NULL, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (g->base == MAP_FAILED) {
        free(g);
        return nb_fail(err, NB_NO_MEMORY, "guarded: no addresses");
    }
    g->end = g->base;
    g->inside = inside;
    const nb_status status = ni_backend_create(inside->name, inside->act, inside->real, g, destroy, &object, err);
    if (status != NB_OK) {
        munmap(g->base, RESERVED);
        free(g);
        return status;
    }
    const nb_backend copy = object->backend;
    object->backend = *inside; /* what is said of the backend inside, be it new */
    object->backend.ops = copy.ops;
    object->backend.state = copy.state;
    fill(&object->ops, inside->ops);
    const char *refuses = getenv("NIBBLE_TEST_REFUSES");
    if (refuses && strcmp(refuses, "attention") == 0)
        object->ops.attention_forward = refuse_some;
    *out = &object->backend;
    return NB_OK;
}

nb_status __wrap_nb_backend_open(const char *name, const nb_backend_options *options, nb_backend **out, nb_error *err) {
    const char *asked = getenv("NIBBLE_TEST_BACKEND");
    const bool is_cpu = !name || !*name || strcmp(name, "cpu") == 0, by_name = name && strcmp(name, "guarded") == 0;
    if (is_cpu && asked && *asked &&
        strcmp(asked, "guarded") != 0) /* another, as "cuda": by hand, on a machine that has it */
        return __real_nb_backend_open(asked, NULL, out, err);
    if (!by_name && !(is_cpu && asked && *asked))
        return __real_nb_backend_open(name, options, out, err);
    nb_backend *inside;
    NB_TRY(__real_nb_backend_open("cpu", options, &inside, err));
    const nb_status status = guard(inside, out, err);
    if (status != NB_OK)
        nb_backend_free(inside);
    return status;
}
