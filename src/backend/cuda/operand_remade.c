/* operand_remade.c: W of dgrad made anew of the codes of many layers, or of their parts (quantize_remade.cu). */
#include "backend/cuda/coded.h"
#include "backend/cuda/operand.h"
#include "backend/ref/operand_parts.h"

/* Values of a whole operand, the other way up. */
static bool is_taken(nb_backend *be, const ni_making *making, int64_t rows, int64_t cols) {
    const nb_operand *out = making->out;
    return making->transpose && !making->stats && !making->under && !making->past && !making->now && making->at == 0 &&
           !ni_is_plain(out) && !ni_cuda_is_whole_valued(out) && !ni_cuda_are_codes_read(be, making) &&
           (!making->quantizer || nb_quantizer_equal(making->quantizer, &out->quantizer)) && out->rows == cols &&
           out->cols == rows;
}

static bool has_codes(const nb_operand *o) {
    return !(o->form & NI_CUDA_UNCODED);
}

static bool take_codes(const nb_operand *from, const nb_operand *out, ni_cuda_remade *r) {
    if (!ni_remakes_double(out, from) || !has_codes(from))
        return false;
    r->rows = from->rows;
    r->cols = from->cols;
    r->doubles = ni_codes_of(from);
    return true;
}

/* MXFP8 first, double blocks behind it. */
static bool take_parts(const ni_parts *parts, const nb_operand *out, ni_cuda_remade *r) {
    const nb_operand *eights = parts->codes[0], *doubles = parts->codes[1];
    nb_operand whole;
    if (parts->count != 2 || !parts->places || !ni_cuda_is_mxfp8(&eights->quantizer) || eights->quantizer.hadamard_size)
        return false;
    whole = *doubles;
    whole.cols = parts->cols;
    if (!ni_remakes_double(out, &whole) || doubles->quantizer.hadamard_size || !has_codes(doubles) ||
        !has_codes(eights))
        return false;
    r->rows = parts->rows;
    r->cols = parts->cols;
    r->eights = ni_codes_of(eights);
    r->doubles = ni_codes_of(doubles);
    r->places = parts->places;
    return true;
}

bool ni_cuda_list_remade(nb_backend *be, const ni_source *source, const ni_making *making, ni_cuda_remade *out) {
    const nb_operand *from = source->operand;
    *out = (ni_cuda_remade){.places = NULL};
    if (source->parts ? !take_parts(source->parts, making->out, out)
                      : !from || !ni_source_is_simple(source) || !take_codes(from, making->out, out))
        return false;
    if (!is_taken(be, making, out->rows, out->cols))
        return false;
    out->copy = ni_cuda_tile_copy_of(be, making, false);
    return true;
}

nb_status ni_cuda_make_remade(nb_backend *be, const ni_cuda_remade *list, int count, nb_error *err) {
    for (int begin = 0, end; begin < count; begin = end) {
        for (end = begin + 1; end < count && end - begin < NI_CUDA_REMADE; end++)
            if (!ni_cuda_remade_alike(&list[begin], &list[end]))
                break;
        NB_TRY(ni_cuda_status(
            be, ni_cuda_quantize_remade(ni_cuda_of(be)->stream, list + begin, end - begin),
            list[begin].places ? "quantize: double blocks anew of parts" : "quantize: double blocks anew", err));
    }
    return NB_OK;
}
