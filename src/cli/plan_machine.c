/* plan_machine.c: machine files: the keys, and the floor that they give. */
#include "cli/plan_machine.h"

#include "backend/table.h"
#include "cli/cli.h"
#include "nibble/train.h"

#include <string.h>

#define FIELD(member) NI_FIELD(ni_machine, member)

static const ni_word operands_words[] = {
    {"cpu", NI_OPERANDS_CPU, "codes, and packed panels or BF16 behind those of a right operand"},
    {"hopper", NI_OPERANDS_HOPPER, "BF16 values and words; codes where they are read again"},
    {NULL, 0, NULL},
};

static const ni_word isa_words[] = {
    {"auto", NB_ISA_AUTO, "as the run file says"},
    {"portable", NB_ISA_PORTABLE, "plain C"},
    {"avx2", NB_ISA_AVX2, "AVX2"},
    {"avx512", NB_ISA_AVX512, "AVX-512 with VNNI and BF16"},
    {NULL, 0, NULL},
};

static const ni_word unknown_words[] = {{"unknown", 0, "such work is counted by its bytes alone"}, {NULL, 0, NULL}};

#define RATE(kind, of)                                                                                                 \
    {                                                                                                                  \
        .path = "rates." #kind, .type = NI_KEY_FLOAT, FIELD(rate[NI_PAPER_##kind]), .fallback = "unknown",             \
        .high = 1e20, .words = unknown_words, .help = "FLOP/s of " of                                                  \
    }

static const ni_word one_thread_words[] = {{"unknown", 0, "bandwidth"}, {NULL, 0, NULL}};
static const ni_word none_words[] = {{"unknown", 0, "there are none"}, {NULL, 0, NULL}};
static const ni_word peak_words[] = {{"unknown", 0, "rates.bf16"}, {NULL, 0, NULL}};
static const ni_word work_words[] = {{"unknown", 0, "rates.work"}, {NULL, 0, NULL}};
static const ni_word packing_words[] = {{"unknown", 0, "the longer of arithmetic and movement counts"},
                                        {NULL, 0, NULL}};
static const ni_word memory_words[] = {{"unknown", 0, "nothing is said of what does not fit"}, {NULL, 0, NULL}};
static const ni_word link_words[] = {{"unknown", 0, "--ranks cannot be planned over it"}, {NULL, 0, NULL}};

/* A kind of work with a rate of its own. */
#define WORK(kind, of)                                                                                                 \
    {                                                                                                                  \
        .path = "rates." #kind, .type = NI_KEY_FLOAT, FIELD(rate[NI_PAPER_##kind]), .fallback = "unknown",             \
        .high = 1e20, .words = work_words, .help = of                                                                  \
    }

#define LINK(name, field, of)                                                                                          \
    {                                                                                                                  \
        .path = "links." name, .type = NI_KEY_FLOAT, FIELD(links.field), .fallback = "unknown", .high = 1e20,          \
        .words = link_words, .help = of                                                                                \
    }
#define MESSAGE(name, field, of)                                                                                       \
    { .path = "links." name, .type = NI_KEY_FLOAT, FIELD(links.field), .fallback = "0", .high = 1, .help = of }

static const ni_key rows[] = {
    {.path = "name", .type = NI_KEY_TEXT, FIELD(name), .help = "what it is called"},
    {.path = "about", .type = NI_KEY_TEXT, FIELD(about), .fallback = "\"\"", .help = "one line on what it is"},
    {.path = "operands",
     .type = NI_KEY_CHOICE,
     FIELD(operands),
     .fallback = "cpu",
     .words = operands_words,
     .help = "how quantized operands lie in memory"},
    {.path = "isa",
     .type = NI_KEY_CHOICE,
     FIELD(isa),
     .fallback = "auto",
     .words = isa_words,
     .help = "instruction set, whose kernels decide the panels' sizes"},
    {.path = "threads",
     .type = NI_KEY_INT,
     FIELD(threads),
     .fallback = "0",
     .high = NI_MOST_THREADS,
     .help = "threads, each with working memory of its own; 0: as the run file says"},
    {.path = "bandwidth",
     .type = NI_KEY_FLOAT,
     FIELD(bandwidth),
     .positive = true,
     .high = 1e20,
     .help = "bytes a second between memory and processor, read and written together, as a copy has them"},
    {.path = "call",
     .type = NI_KEY_FLOAT,
     FIELD(call),
     .fallback = "0",
     .high = 1,
     .help = "seconds that one region of threads or one kernel costs besides: starting and waiting for it"},
    {.path = "packing",
     .type = NI_KEY_FLOAT,
     FIELD(packing),
     .fallback = "unknown",
     .high = 1e20,
     .words = packing_words,
     .help = "bytes a second that products read and write beside their arithmetic: operands are packed, sums stored"},
    {.path = "one_thread",
     .type = NI_KEY_FLOAT,
     FIELD(one_thread),
     .fallback = "unknown",
     .high = 1e20,
     .words = one_thread_words,
     .help = "bytes a second of what one thread of a processor does: zeroes, copies"},
    RATE(work, "FP32 arithmetic outside of products"),
    WORK(stages, "a second: numbers through stages of quantizers (a scale, rounding, random bits, turning)"),
    WORK(functions, "a second: exponentials, logarithms, quotients"),
    RATE(f32, "products of FP32 numbers"),
    RATE(bf16, "products of BF16 numbers"),
    WORK(sparse, "FLOP/s of products of the entries of a sparse operand"),
    {.path = "rates.adamw",
     .type = NI_KEY_FLOAT,
     FIELD(adamw),
     .fallback = "unknown",
     .high = 1e20,
     .words = work_words,
     .help = "FLOP/s of AdamW's arithmetic"},
    {.path = "rates.decoded",
     .type = NI_KEY_FLOAT,
     FIELD(rate[NI_PAPER_decoded]),
     .fallback = "unknown",
     .high = 1e20,
     .words = peak_words,
     .help = "FLOP/s of products of codes that are decoded to BF16 numbers"},
    {.path = "rates.fp8",
     .type = NI_KEY_FLOAT,
     FIELD(rate[NI_PAPER_fp8]),
     .fallback = "unknown",
     .high = 1e20,
     .words = peak_words,
     .help = "FLOP/s of products of codes by units for 8 bits of compute capability 9.0 (fp8_units)"},
    RATE(blocks, "products of codes with a scale a block"),
    RATE(whole, "products of codes with a scale a row or a tensor"),
    RATE(attention, "softmax attention, forward and backward"),
    RATE(scan, "gated linear attention, counted as its recurrence"),
    {.path = "rates.nvfp4",
     .type = NI_KEY_FLOAT,
     FIELD(nvfp4),
     .fallback = "unknown",
     .high = 1e20,
     .words = none_words,
     .help = "FLOP/s of products of NVFP4 codes on units for four bits, where native_fp4 asks for them"},
    {.path = "peak",
     .type = NI_KEY_FLOAT,
     FIELD(peak),
     .fallback = "unknown",
     .high = 1e20,
     .words = peak_words,
     .help = "FLOP/s that MFU is a share of"},
    {.path = "memory",
     .type = NI_KEY_FLOAT,
     FIELD(memory),
     .fallback = "unknown",
     .high = 1e20,
     .words = memory_words,
     .help = "bytes that a rank has"},
    {.path = "links.near.ranks",
     .type = NI_KEY_INT,
     FIELD(links.near_ranks),
     .fallback = "1",
     .low = 1,
     .high = 65536,
     .help = "ranks of one machine, or of whatever shares the fast links"},
    LINK("near.rate", near_rate, "bytes a second between ranks of a machine, out of each and as many into it"),
    MESSAGE("near.message", near_message, "seconds that a message between ranks of a machine costs besides"),
    LINK("far.rate", far_rate, "bytes a second between machines, out of each rank and as many into it"),
    MESSAGE("far.message", far_message, "seconds that a message between machines costs besides"),
};

static const char intro[] = "A machine file says how fast a machine multiplies and moves, for the times of `nibble "
                            "plan` ([plan.md](plan.md)).\n"
                            "Those in `machines/` say where their numbers come from.\n";

const ni_keys ni_machine_keys = {
    .name = "machine file", .intro = intro, .rows = rows, .count = NI_COUNT(rows), .size = sizeof(ni_machine)};

nb_status ni_machine_load(const char *name_or_path, ni_machine *out, nb_error *err) {
    char folder[NB_PATH_SIZE], path[NB_PATH_SIZE];
    ni_yaml doc;
    NB_TRY(ni_cli_folder("machines", folder, sizeof folder, err));
    NB_TRY(ni_yaml_locate(name_or_path, folder, "machine", path, sizeof path, err));
    NB_TRY(ni_yaml_load(path, &doc, err));
    nb_status status = ni_keys_read(&ni_machine_keys, out, doc.root, err);
    ni_yaml_free(&doc);
    if (status != NB_OK)
        return status;
    double *rate = out->rate;
    const ni_paper_kind of_bf16[] = {NI_PAPER_decoded, NI_PAPER_fp8};
    for (size_t i = 0; i < NI_COUNT(of_bf16); i++)
        rate[of_bf16[i]] = rate[of_bf16[i]] > 0 ? rate[of_bf16[i]] : rate[NI_PAPER_bf16];
    const ni_paper_kind of_work[] = {NI_PAPER_sparse, NI_PAPER_stages, NI_PAPER_functions};
    for (size_t i = 0; i < NI_COUNT(of_work); i++)
        rate[of_work[i]] = rate[of_work[i]] > 0 ? rate[of_work[i]] : rate[NI_PAPER_work];
    out->one_thread = out->one_thread > 0 ? out->one_thread : out->bandwidth;
    out->adamw = out->adamw > 0 ? out->adamw : rate[NI_PAPER_work];
    return status;
}

/* What units for four bits multiply: codes of half a byte, and a scale byte for 16 of them, in the place of BF16. */
static bool is_nvfp4(const ni_paper_entry *entry) {
    return strncmp(entry->formats, "nvfp4 ", 6) == 0 && strstr(entry->formats, " x nvfp4 ");
}

static bool is_product(ni_paper_kind kind) {
    return kind == NI_PAPER_f32 || kind == NI_PAPER_bf16 || kind == NI_PAPER_decoded || kind == NI_PAPER_blocks ||
           kind == NI_PAPER_whole || kind == NI_PAPER_fp8;
}

static double seconds_of(double amount, double rate) {
    return rate > 0 ? amount / rate : 0;
}

/* Of bytes: operands of units for four bits have fewer. */
static double moving_seconds(const ni_machine *machine, const ni_paper_entry *entry, bool native, bool packs) {
    const bool one = machine->operands == NI_OPERANDS_CPU &&
                     (entry->row == NI_PAPER_ROW_fill_zero || entry->row == NI_PAPER_ROW_copy);
    const double read = native && machine->operands != NI_OPERANDS_CPU ? entry->read * (0.5625 / 2) : entry->read;
    return (read + entry->written) / (packs ? machine->packing : one ? machine->one_thread : machine->bandwidth);
}

double ni_machine_seconds(const ni_machine *machine, const ni_paper_entry *entry, const char **bound) {
    const bool native = machine->nvfp4 > 0 && is_nvfp4(entry);
    const bool adamw = entry->row == NI_PAPER_ROW_adamw;
    const double rate = native ? machine->nvfp4 : adamw ? machine->adamw : machine->rate[entry->kind];
    const bool packs = machine->packing > 0 && is_product(entry->kind);
    const double moving = moving_seconds(machine, entry, native, packs);
    const double computing = seconds_of(entry->flops, rate) + seconds_of(entry->also, machine->rate[entry->beside]);
    if (bound)
        *bound = computing > moving ? "arithmetic" : "bytes";
    const double both = packs ? computing + moving : computing > moving ? computing : moving;
    return both + (double)entry->regions * machine->call;
}
