/* cudnn_room.h: what an attention by cuDNN needs besides the tensors of the table, laid out in one piece of memory. */
#ifndef NI_BACKEND_CUDA_CUDNN_ROOM_H
#define NI_BACKEND_CUDA_CUDNN_ROOM_H

#include "backend/cuda/cudnn.h"
#include "backend/cuda/documents.h"

typedef struct ni_cudnn_room {
    ni_cuda_documents documents; /* most 0: sequences are whole */
    float *stats;                /* of documents: by positions */
    void *foreign, *workspace;   /* from `foreign` to the end is what only the library writes and reads */
    size_t foreign_bytes, bytes; /* of that; of all */
} ni_cudnn_room;

/* Places in `memory` (256-byte aligned; NULL: nothing but `bytes` is asked for), in data[NI_CUDNN_x] too: with those of
 * the table and the scalars, that is every tensor of the shape's graph. `workspace`: bytes of its plan. */
ni_cudnn_room ni_cudnn_place(const ni_cudnn_shape *shape, int64_t workspace, void *memory,
                             void *data[NI_CUDNN_TENSORS]);

#endif
