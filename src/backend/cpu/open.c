/* open.c: creates the CPU backend: threads, instruction set, and its table, references or fast code. */
#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "backend/cpu/gemm.h"
#include "backend/ref/operand_parts.h"
#include "backend/ref/ref.h"
#include "backend/table.h"
#include "base/host_memory.h"

#include <stdlib.h>

static void destroy(nb_backend *be) {
    ni_cpu *cpu = ni_cpu_of(be);
    for (int32_t i = 0; cpu->scratch && i < cpu->threads + NI_ROOMS; i++)
        free(cpu->scratch[i]);
    free(cpu->scratch);
    free(cpu->scratch_size);
    ni_onednn_free(cpu->onednn);
    free(cpu->rope.cosine);
    free(cpu->rope.sine);
    free(cpu);
}

static void assemble(ni_backend_ops *ops, nb_isa isa) {
    const bool scalar = isa == NB_ISA_SCALAR;
#define NI_OP_MEMORY(type, name, arguments) ops->name = ni_host_##name;
#define NI_OP_TYPED(type, name, arguments) ops->name = scalar ? ni_ref_f32_##name : ni_cpu_##name;
#define NI_OP_PLAIN(type, name, arguments) ops->name = scalar ? ni_ref_##name : ni_cpu_##name;
#include "backend/ops.inc"
}

static ni_cpu *create_state(int32_t threads, nb_isa isa) {
    ni_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return NULL;
    cpu->threads = threads;
    cpu->isa = isa;
    ni_gemm_choose(cpu);
    cpu->scratch = calloc((size_t)threads + NI_ROOMS, sizeof *cpu->scratch);
    cpu->scratch_size = calloc((size_t)threads + NI_ROOMS, sizeof *cpu->scratch_size);
    nb_backend be = {.state = cpu};
    if (cpu->scratch && cpu->scratch_size && ni_cpu_shared(&be, NI_CPU_SHARED_BYTES))
        return cpu;
    destroy(&be);
    return NULL;
}

static bool left(nb_backend *be, size_t *left, size_t *all) {
    ni_host_memory memory;
    (void)be;
    if (!ni_host_memory_now(&memory))
        return false;
    *left = memory.left;
    *all = memory.all;
    return true;
}

nb_status ni_backend_cpu(const nb_backend_options *options, nb_backend **out, nb_error *err) {
    const nb_backend_options defaults = {0, NB_ISA_AUTO};
    const nb_backend_options *o = options ? options : &defaults;
    if (o->threads < 0 || o->threads > NI_MOST_THREADS)
        return nb_fail(err, NB_BAD_USAGE, "threads: %d is not a number of threads; expected 0 (all) to %d", o->threads,
                       NI_MOST_THREADS);
    if (o->isa > NB_ISA_AVX512)
        return nb_fail(err, NB_BAD_USAGE, "isa: %d is not an instruction set", (int)o->isa);
    nb_isa isa = o->isa == NB_ISA_AUTO ? ni_isa_best() : o->isa;
    if (!ni_isa_available(isa))
        return nb_fail(err, NB_UNSUPPORTED, "isa: this machine does not run %s; the best here is %s", nb_isa_name(isa),
                       nb_isa_name(ni_isa_best()));
    ni_cpu *cpu = create_state(o->threads ? o->threads : ni_cpu_default_threads(), isa);
    if (!cpu)
        return nb_fail(err, NB_NO_MEMORY, "backend cpu: no memory for its state");
    ni_backend_object *object;
    if (ni_backend_create("cpu", NB_BF16, NB_F32, cpu, destroy, &object, err) != NB_OK) {
        nb_backend unnamed = {.state = cpu};
        destroy(&unnamed);
        return NB_NO_MEMORY;
    }
    assemble(&object->ops, isa);
    object->backend.any_first_key = true;
    object->backend.host_memory = true;
    object->backend.lends_codes = ni_lends_codes;
    object->backend.left = left;
    *out = &object->backend;
    return NB_OK;
}
