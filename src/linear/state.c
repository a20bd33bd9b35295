/* state.c: what the mechanisms of a group keep between steps, and what they say of themselves. */
#include "linear/linear.h"

#include <stdio.h>

enum { MOST_TENSORS = 64 }; /* of one mechanism in one group */

int32_t ni_linear_group_state(const ni_linear_group *group, nb_state_tensor *tensors, int32_t most) {
    int32_t count = 0;
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        ni_mechanism_tensor list[MOST_TENSORS];
        int32_t found = m->table->tensors ? m->table->tensors(m->state, list, MOST_TENSORS) : 0;
        for (int32_t t = 0; t < found && t < MOST_TENSORS; t++) {
            if (list[t].combine == NI_COMBINE_SUM || count++ >= most) /* sums are of a step: nobody keeps them */
                continue;
            const char *owner = list[t].layer < 0 ? group->input : group->layers[list[t].layer].name;
            nb_state_tensor *out = &tensors[count - 1];
            *out = (nb_state_tensor){
                .dtype = list[t].dtype, .elements = list[t].elements, .data = list[t].data, .on_host = list[t].on_host};
            snprintf(out->name, sizeof out->name, "%s/%s.%s", owner, m->table->name, list[t].name);
        }
    }
    return count;
}

int32_t ni_linear_group_combined(const ni_linear_group *group, ni_combine how, ni_mechanism_tensor *out, int32_t most) {
    int32_t count = 0;
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        ni_mechanism_tensor list[MOST_TENSORS];
        const int32_t found = m->table->tensors ? m->table->tensors(m->state, list, MOST_TENSORS) : 0;
        for (int32_t t = 0; t < found && t < MOST_TENSORS; t++)
            if (list[t].combine == how && count++ < most)
                out[count - 1] = list[t];
    }
    return count;
}

nb_status ni_linear_group_loaded(ni_linear_group *group, nb_error *err) {
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        if (m->table->loaded)
            NB_TRY(m->table->loaded(m->state, err));
    }
    return NB_OK;
}

int32_t ni_linear_group_doubts(const ni_linear_group *group, char *text, size_t size) {
    int32_t count = 0;
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        char later[256];
        if (m->table->doubt)
            count += m->table->doubt(m->state, count ? later : text, count ? sizeof later : size);
    }
    return count;
}

int32_t ni_linear_group_census(const ni_linear_group *group, nb_census_row *rows, int32_t most) {
    const ni_gemm gemms = group->training ? NI_GEMM_COUNT : NI_GEMM_DGRAD;
    int32_t count = 0;
    for (int32_t i = 0; i < group->count; i++)
        for (ni_gemm gemm = NI_GEMM_FPROP; gemm < gemms; gemm++, count++) {
            if (count >= most)
                continue;
            nb_census_row *row = &rows[count];
            snprintf(row->module, sizeof row->module, "%s", group->layers[i].name);
            row->gemm = ni_gemm_name(gemm);
            ni_linear_census(group, &group->layers[i], gemm, row->formats, sizeof row->formats, &row->kernel,
                             &row->reason);
        }
    return count;
}
