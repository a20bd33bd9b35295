/* report.c: what a model says of itself: FLOPs, memory, census, and the state that its mechanisms keep. */
#include "backend/table.h"
#include "model/decoder.h"
#include "model/state.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

/* ---- FLOPs ---- */

/* Every weight of a linear layer takes part in one multiplication and one addition a token in each of three GEMMs; the
 * embedding is a look-up. What the mixers compute beside their linear layers is said where they are. */
double nb_model_flops_per_token(const nb_model *model, int64_t seq) {
    double flops = 0;
    for (int32_t i = 0; i < model->group_count; i++)
        for (int32_t j = 0; j < model->groups[i]->count; j++)
            flops += 6.0 * (double)model->groups[i]->layers[j].out * (double)model->groups[i]->layers[j].in;
    for (int32_t i = 0; i < 2 * model->config.layers; i++)
        flops += model->branches[i].kind->flops(model->branches[i].layer, seq);
    return flops;
}

/* ---- pairs ---- */

/* "model.layers.3.mlp.gate_proj.weight" belongs to "layers.3.mlp". */
static void name_module(char *to, size_t size, const char *parameter) {
    const char *begin = strncmp(parameter, "model.", 6) == 0 ? parameter + 6 : parameter;
    snprintf(to, size, "%s", begin);
    for (int i = 0; i < 2; i++) {
        char *dot = strrchr(to, '.');
        if (dot)
            *dot = '\0';
    }
}

int32_t ni_model_gated_pairs(const nb_model *model, int32_t block, ni_gated_pair *pairs, int32_t most) {
    int32_t count = 0;
    for (int32_t i = 2 * block; i < 2 * block + 2; i++) {
        const ni_branch *branch = &model->branches[i];
        if (!branch->kind->gated)
            continue;
        if (count < most) {
            ni_gated_pair *pair = &pairs[count];
            branch->kind->gated(branch->layer, &pair->gate, &pair->up);
            name_module(pair->module, sizeof pair->module, nb_model_param(model, pair->gate)->name);
        }
        count++;
    }
    return count;
}

/* ---- memory ---- */

static const char *gradients_row(const nb_model *model) {
    static const char *const names[] = {
        [NB_F32] = "gradients (f32)", [NB_F64] = "gradients (f64)",   [NB_BF16] = "gradients (bf16)",
        [NB_F16] = "gradients (f16)", [NB_E4M3] = "gradients (e4m3)", [NB_E5M2] = "gradients (e5m2)"};
    return names[model->params.grads.dtype];
}

int32_t nb_model_memory(const nb_model *model, nb_memory_row *rows, int32_t max_rows) {
    const bool doubles = model->be->real == NB_F64;
    const nb_memory_row all[] = {
        {doubles                ? "parameters (f64)"
         : model->params.parted ? "parameters of no linear layer (f32)"
                                : "parameters (f32)",
         model->params.values_bytes},
        {"masters of linear layers that every rank has (f32)", model->params.common_bytes},
        {model->params.lacks ? "masters of own linear layers (f32)"
                             : "masters of linear layers that go as codes or BF16 (f32)",
         model->params.own_bytes},
        {"masters of linear layers (16 bits)", model->params.narrow_bytes},
        {"a master while its layer is worked on (f32)", model->params.room_bytes},
        {gradients_row(model), ni_param_array_bytes(&model->params.grads)},
        {"gradients while a block is worked on (f32)", model->params.window_bytes},
        {"quantized and bf16 weights, state of mechanisms", model->group_bytes},
        {model->training ? "saved activations" : "activations", model->saved_bytes},
        {"working activations", model->working_bytes},
        {"operands of one linear layer", model->scratch.size},
    };
    int32_t count = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i].bytes == 0)
            continue;
        if (count < max_rows)
            rows[count] = all[i];
        count++;
    }
    return count;
}

/* ---- census ---- */

int32_t nb_model_census(const nb_model *model, nb_census_row *rows, int32_t max_rows) {
    int32_t count = 0;
    for (int32_t i = 0; i < model->group_count; i++) {
        int32_t room = count < max_rows ? max_rows - count : 0;
        count += ni_linear_group_census(model->groups[i], rows + (room ? count : 0), room);
    }
    for (int32_t i = 0; i < 2 * model->config.layers; i++) {
        const ni_branch *branch = &model->branches[i];
        if (!branch->kind->census)
            continue;
        if (count < max_rows) {
            rows[count] = (nb_census_row){.gemm = ""};
            branch->kind->census(branch->layer, model, &rows[count]);
            if (!rows[count].kernel)
                rows[count].kernel = "none: refused";
        }
        count++;
    }
    return count;
}

bool ni_model_has_module(const nb_model *model, const char *pattern) {
    for (int32_t i = 0; i < model->group_count; i++)
        for (int32_t j = 0; j < model->groups[i]->count; j++)
            if (fnmatch(pattern, model->groups[i]->layers[j].name, 0) == 0)
                return true;
    return false;
}

/* ---- state of mechanisms ---- */

int32_t nb_model_state(nb_model *model, nb_state_tensor *tensors, int32_t max_tensors) {
    int32_t count = 0;
    for (int32_t i = 0; i < model->group_count; i++) {
        int32_t room = count < max_tensors ? max_tensors - count : 0;
        count += ni_linear_group_state(model->groups[i], tensors + (room ? count : 0), room);
    }
    return count;
}

int32_t ni_model_combined(nb_model *model, ni_combine how, ni_mechanism_tensor *out, int32_t most) {
    int32_t count = 0;
    for (int32_t i = 0; i < model->group_count; i++) {
        int32_t room = count < most ? most - count : 0;
        count += ni_linear_group_combined(model->groups[i], how, out + (room ? count : 0), room);
    }
    return count;
}

nb_status ni_model_calibrate(nb_model *model, const nb_pass *pass, int32_t taken, nb_error *err) {
    for (int32_t i = 0; i < model->group_count; i++)
        NB_TRY(ni_linear_group_calibrate(model->groups[i], pass, taken, &model->scratch, err));
    return NB_OK;
}

bool ni_model_ramp(const nb_model *model, int32_t param, ni_ramped *out) {
    const ni_weight_reader *r = &model->readers[param];
    return r->group && ni_linear_ramp(r->group, &r->group->layers[r->layer], out);
}

nb_status nb_model_state_loaded(nb_model *model, nb_error *err) {
    for (int32_t i = 0; i < model->group_count; i++)
        NB_TRY(ni_linear_group_loaded(model->groups[i], err));
    return NB_OK;
}

int32_t nb_model_doubts(const nb_model *model, char *text, size_t size) {
    int32_t count = 0;
    for (int32_t i = 0; i < model->group_count; i++) {
        char later[256];
        count += ni_linear_group_doubts(model->groups[i], count ? later : text, count ? sizeof later : size);
    }
    return count;
}
