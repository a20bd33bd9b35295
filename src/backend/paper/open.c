/* open.c: the paper backend made and unmade. */
#include "backend/backend.h"
#include "backend/paper/paper.h"
#include "backend/ref/operand_parts.h"

#include <stdlib.h>

static void destroy(nb_backend *be) {
    ni_paper_free(be->state);
}

nb_status ni_backend_paper(const nb_backend_options *options, bool hopper, nb_backend **out, nb_error *err) {
    ni_paper *p = calloc(1, sizeof *p);
    if (!p)
        return nb_fail(err, NB_NO_MEMORY, "backend paper: no memory for its ledger");
    p->hopper = hopper;
    p->cpu.threads = options && options->threads ? options->threads : ni_cpu_default_threads();
    p->cpu.isa = options && options->isa != NB_ISA_AUTO ? options->isa : ni_isa_best();
    p->machine = (nb_backend){.name = "cpu", .act = NB_BF16, .real = NB_F32, .state = &p->cpu};
    p->rooms[NI_ROOM_SHARED] = NI_CPU_SHARED_BYTES;
    ni_backend_object *object;
    nb_status status = ni_backend_create("paper", NB_BF16, NB_F32, p, destroy, &object, err);
    if (status != NB_OK) {
        free(p);
        return status;
    }
#define NI_OP_MEMORY(type, name, arguments) object->ops.name = ni_paper_##name;
#define NI_OP_TYPED(type, name, arguments) object->ops.name = ni_paper_##name;
#define NI_OP_PLAIN(type, name, arguments) object->ops.name = ni_paper_##name;
#include "backend/ops.inc"
    object->backend.multiply_many = hopper ? ni_paper_multiply_many : NULL; /* as cuda/open.c: memory */
    object->backend.makes_gates = hopper;                                   /* likewise */
    object->backend.paper = true;
    object->backend.host_memory = !hopper;
    object->backend.lends_codes = ni_lends_codes;
    object->backend.remakes = hopper ? ni_remakes_double : NULL; /* memory again */
    object->backend.wants_amax = hopper;                         /* as cuda/open.c says: early wgrad.x is memory */
    if (hopper)
        object->backend.logit_elements = NI_LOGITS_GPU;
    *out = &object->backend;
    return NB_OK;
}
