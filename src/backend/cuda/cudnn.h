/* cudnn.h: cuDNN's graph interface, opened at run time: softmax attention where a run permits any order of sums.
 *
 * Nothing is compiled against cuDNN's header: functions are found by name, and what is said to them are the numbers of
 * version 9's interface (docs.nvidia.com, "cuDNN Backend API", cudnn_graph library), which its minor versions keep.
 * An attention is not one operation there but a graph of matmul, pointwise, reduction and reshape operations, which
 * the library's engines know again as a whole (the single operation has no causal mask before 9.21).
 *
 *     forward    P = softmax(mask(scale Q K^T)),  O = P V,  stats = max + log sum: nats, [batch, heads, seq], our lse
 *     backward   dV = P^T dO,  dS = P (dO V^T - rowsum(dO O)),  dK = scale dS^T Q,  dQ = scale dS K
 *
 * Documents kept apart are entries of a batch of their own: each has a length and, for every tensor, the element where
 * it begins (a ragged tensor). A plan is made for a number of entries; those beyond the documents that there are have
 * length 0. Stats lie by positions then, [batch, seq, heads]: the engines want it so.
 *
 * Rounded to BF16 on the way: P, dS, and with grouped queries each head's dK and dV before they are added. dQ is added
 * in FP32 by blocks as they come: the order, and so the last bits, differ from run to run.
 */
#ifndef NI_BACKEND_CUDA_CUDNN_H
#define NI_BACKEND_CUDA_CUDNN_H

#include "nibble/backend.h"

#include <stdint.h>

typedef void *ni_cudnn_item; /* a descriptor of any kind */

typedef struct ni_cudnn {
    size_t version; /* 91900 is 9.19.0 */
    void *handle;
    ni_cudnn_item
        device; /* a GPU by its description: plans for it can be made without it, and not run. NULL: handle's */
    int (*create_handle)(void **handle);
    int (*destroy_handle)(void *handle);
    int (*set_stream)(void *handle, void *stream);
    int (*create)(int kind, ni_cudnn_item *out);
    int (*destroy)(ni_cudnn_item item);
    int (*set)(ni_cudnn_item item, int name, int type, int64_t count, const void *values);
    int (*get)(ni_cudnn_item item, int name, int type, int64_t room, int64_t *count, void *values);
    int (*finish)(ni_cudnn_item item);
    int (*execute)(void *handle, ni_cudnn_item plan, ni_cudnn_item pack);
    void (*last_error)(char *text, size_t size);
} ni_cudnn;

/* Opens libcudnn.so.9, as the dynamic linker finds it. NULL: `why` says in one line why not. */
ni_cudnn *ni_cudnn_open(char *why, size_t size);
/* The handle on the GPU at hand. */
bool ni_cudnn_start(ni_cudnn *library, char *why, size_t size);
void ni_cudnn_close(ni_cudnn *library);

/* ---- cudnn_graph.c ---- */

/* What a plan was made for. Strides in elements, as nb_attention has them, none of them 0. */
typedef struct ni_cudnn_shape {
    int64_t batch, seq, heads, kv_heads, head_dim;
    int64_t q_stride, k_stride, v_stride, o_stride;
    int64_t documents; /* 0: sequences are whole; else entries of the plan, as many as documents or more */
    int64_t backward;  /* 0 or 1 */
} ni_cudnn_shape;

/* Tensors of the plans by their numbers; those that a pass does not have are left out of it. The scalars are words of
 * the host. */
enum {
    NI_CUDNN_Q = 1,
    NI_CUDNN_K,
    NI_CUDNN_V,
    NI_CUDNN_O,
    NI_CUDNN_STATS,
    NI_CUDNN_DO,
    NI_CUDNN_DQ,
    NI_CUDNN_DK,
    NI_CUDNN_DV,
    NI_CUDNN_DQ_SUM, /* FP32 [batch, heads, seq, head_dim]; of documents: as dQ lies. Scratch */
    NI_CUDNN_DELTA,  /* FP32, as stats: scratch */
    NI_CUDNN_SCALE,
    NI_CUDNN_HIDDEN, /* what a score past the own position is: -INFINITY */
    NI_CUDNN_ONE,
    /* of documents alone */
    NI_CUDNN_LENGTHS_Q, /* int32 [documents]: positions of each; both may be one array */
    NI_CUDNN_LENGTHS_K,
    NI_CUDNN_FROM_Q, /* int64 [documents + 1]: elements before each document, and before the end */
    NI_CUDNN_FROM_K,
    NI_CUDNN_FROM_V,
    NI_CUDNN_FROM_O,
    NI_CUDNN_FROM_STATS,
    NI_CUDNN_DK_EACH, /* with grouped queries: each query head's, as dK lies but heads / kv_heads as wide: scratch */
    NI_CUDNN_DV_EACH,
    NI_CUDNN_TENSORS
};

typedef struct ni_cudnn_plan {
    ni_cudnn_item plan;
    int64_t workspace;  /* bytes */
    int64_t engine;     /* the library's number of it */
    bool deterministic; /* no note of it says NONDETERMINISTIC: what the library promises */
} ni_cudnn_plan;

/* NULL, or why no engine takes this: a text of `room` bytes is filled. */
bool ni_cudnn_make(const ni_cudnn *library, const ni_cudnn_shape *shape, ni_cudnn_plan *out, char *why, size_t size);
/* Queues it: data[i] is the tensor NI_CUDNN_x = i, NULL where the pass has none. */
int ni_cudnn_run(const ni_cudnn *library, const ni_cudnn_plan *plan, void *const data[NI_CUDNN_TENSORS],
                 void *workspace);
void ni_cudnn_free(const ni_cudnn *library, ni_cudnn_plan *plan);

/* The last thing that the library complained about. */
void ni_cudnn_say(const ni_cudnn *library, int status, const char *what, char *why, size_t size);

/* ---- numbers of the interface ---- */

enum { /* cudnnBackendDescriptorType_t */
       NI_CUDNN_POINTWISE = 0,
       NI_CUDNN_ENGINE = 2,
       NI_CUDNN_ENGINE_CHOICE = 3, /* ENGINECFG */
       NI_CUDNN_HEURISTIC = 4,
       NI_CUDNN_PLAN = 5,
       NI_CUDNN_OP_POINTWISE = 13,
       NI_CUDNN_GRAPH = 15,
       NI_CUDNN_PACK = 16,
       NI_CUDNN_TENSOR = 17,
       NI_CUDNN_MATMUL = 18,
       NI_CUDNN_OP_MATMUL = 19,
       NI_CUDNN_REDUCTION = 21,
       NI_CUDNN_OP_REDUCTION = 22,
       NI_CUDNN_OP_RESHAPE = 31,
       NI_CUDNN_DEVICE = 38
};

enum { /* cudnnBackendAttributeType_t */
       NI_CUDNN_TYPE_HANDLE = 0,
       NI_CUDNN_TYPE_DATA_TYPE = 1,
       NI_CUDNN_TYPE_BOOLEAN = 2,
       NI_CUDNN_TYPE_INT64 = 3,
       NI_CUDNN_TYPE_POINTER = 6,
       NI_CUDNN_TYPE_HEURISTIC_MODE = 8,
       NI_CUDNN_TYPE_NOTE = 11,
       NI_CUDNN_TYPE_POINTWISE_MODE = 14,
       NI_CUDNN_TYPE_ITEM = 15,
       NI_CUDNN_TYPE_REDUCTION_MODE = 18,
       NI_CUDNN_TYPE_CHAR = 24
};

enum { /* cudnnBackendAttributeName_t */
       NI_CUDNN_POINTWISE_MODE = 0,
       NI_CUDNN_POINTWISE_PRECISION = 1,
       NI_CUDNN_POINTWISE_AXIS = 9,
       NI_CUDNN_HEURISTIC_MODE = 200,
       NI_CUDNN_HEURISTIC_GRAPH = 201,
       NI_CUDNN_HEURISTIC_RESULTS = 202,
       NI_CUDNN_HEURISTIC_DEVICE = 204,
       NI_CUDNN_CHOICE_ENGINE = 300,
       NI_CUDNN_PLAN_HANDLE = 400,
       NI_CUDNN_PLAN_CHOICE = 401,
       NI_CUDNN_PLAN_WORKSPACE = 402,
       NI_CUDNN_PLAN_DEVICE = 407,
       NI_CUDNN_OP_POINTWISE_DESC = 750,
       NI_CUDNN_OP_POINTWISE_X = 751,
       NI_CUDNN_OP_POINTWISE_B = 752,
       NI_CUDNN_OP_POINTWISE_Y = 753,
       NI_CUDNN_OP_POINTWISE_T = 758,
       NI_CUDNN_GRAPH_HANDLE = 800,
       NI_CUDNN_GRAPH_OPS = 801,
       NI_CUDNN_TENSOR_ALIGNMENT = 900,
       NI_CUDNN_TENSOR_TYPE = 901,
       NI_CUDNN_TENSOR_SIZES = 902,
       NI_CUDNN_TENSOR_STRIDES = 903,
       NI_CUDNN_TENSOR_ID = 906,
       NI_CUDNN_TENSOR_IS_VIRTUAL = 907,
       NI_CUDNN_TENSOR_IS_VALUE = 908,
       NI_CUDNN_TENSOR_RAGGED = 913,
       NI_CUDNN_PACK_IDS = 1000,
       NI_CUDNN_PACK_POINTERS = 1001,
       NI_CUDNN_PACK_WORKSPACE = 1003,
       NI_CUDNN_ENGINE_INDEX = 1301,
       NI_CUDNN_ENGINE_NOTES = 1303,
       NI_CUDNN_MATMUL_PRECISION = 1500,
       NI_CUDNN_OP_MATMUL_A = 1520,
       NI_CUDNN_OP_MATMUL_B = 1521,
       NI_CUDNN_OP_MATMUL_C = 1522,
       NI_CUDNN_OP_MATMUL_DESC = 1523,
       NI_CUDNN_OP_MATMUL_M = 1525, /* lengths that take the place of the sizes, an entry at a time */
       NI_CUDNN_OP_MATMUL_N = 1526,
       NI_CUDNN_OP_MATMUL_K = 1527,
       NI_CUDNN_REDUCTION_MODE = 1600,
       NI_CUDNN_REDUCTION_PRECISION = 1601,
       NI_CUDNN_OP_REDUCTION_X = 1610,
       NI_CUDNN_OP_REDUCTION_Y = 1611,
       NI_CUDNN_OP_REDUCTION_DESC = 1612,
       NI_CUDNN_OP_RESHAPE_X = 2200,
       NI_CUDNN_OP_RESHAPE_Y = 2201,
       NI_CUDNN_DEVICE_JSON = 2702
};

enum { /* cudnnDataType_t */
       NI_CUDNN_FLOAT = 0,
       NI_CUDNN_INT32 = 4,
       NI_CUDNN_BFLOAT16 = 9,
       NI_CUDNN_INT64 = 10,
       NI_CUDNN_BOOLEAN = 11
};
enum { NI_CUDNN_SUM = 0, NI_CUDNN_LARGEST = 3 };                  /* cudnnReduceTensorOp_t */
enum { NI_CUDNN_MODE_FALLBACK = 2, NI_CUDNN_MODE_A = 3 };         /* cudnnBackendHeurMode_t */
enum { NI_CUDNN_NOTES = 10, NI_CUDNN_NOTE_NONDETERMINISTIC = 4 }; /* cudnnBackendNumericalNote_t */
enum {                                                            /* cudnnPointwiseMode_t */
       NI_CUDNN_ADD = 0,
       NI_CUDNN_MUL = 1,
       NI_CUDNN_DIV = 6,
       NI_CUDNN_SUB = 9,
       NI_CUDNN_EXP = 13,
       NI_CUDNN_LOG = 15,
       NI_CUDNN_IDENTITY = 21,
       NI_CUDNN_NOT_LESS = 303,
       NI_CUDNN_LESS = 304,
       NI_CUDNN_BOTH = 400,
       NI_CUDNN_INDEX = 501,
       NI_CUDNN_SELECT = 601
};

#endif
