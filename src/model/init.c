/* init.c: draws parameters: N(0, init_std) for matrices, maybe cut, 1 for norms, 0 for biases, what the family says
 * for factors; those of ngpt are then brought to length 1.
 *
 * Element i of a tensor is a pure function of (seed, name, i): Philox bits through the Box-Muller transform. Logarithm,
 * sine and cosine are written out in additions and multiplications of doubles, which IEEE 754 defines to the bit, so
 * that every machine and every C library starts from the same parameters.
 */
#include "backend/table.h"
#include "model/decoder.h"

#include "base/philox.h"

#include <math.h>
#include <string.h>

/* ln(x) for normal x > 0: x = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1) / (m + 1)). */
static double natural_log(double x) {
    int exponent;
    double m = frexp(x, &exponent);
    if (m < 0.70710678118654752) {
        m *= 2;
        exponent--;
    }
    static const double odd[] = {1,        1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11,
                                 1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21, 1.0 / 23};
    const double s = (m - 1) / (m + 1), s2 = s * s;
    double series = 0;
    for (int n = 11; n >= 0; n--)
        series = series * s2 + odd[n];
    return 2 * s * series + exponent * 0.69314718055994531;
}

/* sin and cos of 2 pi turn / 2^32, by their Taylor series on a quarter of a turn. */
static void sine_and_cosine(uint32_t turn, double *sine, double *cosine) {
    const double a = (double)(turn & 0x3fffffffu) * (1.57079632679489662 / 1073741824.0), a2 = a * a;
#define INVERSE(n) 1.0 / ((n) * ((n) + 1))
    static const double for_sine[] = {INVERSE(2),  INVERSE(4),  INVERSE(6),  INVERSE(8),  INVERSE(10), INVERSE(12),
                                      INVERSE(14), INVERSE(16), INVERSE(18), INVERSE(20), INVERSE(22)};
    static const double for_cosine[] = {INVERSE(1),  INVERSE(3),  INVERSE(5),  INVERSE(7),  INVERSE(9), INVERSE(11),
                                        INVERSE(13), INVERSE(15), INVERSE(17), INVERSE(19), INVERSE(21)};
#undef INVERSE
    double s = 1, c = 1;
    for (int n = 10; n >= 0; n--) {
        s = 1 - s * a2 * for_sine[n];
        c = 1 - c * a2 * for_cosine[n];
    }
    s *= a;
    switch (turn >> 30) {
    case 0:
        *sine = s, *cosine = c;
        break;
    case 1:
        *sine = c, *cosine = -s;
        break;
    case 2:
        *sine = -s, *cosine = -c;
        break;
    default:
        *sine = -c, *cosine = s;
    }
}

static void two_normals(uint32_t a, uint32_t b, double out[2]) {
    const double radius = sqrt(-2 * natural_log(((double)a + 0.5) / 4294967296.0));
    double sine, cosine;
    sine_and_cosine(b, &sine, &cosine);
    out[0] = radius * cosine;
    out[1] = radius * sine;
}

/* What a matrix is drawn from. */
typedef struct drawing {
    uint32_t seed, key;
    double std;
    double cut; /* standard deviations; 0: none */
} drawing;

enum { MOST_DRAWS = 64 }; /* of numbers beyond half a standard deviation one in 10^13 is left */

static void four_normals(const drawing *d, uint64_t group, uint32_t draw, double z[4]) {
    ni_philox_words bits = ni_philox(d->seed, d->key, (uint32_t)group, (uint32_t)(group >> 32), draw, NI_PURPOSE_INIT);
    two_normals(bits.w[0], bits.w[1], z);
    two_normals(bits.w[2], bits.w[3], z + 2);
}

/* Those of the four that lie beyond the cut, from later draws at the same place. */
static void draw_again(const drawing *d, uint64_t group, double z[4]) {
    bool beyond = d->cut > 0;
    for (uint32_t draw = 1; beyond && draw < MOST_DRAWS; draw++) {
        double other[4];
        beyond = false;
        for (int j = 0; j < 4; j++)
            beyond |= fabs(z[j]) > d->cut;
        if (!beyond)
            return;
        four_normals(d, group, draw, other);
        for (int j = 0; j < 4; j++)
            z[j] = fabs(z[j]) > d->cut ? other[j] : z[j];
    }
    for (int j = 0; d->cut > 0 && j < 4; j++)
        z[j] = fmax(-d->cut, fmin(d->cut, z[j]));
}

/* Elements first .. first + count of a matrix; first divides by 4. */
static void draw(double *to, int64_t first, int64_t count, const drawing *d) {
    for (int64_t i = 0; i < count; i += 4) {
        const uint64_t group = (uint64_t)(first + i) / 4;
        double z[4];
        four_normals(d, group, 0, z);
        draw_again(d, group, z);
        for (int64_t j = i; j < count && j < i + 4; j++)
            to[j] = (float)(d->std * z[j - i]); /* the same float in double precision models */
    }
}

enum { PIECE = 1 << 16, SPAN = 1 << 12 }; /* elements uploaded at a time, and drawn by one thread at a time */

typedef struct piece {
    double values[PIECE];
    float rounded[PIECE];
} piece;

/* Elements first .. first + count of a tensor. A number depends on its place alone, so threads may draw in any order.
 */
static void fill(piece *to, const nb_param *p, int64_t first, int64_t count, const drawing *d) {
    const double same = p->start;
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += SPAN) {
        const int64_t end = at + SPAN < count ? at + SPAN : count;
        if (p->rank == 2)
            draw(to->values + at, first + at, end - at, d);
        for (int64_t i = at; i < end; i++) {
            to->values[i] = p->rank == 2 ? to->values[i] : same;
            to->rounded[i] = (float)to->values[i];
        }
    }
}

static void init_tensor(nb_model *model, int32_t index, uint32_t seed, double cut) {
    piece room;
    const nb_param *p = &model->params.list[index];
    const drawing d = {seed, nb_name_hash(p->name, "init"), model->config.init_std, cut};
    const int64_t elements = p->rows * p->cols;
    const bool wide = model->be->real == NB_F64;
    const size_t size = nb_dtype_size(model->be->real);
    uint8_t *to = ni_params_open(&model->params, index);
    if (!to) /* another rank has it */
        return;
    for (int64_t first = 0; first < elements; first += PIECE) {
        const int64_t count = elements - first < PIECE ? elements - first : PIECE;
        fill(&room, p, first, count, &d);
        model->be->ops->upload(model->be, to + (size_t)first * size, wide ? (void *)room.values : (void *)room.rounded,
                               (size_t)count * size);
    }
    ni_params_close(&model->params, index);
}

void nb_model_init_within(nb_model *model, uint32_t seed, double cut) {
    for (int32_t i = 0; i < model->params.count; i++)
        init_tensor(model, i, seed, cut);
    ni_sphere_project(model);
    nb_model_params_changed(model);
}

void nb_model_init(nb_model *model, uint32_t seed) {
    nb_model_init_within(model, seed, 0);
}
