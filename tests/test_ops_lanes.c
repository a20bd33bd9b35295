/* test_ops_lanes.c: the vector functions of the CPU backend against libm in double, over all magnitudes. */
#include "harness.h"

#include "backend/cpu/lanes.h"

/* Error in units in the last place of the FP32 number nearest to `want`. */
static double ulps(float got, double want) {
    int exponent;
    frexp(want, &exponent);
    double unit = ldexp(1, exponent - 24 < -149 ? -149 : exponent - 24);
    return fabs((double)got - want) / unit;
}

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Every 251st float from -Inf to +Inf; the promise of lanes.h is one unit in the last place. */
static void exponential(void **state) {
    (void)state;
    double worst = 0;
    float at = 0;
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += 251 * LANES) {
        vf32 x = {0};
        for (int i = 0; i < LANES; i++)
            x[i] = from_bits((uint32_t)(bits + 251 * (uint64_t)i));
        vf32 y = vexp(x);
        for (int i = 0; i < LANES; i++) {
            if (isnan(x[i])) {
                assert_true(isnan(y[i]));
            } else if (x[i] > 88.72283f) {
                assert_true(isinf(y[i]));
            } else if (x[i] < -87.32f) {
                assert_true(y[i] == 0);
            } else {
                double error = ulps(y[i], exp((double)x[i]));
                at = error > worst ? x[i] : at;
                worst = error > worst ? error : worst;
            }
        }
    }
    if (!(worst <= 1))
        fail_msg("vexp(%.9g) is off by %.3f units", (double)at, worst);
    print_message("vexp: at most %.3f units in the last place (at %.9g)\n", worst, (double)at);
    assert_true(vexp(splat(0))[0] == 1 && vexp(splat(-0.0f))[0] == 1);
    assert_true(isinf(vexp(splat(INFINITY))[0]) && vexp(splat(-INFINITY))[0] == 0);
    const float last = vexp(splat(0x1.62e42ep6f))[0];
    assert_true(isfinite(last) && last > 3.4e38f);
}

static void logarithm(void **state) {
    (void)state;
    double worst = 0;
    for (uint32_t bits = 0; bits <= 0x3f800000u; bits += 97) {
        float u = from_bits(bits);
        vf32 y = vlog1p(splat(u));
        double error = ulps(y[0], log1p((double)u));
        worst = error > worst && u > 1e-30f ? error : worst;
    }
    assert_true(vlog1p(splat(0))[0] == 0);
    if (!(worst <= 3))
        fail_msg("vlog1p is off by %.3f units", worst);
    print_message("vlog1p: at most %.3f units in the last place\n", worst);
}

/* All 65,536 codes go through unchanged, and all ties and their neighbours round as one number at a time does. */
static void bf16_memory(void **state) {
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        uint16_t in[LANES], out[LANES];
        float near[3] = {from_bits(code << 16 | 0x7fff), from_bits(code << 16 | 0x8000),
                         from_bits(code << 16 | 0x8001)};
        vf32 x = splat(0);
        for (int i = 0; i < LANES; i++)
            in[i] = (uint16_t)code;
        for (int i = 0; i < 3; i++)
            x[i] = near[i];
        store_bf16(out, load_bf16(in, LANES), LANES);
        assert_int_equal(out[LANES - 1], ni_bf16_even(ni_bf16_value((uint16_t)code)));
        store_bf16(out, x, LANES);
        for (int i = 0; i < 3; i++)
            assert_int_equal(out[i], ni_bf16_even(near[i]));
    }
}

/* `count` lanes are read and written, no more. */
static void partial_memory(void **state) {
    (void)state;
    for (int64_t count = 1; count <= LANES; count++) {
        float *from = put(NB_F32, normals(1, count, 0, 1), count), *to = put(NB_F32, NULL, count);
        store_f32(to, load_f32(from, count), count);
        check_equal_bytes("floats", to, from, (size_t)count * 4);
        uint16_t *half = put(NB_BF16, normals(2, count, 0, 1), count), *half_to = put(NB_BF16, NULL, count);
        store_bf16(half_to, load_bf16(half, count), count);
        check_equal_bytes("bf16", half_to, half, (size_t)count * 2);
        vf32 filled = load_bf16_or(half, count, -7);
        for (int64_t i = 0; i < LANES; i++)
            assert_true(filled[i] == (i < count ? ni_bf16_value(half[i]) : -7.0f));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exponential),
        cmocka_unit_test(logarithm),
        cmocka_unit_test(bf16_memory),
        cmocka_unit_test_teardown(partial_memory, release_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
