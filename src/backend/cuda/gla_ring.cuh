/* gla_ring.cuh: what the scans of gated linear attention by warpgroups share (compute capability 9.0): chunks that come
 * through a ring of stages in shared memory.
 *
 * One thread, of a warp of its own, copies what comes next into the ring; warpgroups multiply, and give a stage back when
 * all have read it. A tile of 64 positions lies in panels of 64 columns, as wgmma reads them.
 */
#ifndef NI_BACKEND_CUDA_GLA_RING_CUH
#define NI_BACKEND_CUDA_GLA_RING_CUH

#include "backend/cuda/gla_chunk.cuh"
#include "backend/cuda/tile_map.cuh"
#include "backend/cuda/tma.cuh"

enum {
    GROUP = 128,         /* threads of a warpgroup */
    GROUP_LANES = 64,    /* rows of its state */
    PANEL = CHUNK * 128, /* bytes */
    STEP = 16 * 128,     /* from sixteen positions of a panel to the next */
};

/* A stage has `bytes`, a multiple of 1024. */
template <int bytes, int stages> struct chunk_ring {
    enum { room = stages * (bytes + 16) };
    uint32_t memory, at, parity;

    __device__ __forceinline__ uint32_t here() const {
        return memory + at * bytes;
    }
    __device__ __forceinline__ uint32_t full() const {
        return memory + stages * bytes + at * 16;
    }
    __device__ __forceinline__ uint32_t free() const {
        return full() + 8;
    }
    __device__ __forceinline__ void advance() {
        if (++at == stages) {
            at = 0;
            parity ^= 1;
        }
    }
    /* For all threads of a block, of which `groups` warpgroups will read. */
    __device__ __forceinline__ void begin(uint32_t where, uint32_t groups) {
        *this = {where, 0, 0};
        if (threadIdx.x == 0) {
            for (; at < stages; at++) {
                barrier_init(full(), 1);
                barrier_init(free(), groups * GROUP);
            }
            barrier_init_fence();
            at = 0;
        }
        __syncthreads();
    }
    /* For who copies: until the stage is free; so much will come. */
    __device__ __forceinline__ void expect(uint32_t coming) const {
        barrier_wait(free(), parity ^ 1);
        barrier_expect(full(), coming);
    }
    /* For warpgroups: until the stage is full, and when it was read. Each thread arrives, for what it loaded itself: an
     * arrival is behind what its own thread did before. */
    __device__ __forceinline__ void wait() const {
        barrier_wait(full(), parity);
    }
    __device__ __forceinline__ void release() const {
        barrier_arrive(free());
    }
};

/* Sixteen columns of a state, rounded: the first operand of a product. */
static __device__ __forceinline__ void round_sixteen(uint32_t (&to)[4], const float (&low)[4], const float (&high)[4]) {
    to[0] = pack_bf16(low[0], low[1]);
    to[1] = pack_bf16(low[2], low[3]);
    to[2] = pack_bf16(high[0], high[1]);
    to[3] = pack_bf16(high[2], high[3]);
}

/* Where the block's shared memory begins, in whole kilobytes; and what lies at such an address. */
static __device__ __forceinline__ uint32_t first_stage(void) {
    return (shared_address(shared_memory()) + 1023) / 1024 * 1024;
}

template <typename T> static __device__ __forceinline__ T *shared_at(uint32_t address) {
    return (T *)(shared_memory() + (address - shared_address(shared_memory())));
}

/* Tiles of a chunk and 64 columns of a matrix of BF16 whose rows lie side by side. */
static inline bool map_chunks(CUtensorMap *map, const bf16 *data, int64_t rows, int64_t columns) {
    nb_mat m = {};
    m.dtype = NB_BF16;
    m.data = (void *)data;
    m.rows = rows;
    m.cols = m.stride = columns;
    return can_map(&m) && tile_encoder() && map_tiles(map, &m, CHUNK);
}
#endif
