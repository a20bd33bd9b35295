/* quantize_tile.cu: NVFP4 under a tensor scale, from one reading of a BF16 matrix straight into what a product reads:
 *
 *     the row copy      blocks along the rows of the source
 *     the column copy   blocks down its columns, rotated or not: what a product over the rows reads. Its values lie as
 *                       the source lies ([contraction, rows of the operand]), so nothing is transposed
 *
 * A block of 128 threads takes a tile of 16 x 256: rows are encoded out of the registers that were read, columns out of
 * shared memory, two a thread. Values are code x block scale, exact in BF16. Codes and scale bytes in the canonical
 * layout are written where somebody asks for them. Memory and instructions bind it about alike, so both are counted:
 *
 *     scale        encode factors of all 128 bytes stand in a table, so nobody divides
 *     rotation     the factor of 1/4 is folded into the table where a tensor is tame (tile.cuh)
 *     the rest     two numbers an instruction wherever BF16 holds them exactly
 *
 * Bits are those of quantize.cu.
 */
#include "backend/cuda/alphas.cuh"
#include "backend/cuda/follow.cuh"
#include "backend/cuda/tile_copy.cuh"

/* ---- a tile ---- */

/* Copies of all matrices of one launch. */
typedef struct scale_list {
    ni_cuda_tile_copy at[2 * NI_CUDA_TILE_MATRICES];
    ni_cuda_alphas alphas;
} scale_list;

/* One block: all copies' scales, once for all tiles. Maxima that were found for them make room for the next. Who follows may
 * read what was written before this kernel, so that comes to its end first. */
static __global__ void __launch_bounds__(2 * NI_CUDA_TILE_MATRICES * NI_TILE_THREADS)
    set_tile_scales(ni_tile_room *rooms, const __grid_constant__ scale_list list) {
    const int which = threadIdx.x / NI_TILE_THREADS, first = threadIdx.x % NI_TILE_THREADS;
    const ni_cuda_tile_copy &copy = list.at[which];
    ni_tile_room *const room = (ni_tile_room *)((char *)rooms + which / 2 * NI_CUDA_TILE_ROOM);
    const bool exists = copy.values;
    ni_wait_for_it();
    ni_let_follow();
    const ni_cuda_factors pair = ni_first_pair(list.alphas);
    ni_tensor_scale t = {};
    bool tame = false;
    if (exists) {
        t = ni_tile_scale(copy);
        tame = ni_is_tame(copy);
        if (first == 0)
            ni_leave_scale(copy, t);
    }
    __syncthreads();
    ni_multiply_alphas(list.alphas, pair);
    if (threadIdx.x < 2)
        rooms->amax[threadIdx.x] = 0;
    if (!exists)
        return;
    const nb_quantizer &q = copy.quantizer;
    const float factor = tame ? ni_turn_factor(q.hadamard_size) : 1.0f;
    const float of_table = tame ? factor * ni_table_factor(q.round == NB_ROUND_STOCHASTIC ? q.sr_bits : 0) : 1.0f;
    ni_tile_scale_of_copy *to = &room->copies[which % 2];
    ni_fill_table(to->table, t.sdec, of_table, first, NI_TILE_THREADS);
    if (first == 0) {
        const ni_noise_key key = ni_tile_noise(copy.noise);
        to->s_inner = ni_f32_mul(t.s_inner, factor);
        to->tame = tame;
        to->most_tame = ni_most_tame(copy);
        to->drawn = ni_philox_share(&copy.keys, key.step, key.micro_batch);
    }
}

/* Roundings: -1 no such copy, 0 to nearest, 8 or 16 random bits. */
template <int ROWS, int COLUMNS, int TURN>
static __global__ void __launch_bounds__(NI_TILE_THREADS, NI_TILE_BLOCKS)
    quantize_tiles(const __grid_constant__ ni_cuda_tile_source s, const ni_tile_room *room,
                   const __grid_constant__ ni_cuda_tile_copy row, const __grid_constant__ ni_cuda_tile_copy column) {
    __shared__ __align__(16) uint32_t tile[COLUMNS >= 0 ? NI_TILE_ROWS * NI_TILE_PITCH : 4];
    __shared__ ni_scale_entry row_table[ROWS >= 0 ? NI_TILE_BYTES : 1], column_table[COLUMNS >= 0 ? NI_TILE_BYTES : 1];
    __shared__ ni_known_amaxes known; /* of the row copy and the column copy */
    const int64_t r0 = ni_tile_row(s.rows);
    const int vector = threadIdx.x % NI_TILE_VECTORS, first = threadIdx.x / NI_TILE_VECTORS;
    const int64_t c = (int64_t)blockIdx.x * NI_TILE_COLS + 8 * vector;
    const bool live = c < s.cols;
    const uint32_t stride = 2 * (uint32_t)s.stride;
    uint4 in[4];
    if (r0 < 0)
        return;
    /* Who is beyond the end of a row reads its beginning and leaves nothing. */
    const uint64_t from = ni_row_at(ni_global(s.numbers + (live ? c : 0)), (uint32_t)r0 + first, stride);
#pragma unroll
    for (int i = 0; i < 4; i++)
        in[i] = ni_load_words(ni_row_at(from, 4 * i, stride));
    ni_wait_for_it();
    const uint32_t word = ni_ask_amaxes<0>(row.now, column.now);
    if (ROWS >= 0)
        row_table[threadIdx.x] = room->copies[0].table[threadIdx.x];
    if (COLUMNS >= 0)
        column_table[threadIdx.x] = room->copies[1].table[threadIdx.x];
    if (COLUMNS >= 0)
#pragma unroll
        for (int i = 0; i < 4; i++)
            *(uint4 *)&tile[(first + 4 * i) * NI_TILE_PITCH + 4 * vector] = in[i];
    bool wild = false;
    if (row.past || row.now || column.past || column.now) {
        uint32_t pairs = 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
            pairs = ni_larger_pair(ni_larger_pair(ni_larger_pair(ni_larger_pair(pairs, in[i].x), in[i].y), in[i].z),
                                   in[i].w);
        const uint32_t largest = ni_larger_half(pairs), most = min(ROWS >= 0 ? room->copies[0].most_tame : ~0u,
                                                                   COLUMNS >= 0 ? room->copies[1].most_tame : ~0u);
        ni_tell_amaxes<0>(&known, word);
        wild = ni_is_any_wild(largest, most);
        if (row.now)
            ni_join_known(row.now, largest, known.plain);
    } else {
        __syncthreads();
    }
    if (ROWS >= 0) {
        const ni_copying rows = {row, row_table, room->copies[0].s_inner, room->copies[0].drawn, room->copies[0].tame};
        if (room->copies[0].tame && !wild)
            ni_encode_rows<ROWS, true>(rows, in, r0 + first, c, s.cols, live);
        else
            ni_encode_rows<ROWS, false>(rows, in, r0 + first, c, s.cols, live);
    }
    if (COLUMNS >= 0) {
        const int64_t pair = (int64_t)blockIdx.x * NI_TILE_COLS + 2 * threadIdx.x;
        const ni_copying columns = {column, column_table, room->copies[1].s_inner, room->copies[1].drawn,
                                    room->copies[1].tame};
        uint32_t signs = 0, largest = 0;
        if (TURN == NI_AS_IT_SAYS) {
            const ni_noise_key key = ni_tile_noise(column.noise);
            signs = ni_signs_of(column.quantizer.hadamard_signs, &key).w[0];
        }
        if (pair < s.cols)
            largest =
                room->copies[1].tame && !wild
                    ? ni_encode_columns<COLUMNS, TURN, true>(columns, tile + threadIdx.x, s.rows, r0, pair, signs)
                    : ni_encode_columns<COLUMNS, TURN, false>(columns, tile + threadIdx.x, s.rows, r0, pair, signs);
        __syncwarp();
        if (column.now)
            ni_join_known(column.now, largest, known.turned);
    }
}

/* ---- which kernel ---- */

static int rounding_of(const ni_cuda_tile_copy *copy) {
    if (!copy)
        return -1;
    return copy->quantizer.round == NB_ROUND_STOCHASTIC ? copy->quantizer.sr_bits : 0;
}

static int turn_of(const ni_cuda_tile_copy *copy) {
    const nb_quantizer *q = &copy->quantizer;
    if (q->hadamard_size == 0)
        return NI_NOT_TURNED;
    return q->hadamard_signs == NB_SIGNS_FIXED && q->hadamard_round_bf16 ? NI_FIXED_AND_ROUNDED : NI_AS_IT_SAYS;
}

typedef void tile_kernel(ni_cuda_tile_source, const ni_tile_room *, ni_cuda_tile_copy, ni_cuda_tile_copy);

template <int ROWS, int COLUMNS> static tile_kernel *turned(int turn) {
    return turn == NI_NOT_TURNED          ? quantize_tiles<ROWS, COLUMNS, NI_NOT_TURNED>
           : turn == NI_FIXED_AND_ROUNDED ? quantize_tiles<ROWS, COLUMNS, NI_FIXED_AND_ROUNDED>
                                          : quantize_tiles<ROWS, COLUMNS, NI_AS_IT_SAYS>;
}

/* NULL: no kernel makes these two at once. */
static tile_kernel *kernel_of(int rows, int columns, int turn) {
    if (columns < 0)
        return rows == 0   ? quantize_tiles<0, -1, NI_NOT_TURNED>
               : rows == 8 ? quantize_tiles<8, -1, NI_NOT_TURNED>
                           : quantize_tiles<16, -1, NI_NOT_TURNED>;
    if (rows < 0)
        return columns == 0 ? turned<-1, 0>(turn) : columns == 8 ? turned<-1, 8>(turn) : turned<-1, 16>(turn);
    if (rows == 0 && columns == 0)
        return turned<0, 0>(turn);
    return rows == 8 && columns == 8 ? turned<8, 8>(turn) : NULL;
}

int ni_cuda_set_tile_scales(void *stream, void *rooms, const ni_cuda_both_copies *copies, int count) {
    scale_list list = {};
    for (int i = 0; i < count; i++) {
        list.at[2 * i] = copies[i].row;
        list.at[2 * i + 1] = copies[i].column;
    }
    list.alphas = copies->row.values ? copies->row.alphas : copies->column.alphas;
    return ni_launch_following((cudaStream_t)stream, set_tile_scales, dim3(1), 2 * NI_TILE_THREADS * (unsigned)count, 0,
                               (ni_tile_room *)rooms, list);
}

int ni_cuda_quantize_tiles(void *stream, void *room, const ni_cuda_tile_source *s, const ni_cuda_tile_copy *row,
                           const ni_cuda_tile_copy *column) {
    enum { MOST_STRIDE = INT32_MAX / 2 }; /* rows' bytes are multiplied as 32 bits */
    cudaStream_t on = (cudaStream_t)stream;
    ni_tile_room *const scales = (ni_tile_room *)room;
    const ni_cuda_tile_copy none = {}, &r = row ? *row : none, &c = column ? *column : none;
    const int rows = rounding_of(row), columns = rounding_of(column), turn = column ? turn_of(column) : NI_NOT_TURNED;
    const dim3 grid = ni_band_grid(ni_divide_up(s->cols, NI_TILE_COLS), s->rows / NI_TILE_ROWS);
    tile_kernel *both = kernel_of(rows, columns, turn);
    if (s->rows > INT32_MAX || s->stride > MOST_STRIDE || r.stride > MOST_STRIDE || c.stride > MOST_STRIDE)
        return cudaErrorInvalidValue;
    const ni_cuda_both_copies copies = {r, c};
    const int code = ni_cuda_set_tile_scales(stream, room, &copies, 1);
    if (code != cudaSuccess)
        return code;
    if (both)
        return ni_launch_following(on, both, grid, NI_TILE_THREADS, 0, *s, scales, r, c);
    kernel_of(rows, -1, NI_NOT_TURNED)<<<grid, NI_TILE_THREADS, 0, on>>>(*s, scales, r, c);
    kernel_of(-1, columns, turn)<<<grid, NI_TILE_THREADS, 0, on>>>(*s, scales, r, c);
    return cudaGetLastError();
}
