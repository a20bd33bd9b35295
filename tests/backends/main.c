/* main.c: every operation of the table on every backend that is asked for, against its reference: one table.
 *
 *     test_backends [--backend NAME]... [--only REGEX] [--whole] [--list] [--digests FILE] [--check-digests FILE]
 *                   [--operands FILE] [--shapes N] [--few] [--part I/N]
 *
 * For tools that make everything slow: of each case's shapes the first N alone (--shapes), of quantizers one of each
 * kind that kernels tell apart (--few), of the cases every N-th from the I-th on (--part 1/N to N/N). --operands:
 * digests are of the matrices in this safetensors file instead of fixed inputs (trained.c).
 *
 * NAME is what nb_backend_open knows, or cpu:scalar, cpu:portable, cpu:avx2, cpu:avx512, each with :THREADS behind it
 * where somebody wants it. Without --backend: every instruction set of this processor. A backend may refuse a shape
 * (NB_UNSUPPORTED): the table shows it with the reason, and what it can do is held to its bound all the same. The exit
 * status is 1 where a case fails, where a row of ops.inc has no case, and with --whole where anything was refused.
 */
#include "trial.h"

#include "backend/cpu/cpu.h"
#include "files/safetensors.h"

#include <regex.h>

enum { MOST_BACKENDS = 16 };

typedef struct options {
    const char *names[MOST_BACKENDS];
    int count, shapes; /* shapes: 0 = all */
    int part, parts;   /* parts: 0 = all cases */
    const char *only, *write, *check, *operands;
    bool list, whole, few;
} options;

static const case_list *const ALL[] = {
    &memory_cases,    &elementwise_cases, &norm_cases,   &sequence_cases, &loss_cases,   &optimizer_cases,
    &quantize_cases,  &operand_cases,     &tile_cases,   &many_cases,     &remade_cases, &produced_cases,
    &way_cases,       &product_cases,     &group_cases,  &permit_cases,   &pow2_cases,   &wide_cases,
    &mechanism_cases, &select_cases,      &measure_cases};
enum { LISTS = sizeof ALL / sizeof *ALL };

/* ---- backends by name ---- */

static bool isa_of(const char *name, nb_backend_options *asked) {
    for (nb_isa isa = NB_ISA_SCALAR; isa <= NB_ISA_AVX512; isa++) {
        const size_t length = strlen(nb_isa_name(isa));
        if (strncmp(name, nb_isa_name(isa), length) != 0 || (name[length] != '\0' && name[length] != ':'))
            continue;
        *asked = (nb_backend_options){name[length] ? atoi(name + length + 1) : 1, isa};
        return true;
    }
    return false;
}

static nb_backend *open_backend(const char *name) {
    nb_backend_options asked = {0};
    nb_backend *be = NULL;
    nb_error err = {0};
    char kind[64];
    const char *isa = strchr(name, ':');
    snprintf(kind, sizeof kind, "%.*s", isa ? (int)(isa - name) : 63, name);
    const bool asks = isa && isa_of(isa + 1, &asked);
    if (nb_backend_open(asks ? kind : name, asks ? &asked : NULL, &be, &err) != NB_OK)
        fail_msg("test_backends: %s: %s", name, err.message);
    return be;
}

static void all_instruction_sets(options *o) {
    static const char *const names[] = {[NB_ISA_SCALAR] = "cpu:scalar",
                                        [NB_ISA_PORTABLE] = "cpu:portable",
                                        [NB_ISA_AVX2] = "cpu:avx2",
                                        [NB_ISA_AVX512] = "cpu:avx512"};
    static const char *const teams[] = {
        [NB_ISA_PORTABLE] = "cpu:portable:3", [NB_ISA_AVX2] = "cpu:avx2:3", [NB_ISA_AVX512] = "cpu:avx512:3"};
    for (nb_isa isa = NB_ISA_SCALAR; isa <= NB_ISA_AVX512 && ni_isa_available(isa); isa++)
        o->names[o->count++] = names[isa];
    if (ni_isa_best() > NB_ISA_SCALAR)
        o->names[o->count++] = teams[ni_isa_best()];
}

/* ---- which operations have a case ---- */

static bool names_it(const char *ops, const char *name) {
    const size_t length = strlen(name);
    for (const char *at = ops; (at = strstr(at, name)); at += length)
        if ((at == ops || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

static bool has_case(const char *name) {
    for (int l = 0; l < LISTS; l++)
        for (int i = 0; i < ALL[l]->count; i++)
            if (names_it(ALL[l]->cases[i].ops, name))
                return true;
    return false;
}

static int count_bare_operations(void) {
    static const char *const names[] = {
#define NI_OP_MEMORY(type, name, arguments) #name,
#define NI_OP_TYPED(type, name, arguments) #name,
#define NI_OP_PLAIN(type, name, arguments) #name,
#include "backend/ops.inc"
    };
    int bare = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!has_case(names[i])) {
            printf("%s: no case runs this operation\n", names[i]);
            bare++;
        }
    return bare;
}

/* ---- the table ---- */

typedef struct references {
    nb_backend *scalar, *in_double;
} references;

static void once(const test_case *c, trial *t, nb_backend *be, int shape, bool absolute, bool few) {
    *t = (trial){.be = be, .shape = shape, .absolute = absolute, .few = few};
    run_trial(c, t);
}

/* What one backend made of one case. */
typedef struct verdict {
    double worst;
    char what[512];    /* where it is worst */
    char refused[512]; /* the first shape that the backend refuses, and why */
    int refusals;
} verdict;

static void judge(const test_case *c, const trial *got, const trial *want, const trial *magnitudes, verdict *v) {
    char text[512];
    if (got->refusal[0] && !got->failure[0]) {
        if (v->refusals++ == 0)
            snprintf(v->refused, sizeof v->refused, "shape %d: %.490s", got->shape, got->refusal);
        return;
    }
    const double ratio = compare_trials(c, got, want, magnitudes, text, sizeof text);
    if (!(ratio <= v->worst)) {
        v->worst = ratio;
        snprintf(v->what, sizeof v->what, "shape %d: %.490s", got->shape, text);
    }
}

static int print_verdict(const test_case *c, const options *o, const char *backend, const verdict *v) {
    const bool right = v->worst <= 1, ok = right && !(o->whole && v->refusals);
    char error[32];
    snprintf(error, sizeof error, v->refusals == c->shapes ? "-" : "%.3g", v->worst);
    printf("%-28.28s  %-34.34s  %-14s  %9s  %-5s  %s\n", c->ops, c->name, backend, error, c->by == BITS ? "bits" : "1",
           !ok                        ? "FAILED"
           : v->refusals == c->shapes ? "not supported"
                                      : "ok");
    if (!right)
        printf("    %s\n", v->what);
    if (v->refusals)
        printf("    not supported, %d of %d shapes: %s\n", v->refusals, c->shapes, v->refused);
    return !ok;
}

static int run_case(const test_case *c, const options *o, nb_backend *const *backends, const references *refs) {
    verdict verdicts[MOST_BACKENDS] = {{0}};
    nb_backend *referee = c->by == BITS || c->by == CODES ? refs->scalar : refs->in_double;
    for (int shape = 0; shape < (o->shapes && o->shapes < c->shapes ? o->shapes : c->shapes); shape++) {
        trial want, magnitudes = {0};
        once(c, &want, referee, shape, false, o->few);
        if (c->by == PRODUCTS || c->by == CODES)
            once(c, &magnitudes, referee, shape, true, o->few);
        if (want.failure[0] || want.refusal[0])
            fail_msg("%s, %s, shape %d: the reference: %s%s", c->ops, c->name, shape, want.failure, want.refusal);
        for (int b = 0; b < o->count; b++) {
            trial got;
            once(c, &got, backends[b], shape, false, o->few);
            judge(c, &got, &want, &magnitudes, &verdicts[b]);
            end_trial(&got);
            assert_true(release_buffers_until(NULL) == 0);
        }
        end_trial(&want);
        end_trial(&magnitudes);
    }
    int failures = 0;
    for (int b = 0; b < o->count; b++)
        failures += print_verdict(c, o, o->names[b], &verdicts[b]);
    fflush(stdout);
    return failures;
}

static int run_all(const options *o) {
    nb_backend *backends[MOST_BACKENDS];
    const references refs = {open_backend("cpu:scalar"), open_backend("ref64")};
    regex_t only;
    int failures = 0, cases = 0, matching = 0;
    ni_safetensors *saved = NULL;
    nb_error err = {0};
    if (o->operands && ni_safetensors_open(o->operands, &saved, &err) != NB_OK)
        fail_msg("test_backends: %s", err.message);
    if (o->only && regcomp(&only, o->only, REG_EXTENDED | REG_NOSUB) != 0)
        fail_msg("test_backends: --only %s is no regular expression", o->only);
    for (int b = 0; b < o->count; b++)
        backends[b] = open_backend(o->names[b]);
    printf("%-28s  %-34s  %-14s  %9s  %-5s  %s\n", "operations", "case", "backend", "error", "limit", "");
    for (int l = 0; l < LISTS; l++)
        for (int i = 0; i < ALL[l]->count; i++) {
            const test_case *c = &ALL[l]->cases[i];
            if (o->only && regexec(&only, c->ops, 0, NULL, 0) != 0 && regexec(&only, c->name, 0, NULL, 0) != 0)
                continue;
            if (o->parts && matching++ % o->parts != o->part - 1)
                continue;
            failures += run_case(c, o, backends, &refs);
            cases++;
        }
    for (int b = 0; b < o->count; b++) {
        if (o->check) {
            const int64_t wrong = check_digests(backends[b], o->check, saved);
            printf("%-28s  %-34s  %-14s  %9lld  %-5s  %s\n", "make_operands",
                   saved ? "digests of saved operands" : "committed digests", o->names[b], (long long)wrong, "0",
                   wrong == 0 ? "ok" : "FAILED");
            failures += wrong != 0;
        }
        if (o->write && write_digests(backends[b], o->write, saved) != 0)
            fail_msg("test_backends: %s cannot be written", o->write);
        nb_backend_free(backends[b]);
    }
    if (o->only)
        regfree(&only);
    ni_safetensors_close(saved);
    nb_backend_free(refs.scalar);
    nb_backend_free(refs.in_double);
    failures += count_bare_operations();
    printf("%d cases on %d backends: %d failures\n", cases, o->count, failures);
    return failures;
}

static void list_all(void) {
    for (int l = 0; l < LISTS; l++)
        for (int i = 0; i < ALL[l]->count; i++)
            printf("%s: %s, %d shapes\n", ALL[l]->cases[i].ops, ALL[l]->cases[i].name, ALL[l]->cases[i].shapes);
}

static options read_options(int argc, char **argv) {
    options o = {0};
    for (int i = 1; i < argc; i++) {
        const char *key = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(key, "--list") == 0) {
            o.list = true;
            continue;
        }
        if (strcmp(key, "--whole") == 0) {
            o.whole = true;
            continue;
        }
        if (strcmp(key, "--few") == 0) {
            o.few = true;
            continue;
        }
        if (strcmp(key, "--shapes") == 0 && next) {
            o.shapes = atoi(next);
            i++;
            continue;
        }
        if (strcmp(key, "--part") == 0 && next && sscanf(next, "%d/%d", &o.part, &o.parts) == 2 && o.part > 0 &&
            o.part <= o.parts) {
            i++;
            continue;
        }
        const char **to = strcmp(key, "--backend") == 0 && o.count < MOST_BACKENDS ? &o.names[o.count]
                          : strcmp(key, "--only") == 0                             ? &o.only
                          : strcmp(key, "--digests") == 0                          ? &o.write
                          : strcmp(key, "--check-digests") == 0                    ? &o.check
                          : strcmp(key, "--operands") == 0                         ? &o.operands
                                                                                   : NULL;
        if (!to || !next)
            fail_msg("usage: test_backends [--backend NAME]... [--only REGEX] [--whole] [--list] [--digests FILE] "
                     "[--check-digests FILE] [--operands FILE] [--shapes N] [--few] [--part I/N]");
        *to = next;
        o.count += to == &o.names[o.count];
        i++;
    }
    if (o.count == 0)
        all_instruction_sets(&o);
    return o;
}

int main(int argc, char **argv) {
    const options o = read_options(argc, argv);
    if (o.list) {
        list_all();
        return 0;
    }
    return run_all(&o) ? 1 : 0;
}
