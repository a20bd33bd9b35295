/* test_cudnn_graph.c: what cuDNN is asked (src/backend/cuda/cudnn_graph.c), over a library that only takes notes: every
 * tensor of a graph that is not the graph's own has a place in memory, large enough, and documents reach all of them.
 */
#include "harness.h"

#include "backend/cuda/cudnn_room.h"

enum { MOST_ITEMS = 256, MOST_NOTES = 24 };

typedef struct note {
    int name;
    int64_t count;
    int64_t numbers[4]; /* of tensors; [0]: a flag */
    ni_cudnn_item items[32];
} note;

typedef struct thing {
    int kind, notes;
    bool finished;
    note note[MOST_NOTES];
} thing;

static thing *made[MOST_ITEMS];
static int made_count, alive;
static thing *asked; /* the graph that was finished last */

static int fake_create(int kind, ni_cudnn_item *out) {
    thing *t = calloc(1, sizeof *t);
    t->kind = kind;
    assert_true(made_count < MOST_ITEMS);
    *out = made[made_count++] = t;
    alive++;
    return 0;
}

/* Kept until the test is over: what was asked is looked at afterwards. */
static int fake_destroy(ni_cudnn_item item) {
    assert_non_null(item);
    alive--;
    return 0;
}

static int fake_set(ni_cudnn_item item, int name, int type, int64_t count, const void *values) {
    thing *t = item;
    assert_false(t->finished);
    assert_true(t->notes < MOST_NOTES);
    note *n = &t->note[t->notes++];
    n->name = name;
    n->count = count;
    if (type == NI_CUDNN_TYPE_ITEM)
        memcpy(n->items, values, (size_t)count * sizeof *n->items);
    else if (type == NI_CUDNN_TYPE_INT64)
        memcpy(n->numbers, values, (size_t)count * sizeof *n->numbers);
    else if (type == NI_CUDNN_TYPE_BOOLEAN)
        n->numbers[0] = *(const bool *)values;
    else
        n->numbers[0] = *(const int *)values;
    return 0;
}

/* One engine, with a workspace and no notes. */
static int fake_get(ni_cudnn_item item, int name, int type, int64_t room, int64_t *count, void *values) {
    (void)item, (void)type, (void)room;
    *count = name == NI_CUDNN_ENGINE_NOTES ? 0 : 1;
    if (name == NI_CUDNN_PLAN_WORKSPACE)
        *(int64_t *)values = 1000;
    return 0;
}

static int fake_finish(ni_cudnn_item item) {
    thing *t = item;
    t->finished = true;
    if (t->kind == NI_CUDNN_GRAPH)
        asked = t;
    return 0;
}

static void last_error(char *text, size_t size) {
    snprintf(text, size, "nothing");
}

static const ni_cudnn note_taker = {.create = fake_create,
                                    .destroy = fake_destroy,
                                    .set = fake_set,
                                    .get = fake_get,
                                    .finish = fake_finish,
                                    .last_error = last_error};

void ni_cudnn_say(const ni_cudnn *library, int status, const char *what, char *why, size_t size) {
    (void)library, (void)status;
    snprintf(why, size, "%s", what);
}

static const note *find(const thing *t, int name) {
    for (int i = 0; i < t->notes; i++)
        if (t->note[i].name == name)
            return &t->note[i];
    return NULL;
}

static int64_t number(const thing *t, int name) {
    const note *n = find(t, name);
    assert_non_null(n);
    return n->numbers[0];
}

/* Every tensor that an operation names, and the tensors that say where those begin: by their numbers. */
static void collect(const thing *t, const thing *tensors[NI_CUDNN_TENSORS]) {
    for (int i = 0; i < t->notes; i++)
        for (int64_t j = 0; j < t->note[i].count && t->note[i].items[0]; j++)
            collect(t->note[i].items[j], tensors);
    if (t->kind == NI_CUDNN_TENSOR && !number(t, NI_CUDNN_TENSOR_IS_VIRTUAL)) {
        assert_in_range(number(t, NI_CUDNN_TENSOR_ID), 1, NI_CUDNN_TENSORS - 1);
        tensors[number(t, NI_CUDNN_TENSOR_ID)] = t;
    }
}

/* Bytes from the first to the last element; of a ragged tensor: of all positions. */
static size_t extent(const thing *t, const ni_cudnn_shape *s) {
    const note *sizes = find(t, NI_CUDNN_TENSOR_SIZES), *strides = find(t, NI_CUDNN_TENSOR_STRIDES);
    const int64_t type = number(t, NI_CUDNN_TENSOR_TYPE);
    const size_t size = type == NI_CUDNN_INT64 ? 8 : type == NI_CUDNN_BFLOAT16 ? 2 : 4;
    int64_t last = 0;
    for (int i = 0; i < 4; i++)
        last += (sizes->numbers[i] - 1) * strides->numbers[i];
    if (find(t, NI_CUDNN_TENSOR_RAGGED)) /* by positions: the smaller of the last two strides but one */
        last = (s->batch * s->seq - 1) * strides->numbers[2] + (sizes->numbers[1] - 1) * strides->numbers[1] +
               (sizes->numbers[3] - 1) * strides->numbers[3];
    return (size_t)(last + 1) * size;
}

static const ni_cudnn_shape SHAPES[] = {
    {.batch = 2, .seq = 100, .heads = 4, .kv_heads = 4, .head_dim = 64, 256, 256, 256, 256, 0, 0},
    {.batch = 3, .seq = 77, .heads = 4, .kv_heads = 2, .head_dim = 64, 512, 512, 512, 264, 0, 0},
};

/* Of the places in `room`, the number of bytes before the next one. */
static size_t space(void *const data[], int at, const char *memory, size_t all) {
    size_t next = all;
    for (int i = 0; i < NI_CUDNN_TENSORS; i++) {
        const size_t place = (size_t)((const char *)data[i] - memory);
        if (data[i] > data[at] && place < next)
            next = place;
    }
    return next - (size_t)((const char *)data[at] - memory);
}

static void check_places(const ni_cudnn_shape *s, const thing *const tensors[]) {
    static _Alignas(256) char memory[1 << 24];
    void *data[NI_CUDNN_TENSORS] = {NULL};
    const ni_cudnn_room room = ni_cudnn_place(s, 1000, memory, data);
    assert_true(room.bytes <= sizeof memory);
    for (int i = 1; i < NI_CUDNN_TENSORS; i++) {
        const bool table = i == NI_CUDNN_Q || i == NI_CUDNN_K || i == NI_CUDNN_V || i == NI_CUDNN_O ||
                           i == NI_CUDNN_DO || i == NI_CUDNN_DQ || i == NI_CUDNN_DK || i == NI_CUDNN_DV ||
                           (i == NI_CUDNN_STATS && !s->documents);
        const bool scalar = i == NI_CUDNN_SCALE || i == NI_CUDNN_HIDDEN || i == NI_CUDNN_ONE;
        if (table || scalar)
            assert_null(data[i]);
        else
            assert_int_equal(data[i] != NULL, tensors[i] != NULL);
        if (data[i])
            assert_true(space(data, i, memory, room.bytes) >= extent(tensors[i], s));
    }
    assert_true((char *)room.workspace + 1000 <= memory + room.bytes);
    assert_true((char *)room.foreign + room.foreign_bytes == memory + room.bytes);
    assert_int_equal(room.documents.most, s->documents);
}

/* Each tensor of the table begins where its list says, and both sizes of every product that are positions are lengths.
 */
static void check_documents(const ni_cudnn_shape *s, const thing *const tensors[]) {
    const int of[][2] = {
        {NI_CUDNN_Q, NI_CUDNN_FROM_Q},      {NI_CUDNN_K, NI_CUDNN_FROM_K},         {NI_CUDNN_V, NI_CUDNN_FROM_V},
        {NI_CUDNN_O, NI_CUDNN_FROM_O},      {NI_CUDNN_STATS, NI_CUDNN_FROM_STATS}, {NI_CUDNN_DO, NI_CUDNN_FROM_O},
        {NI_CUDNN_DQ, NI_CUDNN_FROM_Q},     {NI_CUDNN_DK, NI_CUDNN_FROM_K},        {NI_CUDNN_DV, NI_CUDNN_FROM_V},
        {NI_CUDNN_DQ_SUM, NI_CUDNN_FROM_Q}, {NI_CUDNN_DELTA, NI_CUDNN_FROM_STATS}, {NI_CUDNN_DK_EACH, NI_CUDNN_FROM_K},
        {NI_CUDNN_DV_EACH, NI_CUDNN_FROM_V}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const thing *t = tensors[of[i][0]];
        const note *from = t ? find(t, NI_CUDNN_TENSOR_RAGGED) : NULL;
        assert_int_equal(from != NULL, t && s->documents);
        if (from)
            assert_int_equal(number(from->items[0], NI_CUDNN_TENSOR_ID), of[i][1]);
    }
    for (int i = NI_CUDNN_LENGTHS_Q; i <= NI_CUDNN_FROM_STATS; i++) {
        assert_int_equal(tensors[i] != NULL, s->documents != 0);
        if (tensors[i])
            assert_int_equal(find(tensors[i], NI_CUDNN_TENSOR_SIZES)->numbers[0],
                             s->documents + (i >= NI_CUDNN_FROM_Q));
    }
    const note *operations = find(asked, NI_CUDNN_GRAPH_OPS);
    int products = 0;
    for (int64_t i = 0; i < operations->count; i++) {
        const thing *o = operations->items[i];
        if (o->kind != NI_CUDNN_OP_MATMUL)
            continue;
        const int lengths = (find(o, NI_CUDNN_OP_MATMUL_M) != NULL) + (find(o, NI_CUDNN_OP_MATMUL_N) != NULL) +
                            (find(o, NI_CUDNN_OP_MATMUL_K) != NULL);
        assert_int_equal(lengths, s->documents ? 2 : 0);
        products++;
    }
    assert_int_equal(products, s->backward ? 5 : 2);
}

static void every_tensor_has_its_place(void **state) {
    (void)state;
    const int64_t documents[] = {0, 64, 512};
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES * 6; i++) {
        ni_cudnn_shape s = SHAPES[i / 6];
        s.documents = documents[i / 2 % 3];
        s.backward = i % 2;
        ni_cudnn_plan plan;
        char why[320];
        assert_true(ni_cudnn_make(&note_taker, &s, &plan, why, sizeof why));
        assert_int_equal(plan.workspace, 1000);
        const thing *tensors[NI_CUDNN_TENSORS] = {NULL};
        collect(asked, tensors);
        assert_non_null(tensors[NI_CUDNN_Q]);
        check_places(&s, tensors);
        check_documents(&s, tensors);
        ni_cudnn_free(&note_taker, &plan);
        assert_int_equal(alive, 0);
        while (made_count > 0)
            free(made[--made_count]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_tensor_has_its_place)};
    return cmocka_run_group_tests_name("what cuDNN is asked", tests, NULL, NULL);
}
