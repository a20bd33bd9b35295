/* tma.cuh: copies of tiles by the tensor memory accelerator, barriers that count their bytes, and clusters of blocks, by
 * their PTX names; code only where the target has them (sm_90a, as wgmma.cuh). Addresses of shared memory are those of
 * shared_address(); `map` is a CUtensorMap in a kernel's parameters. */
#ifndef NIBBLE_CUDA_TMA_CUH
#define NIBBLE_CUDA_TMA_CUH

#include "wgmma.cuh"

/* ---- barriers (mbarrier) ---- */

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
#ifdef NIBBLE_WGMMA
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#endif
}

/* Initialized barriers are seen by the other blocks of the cluster and by copies. */
__device__ __forceinline__ void barrier_init_fence() {
#ifdef NIBBLE_WGMMA
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

/* One arrival, and so many bytes more to come in this phase. */
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
#ifdef NIBBLE_WGMMA
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}

/* One arrival, of a thread of the same block. */
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
#ifdef NIBBLE_WGMMA
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}

/* One arrival at the barrier of the same address in a block of the cluster. */
__device__ __forceinline__ void barrier_arrive(uint32_t barrier, uint32_t block) {
#ifdef NIBBLE_WGMMA
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;"
                 " mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(barrier),
                 "r"(block)
                 : "memory");
#endif
}

/* Until the phase of this parity is complete. */
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
#ifdef NIBBLE_WGMMA
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again; }" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
#endif
}

/* ---- tiles ---- */

/* The tile at (column, row) of a matrix, zeros where that is beyond its edge; its bytes arrive at the barrier. */
__device__ __forceinline__ void load_tile(uint32_t to, const void *map, int column, int row, uint32_t barrier) {
#ifdef NIBBLE_WGMMA
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
#endif
}

/* The same into all of `blocks` (a bit each) of the cluster, at the same addresses there. */
__device__ __forceinline__ void load_tile(uint32_t to, const void *map, int column, int row, uint32_t barrier,
                                          uint16_t blocks) {
#ifdef NIBBLE_WGMMA
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
                 "[%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
                 : "memory");
#endif
}

/* `bytes` that lie side by side, a multiple of 16 as both addresses; they arrive at the barrier. */
__device__ __forceinline__ void load_bytes(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier) {
#ifdef NIBBLE_WGMMA
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
#endif
}

/* What lies beyond the edge is not stored. */
__device__ __forceinline__ void store_tile(const void *map, int column, int row, uint32_t from) {
#ifdef NIBBLE_WGMMA
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(column),
                 "r"(row), "r"(from)
                 : "memory");
#endif
}

__device__ __forceinline__ void store_commit() {
#ifdef NIBBLE_WGMMA
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

/* Until this thread's stores have read shared memory, or are done. */
__device__ __forceinline__ void store_wait_read() {
#ifdef NIBBLE_WGMMA
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
}

__device__ __forceinline__ void store_wait() {
#ifdef NIBBLE_WGMMA
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}

/* ---- clusters and warpgroups ---- */

__device__ __forceinline__ uint32_t block_of_cluster() {
    uint32_t rank = 0;
#ifdef NIBBLE_WGMMA
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}

/* All threads of the cluster. */
__device__ __forceinline__ void sync_cluster() {
#ifdef NIBBLE_WGMMA
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
#endif
}

/* The threads of one warpgroup; `name` 1 to 15 is its own. */
__device__ __forceinline__ void sync_warpgroup(int name) {
    asm volatile("bar.sync %0, 128;" ::"r"(name) : "memory");
}

template <int N> __device__ __forceinline__ void take_registers() {
#ifdef NIBBLE_WGMMA
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

template <int N> __device__ __forceinline__ void give_registers() {
#ifdef NIBBLE_WGMMA
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

/* `threads` of the block; `name` as above. */
__device__ __forceinline__ void sync_threads(int name, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

/* Four 8x8 matrices out of fragments of mma's C; lane l gives the address of row l%8 of matrix l/8. */
__device__ __forceinline__ void store_matrix(uint32_t row, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
#ifdef NIBBLE_WGMMA
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(a), "r"(b), "r"(c),
                 "r"(d)
                 : "memory");
#endif
}

/* The same, each matrix turned over: lane l gives the address of its column l%8. */
__device__ __forceinline__ void store_matrix_trans(uint32_t row, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
#ifdef NIBBLE_WGMMA
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(a), "r"(b),
                 "r"(c), "r"(d)
                 : "memory");
#endif
}
#endif
