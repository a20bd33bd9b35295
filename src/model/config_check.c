/* config_check.c: which sizes of a model fit together. */
#include "model/config_keys.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#define MOST_PARAMETERS 1e13

static void NB_PRINTF(3, 4) complain(ni_model_fault *f, const char *key, const char *format, ...) {
    if (f->key)
        return;
    f->key = key;
    va_list args;
    va_start(args, format);
    vsnprintf(f->why, sizeof f->why, format, args);
    va_end(args);
}

static void check_size(ni_model_fault *f, const char *key, int64_t value, int64_t most) {
    if (value < 1 || value > most)
        complain(f, key, "%lld is out of range: expected 1 to %lld", (long long)value, (long long)most);
}

static void check_scaling(ni_model_fault *f, const nb_model_config *c) {
    const double of[] = {c->rope_factor, c->rope_low, c->rope_high, c->rope_original};
    bool good = c->rope_factor >= 1 && c->rope_low >= 0 && c->rope_high > c->rope_low && c->rope_original >= 1;
    for (int i = 0; i < 4; i++)
        good &= isfinite(of[i]) != 0;
    if (!good && (of[0] != 0 || of[1] != 0 || of[2] != 0 || of[3] != 0))
        complain(f, "rope_scaling",
                 "factor %g, low %g, high %g, original %g; expected a factor from 1, high above low and "
                 "the original length, or none of them",
                 of[0], of[1], of[2], of[3]);
}

static void check_softmax(ni_model_fault *f, const nb_model_config *c) {
    check_size(f, "head_dim", c->head_dim, 1024);
    if (c->head_dim % 2)
        complain(f, "head_dim", "%d is odd: RoPE turns pairs", (int)c->head_dim);
    check_size(f, "heads", (int64_t)c->heads * c->head_dim, NI_MOST_WIDTH);
    if (!(c->rope_theta > 0) || !isfinite(c->rope_theta))
        complain(f, "rope_theta", "expected a number greater than 0");
    check_scaling(f, c);
}

/* Key and value widths of all heads: hidden * expand, a whole number for each head. */
static void check_expand(ni_model_fault *f, const char *key, const nb_model_config *c, double expand) {
    double width = c->hidden * expand;
    if (!(width >= 1) || width > NI_MOST_WIDTH || width != floor(width))
        complain(f, key, "hidden %d times %g is no width", (int)c->hidden, expand);
    else if ((int64_t)width % c->heads)
        complain(f, key, "hidden %d times %g does not divide by %d heads", (int)c->hidden, expand, (int)c->heads);
}

static void check_gla(ni_model_fault *f, const nb_model_config *c) {
    check_expand(f, "gla.expand_k", c, c->expand_k);
    check_expand(f, "gla.expand_v", c, c->expand_v);
    check_size(f, "gla.gate_low_rank", c->gate_low_rank, NI_MOST_WIDTH);
    if (!(c->gate_normalizer > 0) || !isfinite(c->gate_normalizer))
        complain(f, "gla.gate_normalizer", "expected a number greater than 0");
    if (!(c->gate_clamp <= 0))
        complain(f, "gla.gate_clamp", "%g is out of range: a log decay is at most 0", c->gate_clamp);
}

static double parameters(const nb_model_config *c) {
    double hidden = c->hidden, mixer;
    if (c->family == NB_GLA)
        mixer = hidden * (2 * hidden * c->expand_k + 3 * hidden * c->expand_v);
    else
        mixer = hidden * c->head_dim * (2.0 * c->heads + 2.0 * c->kv_heads);
    return c->layers * (mixer + 3 * hidden * c->intermediate) + (c->tied ? 1 : 2) * hidden * c->vocab;
}

ni_model_fault ni_model_find_fault(const nb_model_config *c) {
    ni_model_fault f = {0};
    if (c->family < NB_LLAMA || c->family > NB_NGPT)
        complain(&f, "family", "is unknown");
    check_size(&f, "vocab", c->vocab, NI_MOST_WIDTH);
    check_size(&f, "hidden", c->hidden, NI_MOST_WIDTH);
    check_size(&f, "layers", c->layers, NI_MOST_LAYERS);
    check_size(&f, "heads", c->heads, 65536);
    check_size(&f, "kv_heads", c->kv_heads, c->heads > 1 ? c->heads : 1);
    check_size(&f, "intermediate", c->intermediate, NI_MOST_WIDTH);
    check_size(&f, "max_seq", c->max_seq, NI_MOST_WIDTH);
    if (!f.key && c->heads % c->kv_heads)
        complain(&f, "kv_heads", "%d does not divide the %d heads", (int)c->kv_heads, (int)c->heads);
    if (!(c->norm_eps > 0) || !(c->norm_eps < 1))
        complain(&f, "norm_eps", "expected a number between 0 and 1");
    if (!(c->init_std > 0) || !(c->init_std < 100))
        complain(&f, "init_std", "expected a number greater than 0");
    if (c->family == NB_NGPT && !(c->alpha > 0 && c->alpha <= 1))
        complain(&f, "ngpt.alpha", "expected a number above 0, at most 1");
    if (!f.key && c->family == NB_GLA)
        check_gla(&f, c);
    else if (!f.key)
        check_softmax(&f, c);
    if (!f.key && parameters(c) > MOST_PARAMETERS)
        complain(&f, "hidden", "a model of %g parameters is too large", parameters(c));
    return f;
}

nb_status nb_model_config_check(const nb_model_config *config, nb_error *err) {
    ni_model_fault f = ni_model_find_fault(config);
    if (!f.key)
        return NB_OK;
    return nb_fail(err, NB_BAD_CONFIG, "model %.60s: %s: %s", config->name, f.key, f.why);
}
