/* operand_split.c: operands of chosen columns of one matrix, some in MXFP8 and the others in double blocks, as OutControl
 * has them, from one reading (quantize_split.cu), filled up with zeros or not; and MXFP8 of a matrix as it lies, with its
 * codes.
 */
#include "backend/cuda/coded.h"
#include "backend/cuda/operand.h"
#include "backend/ref/operand_parts.h"

static bool are_aligned(const nb_mat *x, const int32_t *columns) {
    const int64_t each = 16 / (int64_t)nb_dtype_size(x->dtype);
    return x->cols % each == 0 && x->stride % each == 0 && ((uintptr_t)x->data | (uintptr_t)columns) % 16 == 0;
}

/* A whole operand of numbers, with or without a list, not rotated, which units of BF16 multiply. */
static bool is_taken(nb_backend *be, const ni_source *source, const ni_making *making) {
    const nb_operand *out = making->out;
    return ni_making_quantizer(making)->hadamard_size == 0 && source->numbers && !source->scale && !source->minus &&
           !source->row_scales && !source->column_scales && !making->transpose && !making->stats && !making->under &&
           !making->past && !making->now && !ni_is_plain(out) && ni_making_is_whole(source, making) &&
           !ni_cuda_is_whole_valued(out) && !ni_cuda_goes_as_pow2(be, out) &&
           ni_cuda_units_of(ni_cuda_of(be), &out->quantizer, &out->other) == NI_UNITS_BF16 &&
           are_aligned(source->numbers, source->columns) && ni_cuda_split_fits(source->numbers);
}

static bool is_eight(nb_backend *be, const ni_source *source, const ni_making *making) {
    return is_taken(be, source, making) && ni_cuda_is_mxfp8(ni_making_quantizer(making)) &&
           making->out->cols % 32 == 0 && ni_cuda_are_codes_read(be, making);
}

static bool is_chosen_double(nb_backend *be, const ni_source *source, const ni_making *making) {
    const nb_quantizer *q = ni_making_quantizer(making);
    return is_taken(be, source, making) && source->columns && ni_is_double(q) && q->round == NB_ROUND_EVEN &&
           making->out->cols % 128 == 0;
}

static bool are_of_one(const ni_source *first, const ni_source *second) {
    const nb_mat *x = first->numbers, *y = second->numbers;
    return first->columns && x->data == y->data && x->dtype == y->dtype && x->stride == y->stride &&
           x->rows == y->rows && x->cols == y->cols;
}

static ni_columns list_of(const ni_source *source) {
    return (ni_columns){source->columns, source->column_count};
}

int32_t ni_cuda_list_split(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                           ni_cuda_split *out) {
    int32_t taken = 0;
    if (!sources->numbers)
        return 0;
    *out = (ni_cuda_split){.numbers = *sources->numbers};
    if (is_eight(be, sources, makings)) {
        out->of_eight = list_of(sources);
        out->eights = makings->out->cols;
        out->eight = ni_cuda_tile_copy_of(be, makings, true);
        taken++;
    }
    if (taken < count && is_chosen_double(be, &sources[taken], &makings[taken]) &&
        (taken == 0 || are_of_one(&sources[0], &sources[1]))) {
        out->of_four = list_of(&sources[taken]);
        out->doubles = makings[taken].out->cols;
        out->four = ni_cuda_tile_copy_of(be, &makings[taken], true);
        taken++;
    }
    return taken;
}

nb_status ni_cuda_make_splits(nb_backend *be, const ni_cuda_split *splits, int count, nb_error *err) {
    const ni_cuda *cuda = ni_cuda_of(be);
    const bool chosen = splits->of_eight.at || splits->of_four.at;
    return ni_cuda_status(be, ni_cuda_quantize_splits(cuda->stream, splits, count, cuda->multiprocessors),
                          chosen ? "quantize: chosen columns in two formats" : "quantize: MXFP8 and its codes", err);
}
