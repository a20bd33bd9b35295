/* cast.c: numbers from one type to another. */
#include "backend/ref/ref.h"
#include "format/bf16.h"

static double load(const void *from, nb_dtype type, int64_t i) {
    switch (type) {
    case NB_F32:
        return ((const float *)from)[i];
    case NB_BF16:
        return nb_bf16_to_f32(((const uint16_t *)from)[i]);
    default:
        return ((const double *)from)[i];
    }
}

static void store(void *to, nb_dtype type, int64_t i, double value) {
    switch (type) {
    case NB_F32:
        ((float *)to)[i] = (float)value;
        break;
    case NB_BF16:
        ((uint16_t *)to)[i] = nb_bf16_from_f64(value);
        break;
    default:
        ((double *)to)[i] = value;
        break;
    }
}

void nb_ref_cast(nb_backend *be, void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n) {
    (void)be;
    for (int64_t i = 0; i < n; i++)
        store(to, to_type, i, load(from, from_type, i));
}
