/* threads.c: how many threads, and the memory that each works in. */
#include "backend/backend.h"
#include "backend/cpu/cpu.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

/* Whole processors of the cgroup's quota (cgroup v2 cpu.max: "quota period" or "max period"); 0 if there is none. */
static int32_t quota_processors(void) {
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!file)
        return 0;
    long long quota = 0, period = 0;
    int read = fscanf(file, "%lld %lld", &quota, &period);
    fclose(file);
    if (read != 2 || quota <= 0 || period <= 0)
        return 0;
    long long whole = (quota + period - 1) / period;
    return whole > 1024 ? 1024 : (int32_t)whole;
}

int32_t nb_cpu_default_threads(void) {
    int32_t threads = omp_get_max_threads();
    int32_t quota = quota_processors();
    if (!getenv("OMP_NUM_THREADS") && quota && quota < threads)
        threads = quota;
    return threads < 1 ? 1 : threads > 1024 ? 1024 : threads;
}

int32_t nb_cpu_team(nb_backend *be, double operations) {
    const double worth_a_team = 1 << 20; /* ten microseconds or so of one thread */
    return operations < worth_a_team ? 1 : nb_cpu_of(be)->threads;
}

static void *grow(nb_cpu *cpu, int32_t slot, size_t bytes) {
    if (cpu->scratch_size[slot] >= bytes && cpu->scratch[slot])
        return cpu->scratch[slot];
    if (bytes > SIZE_MAX - 4096)
        return NULL;
    size_t rounded = bytes ? (bytes + 4095) / 4096 * 4096 : 4096;
    void *memory = nb_host_reserve(&rounded);
    if (!memory)
        return NULL; /* what was there stays: nb_cpu_shared promises NB_CPU_SHARED_BYTES */
    free(cpu->scratch[slot]);
    cpu->scratch[slot] = memory;
    cpu->scratch_size[slot] = rounded;
    return memory;
}

void *nb_cpu_scratch(nb_backend *be, int32_t thread, size_t bytes) {
    return grow(nb_cpu_of(be), thread, bytes);
}

void *nb_cpu_shared(nb_backend *be, size_t bytes) {
    return nb_cpu_room_of(be, NB_ROOM_SHARED, bytes);
}

void *nb_cpu_room_of(nb_backend *be, nb_cpu_room room, size_t bytes) {
    nb_cpu *cpu = nb_cpu_of(be);
    return grow(cpu, cpu->threads + (int32_t)room, bytes);
}

size_t nb_cpu_scratch_total(nb_backend *be) {
    nb_cpu *cpu = nb_cpu_of(be);
    size_t total = 2 * (size_t)(cpu->rope.positions * cpu->rope.half) * sizeof(float);
    for (int32_t i = 0; i < cpu->threads + NB_ROOMS; i++)
        total += cpu->scratch_size[i];
    return total;
}
