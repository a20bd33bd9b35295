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

int32_t ni_cpu_default_threads(void) {
    int32_t threads = omp_get_max_threads();
    int32_t quota = quota_processors();
    if (!getenv("OMP_NUM_THREADS") && quota && quota < threads)
        threads = quota;
    return threads < 1 ? 1 : threads > 1024 ? 1024 : threads;
}

int32_t ni_cpu_team(nb_backend *be, double operations) {
    const double worth_a_team = 1 << 20; /* ten microseconds or so of one thread */
    return operations < worth_a_team ? 1 : ni_cpu_of(be)->threads;
}

static void *grow(ni_cpu *cpu, int32_t slot, size_t bytes) {
    if (cpu->scratch_size[slot] >= bytes && cpu->scratch[slot])
        return cpu->scratch[slot];
    if (bytes > SIZE_MAX - 4096)
        return NULL;
    size_t rounded = bytes ? (bytes + 4095) / 4096 * 4096 : 4096;
    void *memory = ni_host_reserve(&rounded);
    if (!memory)
        return NULL; /* what was there stays: ni_cpu_shared promises NI_CPU_SHARED_BYTES */
    free(cpu->scratch[slot]);
    cpu->scratch[slot] = memory;
    cpu->scratch_size[slot] = rounded;
    return memory;
}

void *ni_cpu_scratch(nb_backend *be, int32_t thread, size_t bytes) {
    return grow(ni_cpu_of(be), thread, bytes);
}

void *ni_cpu_shared(nb_backend *be, size_t bytes) {
    return ni_cpu_room_of(be, NI_ROOM_SHARED, bytes);
}

void *ni_cpu_room_of(nb_backend *be, ni_cpu_room room, size_t bytes) {
    ni_cpu *cpu = ni_cpu_of(be);
    return grow(cpu, cpu->threads + (int32_t)room, bytes);
}

size_t ni_cpu_scratch_total(nb_backend *be) {
    ni_cpu *cpu = ni_cpu_of(be);
    size_t total = 2 * (size_t)(cpu->rope.positions * cpu->rope.half) * sizeof(float);
    for (int32_t i = 0; i < cpu->threads + NI_ROOMS; i++)
        total += cpu->scratch_size[i];
    return total;
}
