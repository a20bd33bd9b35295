/* crests.h: what is told of maps of crests and of scales. */
#ifndef NI_BACKEND_CUDA_CRESTS_H
#define NI_BACKEND_CUDA_CRESTS_H

#include "backend/arguments.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { NI_CUDA_CREST_MAPS = 100 }; /* of a launch: 3600 bytes of its parameters */
typedef struct ni_cuda_crest_maps {
    ni_crest_map at[NI_CUDA_CREST_MAPS];
    uint32_t rank[NI_CUDA_CREST_MAPS];
} ni_cuda_crest_maps;

int ni_cuda_launch_crests(void *stream, const ni_crest_map *maps, int32_t count);
int ni_cuda_launch_count_scales(void *stream, int64_t *counts, const uint8_t *scales, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
