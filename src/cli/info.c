/* info.c: `nibble info`: the machine, the libraries, and which code each operation will run. */
#include "backend/table.h"
#include "cli/bench.h"

#include "backend/load.h"

#include "backend/cpu/cpu.h"
#include "backend/cpu/gemm.h"
#include "format/element.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <yaml.h>

typedef struct info_options {
    const char *isa, *backend;
    int64_t threads;
} info_options;

static const ni_option options[] = {
    {"isa", 0, NI_OPTION_TEXT, offsetof(info_options, isa), "NAME", "auto, scalar, portable, avx2 or avx512"},
    {"backend", 0, NI_OPTION_TEXT, offsetof(info_options, backend), "NAME",
     "this one alone: cpu, cuda or cuda:NUMBER; ends with 1 and the reason where it is not here"},
    {"threads", 0, NI_OPTION_INT, offsetof(info_options, threads), "N", "0: all that the process may use"},
    {0},
};

static const ni_command_line line = {
    .usage = "[--backend NAME] [--isa NAME] [--threads N]",
    .about =
        "The machine's features, the backends that are here and why others are not, the libraries, and which code\n"
        "each operation will run.",
    .options = options,
    .least = 0,
    .most = 0,
};

static void print_machine(nb_backend *be) {
    char processor[128];
    printf("nibble %s\n\nprocessor   %s\n", NIBBLE_VERSION, ni_bench_processor(processor, sizeof processor));
    printf("runs       ");
    for (int isa = NB_ISA_PORTABLE; isa <= NB_ISA_AVX512; isa++)
        if (ni_isa_available((nb_isa)isa))
            printf(" %s", nb_isa_name((nb_isa)isa));
    printf("%s\nthreads     %d\nbackend     cpu, %s\n",
           ni_isa_available(NB_ISA_AVX512) ? " (F BW DQ VL VNNI VBMI BF16)"
           : ni_isa_dotprod()              ? " (SDOT)"
                                           : "",
           (int)ni_cpu_of(be)->threads, nb_isa_name(ni_cpu_of(be)->isa));
}

/* ---- a GPU ---- */

static void print_cudnn(const ni_cuda_facts *f) {
    if (f->cudnn)
        printf("            cuDNN %zu.%zu.%zu: attention where a run says deterministic: false\n", f->cudnn / 10000,
               f->cudnn / 100 % 100, f->cudnn % 100);
    else
        printf("            cuDNN none (%s): attention is our own kernel's, deterministic: false or not\n",
               f->cudnn_why);
}

static void print_gpu(const ni_cuda_facts *f) {
    printf("cuda        GPU %d of %d: %s, compute capability %d.%d, %d multiprocessors, %.1f GiB\n", f->device,
           f->count, f->name, f->major, f->minor, f->multiprocessors, (double)f->memory / 1073741824.0);
    printf("            driver for CUDA %d.%d, built with CUDA %d.%d, cuBLASLt %zu.%zu.%zu\n", f->driver / 1000,
           f->driver % 1000 / 10, f->runtime / 1000, f->runtime % 1000 / 10, f->cublaslt / 10000,
           f->cublaslt / 100 % 100, f->cublaslt % 100);
    printf("            FP8 units %s; FP4 units %s\n",
           f->fp8_units ? "multiply codes under scales of rows and tensors" : "not used",
           f->fp4_units ? "with native_fp4: true (never run on its hardware)" : "none");
    print_cudnn(f);
}

/* The GPU, or in its place the reason why there is none: no reason to fail where nobody asked for it. */
static void print_gpu_or_why(void) {
    ni_cuda_facts facts;
    nb_error err = {0};
    if (ni_backend_describe_cuda(0, &facts, &err) == NB_OK)
        print_gpu(&facts);
    else
        printf("cuda        not here: %s\n", strncmp(err.message, "cuda: ", 6) == 0 ? err.message + 6 : err.message);
}

static void print_libraries(void) {
    char openblas[64], onednn[64];
    ni_openblas_version(openblas, sizeof openblas);
    ni_onednn_version(onednn, sizeof onednn);
    unsigned xxhash = XXH_versionNumber();
    printf("libraries   OpenBLAS %s, oneDNN %s, libyaml %s, jansson %s, xxHash %u.%u.%u\n", openblas, onednn,
           yaml_get_version_string(), JANSSON_VERSION, xxhash / 10000, xxhash / 100 % 100, xxhash % 100);
    if (getenv("OPENBLAS_CORETYPE"))
        printf("            OPENBLAS_CORETYPE is set to %s\n", getenv("OPENBLAS_CORETYPE"));
}

/* ---- products ---- */

typedef struct operand {
    const char *text, *family;
    int32_t block_rows, block_cols;
    nb_outer_scale outer;
} operand;

static const operand operands[] = {
    {"nvfp4 1x16", "nvfp4", 1, 16, NB_OUTER_TENSOR},
    {"nvfp4 16x16", "nvfp4", 16, 16, NB_OUTER_TENSOR},
    {"nvfp4 outer 1x128", "nvfp4", 1, 16, NB_OUTER_ROW128},
    {"nvfp4 outer 1x128 pow2", "nvfp4", 1, 16, NB_OUTER_ROW128_POW2},
    {"mxfp4 1x32", "mxfp4", 1, 32, NB_OUTER_NONE},
    {"mxfp8 1x32", "mxfp8", 1, 32, NB_OUTER_NONE},
    {"hifloat4 1x64", "hifloat4", 1, 64, NB_OUTER_NONE},
    {"e2m1 row", "e2m1", 1, NB_BLOCK_ALL, NB_OUTER_NONE},
    {"e2m1 tensor", "e2m1", NB_BLOCK_ALL, NB_BLOCK_ALL, NB_OUTER_NONE},
    {"int4 row", "int4", 1, NB_BLOCK_ALL, NB_OUTER_NONE},
    {"e4m3 tensor", "e4m3", NB_BLOCK_ALL, NB_BLOCK_ALL, NB_OUTER_NONE},
};
enum { OPERANDS = sizeof operands / sizeof *operands };

static nb_quantizer quantizer_of(const operand *o) {
    nb_quantizer q = ni_format_family_find(o->family)->defaults;
    q.block_rows = o->block_rows;
    q.block_cols = o->block_cols;
    q.outer = o->outer;
    return q;
}

static void print_coded_products(nb_backend *be) {
    for (int i = 0; i < OPERANDS; i++) {
        nb_quantizer q = quantizer_of(&operands[i]);
        char text[64];
        snprintf(text, sizeof text, "%s by %s", operands[i].text, operands[i].text);
        printf("  %-48s %s\n", text, be->ops->product_kernel(be, &q, &q));
    }
    nb_quantizer x = quantizer_of(&operands[0]), w = quantizer_of(&operands[1]);
    printf("  %-48s %s\n", "nvfp4 1x16 by nvfp4 16x16", be->ops->product_kernel(be, &x, &w));
}

/* What runs, under the name by which checkpoints keep it, and why the others do not. */
static void print_plain_product(nb_backend *be, nb_dtype type, const char *text) {
    const ni_cpu *cpu = ni_cpu_of(be);
    char sums[NI_GEMM_SUMS_SIZE];
    be->ops->gemm_sums(be, type, type, sums, sizeof sums);
    printf("  %-48s %s; sums \"%s\"\n", text, be->ops->gemm_kernel(be, type, type), sums);
    ni_gemm_candidate list[NI_GEMM_ENGINES];
    int32_t count = cpu->isa == NB_ISA_SCALAR ? 0 : ni_gemm_candidates(cpu, type == NB_BF16, list);
    for (int32_t i = 0; i < count; i++) {
        bool taken = list[i].engine == cpu->products[type == NB_BF16];
        const char *answer = taken                           ? "taken"
                             : list[i].fit == NI_GEMM_CANNOT ? "cannot"
                             : list[i].fit == NI_GEMM_SLOW   ? "slow"
                                                             : "not reached";
        printf("    %-10s %-11s %s\n", list[i].engine->name, answer, list[i].why);
    }
}

static void print_products(nb_backend *be) {
    puts("\nproducts");
    print_plain_product(be, NB_BF16, "bf16 by bf16");
    print_plain_product(be, NB_F32, "f32 by f32");
    print_coded_products(be);
    puts("  decoded operands are multiplied by the product of bf16 by bf16");
}
/* ---- the other operations ---- */

static void print_operations(nb_backend *be) {
    static const char *const names[] = {
#define NI_OP_MEMORY(type, name, arguments)
#define NI_OP_TYPED(type, name, arguments) #name,
#define NI_OP_PLAIN(type, name, arguments) #name,
#include "backend/ops.inc"
    };
    const nb_isa isa = ni_cpu_of(be)->isa;
    puts("\noperations");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(names[i], "gemm", 4) != 0) /* the products above */
            printf("  %-24s %s\n", names[i], isa == NB_ISA_SCALAR ? "scalar reference" : nb_isa_name(isa));
}

static nb_status info_on_gpu(const char *name, int device, nb_error *err) {
    ni_cuda_facts facts;
    nb_backend *be;
    NB_TRY(ni_backend_describe_cuda(device, &facts, err));
    NB_TRY(nb_backend_open(name, NULL, &be, err));
    const ni_permits usual = {.exact_fp8 = true}; /* what a run file permits that says nothing of it */
    nb_status status = be->ops->permit(be, &usual, err);
    if (status != NB_OK) {
        nb_backend_free(be);
        return status;
    }
    printf("nibble %s\n\n", NIBBLE_VERSION);
    print_gpu(&facts);
    printf("\nproducts, with fp8_units: exact\n  %-48s %s\n", "bf16 by bf16",
           be->ops->gemm_kernel(be, NB_BF16, NB_BF16));
    print_coded_products(be);
    nb_backend_free(be);
    return NB_OK;
}

nb_status ni_cli_info(int argc, char **argv, nb_error *err) {
    info_options o = {.isa = "auto"};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    nb_isa isa;
    NB_TRY(ni_bench_isa(o.isa, &isa, err));
    const nb_backend_options cpu = {ni_cli_threads(o.threads), isa};
    nb_backend *be;
    int device;
    if (o.backend && ni_cuda_device_of(o.backend, &device))
        return info_on_gpu(o.backend, device, err);
    if (o.backend && strcmp(o.backend, "cpu") != 0)
        return nb_fail(err, NB_BAD_USAGE, "--backend: \"%s\" is no machine; expected cpu, cuda or cuda:NUMBER",
                       o.backend);
    NB_TRY(nb_backend_open("cpu", &cpu, &be, err));
    print_machine(be);
    if (!o.backend)
        print_gpu_or_why();
    print_libraries();
    print_products(be);
    print_operations(be);
    nb_backend_free(be);
    return NB_OK;
}
