/* canonical.c: codes in the canonical layout, for programs outside: made and decoded by way of an operand, which is
 * what a backend works with.
 */
#include "backend/ref/quantize_parts.h"
#include "backend/table.h"

/* An operand of these codes' shape, in memory of its own. */
static nb_status place(nb_backend *be, const nb_qtensor *codes, nb_operand *out, nb_error *err) {
    if (!be->ops->canonical || !be->ops->take_codes)
        return nb_fail(err, NB_UNSUPPORTED, "backend %s has no quantized operands", be->name);
    *out = (nb_operand){.quantizer = codes->quantizer,
                        .other = codes->quantizer,
                        .rows = codes->rows,
                        .cols = codes->cols,
                        .side = NI_LEFT,
                        .reread = true};
    return ni_backend_take(be, be->ops->operand_bytes(be, out), "an operand", &out->memory, err);
}

nb_status nb_quantize(nb_backend *be, const nb_qtensor *out, const nb_mat *from, bool transpose, const nb_noise *noise,
                      nb_quantize_stats *stats, nb_error *err) {
    nb_operand operand;
    NB_TRY(ni_check_source(from, err));
    NB_TRY(ni_check_quantize(out, from->rows, from->cols, transpose, noise, err));
    NB_TRY(place(be, out, &operand, err));
    void *counted = NULL;
    nb_status status = stats ? ni_backend_take(be, sizeof *stats, "what is counted", &counted, err) : NB_OK;
    const ni_making making = {.out = &operand, .transpose = transpose, .shown = true, .noise = noise, .stats = counted};
    if (status == NB_OK)
        status = be->ops->make_operands(be, &(ni_source){.numbers = from}, &making, 1, err);
    if (status == NB_OK)
        status = be->ops->canonical(be, out, &operand, err);
    if (status == NB_OK && stats)
        status = nb_backend_read(be, stats, counted, sizeof *stats, err);
    nb_backend_release(be, counted);
    be->ops->release(be, operand.memory);
    return status;
}

nb_status nb_dequantize(nb_backend *be, const nb_mat *out, const nb_qtensor *from, nb_error *err) {
    nb_operand operand;
    NB_TRY(ni_check_dequantize(out, from, false, err));
    NB_TRY(place(be, from, &operand, err));
    nb_status status = be->ops->take_codes(be, &operand, from, err);
    if (status == NB_OK)
        status = be->ops->decode(be, out, &operand, false, NULL, true, err);
    be->ops->release(be, operand.memory);
    return status;
}
