/* reduce.c: pieces go out, are added in the order of the tree, and come back. */
#include "reduce.h"
#include "backend/backend.h"
#include "backend/table.h"
#include "chunks.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = NI_REDUCED_BYTES / (int)sizeof(float), ALIGNED = NI_CHUNK_ALIGNED };

/* ---- circles ---- */

/* A range of real numbers in pieces as equal as their alignment lets them be. */
static void cut_numbers(const ni_circle *c, size_t begin, size_t end) {
    const size_t units = (end - begin + ALIGNED - 1) / ALIGNED, count = (size_t)c->count;
    for (size_t i = 0; i <= count; i++) {
        const size_t at = begin + units * i / count * ALIGNED;
        c->begin[i] = at < end ? at : end;
    }
}

static size_t byte_of(const ni_param_array *grads, int32_t tensor) {
    const int64_t element = tensor < grads->count ? grads->at[tensor].offset : grads->elements;
    return (size_t)element * nb_dtype_size(grads->dtype);
}

/* Whole tensors begin .. end: a sum has one scale. Each goes to the member in whose share of the range its middle lies.
 */
static void cut_tensors(const ni_circle *c, const ni_param_array *grads, int32_t begin, int32_t end) {
    const int64_t from = begin < grads->count ? grads->at[begin].offset : grads->elements;
    const int64_t to = end < grads->count ? grads->at[end].offset : grads->elements;
    int32_t t = begin;
    for (int32_t i = 0; i <= c->count; i++) {
        const int64_t until = from + (to - from) * i / c->count;
        while (t < end && (i == c->count || grads->at[t].offset + grads->at[t].length / 2 < until))
            t++;
        c->tensor[i] = t;
        c->begin[i] = byte_of(grads, t);
    }
}

static size_t piece(const ni_circle *c, int32_t member) {
    return c->begin[member + 1] - c->begin[member];
}

/* The own piece of a circle is what the next one shares. */
static void cut(const ni_reducer *x, int64_t elements) {
    size_t begin = 0, end = (size_t)elements * sizeof(float);
    for (int32_t i = 0; i < x->circles; i++) {
        const ni_circle *c = &x->circle[i];
        cut_numbers(c, begin, end);
        begin = c->begin[c->self];
        end = c->begin[c->self + 1];
    }
}

/* All of it is one member's. */
static void cut_for(const ni_circle *c, int32_t member, size_t bytes) {
    for (int32_t i = 0; i <= c->count; i++)
        c->begin[i] = i <= member ? 0 : bytes;
}

/* The same of the tensors from .. to - 1 of narrow gradients. */
static void cut_narrow(const ni_reducer *x, const ni_param_array *grads, int32_t from, int32_t to) {
    for (int32_t i = 0; i < x->circles; i++) {
        const ni_circle *c = &x->circle[i];
        cut_tensors(c, grads, from, to);
        from = c->tensor[c->self];
        to = c->tensor[c->self + 1];
    }
}

/* ---- making ---- */

static nb_status make_circles(ni_reducer *x, nb_error *err) {
    const nb_ranks *r = x->ranks;
    const int32_t near = !x->owned && r->near > 1 && r->near < r->world ? r->near : r->world;
    x->circle[0] = (ni_circle){.count = near, .self = r->rank % near, .first = r->rank - r->rank % near, .stride = 1};
    x->circle[1] =
        (ni_circle){.count = r->world / near, .self = r->rank / near, .first = r->rank % near, .stride = near};
    x->circles = near < r->world ? 2 : 1;
    for (int32_t i = 0; i < x->circles; i++) {
        ni_circle *c = &x->circle[i];
        c->begin = calloc((size_t)c->count + 1, sizeof *c->begin);
        c->tensor = calloc((size_t)c->count + 1, sizeof *c->tensor);
        if (!c->begin || !c->tensor)
            return nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: out of memory");
    }
    return NB_OK;
}

static bool is_pair(const ni_reducer *x) {
    return x->circles == 1 && x->circle[0].count == 2;
}

/* Two ranks cut nothing of what one of them owns: the other's goes to it whole, half of what goes to and fro else. */
static void cut_most(const ni_reducer *x, int64_t elements) {
    if (x->owned && is_pair(x))
        cut_for(&x->circle[0], x->circle[0].self, (size_t)elements * sizeof(float));
    else
        cut(x, elements);
}

/* Bytes that the pieces of a circle's other members take; each may be one unit longer in another chunk. */
static size_t room_of(const ni_circle *c) {
    return (size_t)(c->count - 1) * (piece(c, c->self) + 2 * ALIGNED);
}

/* For what was cut. */
static void ask_room(ni_reducer *x) {
    for (int32_t i = 0; i < x->circles; i++) {
        const size_t bytes = room_of(&x->circle[i]);
        x->bytes = bytes > x->bytes ? bytes : x->bytes;
    }
}

/* Memory that letters cannot reach. be->host_memory is true of some backends on paper too, which have none. */
static bool is_elsewhere(const nb_backend *be) {
    return be->ops->alloc != ni_host_alloc && !be->paper;
}

/* Whose operations a thread may ask for. Where memory is the host's, real numbers are added without, and narrow ones by
 * whatever vectors there are: a sum is rounded once, to the same bits by all. */
static nb_status open_worker(ni_reducer *x, bool narrow, nb_error *err) {
    const nb_backend_options one = {.threads = 1};
    if (x->host[0] && x->be->companion)
        return x->be->companion->open(x->be, &x->worker, err);
    const bool adds = narrow && !is_elsewhere(x->be) && !x->be->paper; /* on paper nobody adds */
    return adds ? nb_backend_open("cpu", &one, &x->worker, err) : NB_OK;
}

static nb_status take_host(ni_reducer *x, size_t bytes, nb_error *err) {
    for (int i = 0; is_elsewhere(x->be) && i < 2; i++) {
        x->host[i] = malloc(bytes);
        if (!x->host[i])
            return nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: no memory for %zu bytes on the host", bytes);
    }
    return NB_OK;
}

static nb_status take_memory(ni_reducer *x, const ni_param_array *grads, ni_touched *touched, nb_error *err) {
    const size_t scales = grads->scales ? (size_t)grads->count : 0;
    if (grads->dtype == x->be->real)
        NB_TRY(ni_packed_rows_create(touched, x->be, is_elsewhere(x->be), x->chunk, &x->rows, err));
    const int64_t most = x->owned ? x->chunk : ni_chunk_most(x, grads); /* sums for owners have no longer chunks */
    const size_t all = (size_t)most * nb_dtype_size(grads->dtype);
    size_t members = 0;
    void *room, *room_scales = NULL;
    NB_TRY(make_circles(x, err));
    NB_TRY(ni_chunk_sections(x, grads, err));
    if (grads->dtype == x->be->real) {
        cut_most(x, most);
        ask_room(x);
    }
    for (int32_t i = -1; grads->dtype != x->be->real && i < x->narrow_chunks; i++) { /* whole, or a chunk */
        cut_narrow(x, grads, i < 0 ? 0 : x->narrow[i], i < 0 ? grads->count : x->narrow[i + 1]);
        ask_room(x);
    }
    for (int32_t i = 0; i < x->circles; i++)
        members = (size_t)x->circle[i].count > members ? (size_t)x->circle[i].count : members;
    x->letters = calloc(2 * (size_t)x->ranks->world, sizeof *x->letters);
    x->scales = calloc((members + 1) * scales + 1, sizeof *x->scales);
    x->ends = calloc((size_t)x->ranks->world + 1, sizeof *x->ends);
    if (!x->letters || !x->scales || !x->ends)
        return nb_fail(err, NB_NO_MEMORY, "gradients of other ranks: out of memory");
    if (is_pair(x) && is_elsewhere(x->be) && ni_packed_rows_bytes(&x->rows) > x->bytes) /* all rows of the other */
        x->bytes = ni_packed_rows_bytes(&x->rows);
    NB_TRY(ni_backend_take(x->be, x->bytes, "gradients of other ranks", &room, err));
    x->room = room;
    if (scales)
        NB_TRY(ni_backend_take(x->be, members * scales * sizeof(float), "scales of other ranks", &room_scales, err));
    x->room_scales = room_scales;
    const size_t most_bytes = all > x->bytes ? all : x->bytes;
    x->bytes += ni_packed_rows_bytes(&x->rows);
    return take_host(x, most_bytes, err);
}

nb_status ni_reducer_create(nb_ranks *ranks, const ni_param_array *grads, const int64_t *owned, ni_touched *touched,
                            ni_reducer *out, nb_error *err) {
    *out = (ni_reducer){.ranks = ranks, .be = grads->be, .dtype = grads->dtype, .owned = owned};
    if (!ranks)
        return NB_OK;
    const bool narrow = grads->dtype != grads->be->real, host = grads->be->host_memory;
    const int64_t part = (grads->elements / NI_CHUNK_PARTS / ALIGNED + 1) * ALIGNED,
                  most = host ? part : grads->elements;
    out->chunk = narrow ? grads->elements : most < CHUNK ? most : CHUNK;
    nb_status status = take_memory(out, grads, touched, err);
    if (status == NB_OK)
        status = open_worker(out, narrow, err);
    if (status != NB_OK)
        ni_reducer_free(out);
    return status;
}

nb_status ni_reducer_meet_neighbours(ni_reducer *x, const ni_param_array *grads, bool *met, nb_error *err) {
    const ni_circle *c = &x->circle[0];
    *met = false;
    if (!x->ranks || !grads->data || c->count == 1 || c->count > x->ranks->near)
        return NB_OK;
    NB_TRY(ni_neighbours_meet(x->ranks, x->be, c->first, c->count, grads->data, &x->neighbours, err));
    if (x->neighbours.theirs && x->rows.data)
        NB_TRY(ni_neighbours_meet(x->ranks, x->be, c->first, c->count, x->rows.data, &x->rows.seen, err));
    if (x->rows.data && !x->rows.seen.theirs) /* alike on all ranks */
        ni_neighbours_free(&x->neighbours);
    *met = x->neighbours.theirs;
    return NB_OK;
}

void ni_reducer_free(ni_reducer *x) {
    ni_neighbours_free(&x->neighbours);
    ni_packed_rows_free(&x->rows, x->be);
    nb_backend_free(x->worker);
    if (x->room)
        x->be->ops->release(x->be, x->room);
    if (x->room_scales)
        x->be->ops->release(x->be, x->room_scales);
    for (int i = 0; i < 2; i++) {
        free(x->host[i]);
        free(x->circle[i].begin);
        free(x->circle[i].tensor);
    }
    free(x->letters);
    free(x->scales);
    free(x->ends);
    free(x->narrow);
    memset(x, 0, sizeof *x);
}

/* ---- out and back ---- */

/* Whose operations are asked for. */
static nb_backend *hand(const ni_reducer *x) {
    return x->aside && x->worker ? x->worker : x->be;
}

/* In the host's memory, by plain loops. */
static bool by_thread(const ni_reducer *x) {
    return x->aside && !x->worker;
}

/* GPUs that exchange among themselves. */
static bool by_device(const ni_reducer *x) {
    return x->host[0] && x->ranks->device.trade;
}

/* Pieces go through copies on the host. */
static bool staged(const ni_reducer *x) {
    return x->host[0] && !x->ranks->device.trade;
}

/* Members of this circle read pieces where they are. */
static bool reads(const ni_reducer *x, const ni_circle *c) {
    return x->neighbours.theirs && c == &x->circle[0];
}

/* Letters to and from the other members of a circle; empty ones to everybody else. */
static void no_letters(const ni_reducer *x) {
    memset(x->letters, 0, 2 * (size_t)x->ranks->world * sizeof *x->letters);
}

static void put_letters(const ni_reducer *x, const ni_circle *c, int32_t member, ni_letter out, ni_letter in) {
    const int32_t rank = c->first + member * c->stride;
    if (member == c->self)
        return;
    x->letters[rank] = out;
    x->letters[x->ranks->world + rank] = in;
}

static nb_status trade(const ni_reducer *x, nb_error *err) {
    return ni_ranks_trade(x->ranks, x->letters, x->letters + x->ranks->world, err);
}

/* Pieces that lie in the backend's memory, where no copy on the host stands for it. */
static nb_status trade_pieces(const ni_reducer *x, nb_error *err) {
    if (by_device(x))
        return ni_ranks_trade_device(x->ranks, x->letters, x->letters + x->ranks->world, err);
    return trade(x, err);
}

/* Where the piece of a member lies in the room; pieces begin at aligned places. */
static size_t place(const ni_circle *c, int32_t member) {
    const size_t bytes = (piece(c, c->self) + ALIGNED - 1) / ALIGNED * ALIGNED;
    return (size_t)(member < c->self ? member : member - 1) * bytes;
}

/* ---- pieces that are read where they are ---- */

/* What was asked for is done, and so it is with the other members: what they have may be read. */
static nb_status meet(const ni_reducer *x, const ni_circle *c, nb_error *err) {
    char here = 1, there[2];
    NB_TRY(hand(x)->ops->synchronize(hand(x), err));
    no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        put_letters(x, c, i, (ni_letter){&here, 1}, (ni_letter){&there[0], 1});
    return trade(x, err);
}

/* Rows that were brought together, and not gradients where the model has them. */
static bool is_packed(const ni_reducer *x, const char *data) {
    const uintptr_t begin = (uintptr_t)x->rows.data, at = (uintptr_t)data;
    return x->rows.data && at >= begin && at - begin < ni_packed_rows_bytes(&x->rows);
}

/* Where member i has what lies at `data` here. */
static const char *theirs(const ni_reducer *x, const ni_circle *c, int32_t member, const char *data) {
    const ni_neighbours *n = is_packed(x, data) ? &x->rows.seen : &x->neighbours;
    return n->theirs[c->first + member * c->stride] + (data - n->own);
}

static nb_status read_pieces(const ni_reducer *x, const ni_circle *c, const char *data, nb_error *err) {
    nb_backend *be = hand(x);
    NB_TRY(meet(x, c, err));
    for (int32_t i = 0; piece(c, c->self) > 0 && i < c->count; i++)
        if (i != c->self)
            be->ops->copy(be, x->room + place(c, i), theirs(x, c, i, data) + c->begin[c->self], piece(c, c->self));
    return NB_OK;
}

static nb_status read_sums(const ni_reducer *x, const ni_circle *c, char *data, nb_error *err) {
    nb_backend *be = hand(x);
    NB_TRY(meet(x, c, err));
    for (int32_t i = 0; i < c->count; i++)
        if (i != c->self)
            be->ops->copy(be, data + c->begin[i], theirs(x, c, i, data) + c->begin[i], piece(c, i));
    return NB_OK;
}

nb_status ni_reduce_done(const ni_reducer *x, nb_error *err) {
    return x->host[0] ? hand(x)->ops->synchronize(hand(x), err) : NB_OK;
}

/* And the others have read what they wanted. */
static nb_status rest(const ni_reducer *x, nb_error *err) {
    return x->neighbours.theirs ? meet(x, &x->circle[0], err) : NB_OK;
}

/* ---- pieces that are sent ---- */

/* What all members have of the own piece of the chunk at `data`. */
static nb_status fetch_pieces(const ni_reducer *x, const ni_circle *c, char *data, nb_error *err) {
    if (reads(x, c))
        return read_pieces(x, c, data, err);
    nb_backend *be = hand(x);
    const size_t mine = piece(c, c->self), first = c->begin[0], all = c->begin[c->count] - first;
    char *out = staged(x) ? x->host[0] : data, *in = staged(x) ? x->host[1] : x->room;
    if (staged(x) && all > mine)
        be->ops->download(be, out + first, data + first, all);
    else if (!staged(x))
        NB_TRY(be->ops->synchronize(be, err));
    no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        if (i != c->self)
            put_letters(x, c, i, (ni_letter){out + c->begin[i], piece(c, i)}, (ni_letter){in + place(c, i), mine});
    NB_TRY(trade_pieces(x, err));
    for (int32_t i = 0; staged(x) && mine > 0 && i < c->count; i++)
        if (i != c->self)
            be->ops->upload(be, x->room + place(c, i), in + place(c, i), mine);
    return NB_OK;
}

/* The own piece to where others may read it; *whole: the place of the chunk there. */
static nb_status put_own_out(const ni_reducer *x, const ni_circle *c, char *data, char **whole, nb_error *err) {
    nb_backend *be = hand(x);
    const size_t at = c->begin[c->self], mine = piece(c, c->self);
    *whole = staged(x) ? x->host[0] : data;
    if (!staged(x))
        return be->ops->synchronize(be, err);
    if (mine > 0)
        be->ops->download(be, *whole + at, data + at, mine);
    return NB_OK;
}

/* The pieces that the members have added up, to all of them. */
static nb_status give_back(const ni_reducer *x, const ni_circle *c, char *data, nb_error *err) {
    if (reads(x, c))
        return read_sums(x, c, data, err);
    nb_backend *be = hand(x);
    const size_t at = c->begin[c->self], mine = piece(c, c->self), first = c->begin[0];
    char *whole;
    NB_TRY(put_own_out(x, c, data, &whole, err));
    no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        put_letters(x, c, i, (ni_letter){whole + at, mine}, (ni_letter){whole + c->begin[i], piece(c, i)});
    NB_TRY(trade_pieces(x, err));
    if (staged(x) && c->begin[c->count] > first)
        be->ops->upload(be, data + first, whole + first, c->begin[c->count] - first);
    return NB_OK;
}

/* They go to one member, in whose place for them they belong. */
static nb_status give_to(const ni_reducer *x, const ni_circle *c, char *data, int32_t to, nb_error *err) {
    const size_t at = c->begin[c->self], mine = piece(c, c->self);
    char *whole;
    NB_TRY(put_own_out(x, c, data, &whole, err));
    no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        put_letters(x, c, i, i == to ? (ni_letter){whole + at, mine} : (ni_letter){0},
                    c->self == to ? (ni_letter){whole + c->begin[i], piece(c, i)} : (ni_letter){0});
    NB_TRY(trade_pieces(x, err));
    if (staged(x) && c->self == to && c->begin[c->count] > 0)
        hand(x)->ops->upload(hand(x), data, whole, c->begin[c->count]);
    return NB_OK;
}

/* ---- adding ---- */

/* Where what a member has of the own piece lies. */
static char *part(const ni_reducer *x, const ni_circle *c, char *data, int32_t member) {
    return member == c->self ? data + c->begin[member] : x->room + place(c, member);
}

static void add_numbers(const ni_reducer *x, const ni_circle *c, char *data, int32_t to, int32_t from) {
    if (by_thread(x)) { /* to the same bits: a sum of two is rounded once whoever makes it */
        float *sum = (float *)part(x, c, data, to);
        const float *add = (const float *)part(x, c, data, from);
        for (size_t i = 0; i < piece(c, c->self) / sizeof *sum; i++)
            sum[i] += add[i];
        return;
    }
    nb_backend *be = hand(x);
    be->ops->axpy(be, part(x, c, data, to), 1.0, part(x, c, data, from), (int64_t)(piece(c, c->self) / sizeof(float)));
}

static ni_scaled scaled_part(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads, int32_t tensor,
                             int32_t of) {
    ni_scaled out = ni_param_array_at(grads, tensor);
    const size_t at = (size_t)((char *)out.data - (char *)grads->data) - c->begin[c->self];
    out.data = part(x, c, grads->data, of) + at;
    if (grads->scales && of != c->self)
        out.scale = x->room_scales + of * grads->count + tensor;
    return out;
}

static void add_tensors(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads, int32_t to,
                        int32_t from) {
    for (int32_t i = c->tensor[c->self]; i < c->tensor[c->self + 1]; i++) {
        const ni_scaled sum = scaled_part(x, c, grads, i, to), other = scaled_part(x, c, grads, i, from);
        if (x->joined)
            hand(x)->ops->scaled_join(hand(x), &sum, &other, grads->at[i].length);
        else
            hand(x)->ops->scaled_add(hand(x), &sum, &sum, &other, grads->at[i].length);
    }
}

/* Where the sum of the members first .. first + count - 1 is made: in the own place, if that is among them. */
static int32_t node(const ni_circle *c, int32_t first, int32_t count) {
    return c->self >= first && c->self < first + count ? c->self : first;
}

/* The tree over members: node i of a level and the node after it. A sum of two numbers is the same in either order, so
 * that it can end in the own place. */
static void add_numbers_in_order(const ni_reducer *x, const ni_circle *c, char *data) {
    for (int32_t stride = 1; piece(c, c->self) > 0 && stride < c->count; stride *= 2)
        for (int32_t i = 0; i + stride < c->count; i += 2 * stride) {
            const int32_t left = node(c, i, stride), right = node(c, i + stride, stride), sum = node(c, i, 2 * stride);
            add_numbers(x, c, data, sum, sum == right ? left : right);
        }
}

/* Of narrow gradients it ends in what member 0 gave. */
static void add_tensors_in_order(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads) {
    const size_t mine = piece(c, c->self);
    char *data = grads->data;
    if (mine == 0)
        return;
    for (int32_t stride = 1; stride < c->count; stride *= 2)
        for (int32_t i = 0; i + stride < c->count; i += 2 * stride)
            add_tensors(x, c, grads, i, i + stride);
    if (c->self > 0)
        hand(x)->ops->copy(hand(x), data + c->begin[c->self], part(x, c, data, 0), mine);
    for (int32_t i = c->tensor[c->self]; grads->scales && c->self > 0 && i < c->tensor[c->self + 1]; i++)
        hand(x)->ops->copy(hand(x), grads->scales + i, x->room_scales + i, sizeof(float));
}

/* ---- scales ---- */

static nb_status fetch_scales(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads, nb_error *err) {
    const int32_t begin = c->tensor[0];
    const size_t bytes = (size_t)(c->tensor[c->count] - begin) * sizeof(float);
    float *mine = x->scales + c->count * grads->count + begin;
    nb_backend *be = hand(x);
    if (!grads->scales)
        return NB_OK;
    if (bytes > 0)
        be->ops->download(be, mine, grads->scales + begin, bytes);
    no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        put_letters(x, c, i, (ni_letter){mine, bytes}, (ni_letter){x->scales + i * grads->count + begin, bytes});
    NB_TRY(trade(x, err));
    for (int32_t i = 0; bytes > 0 && i < c->count; i++)
        be->ops->upload(be, x->room_scales + i * grads->count + begin, x->scales + i * grads->count + begin, bytes);
    return NB_OK;
}

static nb_status give_scales_back(const ni_reducer *x, const ni_circle *c, const ni_param_array *grads, nb_error *err) {
    const int32_t begin = c->tensor[0];
    const size_t bytes = (size_t)(c->tensor[c->count] - begin) * sizeof(float);
    nb_backend *be = hand(x);
    if (!grads->scales)
        return NB_OK;
    if (bytes > 0)
        be->ops->download(be, x->scales + begin, grads->scales + begin, bytes);
    no_letters(x);
    for (int32_t i = 0; i < c->count; i++)
        put_letters(x, c, i,
                    (ni_letter){x->scales + c->tensor[c->self],
                                (size_t)(c->tensor[c->self + 1] - c->tensor[c->self]) * sizeof(float)},
                    (ni_letter){x->scales + c->tensor[i], (size_t)(c->tensor[i + 1] - c->tensor[i]) * sizeof(float)});
    NB_TRY(trade(x, err));
    if (bytes > 0)
        be->ops->upload(be, grads->scales + begin, x->scales + begin, bytes);
    return NB_OK;
}

/* ---- sums ---- */

static nb_status reduce_cut_tensors(const ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    for (int32_t i = 0; i < x->circles; i++) {
        const ni_circle *c = &x->circle[i];
        NB_TRY(fetch_scales(x, c, grads, err));
        NB_TRY(fetch_pieces(x, c, grads->data, err));
        add_tensors_in_order(x, c, grads);
    }
    for (int32_t i = x->circles - 1; i >= 0; i--) {
        NB_TRY(give_back(x, &x->circle[i], grads->data, err));
        NB_TRY(give_scales_back(x, &x->circle[i], grads, err));
    }
    return NB_OK;
}

/* `n` numbers that lie one after the other. */
static nb_status reduce_run(const ni_reducer *x, float *numbers, int64_t n, nb_error *err) {
    char *data = (char *)numbers;
    cut(x, n);
    for (int32_t i = 0; i < x->circles; i++) {
        NB_TRY(fetch_pieces(x, &x->circle[i], data, err));
        add_numbers_in_order(x, &x->circle[i], data);
    }
    for (int32_t i = x->circles - 1; i >= 0; i--)
        NB_TRY(give_back(x, &x->circle[i], data, err));
    return NB_OK;
}

/* The rows that are together, of both ranks of a pair: in the room their sum, for the other may still read what is
 * here. That is as many bytes as half of them there and half of the sums back, and ranks meet once. */
static nb_status read_all(const ni_reducer *x, int64_t n, nb_error *err) {
    const ni_circle *c = &x->circle[0];
    nb_backend *be = hand(x);
    NB_TRY(meet(x, c, err));
    be->ops->copy(be, x->room, theirs(x, c, 1 - c->self, (char *)x->rows.data), (size_t)n * sizeof(float));
    be->ops->axpy(be, x->room, 1.0, x->rows.data, n);
    return NB_OK;
}

enum { TO_ALL = -1 };

/* Rows of a table, of those that were touched and the others after them: their sums to all, or to rank `to`. */
static nb_status reduce_rows(const ni_reducer *x, float *table, int64_t begin, int64_t end, int32_t to, nb_error *err) {
    const ni_packed_rows *p = &x->rows;
    const bool both = to == TO_ALL && is_pair(x) && reads(x, &x->circle[0]);
    for (int64_t from = begin; from < end; from += p->most) {
        const int64_t left = end - from, n = left < p->most ? left : p->most, numbers = n * p->touched->width;
        if (from > 0 || p->touched->head)
            NB_TRY(rest(x, err)); /* the others have read those before */
        ni_pack_rows(p, hand(x), table, from, n);
        if (both)
            NB_TRY(read_all(x, numbers, err));
        else if (to == TO_ALL)
            NB_TRY(reduce_run(x, p->data, numbers, err));
        else
            NB_TRY(ni_reduce_to(x, p->data, numbers, to, err));
        if (to == TO_ALL || to == x->ranks->rank)
            ni_unpack_rows(p, hand(x), table, both ? (const void *)x->room : p->data, from, n);
    }
    return NB_OK;
}

/* Whose the element at `at` is. */
static int32_t owner_of(const ni_reducer *x, int64_t at) {
    int32_t r = x->owned ? 0 : TO_ALL;
    while (x->owned && at >= x->owned[r + 1])
        r++;
    return r;
}

nb_status ni_reduce_untouched(const ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    const ni_touched *touched = x->rows.touched;
    return reduce_rows(x, grads->data, touched->count, touched->rows, owner_of(x, 0), err);
}

nb_status ni_reduce_rows_to(const ni_reducer *x, float *table, int32_t to, nb_error *err) {
    return reduce_rows(x, table, 0, x->rows.touched->count, to, err);
}

/* Elements at .. end - 1, each to the rank that owns it. */
static nb_status reduce_owned(const ni_reducer *x, float *data, int64_t at, int64_t end, nb_error *err) {
    while (at < end) {
        const int32_t owner = owner_of(x, at);
        const int64_t until = x->owned[owner + 1] < end ? x->owned[owner + 1] : end;
        NB_TRY(ni_reduce_to(x, data + at, until - at, owner, err));
        at = until;
    }
    return NB_OK;
}

nb_status ni_reducer_meet_rows(const ni_reducer *x, nb_error *err) {
    return x->rows.touched ? ni_packed_rows_meet(&x->rows, hand(x), err) : NB_OK;
}

nb_status ni_reduce_chunk(const ni_reducer *x, const ni_param_array *grads, int64_t index, nb_error *err) {
    if (grads->dtype != x->be->real) {
        cut_narrow(x, grads, x->narrow[index], x->narrow[index + 1]);
        return reduce_cut_tensors(x, grads, err);
    }
    const int64_t at = ni_reducer_chunk_at(x, grads, index), end = ni_reducer_chunk_at(x, grads, index + 1);
    if (index == 0 && x->rows.touched)
        return reduce_rows(x, grads->data, 0, x->rows.touched->count, owner_of(x, 0), err);
    if (x->owned)
        return reduce_owned(x, grads->data, at, end, err);
    return reduce_run(x, (float *)grads->data + at, end - at, err);
}

nb_status ni_reduce_to(const ni_reducer *x, float *data, int64_t n, int32_t to, nb_error *err) {
    const ni_circle *c = &x->circle[0];
    for (int64_t at = 0; at < n; at += x->chunk) {
        const int64_t length = n - at < x->chunk ? n - at : x->chunk;
        char *part = (char *)(data + at);
        if (is_pair(x))
            cut_for(c, to, (size_t)length * sizeof *data);
        else
            cut_numbers(c, 0, (size_t)length * sizeof *data);
        NB_TRY(fetch_pieces(x, c, part, err));
        add_numbers_in_order(x, c, part);
        if (!is_pair(x))
            NB_TRY(give_to(x, c, part, to, err));
    }
    return NB_OK;
}

bool ni_reducer_goes_beside(const ni_reducer *x, const ni_param_array *grads) {
    const bool real = grads->dtype == NB_F32;
    return x->ranks && x->be->real == NB_F32 && (real || (x->narrow && !x->joined)) && (!x->host[0] || x->worker);
}

static nb_status reduce_numbers(const ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    NB_TRY(ni_reducer_meet_rows(x, err));
    if (x->rows.touched && x->rows.touched->head)
        NB_TRY(ni_reduce_untouched(x, grads, err));
    for (int64_t i = 0; i < ni_reducer_chunks(x, grads); i++)
        NB_TRY(ni_reduce_chunk(x, grads, i, err));
    return rest(x, err);
}

static nb_status reduce_tensors(const ni_reducer *x, const ni_param_array *grads, nb_error *err) {
    cut_narrow(x, grads, 0, grads->count);
    NB_TRY(reduce_cut_tensors(x, grads, err));
    return rest(x, err);
}

nb_status ni_reduce(ni_reducer *x, ni_param_array *grads, nb_error *err) {
    if (!x->ranks)
        return NB_OK;
    return grads->dtype == x->be->real ? reduce_numbers(x, grads, err) : reduce_tensors(x, grads, err);
}

/* A chunk at a time: that is what there is room for on the host. */
nb_status ni_reducer_gather(const ni_reducer *x, char *array, const size_t *begin, nb_error *err) {
    if (!x->ranks)
        return NB_OK;
    const size_t end = begin[x->ranks->world], most = (size_t)x->chunk * nb_dtype_size(x->dtype);
    const ni_circle all = {.count = x->ranks->world, .self = x->ranks->rank, .stride = 1, .begin = x->ends};
    for (size_t from = 0; from < end; from += most) {
        const size_t length = end - from < most ? end - from : most;
        for (int32_t r = 0; r <= all.count; r++) {
            const size_t at = begin[r] > from ? begin[r] - from : 0;
            x->ends[r] = at < length ? at : length;
        }
        NB_TRY(give_back(x, &all, array + from, err));
    }
    return NB_OK;
}

/* A chunk at a time, as there is room on the host. */
nb_status ni_reducer_bring(const ni_reducer *x, int32_t from, int32_t to, void *data, size_t bytes, nb_error *err) {
    const int32_t rank = x->ranks->rank, world = x->ranks->world;
    const size_t most = (size_t)x->chunk * nb_dtype_size(x->dtype);
    const bool gives = rank == from, takes = rank == to;
    NB_TRY(x->be->ops->synchronize(x->be, err));
    for (size_t at = 0; at < bytes; at += most) {
        const size_t length = bytes - at < most ? bytes - at : most;
        char *here = gives || takes ? (char *)data + at : NULL, *wire = staged(x) ? x->host[0] : here;
        if (gives && staged(x))
            x->be->ops->download(x->be, wire, here, length);
        no_letters(x);
        if (gives)
            x->letters[to] = (ni_letter){wire, length};
        if (takes)
            x->letters[world + from] = (ni_letter){wire, length};
        NB_TRY(trade_pieces(x, err));
        if (takes && staged(x))
            x->be->ops->upload(x->be, here, wire, length);
    }
    return NB_OK;
}

nb_status ni_reduce_numbers(const ni_reducer *x, nb_backend *be, float *numbers, int64_t n, float *room,
                            nb_error *err) {
    const int32_t world = nb_ranks_world(x->ranks);
    const size_t bytes = (size_t)n * sizeof *numbers;
    if (world == 1)
        return NB_OK;
    float *mine = room + x->ranks->rank * n;
    be->ops->download(be, mine, numbers, bytes);
    NB_TRY(ni_ranks_gather(x->ranks, mine, room, bytes, err));
    for (int32_t stride = 1; stride < world; stride *= 2)
        for (int32_t r = 0; r + stride < world; r += 2 * stride)
            for (int64_t i = 0; i < n; i++)
                room[r * n + i] += room[(r + stride) * n + i];
    be->ops->upload(be, numbers, room, bytes);
    return NB_OK;
}
