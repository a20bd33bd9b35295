/* gla_scan.h: scans of gated linear attention over chunks, by warpgroups (compute capability 9.0, gla_ring.cuh). */
#ifndef NI_BACKEND_CUDA_GLA_SCAN_H
#define NI_BACKEND_CUDA_GLA_SCAN_H

#include "gla_chunk.cuh"

/* Shapes that gla_values.cu and gla_keys.cu are for. */
bool gla_can_ring_values(const ni_cuda_gla *g);
bool gla_can_ring_keys(const ni_cuda_gla *g);

/* As gla_launch_scan_values; as both scans of keys of gla_backward.cu, the first beside the kernel before it. */
cudaError_t gla_launch_ring_values(const ni_cuda_gla *g, const gla_args &a, bool reverse, void *stream);
cudaError_t gla_launch_ring_keys(const ni_cuda_gla *g, const gla_args &a, void *stream);

#endif
