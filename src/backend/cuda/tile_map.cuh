/* tile_map.cuh: how the tensor memory accelerator is told of a matrix whose tiles it copies (tma.cuh). */
#ifndef NI_BACKEND_CUDA_TILE_MAP_CUH
#define NI_BACKEND_CUDA_TILE_MAP_CUH

#include "nibble/backend.h"

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>
#include <stdint.h>

static PFN_cuTensorMapEncodeTiled_v12000 tile_encoder(void) {
    static PFN_cuTensorMapEncodeTiled_v12000 found = NULL;
    if (!found) {
        void *entry = NULL;
        cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
        const cudaError_t code =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result);
#else
        const cudaError_t code = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &result);
#endif
        if (code == cudaSuccess && result == cudaDriverEntryPointSuccess)
            found = (PFN_cuTensorMapEncodeTiled_v12000)entry;
    }
    return found;
}

/* Tiles of `rows` rows of 128 bytes of a matrix of BF16 or bytes. */
static bool map_tiles(CUtensorMap *map, const nb_mat *m, int rows) {
    const bool wide = m->dtype == NB_BF16;
    const cuuint64_t size[2] = {(cuuint64_t)m->cols, (cuuint64_t)m->rows},
                     stride[1] = {(cuuint64_t)m->stride * (wide ? 2 : 1)};
    const cuuint32_t box[2] = {wide ? 64u : 128u, (cuuint32_t)rows}, step[2] = {1, 1};
    return tile_encoder()(map, wide ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, m->data,
                          size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Addresses and strides in multiples of 16 bytes. */
static bool can_map(const nb_mat *m, bool bytes = false) {
    const bool known = bytes ? m->dtype == NB_E4M3 || m->dtype == NB_E5M2 : m->dtype == NB_BF16;
    return known && (uintptr_t)m->data % 16 == 0 && m->stride % (bytes ? 16 : 8) == 0 && m->rows > 0 && m->cols > 0 &&
           m->rows < INT32_MAX && m->cols < INT32_MAX;
}

#endif
