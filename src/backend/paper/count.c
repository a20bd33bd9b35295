/* count.c: the paper backend's ledger, and memory that is none. */
#include "backend/cpu/ops_kernels.h"
#include "backend/paper/paper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- names ---- */

const char *ni_paper_row_name(ni_paper_row row) {
    static const char *const names[NI_PAPER_ROWS] = {
#define NI_OP_MEMORY(type, name, arguments) #name,
#define NI_OP_TYPED(type, name, arguments) #name,
#define NI_OP_PLAIN(type, name, arguments) #name,
#include "backend/ops.inc"
    };
    return names[row];
}

const char *ni_paper_kind_name(ni_paper_kind kind) {
    static const char *const names[NI_PAPER_KIND_COUNT] = {
#define NAME(name, help) #name,
        NI_PAPER_KINDS(NAME)
#undef NAME
    };
    return names[kind];
}

struct ni_paper_block {
    void *address;
    size_t mapped, bytes;
    int32_t purpose;
};

ni_paper *ni_paper_of(nb_backend *be) {
    return be->ops->alloc == ni_paper_alloc ? be->state : NULL;
}

void ni_paper_free(ni_paper *p) {
    for (int64_t i = 0; i < p->block_count; i++)
        munmap(p->blocks[i].address, p->blocks[i].mapped);
    free(p->blocks);
    free(p);
}

/* ---- the ledger ---- */

static ni_paper_entry *entry_of(ni_paper *p, ni_paper_row row, ni_paper_kind kind, const char *formats) {
    for (int32_t i = 0; i < p->entry_count; i++) {
        ni_paper_entry *e = &p->entries[i];
        if (e->row == row && e->kind == kind && strcmp(e->formats, formats) == 0)
            return e;
    }
    if (p->entry_count == NI_PAPER_ENTRIES) /* more pairs of formats than recipes have: the last takes the rest */
        return &p->entries[NI_PAPER_ENTRIES - 1];
    ni_paper_entry *e = &p->entries[p->entry_count++];
    *e = (ni_paper_entry){.row = row, .kind = kind};
    snprintf(e->formats, sizeof e->formats, "%s", formats);
    return e;
}

/* On a processor memory is one thread's, and so are small rows. On a GPU a call is a kernel. */
static int64_t regions_of(const ni_paper *p, ni_paper_row row, const ni_paper_cost *cost) {
    const bool memory = row == NI_PAPER_ROW_upload || row == NI_PAPER_ROW_download || row == NI_PAPER_ROW_copy ||
                        row == NI_PAPER_ROW_fill_zero;
    if (p->hopper)
        return 1;
    if (cost->regions > 0)
        return cost->regions;
    return !memory && cost->read + cost->written > NI_SPAN_SERIAL * sizeof(float);
}

void ni_paper_note(nb_backend *be, ni_paper_row row, ni_paper_cost cost) {
    ni_paper_entry *e = entry_of(be->state, row, cost.kind, cost.formats ? cost.formats : "");
    e->calls++;
    e->regions += regions_of(be->state, row, &cost);
    e->read += cost.read;
    e->written += cost.written;
    e->flops += cost.flops;
    e->beside = cost.also > 0 ? cost.beside : e->beside;
    e->also += cost.also;
}

void ni_paper_start_over(ni_paper *p) {
    p->entry_count = 0;
}

void ni_paper_thread(nb_backend *be, double bytes) {
    ni_paper *p = be->state;
    p->thread_bytes = (double)p->thread_bytes < bytes ? (size_t)bytes : p->thread_bytes;
}

void ni_paper_room(nb_backend *be, ni_cpu_room room, double bytes) {
    ni_paper *p = be->state;
    p->rooms[room] = (double)p->rooms[room] < bytes ? (size_t)bytes : p->rooms[room];
}

size_t ni_paper_working_bytes(const ni_paper *p) {
    size_t total = (size_t)p->cpu.threads * p->thread_bytes;
    for (int i = 0; i < NI_ROOMS; i++)
        total += p->rooms[i];
    return p->hopper ? 0 : total;
}

/* ---- memory ---- */

static int32_t purpose_of(ni_paper *p, const char *what) {
    for (int32_t i = 0; i < p->purpose_count; i++)
        if (strcmp(p->purposes[i].what, what) == 0)
            return i;
    if (p->purpose_count == NI_PAPER_PURPOSES)
        return NI_PAPER_PURPOSES - 1;
    p->purposes[p->purpose_count].what = what;
    return p->purpose_count++;
}

static struct ni_paper_block *room_for_block(ni_paper *p) {
    if (p->block_count == p->block_capacity) {
        int64_t capacity = p->block_capacity ? 2 * p->block_capacity : 256;
        struct ni_paper_block *blocks = realloc(p->blocks, (size_t)capacity * sizeof *blocks);
        if (!blocks)
            return NULL;
        p->blocks = blocks;
        p->block_capacity = capacity;
    }
    return &p->blocks[p->block_count];
}

/* Pages that are reserved and never there: any use of the address is a fault. */
void *ni_paper_alloc(nb_backend *be, size_t bytes, const char *what) {
    ni_paper *p = be->state;
    struct ni_paper_block *block = room_for_block(p);
    if (!block || bytes > SIZE_MAX / 2)
        return NULL;
    size_t mapped = (bytes + 4095) / 4096 * 4096 + (bytes == 0 ? 4096 : 0);
    void *address = mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED)
        return NULL;
    *block = (struct ni_paper_block){address, mapped, bytes, purpose_of(p, what)};
    p->block_count++;
    ni_paper_purpose *purpose = &p->purposes[block->purpose];
    purpose->pieces++;
    purpose->bytes += bytes;
    purpose->peak = purpose->bytes > purpose->peak ? purpose->bytes : purpose->peak;
    p->bytes += bytes;
    p->peak = p->bytes > p->peak ? p->bytes : p->peak;
    return address;
}

void ni_paper_release(nb_backend *be, void *memory) {
    ni_paper *p = be->state;
    for (int64_t i = p->block_count - 1; i >= 0; i--) {
        struct ni_paper_block *block = &p->blocks[i];
        if (block->address != memory)
            continue;
        munmap(block->address, block->mapped);
        p->purposes[block->purpose].pieces--;
        p->purposes[block->purpose].bytes -= block->bytes;
        p->bytes -= block->bytes;
        *block = p->blocks[--p->block_count];
        return;
    }
}

void ni_paper_upload(nb_backend *be, void *to, const void *from_host, size_t bytes) {
    (void)to, (void)from_host;
    ni_paper_note(be, NI_PAPER_ROW_upload, (ni_paper_cost){.written = (double)bytes});
}

/* What comes back is zero: a loss, a count, a scale that mean nothing and harm nobody. */
void ni_paper_download(nb_backend *be, void *to_host, const void *from, size_t bytes) {
    (void)from;
    memset(to_host, 0, bytes);
    ni_paper_note(be, NI_PAPER_ROW_download, (ni_paper_cost){.read = (double)bytes});
}

void ni_paper_copy(nb_backend *be, void *to, const void *from, size_t bytes) {
    (void)to, (void)from;
    ni_paper_note(be, NI_PAPER_ROW_copy, (ni_paper_cost){.read = (double)bytes, .written = (double)bytes});
}

void ni_paper_fill_zero(nb_backend *be, void *to, size_t bytes) {
    (void)to;
    ni_paper_note(be, NI_PAPER_ROW_fill_zero, (ni_paper_cost){.written = (double)bytes});
}

nb_status ni_paper_synchronize(nb_backend *be, nb_error *err) {
    (void)be, (void)err; /* no work: not noted */
    return NB_OK;
}
