/* light.c: which machine a run is on, and the least time of its step there. */
#include "cli/light.h"

#include "backend/load.h"
#include "cli/cli.h"
#include "files/file.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* The machine file that is named like a word of the GPU's name: "NVIDIA H200" has h200, a slice of it ("NVIDIA H200 MIG
 * 1g.18gb") has none. */
static bool machine_of_gpu(const char *gpu, char *out, size_t size) {
    char folder[NB_PATH_SIZE], path[NB_PATH_SIZE + NB_NAME_SIZE + 8], name[NB_NAME_SIZE];
    nb_error ignored;
    bool exists;
    if (strstr(gpu, " MIG ") || ni_cli_folder("machines", folder, sizeof folder, &ignored) != NB_OK)
        return false;
    for (const char *at = gpu; *at;) {
        const size_t n = strcspn(at, " ");
        for (size_t i = 0; i < n && i + 1 < sizeof name; i++)
            name[i] = (char)tolower((unsigned char)at[i]);
        name[n < sizeof name ? n : sizeof name - 1] = 0;
        snprintf(path, sizeof path, "%s/%s.yaml", folder, name);
        if (n > 0 && ni_file_exists(path, &exists, &ignored) == NB_OK && exists) {
            snprintf(out, size, "%s", name);
            return true;
        }
        at += n + (at[n] == ' ');
    }
    return false;
}

static bool find_machine(const nb_run_config *config, char *out, size_t size) {
    ni_cuda_facts facts;
    nb_error ignored;
    int device;
    return ni_cuda_device_of(config->backend, &device) && ni_backend_describe_cuda(device, &facts, &ignored) == NB_OK &&
           machine_of_gpu(facts.name, out, size);
}

static nb_status plan(const nb_run_config *config, int32_t ranks, const char *name, ni_light *out, nb_error *err) {
    nb_run_config mine = *config;
    ni_machine machine;
    double flops;
    mine.accumulation /= ranks;
    NB_TRY(ni_machine_load(name, &machine, err));
    NB_TRY(ni_plan_step(&mine, &machine, &out->seconds, &flops, err));
    snprintf(out->machine, sizeof out->machine, "%s", machine.name);
    return NB_OK;
}

nb_status ni_cli_light(const nb_run_config *config, int32_t ranks, ni_light *out, nb_error *err) {
    char found[NB_NAME_SIZE];
    nb_error ignored;
    *out = (ni_light){.seconds = 0};
    if (strcmp(config->machine, "none") == 0)
        return NB_OK;
    if (strcmp(config->machine, "auto") != 0)
        return plan(config, ranks, config->machine, out, err);
    if (!find_machine(config, found, sizeof found) || plan(config, ranks, found, out, &ignored) != NB_OK)
        *out = (ni_light){.seconds = 0};
    return NB_OK;
}
