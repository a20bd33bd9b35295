/* cudnn_graph.c: the graphs of cudnn.h, the engines that take them, and how they are run.
 *
 * Engines know an attention by its graph as cudnn-frontend writes it (github.com/NVIDIA/cudnn-frontend, MIT,
 * include/cudnn_frontend/node/scaled_dot_product_flash_attention.h and softmax.h): which operations follow upon which,
 * where K and V are turned, and what is BF16 between them. So do these.
 */
#include "backend/cuda/cudnn.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_ITEMS = 192, MOST_OPERATIONS = 32, MOST_CHOICES = 16, ALIGNMENT = 16 };

/* A graph that is being written. What fails stops all that follows. */
typedef struct graph {
    const ni_cudnn *cudnn;
    const ni_cudnn_shape *shape;
    ni_cudnn_item items[MOST_ITEMS], operations[MOST_OPERATIONS];
    int items_made, operations_made;
    int64_t next_id; /* of tensors that are nobody's but the graph's */
    ni_cudnn_item lengths_q, lengths_k, from_q, from_k, from_v, from_o, from_stats; /* NULL: sequences are whole */
    int status;
    const char *what; /* that failed */
} graph;

static void check(graph *g, int status, const char *what) {
    if (status && !g->status) {
        g->status = status;
        g->what = what;
    }
}

static ni_cudnn_item item(graph *g, int kind) {
    ni_cudnn_item made = NULL;
    if (g->items_made == MOST_ITEMS)
        check(g, -1, "attention: the graph is too long");
    if (!g->status)
        check(g, g->cudnn->create(kind, &made), "a descriptor");
    if (made)
        g->items[g->items_made++] = made;
    return made;
}

static void set(graph *g, ni_cudnn_item i, int name, int type, int64_t count, const void *values) {
    if (!g->status)
        check(g, g->cudnn->set(i, name, type, count, values), "an attribute");
}

static void set_item(graph *g, ni_cudnn_item i, int name, ni_cudnn_item value) {
    set(g, i, name, NI_CUDNN_TYPE_ITEM, 1, &value);
}

static void set_type(graph *g, ni_cudnn_item i, int name, int data_type) {
    set(g, i, name, NI_CUDNN_TYPE_DATA_TYPE, 1, &data_type);
}

static void finish(graph *g, ni_cudnn_item i, const char *what) {
    if (!g->status)
        check(g, g->cudnn->finish(i), what);
}

static void release(graph *g) {
    while (g->items_made > 0)
        g->cudnn->destroy(g->items[--g->items_made]);
}

/* ---- tensors ---- */

typedef struct dims {
    int64_t at[4];
} dims;

/* `from`: where each entry of the batch begins; NULL: a stride apart. */
static ni_cudnn_item tensor(graph *g, int64_t id, int type, dims sizes, dims strides, ni_cudnn_item from) {
    const int64_t alignment = ALIGNMENT, number = id ? id : g->next_id++;
    const bool is_virtual = id == 0, is_value = id == NI_CUDNN_SCALE || id == NI_CUDNN_HIDDEN || id == NI_CUDNN_ONE;
    ni_cudnn_item t = item(g, NI_CUDNN_TENSOR);
    set(g, t, NI_CUDNN_TENSOR_ID, NI_CUDNN_TYPE_INT64, 1, &number);
    set_type(g, t, NI_CUDNN_TENSOR_TYPE, type);
    set(g, t, NI_CUDNN_TENSOR_SIZES, NI_CUDNN_TYPE_INT64, 4, sizes.at);
    set(g, t, NI_CUDNN_TENSOR_STRIDES, NI_CUDNN_TYPE_INT64, 4, strides.at);
    set(g, t, NI_CUDNN_TENSOR_ALIGNMENT, NI_CUDNN_TYPE_INT64, 1, &alignment);
    set(g, t, NI_CUDNN_TENSOR_IS_VIRTUAL, NI_CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    set(g, t, NI_CUDNN_TENSOR_IS_VALUE, NI_CUDNN_TYPE_BOOLEAN, 1, &is_value);
    if (from)
        set_item(g, t, NI_CUDNN_TENSOR_RAGGED, from);
    finish(g, t, "a tensor");
    return t;
}

static int64_t entries(const ni_cudnn_shape *s) {
    return s->documents ? s->documents : s->batch;
}

/* [batch, heads, seq, head_dim] as the table's buffers hold it: a head of a position lies together. */
static ni_cudnn_item heads_of(graph *g, int64_t id, int64_t heads, int64_t stride, ni_cudnn_item from) {
    const ni_cudnn_shape *s = g->shape;
    return tensor(g, id, NI_CUDNN_BFLOAT16, (dims){{entries(s), heads, s->seq, s->head_dim}},
                  (dims){{s->seq * stride, s->head_dim, stride, 1}}, from);
}

/* The same numbers as [batch, heads, head_dim, seq]. */
static ni_cudnn_item turned_heads_of(graph *g, int64_t id, int64_t heads, int64_t stride, ni_cudnn_item from) {
    const ni_cudnn_shape *s = g->shape;
    return tensor(g, id, NI_CUDNN_BFLOAT16, (dims){{entries(s), heads, s->head_dim, s->seq}},
                  (dims){{s->seq * stride, s->head_dim, 1, stride}}, from);
}

/* [batch, heads, seq, head_dim] of all query heads, dense. */
static ni_cudnn_item dense_heads(graph *g, int type) {
    const ni_cudnn_shape *s = g->shape;
    return tensor(g, 0, type, (dims){{entries(s), s->heads, s->seq, s->head_dim}},
                  (dims){{s->heads * s->seq * s->head_dim, s->seq * s->head_dim, s->head_dim, 1}}, NULL);
}

/* FP32, what blocks add dQ up in: dense, of documents as dQ. */
static ni_cudnn_item sum_of_heads(graph *g) {
    const ni_cudnn_shape *s = g->shape;
    const dims sizes = {{entries(s), s->heads, s->seq, s->head_dim}},
               dense = {{s->heads * s->seq * s->head_dim, s->seq * s->head_dim, s->head_dim, 1}},
               as_dq = {{s->seq * s->q_stride, s->head_dim, s->q_stride, 1}};
    return tensor(g, NI_CUDNN_DQ_SUM, NI_CUDNN_FLOAT, sizes, s->documents ? as_dq : dense, g->from_q);
}

static ni_cudnn_item scores(graph *g, int type) { /* a number for each query and key */
    const ni_cudnn_shape *s = g->shape;
    return tensor(g, 0, type, (dims){{entries(s), s->heads, s->seq, s->seq}},
                  (dims){{s->heads * s->seq * s->seq, s->seq * s->seq, s->seq, 1}}, NULL);
}

static ni_cudnn_item rows(graph *g, int64_t id) { /* a number for each query */
    const ni_cudnn_shape *s = g->shape;
    const dims by_head = {{s->heads * s->seq, s->seq, 1, 1}}, by_position = {{s->heads * s->seq, 1, s->heads, 1}};
    const bool ragged = s->documents && id;
    return tensor(g, id, NI_CUDNN_FLOAT, (dims){{entries(s), s->heads, s->seq, 1}}, ragged ? by_position : by_head,
                  ragged ? g->from_stats : NULL);
}

static ni_cudnn_item list(graph *g, int64_t id, int type, int64_t count) {
    return tensor(g, id, type, (dims){{count, 1, 1, 1}}, (dims){{1, 1, 1, 1}}, NULL);
}

static ni_cudnn_item word(graph *g, int64_t id) {
    return list(g, id, NI_CUDNN_FLOAT, 1);
}

static void describe_documents(graph *g) {
    const int64_t n = g->shape->documents;
    if (!n)
        return;
    g->lengths_q = list(g, NI_CUDNN_LENGTHS_Q, NI_CUDNN_INT32, n);
    g->lengths_k = list(g, NI_CUDNN_LENGTHS_K, NI_CUDNN_INT32, n);
    g->from_q = list(g, NI_CUDNN_FROM_Q, NI_CUDNN_INT64, n + 1);
    g->from_k = list(g, NI_CUDNN_FROM_K, NI_CUDNN_INT64, n + 1);
    g->from_v = list(g, NI_CUDNN_FROM_V, NI_CUDNN_INT64, n + 1);
    g->from_o = list(g, NI_CUDNN_FROM_O, NI_CUDNN_INT64, n + 1);
    g->from_stats = list(g, NI_CUDNN_FROM_STATS, NI_CUDNN_INT64, n + 1);
}

/* ---- operations ---- */

static void add_operation(graph *g, ni_cudnn_item operation, const char *what) {
    finish(g, operation, what);
    if (g->operations_made == MOST_OPERATIONS)
        check(g, -1, "attention: the graph is too long");
    if (!g->status)
        g->operations[g->operations_made++] = operation;
}

/* y = mode(x, b): b NULL where the mode takes one. `axis`: of an index; -1. `t`: of a choice, y = t ? x : b. */
static void pointwise(graph *g, int mode, ni_cudnn_item y, ni_cudnn_item x, ni_cudnn_item b, ni_cudnn_item t,
                      int64_t axis, int precision) {
    ni_cudnn_item how = item(g, NI_CUDNN_POINTWISE), o = item(g, NI_CUDNN_OP_POINTWISE);
    set(g, how, NI_CUDNN_POINTWISE_MODE, NI_CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set_type(g, how, NI_CUDNN_POINTWISE_PRECISION, precision);
    if (axis >= 0)
        set(g, how, NI_CUDNN_POINTWISE_AXIS, NI_CUDNN_TYPE_INT64, 1, &axis);
    finish(g, how, "a pointwise operation");
    set_item(g, o, NI_CUDNN_OP_POINTWISE_DESC, how);
    set_item(g, o, NI_CUDNN_OP_POINTWISE_X, x);
    if (b)
        set_item(g, o, NI_CUDNN_OP_POINTWISE_B, b);
    if (t)
        set_item(g, o, NI_CUDNN_OP_POINTWISE_T, t);
    set_item(g, o, NI_CUDNN_OP_POINTWISE_Y, y);
    add_operation(g, o, "a pointwise operation");
}

static ni_cudnn_item on_scores(graph *g, int mode, ni_cudnn_item x, ni_cudnn_item b) {
    ni_cudnn_item y = scores(g, NI_CUDNN_FLOAT);
    pointwise(g, mode, y, x, b, NULL, -1, NI_CUDNN_FLOAT);
    return y;
}

static void reduce(graph *g, int mode, ni_cudnn_item y, ni_cudnn_item x) {
    ni_cudnn_item how = item(g, NI_CUDNN_REDUCTION), o = item(g, NI_CUDNN_OP_REDUCTION);
    set(g, how, NI_CUDNN_REDUCTION_MODE, NI_CUDNN_TYPE_REDUCTION_MODE, 1, &mode);
    set_type(g, how, NI_CUDNN_REDUCTION_PRECISION, NI_CUDNN_FLOAT);
    finish(g, how, "a reduction");
    set_item(g, o, NI_CUDNN_OP_REDUCTION_DESC, how);
    set_item(g, o, NI_CUDNN_OP_REDUCTION_X, x);
    set_item(g, o, NI_CUDNN_OP_REDUCTION_Y, y);
    add_operation(g, o, "a reduction");
}

/* c = a b [m, n], over k: lengths of each entry in the place of the tensors' sizes; NULL: the sizes. */
static void matmul(graph *g, ni_cudnn_item c, ni_cudnn_item a, ni_cudnn_item b, ni_cudnn_item m, ni_cudnn_item n,
                   ni_cudnn_item k) {
    ni_cudnn_item how = item(g, NI_CUDNN_MATMUL), o = item(g, NI_CUDNN_OP_MATMUL);
    set_type(g, how, NI_CUDNN_MATMUL_PRECISION, NI_CUDNN_FLOAT);
    finish(g, how, "a matmul");
    set_item(g, o, NI_CUDNN_OP_MATMUL_DESC, how);
    set_item(g, o, NI_CUDNN_OP_MATMUL_A, a);
    set_item(g, o, NI_CUDNN_OP_MATMUL_B, b);
    set_item(g, o, NI_CUDNN_OP_MATMUL_C, c);
    if (m)
        set_item(g, o, NI_CUDNN_OP_MATMUL_M, m);
    if (n)
        set_item(g, o, NI_CUDNN_OP_MATMUL_N, n);
    if (k)
        set_item(g, o, NI_CUDNN_OP_MATMUL_K, k);
    add_operation(g, o, "a matmul");
}

static void reshape(graph *g, ni_cudnn_item y, ni_cudnn_item x) {
    ni_cudnn_item o = item(g, NI_CUDNN_OP_RESHAPE);
    set_item(g, o, NI_CUDNN_OP_RESHAPE_X, x);
    set_item(g, o, NI_CUDNN_OP_RESHAPE_Y, y);
    add_operation(g, o, "a reshape");
}

static ni_cudnn_item index_of(graph *g, ni_cudnn_item x, int64_t axis) {
    ni_cudnn_item y = scores(g, NI_CUDNN_INT32);
    pointwise(g, NI_CUDNN_INDEX, y, x, NULL, NULL, axis, NI_CUDNN_INT32);
    return y;
}

static ni_cudnn_item compare(graph *g, int mode, ni_cudnn_item a, ni_cudnn_item b) {
    ni_cudnn_item y = scores(g, NI_CUDNN_BOOLEAN);
    pointwise(g, mode, y, a, b, NULL, -1, NI_CUDNN_BOOLEAN);
    return y;
}

/* Scores that are not `seen` become -INFINITY. */
static ni_cudnn_item hide(graph *g, ni_cudnn_item x, ni_cudnn_item seen) {
    ni_cudnn_item y = scores(g, NI_CUDNN_FLOAT);
    pointwise(g, NI_CUDNN_SELECT, y, x, word(g, NI_CUDNN_HIDDEN), seen, -1, NI_CUDNN_FLOAT);
    return y;
}

/* Scores of keys past a query's own position. */
static ni_cudnn_item hide_later(graph *g, ni_cudnn_item x) {
    ni_cudnn_item row = index_of(g, x, 2), column = index_of(g, x, 3);
    return hide(g, x, compare(g, NI_CUDNN_NOT_LESS, row, column));
}

/* Scores past the end of a document. */
static ni_cudnn_item hide_beyond(graph *g, ni_cudnn_item x) {
    if (!g->shape->documents)
        return x;
    ni_cudnn_item row = index_of(g, x, 2), column = index_of(g, x, 3),
                  queries = compare(g, NI_CUDNN_LESS, row, g->lengths_q),
                  keys = compare(g, NI_CUDNN_LESS, column, g->lengths_k);
    return hide(g, x, compare(g, NI_CUDNN_BOTH, queries, keys));
}

/* [batch, heads, keys, queries], BF16: a matrix of scores as the products that sum over queries read it. */
static ni_cudnn_item turned_scores(graph *g, ni_cudnn_item x) {
    const ni_cudnn_shape *s = g->shape;
    ni_cudnn_item y = tensor(g, 0, NI_CUDNN_BFLOAT16, (dims){{entries(s), s->heads, s->seq, s->seq}},
                             (dims){{s->heads * s->seq * s->seq, s->seq * s->seq, 1, s->seq}}, NULL);
    reshape(g, y, x);
    return y;
}

/* y = a b for all query heads, summed over queries; those that share a key head are added. `each`: where a document's
 * query heads lie until then. */
static void matmul_by_groups(graph *g, int64_t id, int64_t each_id, int64_t stride, ni_cudnn_item from, ni_cudnn_item a,
                             ni_cudnn_item b) {
    const ni_cudnn_shape *s = g->shape;
    ni_cudnn_item y = heads_of(g, id, s->kv_heads, stride, from);
    if (s->heads == s->kv_heads) {
        matmul(g, y, a, b, g->lengths_k, NULL, g->lengths_q);
        return;
    }
    ni_cudnn_item each = s->documents ? heads_of(g, each_id, s->heads, stride * (s->heads / s->kv_heads), from)
                                      : dense_heads(g, NI_CUDNN_BFLOAT16);
    matmul(g, each, a, b, g->lengths_k, NULL, g->lengths_q);
    reduce(g, NI_CUDNN_SUM, y, each);
}

static void write_forward(graph *g) {
    const ni_cudnn_shape *s = g->shape;
    ni_cudnn_item q = heads_of(g, NI_CUDNN_Q, s->heads, s->q_stride, g->from_q),
                  k = turned_heads_of(g, NI_CUDNN_K, s->kv_heads, s->k_stride, g->from_k),
                  v = heads_of(g, NI_CUDNN_V, s->kv_heads, s->v_stride, g->from_v),
                  products = scores(g, NI_CUDNN_FLOAT);
    matmul(g, products, q, k, g->lengths_q, g->lengths_k, NULL);
    ni_cudnn_item scaled = on_scores(g, NI_CUDNN_MUL, products, word(g, NI_CUDNN_SCALE));
    ni_cudnn_item hidden = hide_later(g, hide_beyond(g, scaled));
    ni_cudnn_item largest = rows(g, 0), sum = rows(g, 0), log_sum = rows(g, 0), stats = rows(g, NI_CUDNN_STATS);
    reduce(g, NI_CUDNN_LARGEST, largest, hidden);
    ni_cudnn_item grown = on_scores(g, NI_CUDNN_EXP, on_scores(g, NI_CUDNN_SUB, hidden, largest), NULL);
    reduce(g, NI_CUDNN_SUM, sum, grown);
    pointwise(g, NI_CUDNN_LOG, log_sum, sum, NULL, NULL, -1, NI_CUDNN_FLOAT);
    pointwise(g, NI_CUDNN_ADD, stats, largest, log_sum, NULL, -1, NI_CUDNN_FLOAT);
    ni_cudnn_item p = scores(g, NI_CUDNN_BFLOAT16);
    pointwise(g, NI_CUDNN_DIV, p, grown, sum, NULL, -1, NI_CUDNN_FLOAT);
    matmul(g, heads_of(g, NI_CUDNN_O, s->heads, s->o_stride, g->from_o), p, v, g->lengths_q, NULL, g->lengths_k);
}

static void write_backward(graph *g) {
    const ni_cudnn_shape *s = g->shape;
    ni_cudnn_item q = heads_of(g, NI_CUDNN_Q, s->heads, s->q_stride, g->from_q),
                  k = turned_heads_of(g, NI_CUDNN_K, s->kv_heads, s->k_stride, g->from_k),
                  v = turned_heads_of(g, NI_CUDNN_V, s->kv_heads, s->v_stride, g->from_v),
                  o = heads_of(g, NI_CUDNN_O, s->heads, s->o_stride, g->from_o),
                  slope = heads_of(g, NI_CUDNN_DO, s->heads, s->o_stride, g->from_o);
    ni_cudnn_item scale = word(g, NI_CUDNN_SCALE);
    /* delta = rowsum(dO * O) */
    ni_cudnn_item both = dense_heads(g, NI_CUDNN_FLOAT), row_sum = rows(g, 0), delta = rows(g, NI_CUDNN_DELTA);
    pointwise(g, NI_CUDNN_MUL, both, slope, o, NULL, -1, NI_CUDNN_FLOAT);
    reduce(g, NI_CUDNN_SUM, row_sum, both);
    pointwise(g, NI_CUDNN_MUL, delta, row_sum, word(g, NI_CUDNN_ONE), NULL, -1, NI_CUDNN_FLOAT);
    /* P again, and dV */
    ni_cudnn_item products = scores(g, NI_CUDNN_FLOAT);
    matmul(g, products, q, k, g->lengths_q, g->lengths_k, NULL);
    ni_cudnn_item scaled = hide_beyond(g, on_scores(g, NI_CUDNN_MUL, products, scale));
    ni_cudnn_item p =
        on_scores(g, NI_CUDNN_EXP, hide_later(g, on_scores(g, NI_CUDNN_SUB, scaled, rows(g, NI_CUDNN_STATS))), NULL);
    matmul_by_groups(g, NI_CUDNN_DV, NI_CUDNN_DV_EACH, s->v_stride, g->from_v, turned_scores(g, p), slope);
    /* dS, dK and dQ */
    ni_cudnn_item dp = scores(g, NI_CUDNN_FLOAT);
    matmul(g, dp, slope, v, g->lengths_q, g->lengths_k, NULL);
    ni_cudnn_item ds =
        on_scores(g, NI_CUDNN_MUL, on_scores(g, NI_CUDNN_MUL, on_scores(g, NI_CUDNN_SUB, dp, delta), p), scale);
    matmul_by_groups(g, NI_CUDNN_DK, NI_CUDNN_DK_EACH, s->k_stride, g->from_k, turned_scores(g, ds), q);
    ni_cudnn_item keys = heads_of(g, 0, s->kv_heads, s->k_stride, g->from_k), sum = sum_of_heads(g);
    reshape(g, keys, k);
    matmul(g, sum, ds, keys, g->lengths_q, NULL, g->lengths_k);
    pointwise(g, NI_CUDNN_IDENTITY, heads_of(g, NI_CUDNN_DQ, s->heads, s->q_stride, g->from_q), sum, NULL, NULL, -1,
              NI_CUDNN_FLOAT);
}

/* ---- engines and plans ---- */

static void set_place(graph *g, ni_cudnn_item i, int handle_name, int device_name) {
    const ni_cudnn *c = g->cudnn;
    if (c->device && device_name)
        set_item(g, i, device_name, c->device);
    else if (c->handle)
        set(g, i, handle_name, NI_CUDNN_TYPE_HANDLE, 1, &c->handle);
}

/* What the library knows of the engine that it proposes. */
static void look_at_engine(graph *g, ni_cudnn_item choice, ni_cudnn_plan *out) {
    const ni_cudnn *c = g->cudnn;
    int notes[NI_CUDNN_NOTES] = {0};
    int64_t count = 0;
    ni_cudnn_item engine = item(g, NI_CUDNN_ENGINE);
    if (!g->status)
        check(g, c->get(choice, NI_CUDNN_CHOICE_ENGINE, NI_CUDNN_TYPE_ITEM, 1, &count, &engine), "an engine");
    if (!g->status)
        check(g, c->get(engine, NI_CUDNN_ENGINE_INDEX, NI_CUDNN_TYPE_INT64, 1, &count, &out->engine), "an engine");
    if (!g->status)
        check(g, c->get(engine, NI_CUDNN_ENGINE_NOTES, NI_CUDNN_TYPE_NOTE, NI_CUDNN_NOTES, &count, notes),
              "notes of an engine");
    out->deterministic = true;
    for (int64_t i = 0; i < count && i < NI_CUDNN_NOTES; i++)
        out->deterministic = out->deterministic && notes[i] != NI_CUDNN_NOTE_NONDETERMINISTIC;
}

static bool try_choice(graph *g, ni_cudnn_item choice, ni_cudnn_plan *out) {
    const ni_cudnn *c = g->cudnn;
    int64_t count = 0;
    ni_cudnn_item plan = NULL;
    check(g, c->create(NI_CUDNN_PLAN, &plan), "a plan");
    set_item(g, plan, NI_CUDNN_PLAN_CHOICE, choice);
    set_place(g, plan, NI_CUDNN_PLAN_HANDLE, NI_CUDNN_PLAN_DEVICE);
    finish(g, plan, "a plan of attention");
    if (!g->status)
        check(g, c->get(plan, NI_CUDNN_PLAN_WORKSPACE, NI_CUDNN_TYPE_INT64, 1, &count, &out->workspace),
              "the workspace of a plan");
    look_at_engine(g, choice, out);
    if (g->status && plan)
        c->destroy(plan);
    else
        out->plan = plan;
    return !g->status;
}

/* The first of the library's proposals, which it has in the order of their speed, that can be made. */
static bool choose(graph *g, ni_cudnn_plan *out) {
    const ni_cudnn *c = g->cudnn;
    ni_cudnn_item all = item(g, NI_CUDNN_GRAPH), heuristic = item(g, NI_CUDNN_HEURISTIC), choices[MOST_CHOICES];
    const int mode = NI_CUDNN_MODE_A;
    int64_t found = 0;
    set_place(g, all, NI_CUDNN_GRAPH_HANDLE, 0);
    set(g, all, NI_CUDNN_GRAPH_OPS, NI_CUDNN_TYPE_ITEM, g->operations_made, g->operations);
    finish(g, all, "the graph of attention");
    set_item(g, heuristic, NI_CUDNN_HEURISTIC_GRAPH, all);
    set(g, heuristic, NI_CUDNN_HEURISTIC_MODE, NI_CUDNN_TYPE_HEURISTIC_MODE, 1, &mode);
    if (c->device)
        set_item(g, heuristic, NI_CUDNN_HEURISTIC_DEVICE, c->device);
    finish(g, heuristic, "the choice of an engine");
    for (int i = 0; i < MOST_CHOICES; i++)
        choices[i] = item(g, NI_CUDNN_ENGINE_CHOICE);
    if (!g->status)
        check(g, c->get(heuristic, NI_CUDNN_HEURISTIC_RESULTS, NI_CUDNN_TYPE_ITEM, MOST_CHOICES, &found, choices),
              "the choice of an engine");
    if (!g->status && !found) {
        g->status = -1;
        g->what = "attention: it knows no engine for it";
    }
    for (int64_t i = 0; i < found && i < MOST_CHOICES; i++) {
        if (try_choice(g, choices[i], out))
            return true;
        if (i + 1 < found && i + 1 < MOST_CHOICES)
            g->status = 0;
    }
    return false;
}

bool ni_cudnn_make(const ni_cudnn *library, const ni_cudnn_shape *shape, ni_cudnn_plan *out, char *why, size_t size) {
    graph g = {.cudnn = library, .shape = shape, .next_id = 2 * NI_CUDNN_TENSORS};
    *out = (ni_cudnn_plan){0};
    describe_documents(&g);
    if (shape->backward)
        write_backward(&g);
    else
        write_forward(&g);
    const bool made = !g.status && choose(&g, out);
    if (!made)
        ni_cudnn_say(library, g.status, g.what, why, size);
    release(&g);
    return made;
}

int ni_cudnn_run(const ni_cudnn *c, const ni_cudnn_plan *plan, void *const data[NI_CUDNN_TENSORS], void *workspace) {
    int64_t ids[NI_CUDNN_TENSORS];
    void *pointers[NI_CUDNN_TENSORS];
    int64_t count = 0;
    ni_cudnn_item pack = NULL;
    for (int i = 1; i < NI_CUDNN_TENSORS; i++)
        if (data[i]) {
            ids[count] = i;
            pointers[count++] = data[i];
        }
    int status = c->create(NI_CUDNN_PACK, &pack);
    if (!status)
        status = c->set(pack, NI_CUDNN_PACK_POINTERS, NI_CUDNN_TYPE_POINTER, count, pointers);
    if (!status)
        status = c->set(pack, NI_CUDNN_PACK_IDS, NI_CUDNN_TYPE_INT64, count, ids);
    if (!status)
        status = c->set(pack, NI_CUDNN_PACK_WORKSPACE, NI_CUDNN_TYPE_POINTER, 1, &workspace);
    if (!status)
        status = c->finish(pack);
    if (!status)
        status = c->execute(c->handle, plan->plan, pack);
    if (pack)
        c->destroy(pack);
    return status;
}

void ni_cudnn_free(const ni_cudnn *library, ni_cudnn_plan *plan) {
    if (plan->plan)
        library->destroy(plan->plan);
    plan->plan = NULL;
}
