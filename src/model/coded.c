/* coded.c: which layers are coded, and their codes. */
#include "model/coded.h"
#include "backend/table.h"
#include "format/bf16.h"
#include "format/e2m1.h"
#include "format/e4m3.h"
#include "model/param_array.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which layers ---- */

static ni_coding coding_of(const nb_quantizer *q) {
    const bool plain = q->element == NB_ELEMENT_E2M1 && q->hadamard_size == 0;
    if (plain && q->scale_type == NB_SCALE_E4M3 && q->block_cols == 16 &&
        (q->outer == NB_OUTER_TENSOR || q->outer == NB_OUTER_NONE))
        return NI_CODING_NVFP4;
    if (plain && q->scale_type == NB_SCALE_E8M0 && q->block_cols == 32 && q->block_rows == 1 &&
        q->rule != NB_RULE_THREE_QUARTERS)
        return NI_CODING_MXFP4;
    return NI_CODING_NONE;
}

/* "model.layers.3.mlp.up_proj.weight" -> "layers.3.mlp.up_proj" and 3; -1 outside of the blocks. */
static int32_t module_of(const char *param, char module[NB_NAME_SIZE]) {
    const char *from = strncmp(param, "model.", 6) == 0 ? param + 6 : param;
    size_t length = strlen(from);
    const size_t ending = sizeof ".weight" - 1;
    if (length > ending && strcmp(from + length - ending, ".weight") == 0)
        length -= ending;
    snprintf(module, NB_NAME_SIZE, "%.*s", (int)length, from);
    int block;
    return sscanf(module, "layers.%d.", &block) == 1 ? block : -1;
}

static nb_status look_at(ni_coded_layer *layer, const nb_model *model, const nb_recipe *recipe, bool wide,
                         nb_error *err) {
    const nb_param *p = nb_model_param(model, layer->param);
    const int32_t block = module_of(p->name, layer->module);
    nb_plan plan;
    NB_TRY(nb_recipe_plan(recipe, layer->module, block, nb_model_get_config(model)->layers, &plan, err));
    layer->rows = p->rows;
    layer->cols = p->cols;
    layer->quantizer = plan.roles[NB_FPROP_W].quantizer;
    layer->quantizer.round = layer->quantizer.round == NB_ROUND_STOCHASTIC ? NB_ROUND_EVEN : layer->quantizer.round;
    layer->quantize_from = plan.quantize_from;
    layer->coding = plan.quantized ? coding_of(&layer->quantizer) : NI_CODING_NONE;
    char text[160];
    if (!plan.quantized)
        snprintf(layer->why, sizeof layer->why, "%s", plan.reason);
    else if (nb_quantizer_is_bf16(&layer->quantizer))
        snprintf(layer->why, sizeof layer->why, "fprop.w is in BF16");
    else if (layer->coding == NI_CODING_NONE)
        snprintf(layer->why, sizeof layer->why, "fprop.w is %s, neither plain NVFP4 nor plain MXFP4",
                 nb_quantizer_text(&layer->quantizer, text, sizeof text));
    else if (wide && layer->coding == NI_CODING_NVFP4 && p->cols % 64 != 0) {
        layer->coding = NI_CODING_NONE;
        snprintf(layer->why, sizeof layer->why, "%lld columns do not make whole blocks of 64", (long long)p->cols);
    }
    return NB_OK;
}

/* What readers make one matrix of: the number of parts, and which of them a module is; 0: it stands alone. */
static int32_t fused_parts(const char *module, const char **set) {
    static const char *const sets[] = {"q_proj k_proj v_proj", "gate_proj up_proj"};
    const char *last = strrchr(module, '.');
    for (int i = 0; last && i < 2; i++) {
        const char *at = strstr(sets[i], last + 1);
        if (at && strlen(last + 1) == strcspn(at, " ")) {
            *set = sets[i];
            return 3 - i;
        }
    }
    return 0;
}

static bool same_parent(const char *a, const char *b) {
    const char *last_a = strrchr(a, '.'), *last_b = strrchr(b, '.');
    return last_a && last_b && last_a - a == last_b - b && strncmp(a, b, (size_t)(last_a - a)) == 0;
}

/* Parameters of one fused matrix follow each other in every family. */
static void find_fused(ni_coded_model *m) {
    for (int32_t i = 0; i < m->count;) {
        const char *set, *other;
        const int32_t parts = fused_parts(m->layers[i].module, &set);
        int32_t n = 1;
        while (parts && i + n < m->count && n < parts && same_parent(m->layers[i].module, m->layers[i + n].module) &&
               fused_parts(m->layers[i + n].module, &other) == parts)
            n++;
        for (int32_t j = 0; j < n; j++) {
            m->layers[i + j].first = i;
            m->layers[i + j].fused = n;
        }
        i += n;
    }
}

static nb_status look_at_all(ni_coded_model *m, const nb_recipe *recipe, bool wide, nb_error *err) {
    const int32_t params = nb_model_param_count(m->model);
    m->layers = calloc((size_t)params + 1, sizeof *m->layers);
    if (!m->layers)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d layers", (int)params);
    for (int32_t i = 0; i < params; i++) {
        const nb_param *p = nb_model_param(m->model, i);
        if (p->rank != 2 || p->embedding)
            continue;
        ni_coded_layer *layer = &m->layers[m->count++];
        *layer = (ni_coded_layer){.param = i, .scale = 1, .divisor = 1};
        NB_TRY(look_at(layer, m->model, recipe, wide, err));
        if (layer->coding == NI_CODING_NONE)
            continue;
        if (m->coded++ && layer->coding != m->coding)
            return nb_fail(err, NB_BAD_USAGE, "%s: recipe %s has weights in NVFP4 and in MXFP4; a file has one kind",
                           layer->module, recipe->name);
        m->coding = layer->coding;
    }
    find_fused(m);
    return NB_OK;
}

/* ---- making codes ---- */

static int64_t fused_rows(const ni_coded_model *m, int32_t first) {
    int64_t rows = 0;
    for (int32_t i = first; i < first + m->layers[first].fused; i++)
        rows += m->layers[i].rows;
    return rows;
}

static nb_status take_room(ni_coded_model *m, nb_error *err) {
    int64_t most = 0;
    for (int32_t i = 0; i < m->count; i++) {
        const ni_coded_layer *layer = &m->layers[i];
        if (layer->coding == NI_CODING_NONE)
            continue;
        const int64_t rows = fused_rows(m, layer->first), elements = rows * layer->cols;
        const nb_operand operand = {.quantizer = layer->quantizer,
                                    .other = layer->quantizer,
                                    .rows = rows,
                                    .cols = layer->cols,
                                    .reread = true};
        const size_t codes = nb_qtensor_bytes(&layer->quantizer, rows, layer->cols).total,
                     bytes = m->be->ops->operand_bytes(m->be, &operand);
        most = elements > most ? elements : most;
        m->codes_bytes = codes > m->codes_bytes ? codes : m->codes_bytes;
        m->operand_bytes = bytes > m->operand_bytes ? bytes : m->operand_bytes;
    }
    if (most == 0)
        return NB_OK;
    NB_TRY(ni_backend_take(m->be, (size_t)most * sizeof(float), "weights", &m->numbers, err));
    NB_TRY(ni_backend_take(m->be, (size_t)most * sizeof(uint16_t), "weights in BF16", &m->narrow, err));
    NB_TRY(ni_backend_take(m->be, m->codes_bytes, "codes of weights", &m->codes, err));
    return ni_backend_take(m->be, m->operand_bytes, "an operand", &m->operand, err);
}

/* Quantizes `count` layers from `first` on as one matrix, as a forward pass quantizes fprop.w. */
static nb_status quantize(ni_coded_model *m, int32_t first, int32_t count, nb_error *err) {
    const ni_coded_layer *layer = &m->layers[first];
    nb_backend *be = m->be;
    int64_t rows = 0;
    m->held = -1;
    for (int32_t i = first; i < first + count; i++) {
        ni_model_param_read(m->model, m->layers[i].param, (float *)m->numbers + rows * layer->cols);
        rows += m->layers[i].rows;
    }
    nb_mat source = nb_mat_of(m->numbers, NB_F32, rows, layer->cols);
    if (layer->quantize_from == NB_BF16) {
        be->ops->cast(be, m->narrow, NB_BF16, m->numbers, NB_F32, rows * layer->cols);
        source = nb_mat_of(m->narrow, NB_BF16, rows, layer->cols);
    }
    nb_operand operand = {.quantizer = layer->quantizer,
                          .other = layer->quantizer,
                          .memory = m->operand,
                          .rows = rows,
                          .cols = layer->cols,
                          .reread = true};
    m->qtensor = nb_qtensor_place(&layer->quantizer, rows, layer->cols, m->codes);
    const ni_making making = {.out = &operand, .shown = true};
    NB_TRY(be->ops->make_operands(be, &(ni_source){.numbers = &source}, &making, 1, err));
    NB_TRY(be->ops->canonical(be, &m->qtensor, &operand, err));
    m->held = first;
    return NB_OK;
}

/* byte * 2^shift as a byte; false where it is none. */
static bool shift_byte(uint8_t *byte, int32_t shift) {
    const float value = ldexpf(ni_e4m3_value(*byte), shift);
    const uint8_t shifted = ni_e4m3_even(value);
    if (!(ni_e4m3_value(shifted) == value))
        return false;
    *byte = shifted;
    return true;
}

nb_status ni_coded_take(ni_coded_model *m, const ni_coded_layer *layer, const uint8_t **codes, const uint8_t **scales,
                        nb_error *err) {
    const int32_t index = (int32_t)(layer - m->layers), first = layer->again ? layer->first : index;
    if (!layer->again || m->held != first)
        NB_TRY(quantize(m, first, layer->again ? layer->fused : 1, err));
    int64_t before = 0;
    for (int32_t i = first; i < index; i++)
        before += m->layers[i].rows;
    const int64_t across = layer->cols / layer->quantizer.block_cols;
    uint8_t *bytes = m->qtensor.scales + before * across;
    if (layer->shift) {
        m->held = -1; /* what is shifted is not to be shifted again */
        for (int64_t i = 0; i < layer->rows * across; i++)
            if (!shift_byte(&bytes[i], layer->shift))
                return nb_fail(err, NB_INTERNAL, "%s: block scale %d cannot be shifted by 2^%d", layer->module,
                               (int)bytes[i], (int)layer->shift);
    }
    *codes = m->qtensor.codes + before * layer->cols / 2;
    *scales = bytes;
    return NB_OK;
}

/* ---- scales that fused layers share ---- */

static const char *const ways_out =
    "--fused again quantizes them as one matrix (other codes), --fused own keeps a scale each (readers that fuse them, "
    "as vLLM and TensorRT-LLM do, then decode two of them wrongly; transformers does not)";

/* Whether every block scale of a layer, times 2^shift, is an E4M3 number. */
static nb_status can_shift(ni_coded_model *m, int32_t index, int32_t shift, bool *can, nb_error *err) {
    const ni_coded_layer *layer = &m->layers[index];
    NB_TRY(quantize(m, index, 1, err));
    const int64_t n = layer->rows * (layer->cols / 16);
    *can = true;
    for (int64_t i = 0; *can && i < n; i++) {
        uint8_t byte = m->qtensor.scales[i];
        *can = shift_byte(&byte, shift);
    }
    return NB_OK;
}

/* One scale for the fused layers by powers of two in their block scales; *done false where that is not exact. */
static nb_status share_exactly(ni_coded_model *m, int32_t first, bool *done, nb_error *err) {
    ni_coded_layer *layers = &m->layers[first];
    const int32_t n = layers->fused;
    *done = false;
    for (int32_t target = 0; !*done && target < n; target++) { /* whose scale it shall be */
        bool all = true;
        for (int32_t i = 0; all && i < n; i++) {
            int shift;
            const float ratio = layers[i].scale / layers[target].scale;
            all = frexpf(ratio, &shift) == 0.5f && ldexpf(layers[target].scale, shift - 1) == layers[i].scale;
            layers[i].shift = shift - 1;
            if (all && layers[i].shift)
                NB_TRY(can_shift(m, first + i, layers[i].shift, &all, err));
        }
        *done = all;
        const float scale = layers[target].scale;
        for (int32_t i = 0; i < n; i++)
            if (all)
                layers[i].scale = scale;
            else
                layers[i].shift = 0;
    }
    return NB_OK;
}

static nb_status share_again(ni_coded_model *m, int32_t first, nb_error *err) {
    ni_coded_layer *layers = &m->layers[first];
    const int32_t n = layers->fused;
    for (int32_t i = 0; i + 1 < n; i++)
        if (layers[i].quantizer.block_rows > 1 && layers[i].rows % layers[i].quantizer.block_rows != 0)
            return nb_fail(err, NB_BAD_USAGE,
                           "%s: %lld rows do not make whole tiles of %d, so it cannot be one matrix "
                           "with its neighbours",
                           layers[i].module, (long long)layers[i].rows, (int)layers[i].quantizer.block_rows);
    NB_TRY(quantize(m, first, n, err));
    const float scale = *m->qtensor.tensor_scale;
    for (int32_t i = 0; i < n; i++) {
        layers[i].scale = scale;
        layers[i].again = true;
        m->changed++;
    }
    return NB_OK;
}

static nb_status share(ni_coded_model *m, int32_t first, nb_error *err) {
    ni_coded_layer *layers = &m->layers[first];
    int32_t coded = 0;
    bool same = true;
    for (int32_t i = 0; i < layers->fused; i++) {
        coded += layers[i].coding != NI_CODING_NONE;
        same &= layers[i].scale == layers[0].scale;
    }
    if (coded == 0 || layers->fused == 1)
        return NB_OK;
    if (coded < layers->fused)
        return nb_fail(err, NB_BAD_USAGE,
                       "%s and its neighbours are one matrix to readers that fuse them, and the recipe keeps a part of "
                       "it in BF16: --fused own is for readers that do not, such as transformers",
                       layers->module);
    if (same || m->coding != NI_CODING_NVFP4)
        return NB_OK;
    bool done;
    NB_TRY(share_exactly(m, first, &done, err));
    if (done)
        return NB_OK;
    if (m->sharing == NI_SHARING_AGAIN)
        return share_again(m, first, err);
    return nb_fail(err, NB_BAD_USAGE,
                   "%s and its neighbours are one matrix with one scale to readers that fuse them; theirs are %.9g, "
                   "%.9g, and no power of two in the block scales makes them one. %s",
                   layers->module, (double)layers[0].scale, (double)layers[layers->fused - 1].scale, ways_out);
}

bool ni_coded_divisor(float scale, float *divisor, bool *exact) {
    static const float codes[] = {1, 1.5f}; /* all others are these times a power of two, and so are the bytes */
    bool found = false;
    *exact = false;
    for (int step = 0; step < 17 && !*exact; step++) {
        float candidate = 1 / scale;
        for (int i = 0; i < (step + 1) / 2; i++)
            candidate = nextafterf(candidate, step % 2 ? INFINITY : 0);
        bool narrow = isfinite(candidate) && candidate > 0, wide = narrow;
        for (int byte = 8; byte < 16; byte++)
            for (int c = 0; c < 2; c++) {
                const float theirs = codes[c] * ((float)byte / candidate), ours = codes[c] * ((float)byte * scale),
                            others = codes[c] * ((float)byte * (1 / candidate)); /* vLLM's, SGLang's */
                narrow &= ni_bf16_even(theirs) == ni_bf16_even(ours) && ni_bf16_even(others) == ni_bf16_even(ours);
                wide &= theirs == ours;
            }
        if (narrow && (wide || !found)) {
            *divisor = candidate;
            found = true;
        }
        *exact = wide;
    }
    return found;
}

static nb_status fix_scales(ni_coded_model *m, nb_error *err) {
    bool exact;
    for (int32_t i = 0; i < m->count; i++) {
        ni_coded_layer *layer = &m->layers[i];
        if (layer->coding == NI_CODING_NONE)
            continue;
        NB_TRY(quantize(m, i, 1, err));
        layer->scale = m->qtensor.tensor_scale ? *m->qtensor.tensor_scale : 1;
        if (!isfinite(layer->scale))
            return nb_fail(err, NB_BAD_NUMBER, "%s holds Inf or NaN", layer->module);
    }
    for (int32_t i = 0; m->sharing != NI_SHARING_OWN && i < m->count; i += m->layers[i].fused)
        NB_TRY(share(m, i, err));
    for (int32_t i = 0; i < m->count; i++) {
        ni_coded_layer *layer = &m->layers[i];
        if (layer->coding == NI_CODING_NVFP4 && !ni_coded_divisor(layer->scale, &layer->divisor, &exact))
            layer->divisor = 1 / layer->scale; /* subnormal, or far from all weights */
    }
    return NB_OK;
}

/* ---- the whole ---- */

nb_status ni_coded_open(nb_backend *be, nb_model *model, const nb_recipe *recipe, ni_sharing sharing, bool wide,
                        ni_coded_model *out, nb_error *err) {
    *out = (ni_coded_model){.be = be, .model = model, .sharing = sharing, .held = -1};
    nb_status status = look_at_all(out, recipe, wide, err);
    if (status == NB_OK)
        status = take_room(out, err);
    if (status == NB_OK)
        status = fix_scales(out, err);
    if (status != NB_OK)
        ni_coded_close(out);
    return status;
}

void ni_coded_close(ni_coded_model *m) {
    void *const memory[] = {m->numbers, m->narrow, m->codes, m->operand};
    for (int i = 0; i < 4; i++)
        nb_backend_release(m->be, memory[i]);
    free(m->layers);
    *m = (ni_coded_model){0};
}

const ni_coded_layer *ni_coded_find(const ni_coded_model *m, int32_t param) {
    for (int32_t i = 0; i < m->count; i++)
        if (m->layers[i].param == param)
            return m->layers[i].coding == NI_CODING_NONE ? NULL : &m->layers[i];
    return NULL;
}

const char *ni_coded_loss(const nb_recipe *r, int32_t index) {
    const nb_mechanism_set *m = &r->mechanisms;
    const struct {
        bool is;
        const char *what;
    } losses[] = {
        {m->has_hcp, "hcp: the products of the hot channels' residuals are not in it; the layers multiply codes alone"},
        {m->has_outcontrol, "outcontrol: channels that ran in MXFP8 are coded like the others"},
        {m->has_qema, "qema: weights are rounded to nearest, not to the neighbour of their moving average"},
        {m->has_occ, "occ: activations are not clamped, and nothing is added back"},
        {r->roles[NB_FPROP_W].quantizer.round == NB_ROUND_STOCHASTIC,
         "fprop.w was rounded stochastically in training; it is rounded to nearest here"},
        {r->late_switch.at < 1 && r->late_switch.forward,
         "late switch: the last steps multiplied BF16 weights, not these codes"},
    };
    for (size_t i = 0; i < sizeof losses / sizeof losses[0]; i++)
        if (losses[i].is && index-- == 0)
            return losses[i].what;
    return NULL;
}
