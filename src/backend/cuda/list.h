/* list.h: how many tensors go in one launch, as a list among the kernel's arguments (list.cuh): these are 4 KB at most.
 */
#ifndef NI_BACKEND_CUDA_LIST_H
#define NI_BACKEND_CUDA_LIST_H

enum { NI_CUDA_LIST_MOST = 48 };

#endif
