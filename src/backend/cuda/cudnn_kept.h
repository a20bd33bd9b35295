/* cudnn_kept.h: plans of cuDNN that are kept, one a shape; where all places are taken, the one goes that was asked for
 * longest ago. A run has one or two shapes; a caller whose sequences grow one by one has as many as it likes. */
#ifndef NI_BACKEND_CUDA_CUDNN_KEPT_H
#define NI_BACKEND_CUDA_CUDNN_KEPT_H

#include "backend/cuda/cudnn.h"

enum { NI_CUDNN_KEPT = 64 };

typedef struct ni_cudnn_kept {
    ni_cudnn_shape shape;
    ni_cudnn_plan plan; /* plan NULL: the library has none */
    char why[320];      /* then: why */
    uint64_t asked;     /* when it was asked for last; 0: a free place */
} ni_cudnn_kept;

typedef struct ni_cudnn_kept_list {
    ni_cudnn_kept places[NI_CUDNN_KEPT];
    uint64_t questions;
} ni_cudnn_kept_list;

/* The place of this shape. *found: it is the one that was filled before. Else it is for the caller to fill, its shape is
 * set, its `why` empty, and its plan is that of the shape that gives way (NULL: of none), for the caller to free. */
ni_cudnn_kept *ni_cudnn_kept_find(ni_cudnn_kept_list *list, const ni_cudnn_shape *shape, bool *found);

#endif
