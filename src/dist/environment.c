/* environment.c: the variables of torchrun, Slurm and Open MPI.
 *
 *     torchrun   RANK WORLD_SIZE MASTER_ADDR MASTER_PORT, LOCAL_RANK LOCAL_WORLD_SIZE; its agent may listen at
 *                MASTER_PORT itself (TORCHELASTIC_USE_AGENT_STORE): rank 0 then waits one above
 *     mpirun     OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE
 *     srun       SLURM_PROCID SLURM_STEP_NUM_TASKS SLURM_LOCALID SLURM_STEP_NODELIST SLURM_STEP_TASKS_PER_NODE; a batch
 * script outside of srun has no step, and runs alone
 *
 * The first of these that is there is believed.
 */
#include "dist/environment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef const char *getter(const char *name);

static const char *text_of(getter *get, const char *name) {
    const char *text = get(name);
    return text && *text ? text : NULL;
}

/* A whole number, least <= number <= most. */
static nb_status number_of(getter *get, const char *name, int32_t least, int32_t most, int32_t *out, nb_error *err) {
    const char *text = text_of(get, name);
    char *end;
    if (!text)
        return nb_fail(err, NB_BAD_USAGE,
                       "%s is not set, and other variables of its launcher are; expected all or none", name);
    errno = 0;
    const long number = strtol(text, &end, 10);
    if (errno || *end || number < least || number > most)
        return nb_fail(err, NB_BAD_USAGE, "%s is \"%.60s\"; expected a whole number from %d to %d", name, text,
                       (int)least, (int)most);
    *out = (int32_t)number;
    return NB_OK;
}

static nb_status number_or(getter *get, const char *name, int32_t least, int32_t most, int32_t fallback, int32_t *out,
                           nb_error *err) {
    *out = fallback;
    return text_of(get, name) ? number_of(get, name, least, most, out, err) : NB_OK;
}

enum { MOST_RANKS = 65536, LAST_PORT = 65535, USUAL_PORT = 29500 };

static nb_status read_torchrun(getter *get, ni_place *p, nb_error *err) {
    int32_t port;
    p->launcher = NI_LAUNCHED_TCP;
    NB_TRY(number_of(get, "WORLD_SIZE", 1, MOST_RANKS, &p->world, err));
    NB_TRY(number_of(get, "RANK", 0, p->world - 1, &p->rank, err));
    NB_TRY(number_or(get, "LOCAL_RANK", 0, p->world - 1, 0, &p->local, err));
    p->numbered = text_of(get, "LOCAL_RANK") != NULL;
    NB_TRY(number_or(get, "LOCAL_WORLD_SIZE", 1, p->world, 0, &p->local_world, err));
    if (p->world == 1)
        return NB_OK;
    NB_TRY(number_of(get, "MASTER_PORT", 1, LAST_PORT - 1, &port, err));
    const char *address = text_of(get, "MASTER_ADDR"), *agent = text_of(get, "TORCHELASTIC_USE_AGENT_STORE");
    if (!address)
        return nb_fail(err, NB_BAD_USAGE,
                       "MASTER_ADDR is not set, and RANK and WORLD_SIZE are; expected the machine of "
                       "rank 0");
    snprintf(p->address, sizeof p->address, "%s", address);
    p->port = port + (agent && strcmp(agent, "True") == 0);
    return NB_OK;
}

static nb_status read_mpirun(getter *get, ni_place *p, nb_error *err) {
    p->launcher = NI_LAUNCHED_MPI;
    NB_TRY(number_of(get, "OMPI_COMM_WORLD_SIZE", 1, MOST_RANKS, &p->world, err));
    NB_TRY(number_of(get, "OMPI_COMM_WORLD_RANK", 0, p->world - 1, &p->rank, err));
    NB_TRY(number_or(get, "OMPI_COMM_WORLD_LOCAL_RANK", 0, p->world - 1, 0, &p->local, err));
    p->numbered = text_of(get, "OMPI_COMM_WORLD_LOCAL_RANK") != NULL;
    return number_or(get, "OMPI_COMM_WORLD_LOCAL_SIZE", 1, p->world, 0, &p->local_world, err);
}

bool ni_first_host(const char *list, char *host, size_t size) {
    size_t stem = strcspn(list, "[,"), digits = 0;
    if (list[stem] == '[')
        digits = strspn(list + stem + 1, "0123456789");
    if (stem == 0 || stem + digits + 1 > size || (list[stem] == '[' && (digits == 0 || !strchr(list, ']'))))
        return false;
    snprintf(host, size, "%.*s%.*s", (int)stem, list, (int)digits, list[stem] == '[' ? list + stem + 1 : "");
    return true;
}

/* "8(x4)" and "8" are 8 tasks a node; 0 where nodes differ. */
static int32_t tasks_of(const char *list, int32_t world) {
    char *end;
    const long tasks = list ? strtol(list, &end, 10) : 0;
    if (tasks < 1 || tasks > world || (*end && (end[0] != '(' || strchr(list, ','))))
        return 0;
    return (int32_t)tasks;
}

static nb_status read_slurm(getter *get, ni_place *p, nb_error *err) {
    int32_t job;
    p->launcher = NI_LAUNCHED_TCP;
    NB_TRY(number_of(get, "SLURM_STEP_NUM_TASKS", 1, MOST_RANKS, &p->world, err));
    NB_TRY(number_of(get, "SLURM_PROCID", 0, p->world - 1, &p->rank, err));
    NB_TRY(number_or(get, "SLURM_LOCALID", 0, p->world - 1, 0, &p->local, err));
    p->numbered = text_of(get, "SLURM_LOCALID") != NULL;
    p->local_world = tasks_of(text_of(get, "SLURM_STEP_TASKS_PER_NODE"), p->world);
    if (p->world == 1)
        return NB_OK;
    const char *list = text_of(get, "SLURM_STEP_NODELIST"), *address = text_of(get, "MASTER_ADDR");
    if (address)
        snprintf(p->address, sizeof p->address, "%s", address);
    else if (!list || !ni_first_host(list, p->address, sizeof p->address))
        return nb_fail(err, NB_BAD_USAGE,
                       "SLURM_STEP_NODELIST is \"%.200s\"; expected a list of hosts; hint: set MASTER_ADDR to the host "
                       "of rank 0",
                       list ? list : "");
    NB_TRY(number_or(get, "SLURM_JOB_ID", 0, INT32_MAX, 0, &job, err));
    return number_or(get, "MASTER_PORT", 1, LAST_PORT, USUAL_PORT + job % 10000, &p->port, err);
}

nb_status ni_place_read(const char *(*get)(const char *name), ni_place *out, nb_error *err) {
    enum { PATIENCE = 300, MOST_PATIENCE = 86400 };
    int32_t patience, neighbours;
    *out = (ni_place){.world = 1};
    NB_TRY(number_or(get, "NIBBLE_PATIENCE", 1, MOST_PATIENCE, PATIENCE, &patience, err));
    NB_TRY(number_or(get, "NIBBLE_NEIGHBOURS", 0, 1, 1, &neighbours, err));
    out->patience = patience;
    out->neighbours = neighbours;
    nb_status status = NB_OK;
    if (text_of(get, "RANK") || text_of(get, "WORLD_SIZE"))
        status = read_torchrun(get, out, err);
    else if (text_of(get, "OMPI_COMM_WORLD_RANK") || text_of(get, "OMPI_COMM_WORLD_SIZE"))
        status = read_mpirun(get, out, err);
    else if (text_of(get, "SLURM_STEP_NUM_TASKS"))
        status = read_slurm(get, out, err);
    if (out->world == 1)
        out->launcher = NI_LAUNCHED_ALONE;
    return status;
}
