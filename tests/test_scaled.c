/* test_scaled.c: tensors that live in few bits under one scale: casts, sums, AdamW on them (arXiv:2310.18313). */
#include "backend/table.h"
#include "harness.h"

#include "backend/cpu/cpu.h"
#include "backend/ref/ref.h"
#include "backend/ref/scaled.h"
#include "format/narrow.h"

static const nb_dtype types[] = {NB_F32, NB_BF16, NB_F16, NB_E4M3, NB_E5M2};
enum { TYPES = sizeof types / sizeof *types };

static nb_backend *cpu(nb_isa isa, int32_t threads) {
    nb_backend_options options = {threads, isa};
    nb_backend *be = NULL;
    assert_int_equal(nb_backend_open("cpu", &options, &be, NULL), NB_OK);
    return be;
}

static bool has_scale(nb_dtype type) {
    return ni_narrow_max(type) > 0;
}

static ni_scaled tensor(nb_dtype type, nb_scale_rule rule, int64_t n) {
    ni_scaled t = {.data = poisoned((size_t)n * nb_dtype_size(type)), .dtype = type, .rule = rule};
    if (has_scale(type)) {
        t.scale = poisoned(sizeof *t.scale);
        *t.scale = 1;
    }
    return t;
}

static ni_scaled copy_of(const ni_scaled *from, int64_t n) {
    ni_scaled t = tensor(from->dtype, from->rule, n);
    memcpy(t.data, from->data, (size_t)n * nb_dtype_size(from->dtype));
    if (t.scale && from->scale)
        *t.scale = *from->scale;
    return t;
}

static float *floats(uint32_t stream, int64_t n, double std) {
    float *x = poisoned((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(std * normal(stream, i) * exp2(6 * normal(stream + 1000, i))); /* heavy tails, small and large */
    return x;
}

static void same_tensor(const char *what, const ni_scaled *got, const ni_scaled *want, int64_t n) {
    check_equal_bytes(what, got->data, want->data, (size_t)n * nb_dtype_size(got->dtype));
    assert_true(!got->scale == !want->scale);
    if (got->scale && want->scale)
        check_equal_bytes(what, got->scale, want->scale, sizeof *got->scale);
}

/* ---- every way of computing gives the same bits ---- */

#define FOR_BACKENDS(be)                                                                                               \
    for (nb_isa isa_ = NB_ISA_PORTABLE; isa_ <= NB_ISA_AVX512 && ni_isa_available(isa_); isa_++)                       \
        for (int32_t threads_ = 1; threads_ <= 3; threads_ += 2)                                                       \
            for (nb_backend *be = cpu(isa_, threads_); be; nb_backend_free(be), be = NULL)

/* Every code, and every float that rounds near one: what the lanes do is what one number's code does. */
static void lanes_round_as_one_number_does(void **state) {
    (void)state;
    enum { N = 1 << 18 };
    float *x = poisoned(N * sizeof *x), *back = poisoned(N * sizeof *back);
    for (int t = 1; t < TYPES; t++) {
        /* All bit patterns in steps that no exponent hides from; Inf, NaN and subnormals are among them. */
        for (uint32_t i = 0; i < N; i++)
            x[i] = ni_f32_from(i * 16381u);
        ni_scaled want = tensor(types[t], NB_RULE_POW2, N), got = tensor(types[t], NB_RULE_POW2, N);
        for (int64_t i = 0; i < N; i++)
            ni_narrow_store(want.data, types[t], i, x[i]);
        FOR_BACKENDS(be) {
            /* Numbers under scale 1: the sum with zeros is the number, rounded. */
            ni_scaled wide = {.data = x, .dtype = NB_F32}, zero = {.data = zeros(N), .dtype = NB_F32};
            ni_scaled bare = {.data = got.data, .dtype = types[t]};
            be->ops->scaled_add(be, &bare, &wide, &zero, N);
            for (int64_t i = 0; i < N; i++)
                if (memcmp((char *)got.data + (size_t)i * nb_dtype_size(types[t]),
                           (char *)want.data + (size_t)i * nb_dtype_size(types[t]), nb_dtype_size(types[t])) != 0 &&
                    !isnan(ni_narrow_load(want.data, types[t], i)))
                    fail_msg("%s of %.9g: %.9g, expected %.9g", nb_dtype_name(types[t]), (double)x[i],
                             (double)ni_narrow_load(got.data, types[t], i),
                             (double)ni_narrow_load(want.data, types[t], i));
            be->ops->scaled_decode(be, back, &bare, N);
            for (int64_t i = 0; i < N; i++) {
                float value = ni_narrow_load(want.data, types[t], i);
                assert_true(ni_f32_bits(value) == ni_f32_bits(back[i]) || (isnan(value) && isnan(back[i])));
            }
        }
        for (uint32_t code = 0; code < (nb_dtype_size(types[t]) == 1 ? 256u : 65536u); code++) {
            if (nb_dtype_size(types[t]) == 1)
                ((uint8_t *)want.data)[code] = (uint8_t)code;
            else
                ((uint16_t *)want.data)[code] = (uint16_t)code;
        }
        FOR_BACKENDS(be) {
            ni_scaled bare = {.data = want.data, .dtype = types[t]};
            int64_t n = nb_dtype_size(types[t]) == 1 ? 256 : 65536;
            be->ops->scaled_decode(be, back, &bare, n);
            for (int64_t i = 0; i < n; i++) {
                float value = ni_narrow_load(want.data, types[t], i);
                assert_true(ni_f32_bits(value) == ni_f32_bits(back[i]) || (isnan(value) && isnan(back[i])));
            }
        }
    }
}

static const int64_t lengths[] = {1, 15, 1000, 40001};

static void casts_and_sums_equal_the_reference(void **state) {
    (void)state;
    for (int t = 0; t < 2 * TYPES; t++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            const nb_dtype type = types[t % TYPES];
            const nb_scale_rule rule = t < TYPES ? NB_RULE_POW2 : NB_RULE_ABSMAX;
            const int64_t n = lengths[l];
            float *x = floats(1, n, 3e-4), *y = floats(2, n, 1e-3), *wide[2] = {floats(3, n, 1), floats(3, n, 1)};
            ni_scaled a = tensor(type, rule, n), b = tensor(type, rule, n), sum = tensor(type, rule, n);
            ni_ref_scaled_encode(NULL, &a, x, n);
            ni_ref_scaled_encode(NULL, &b, y, n);
            ni_ref_scaled_decode(NULL, wide[0], &a, n);
            ni_ref_scaled_add(NULL, &sum, &a, &b, n);
            double squares, got_squares;
            ni_ref_scaled_sum_squares(NULL, &squares, &sum, n);
            ni_scaled shared[2] = {copy_of(&a, n), copy_of(&b, n)};
            for (int i = 0; i < 2 && b.scale; i++)
                ni_ref_scaled_rescale(NULL, &shared[i], 3 * *b.scale, n);
            ni_scaled joined = copy_of(&shared[0], n);
            ni_ref_scaled_join(NULL, &joined, &shared[1], n);
            FOR_BACKENDS(be) {
                ni_scaled got = tensor(type, rule, n);
                be->ops->scaled_encode(be, &got, x, n);
                same_tensor("encode", &got, &a, n);
                be->ops->scaled_decode(be, wide[1], &a, n);
                check_equal_bytes("decode", wide[1], wide[0], (size_t)n * sizeof(float));
                be->ops->scaled_add(be, &got, &a, &b, n);
                same_tensor("sum", &got, &sum, n);
                ni_scaled in_place = copy_of(&a, n);
                be->ops->scaled_add(be, &in_place, &in_place, &b, n);
                same_tensor("sum in place", &in_place, &sum, n);
                be->ops->scaled_sum_squares(be, &got_squares, &sum, n);
                assert_true(fabs(got_squares / squares - 1) < 1e-12);
                if (!has_scale(type))
                    continue;
                ni_scaled again = copy_of(&a, n);
                be->ops->scaled_rescale(be, &again, 3 * *b.scale, n);
                same_tensor("rescale", &again, &shared[0], n);
                be->ops->scaled_join(be, &again, &shared[1], n);
                same_tensor("join", &again, &joined, n);
            }
        }
}

static const ni_adamw update = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.5, .step = 3};

static void adamw_equals_the_reference(void **state) {
    (void)state;
    const struct {
        nb_dtype param, m, v, grad;
    } mixes[] = {{NB_F32, NB_F32, NB_F32, NB_F32},
                 {NB_F32, NB_E4M3, NB_F16, NB_E4M3},
                 {NB_F16, NB_E4M3, NB_F16, NB_E4M3},
                 {NB_F32, NB_BF16, NB_BF16, NB_F32},
                 {NB_F16, NB_E5M2, NB_F32, NB_F16}};
    for (size_t mix = 0; mix < sizeof mixes / sizeof *mixes; mix++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            const int64_t n = lengths[l];
            float *x[4] = {floats(1, n, 0.02), floats(2, n, 1e-4), floats(3, n, 1e-3), floats(4, n, 1e-3)};
            for (int64_t i = 0; i < n; i++)
                x[2][i] *= x[2][i];
            ni_scaled t[4] = {tensor(mixes[mix].param, NB_RULE_POW2, n), tensor(mixes[mix].m, NB_RULE_POW2, n),
                              tensor(mixes[mix].v, NB_RULE_POW2, n), tensor(mixes[mix].grad, NB_RULE_ABSMAX, n)};
            ni_scaled want[3];
            for (int i = 0; i < 4; i++)
                ni_ref_scaled_encode(NULL, &t[i], x[i], n);
            for (int i = 0; i < 3; i++)
                want[i] = copy_of(&t[i], n);
            const ni_adamw_tensor by_reference = {want[0], want[1], want[2], t[3], n, 0.1, NULL, NULL};
            ni_ref_f32_adamw(NULL, &by_reference, 1, &update);
            float *left = floats(1, n, 1);
            ni_ref_scaled_decode(NULL, left, &want[0], n);
            uint16_t *want_copy = poisoned((size_t)n * sizeof *want_copy);
            ni_ref_cast(NULL, want_copy, NB_BF16, left, NB_F32, n);
            uint32_t want_amax = 0;
            for (int64_t i = 0; i < n; i++)
                want_amax = ni_f32_magnitude(left[i]) > want_amax ? ni_f32_magnitude(left[i]) : want_amax;
            FOR_BACKENDS(be) {
                ni_scaled got[3] = {copy_of(&t[0], n), copy_of(&t[1], n), copy_of(&t[2], n)};
                uint16_t *copy = poisoned((size_t)n * sizeof *copy);
                uint32_t amax = 1;
                const ni_adamw_tensor list[] = {{got[0], got[1], got[2], t[3], n, 0.1, copy, &amax}};
                be->ops->adamw(be, list, 1, &update);
                check_equal_bytes("copy of the parameters", copy, want_copy, (size_t)n * sizeof *copy);
                assert_int_equal(amax, want_amax);
                for (int i = 0; i < 3; i++)
                    same_tensor("adamw", &got[i], &want[i], n);
                if (mix > 0)
                    continue;
                const ni_adamw_tensor plain = ni_adamw_plain(NB_F32, x[0], x[1], x[2], x[3], n, 0.1);
                ni_ref_f32_adamw(NULL, &plain, 1, &update); /* nothing narrow: AdamW itself */
                check_equal_bytes("adamw in f32", got[0].data, x[0], (size_t)n * sizeof(float));
                for (int i = 0; i < 3; i++)
                    memcpy(x[i], t[i].data, (size_t)n * sizeof(float));
            }
        }
}

/* ---- by hand ---- */

static void scales_by_hand(void **state) {
    (void)state;
    nb_backend *be = cpu(NB_ISA_AUTO, 1);
    const float x[] = {3, -1.5f, 0.01f, 0};
    ni_scaled t = tensor(NB_E4M3, NB_RULE_POW2, 4);
    be->ops->scaled_encode(be, &t, x, 4); /* 448/3 = 149.3: 128 */
    assert_true(*t.scale == 1.0f / 128);
    const uint8_t *codes = t.data;
    assert_true(ni_e4m3_value(codes[0]) == 384 && ni_e4m3_value(codes[1]) == -192); /* 3*128, -1.5*128 */
    assert_true(ni_e4m3_value(codes[2]) == 1.25f && codes[3] == 0);                 /* 1.28 lies in [1.25, 1.375] */
    ni_scaled whole = tensor(NB_E4M3, NB_RULE_ABSMAX, 4);
    be->ops->scaled_encode(be, &whole, x, 4);
    assert_true(*whole.scale == 1.0f / (448.0f / 3.0f) && ((uint8_t *)whole.data)[0] == 0x7e);
    ni_scaled half = tensor(NB_F16, NB_RULE_POW2, 4);
    be->ops->scaled_encode(be, &half, x, 4); /* 65504/3 = 21834.7: 16384 */
    assert_true(*half.scale == 1.0f / 16384 && ni_fp16_value(((uint16_t *)half.data)[0]) == 49152);
    /* 3 + 3 = 6 needs half the scale; 0.01 rounded is 1.25/128, twice that 1.25/64. */
    be->ops->scaled_add(be, &t, &t, &t, 4);
    assert_true(*t.scale == 1.0f / 64 && ni_e4m3_value(codes[0]) == 384 && ni_e4m3_value(codes[2]) == 1.25f);
    nb_backend_free(be);
}

static void zeros_and_numbers_that_are_none(void **state) {
    (void)state;
    nb_backend *be = cpu(NB_ISA_AUTO, 1);
    const float nothing[] = {0, -0.0f, 0}, bad[] = {1, INFINITY, -1}, worse[] = {1, NAN, -INFINITY};
    float back[3];
    for (int i = 1; i < TYPES; i++) {
        ni_scaled t = tensor(types[i], NB_RULE_POW2, 3);
        double squares;
        be->ops->scaled_encode(be, &t, nothing, 3);
        be->ops->scaled_decode(be, back, &t, 3);
        assert_true(back[0] == 0 && back[1] == 0 && back[2] == 0 && (!t.scale || *t.scale == 1));
        be->ops->scaled_encode(be, &t, bad, 3);
        be->ops->scaled_decode(be, back, &t, 3);
        assert_true(!isfinite(back[1]));
        be->ops->scaled_sum_squares(be, &squares, &t, 3);
        assert_false(isfinite(squares));
        be->ops->scaled_encode(be, &t, worse, 3);
        be->ops->scaled_decode(be, back, &t, 3);
        assert_true(isnan(back[1]) && !isfinite(back[2]));
        be->ops->scaled_sum_squares(be, &squares, &t, 3);
        assert_false(isfinite(squares));
    }
    nb_backend_free(be);
}

/* The smallest and the largest floats have a scale that is a float, too. */
static void no_magnitude_breaks_a_scale(void **state) {
    (void)state;
    nb_backend *be = cpu(NB_ISA_AUTO, 1);
    for (int i = 2; i < TYPES; i++)
        for (int e = -140; e <= 127; e++) {
            const float x[] = {(float)ldexp(1.75, e), (float)-ldexp(1, e)};
            float back[2];
            ni_scaled t = tensor(types[i], NB_RULE_POW2, 2);
            be->ops->scaled_encode(be, &t, x, 2);
            be->ops->scaled_decode(be, back, &t, 2);
            if (e > -100) /* three bits of precision hold 1.75 in every type */
                assert_true(back[0] == x[0] && back[1] == x[1]);
            assert_true(isfinite(back[0]) && isfinite(back[1]) && isfinite(*t.scale));
        }
    nb_backend_free(be);
}

/* ---- against FP32 moments ---- */

/* One gradient sequence through AdamW in FP32 and with m in E4M3, v in FP16 (arXiv:2501.17116 section 4.1).
 *
 * m' = beta1 m + (1 - beta1) g is rounded once a step: relative to half a unit of the type where it is normal, by half
 * a subnormal step under the tensor's scale where not. The error of the step before comes in times beta1. So
 *     E_t = beta1 E_(t-1) + u |m'_t| + a,   u = 2^-4 (E4M3), a = 2^-10 scale,
 * and the same for v with beta2, u = 2^-11 and a = 2^-25 scale. FP32's own roundings are far below u. */
static void moments_stay_near_those_in_fp32(void **state) {
    (void)state;
    enum { N = 4096, STEPS = 60 };
    nb_backend *be = cpu(NB_ISA_AUTO, 2);
    float *p[2], *m32 = floats(1, N, 0), *v32 = floats(1, N, 0), *m = floats(1, N, 0), *v = floats(1, N, 0);
    p[0] = floats(7, N, 0.02);
    p[1] = floats(7, N, 0.02);
    double *em = zeros(N), *ev = zeros(N), worst = 0;
    ni_scaled master = {.data = p[1], .dtype = NB_F32}, m8 = tensor(NB_E4M3, NB_RULE_POW2, N),
              v16 = tensor(NB_F16, NB_RULE_POW2, N);
    be->ops->scaled_encode(be, &m8, m, N);
    be->ops->scaled_encode(be, &v16, v, N);
    for (int s = 1; s <= STEPS; s++) {
        ni_adamw step = update;
        step.step = s;
        float *g = floats(100 + (uint32_t)s, N, 1e-3);
        ni_scaled grad = {.data = g, .dtype = NB_F32};
        const ni_adamw_tensor both[] = {ni_adamw_plain(NB_F32, p[0], m32, v32, g, N, 0.1),
                                        {master, m8, v16, grad, N, 0.1, NULL, NULL}};
        be->ops->adamw(be, both, 2, &step);
        be->ops->scaled_decode(be, m, &m8, N);
        be->ops->scaled_decode(be, v, &v16, N);
        for (int i = 0; i < N; i++) {
            const double slack = 1 + 1e-5; /* FP32 arithmetic */
            em[i] = (0.9 * em[i] + (fabs((double)m[i]) * 0x1p-4 / (1 - 0x1p-4) + 0x1p-10 * (double)*m8.scale)) * slack;
            ev[i] = (0.95 * ev[i] + ((double)v[i] * 0x1p-11 / (1 - 0x1p-11) + 0x1p-25 * (double)*v16.scale)) * slack;
            assert_true(fabs((double)m[i] - (double)m32[i]) <= em[i]);
            assert_true(fabs((double)v[i] - (double)v32[i]) <= ev[i]);
            worst = fmax(worst, fabs((double)m[i] - (double)m32[i]) / em[i]);
        }
    }
    assert_true(worst > 0.1); /* the bound is one that rounding comes near to */
    double moved = 0, apart = 0;
    float *before = floats(7, N, 0.02);
    for (int i = 0; i < N; i++) {
        moved += pow((double)p[0][i] - (double)before[i], 2);
        apart += pow((double)p[0][i] - (double)p[1][i], 2);
    }
    assert_true(sqrt(apart / moved) < 0x1p-4); /* errors of single roundings, at most 2^-4 each, partly cancel */
    nb_backend_free(be);
}

/* ---- many ranks (arXiv:2310.18313 section 2.1) ---- */

/* Gradients of 64 ranks, alike but for noise, and small ones among them. FP8-LM brings all under the smallest scale and
 * lets the network add: it saturates as soon as ranks agree (no pre-scale), or loses the small ones (1 / ranks), which
 * is why it needs a factor that follows the share of saturated numbers. The sums of a run (accumulate.h, reduce.h) have
 * a scale of their own each: none saturates, and each rounds by half a unit, so that there is nothing for a factor to
 * do. */
static void sums_of_many_ranks_need_no_factor(void **state) {
    (void)state;
    enum { RANKS = 64, DEPTH = 6, N = 2048 };
    nb_backend *be = cpu(NB_ISA_AUTO, 2);
    static float x[RANKS][N], back[N];
    double want[N] = {0}, amax = 0;
    for (int r = 0; r < RANKS; r++) {
        for (int i = 0; i < N; i++) {
            x[r][i] = (i % 2 ? 1.0f : -1.0f) * (i % 4 < 2 ? 1.0f : 0x1p-13f) *
                      (1 + 0.1f * (float)normal(200 + (uint32_t)r, i));
            want[i] += (double)x[r][i];
            amax = fmax(amax, fabs((double)x[r][i]));
        }
    }
    for (int how = 0; how < 3; how++) { /* no pre-scale; 1 / ranks; the sums of a run */
        ni_scaled t[RANKS];
        const float scale = (float)(exp2(ceil(log2(amax / 448))) * (how == 1 ? RANKS : 1));
        int saturated = 0, lost = 0;
        double worst = 0;
        for (int r = 0; r < RANKS; r++) {
            t[r] = tensor(NB_E4M3, NB_RULE_POW2, N);
            be->ops->scaled_encode(be, &t[r], x[r], N);
            if (how < 2)
                be->ops->scaled_rescale(be, &t[r], scale, N);
        }
        for (int width = 1; width < RANKS; width *= 2)
            for (int r = 0; r < RANKS; r += 2 * width) {
                if (how < 2)
                    be->ops->scaled_join(be, &t[r], &t[r + width], N);
                else
                    be->ops->scaled_add(be, &t[r], &t[r], &t[r + width], N);
            }
        be->ops->scaled_decode(be, back, &t[0], N);
        for (int i = 0; i < N; i++) {
            const double error = fabs((double)back[i] - want[i]) / fabs(want[i]);
            saturated += error > 0.2 && fabs((double)back[i]) >= 448 * (double)*t[0].scale;
            lost += error > 0.5 && i % 4 >= 2;
            worst = i % 4 < 2 ? fmax(worst, error) : worst;
        }
        print_message("exchange %d: %d saturated, %d lost, worst error %.3f\n", how, saturated, lost, worst);
        assert_true((saturated > N / 4) == (how == 0));
        assert_true((lost > N / 4) == (how == 1));
        assert_true(how < 2 || (saturated == 0 && lost == 0 && worst < (DEPTH + 1) * 0x1p-4));
    }
    nb_backend_free(be);
}

/* Why v has no 8-bit type: where v should shrink by 1 - beta2 = 5 % a step, E4M3's neighbours are 6 to 12 % apart. */
static void eight_bits_would_freeze_v(void **state) {
    (void)state;
    nb_backend *be = cpu(NB_ISA_AUTO, 1);
    float v[3][2] = {{1, 1}, {1, 1}, {1, 1}}, none[2] = {0, 0}, p[2] = {0}, m[2] = {0};
    ni_scaled t[3] = {
        tensor(NB_E4M3, NB_RULE_POW2, 2), tensor(NB_F16, NB_RULE_POW2, 2), {.data = v[2], .dtype = NB_F32}};
    ni_scaled grad = {.data = none, .dtype = NB_F32}, master = {.data = p, .dtype = NB_F32},
              first = {.data = m, .dtype = NB_F32};
    for (int i = 0; i < 3; i++) {
        be->ops->scaled_encode(be, &t[i], v[i], 2);
        const ni_adamw_tensor tensor_of_two = {master, first, t[i], grad, 2, 0.1, NULL, NULL};
        for (int s = 1; s <= 40; s++)
            be->ops->adamw(be, &tensor_of_two, 1, &update);
        be->ops->scaled_decode(be, v[i], &t[i], 2);
    }
    assert_true(fabsf(v[1][0] / v[2][0] - 1) < 0.02f); /* 0.95^40 = 0.13, 40 roundings of 2^-11 */
    assert_true(v[0][0] > 4 * v[2][0]);
    nb_backend_free(be);
}

int main(void) {
#define CASE(name) cmocka_unit_test_teardown(name, release_buffers)
    const struct CMUnitTest tests[] = {
        CASE(lanes_round_as_one_number_does),    CASE(casts_and_sums_equal_the_reference),
        CASE(adamw_equals_the_reference),        CASE(scales_by_hand),
        CASE(zeros_and_numbers_that_are_none),   CASE(no_magnitude_breaks_a_scale),
        CASE(sums_of_many_ranks_need_no_factor), CASE(moments_stay_near_those_in_fp32),
        CASE(eight_bits_would_freeze_v),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
