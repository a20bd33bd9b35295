/* test_run_goldens.c: what short runs compute, bit for bit, beside tests/golden/runs.txt: every shipped recipe on every
 * family (on ngpt those that are made for it), 30 steps of two micro-batches, two evaluations, mechanisms awake.
 *
 * There are four arms. "scalar"; "fma", with AVX2 or AVX-512 and the kernel of ours for plain products, whose order of
 * sums is one for both: rows of these hold on any x86-64 machine whose libm rounds alike. "portable" and "chosen",
 * which is the best instruction set with the products that this machine takes for itself: these multiply by libraries,
 * so their rows carry where they were made and are compared only there.
 *
 * By default scalar code and the best instruction set as fma and as chosen; NIBBLE_GOLDEN_ALL=1 runs the others too,
 * NIBBLE_GOLDEN_THREADS=N changes the threads (and no bit). NIBBLE_GOLDEN_WRITE=1 writes the rows of all arms of this
 * machine anew and keeps those of others; NIBBLE_GOLDEN_ARM=fma (say) runs that arm alone; NIBBLE_GOLDEN_ONLY=PATTERN,
 * as 'fp4-w*', picks recipes and runs their rows alone.
 *
 * Models are as small as blocks allow. Scalar code is slow on blocks of 128 and rotations of 64 or more: some of the
 * recipes with them take 4 steps of one micro-batch there, on llama alone, the others none. A recipe that the family's
 * tiny model refuses is a row, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/gemm.h"
#include "backend/table.h"
#include "files/checksum.h"
#include "files/safetensors.h"
#include "train_case.h"

#include <dirent.h>
#include <fnmatch.h>

enum { STEPS = 30, FEW_STEPS = 4, EVALUATIONS = 2, DIGITS = 16, MOST_ROWS = 2000, ROW_SIZE = 512 };

static const char *const families[] = {"llama", "qwen3", "olmo2", "gla", "ngpt"};

typedef enum arm { SCALAR, PORTABLE, FMA, CHOSEN } arm;
static const char *const arm_names[] = {"scalar", "portable", "fma", "chosen"};

typedef struct outcome {
    double losses[STEPS], evaluations[EVALUATIONS];
    int32_t steps, evaluated;
    char state[NI_CHECKSUM_SIZE];
    bool refused;
} outcome;

/* ---- the run ---- */

static bool is_wide(const nb_recipe *r) {
    return r->roles[NB_FPROP_X].quantizer.outer == NB_OUTER_ROW128 ||
           r->roles[NB_FPROP_X].quantizer.scale_type == NB_SCALE_HIF4 ||
           r->roles[NB_DGRAD_DY].quantizer.hadamard_size >= 64;
}

static void put(void **state, const char *name, const char *text) {
    nb_error err = {0};
    if (ni_file_write(in_folder(state, name), text, strlen(text), &err) != NB_OK)
        fail_msg("%s", err.message);
}

/* Scalar code takes one block of 32 features; 1x128 blocks want 128, and 256 in the MLP, so that OutControl splits. */
static void put_model(void **state, const char *family, bool wide, bool scalar, int layers) {
    char text[512], more[256];
    const int hidden = wide ? 128 : scalar ? 32 : 64;
    if (strcmp(family, "gla") == 0)
        snprintf(more, sizeof more, "gla: {expand_k: 1}\n");
    else
        snprintf(more, sizeof more, "kv_heads: %d\nhead_dim: %d\ntied: %s\n", wide ? 2 : 1, wide ? 64 : 32,
                 strcmp(family, "qwen3") == 0 ? "true" : "false");
    snprintf(text, sizeof text,
             "name: small\nfamily: %s\nvocab: 64\nhidden: %d\nlayers: %d\nheads: %d\nintermediate: %d\nmax_seq: 64\n%s",
             family, hidden, layers, scalar && !wide ? 1 : 2, 2 * hidden, more);
    put(state, "small.yaml", text);
}

/* What a recipe schedules, moved to where 30 steps see it; outliers of 32 features. */
static void put_recipe(void **state, const nb_recipe *r, bool few, const char *more) {
    char text[1024];
    const nb_mechanism_set *m = &r->mechanisms;
    snprintf(text, sizeof text, "base: %s\nname: awake\n%s%s%s%s%s%s", r->name,
             m->has_qramping && !strstr(more, "qramping") ? "qramping: {every: 10, window: 2, k1: 4}\n" : "",
             m->has_occ && !strstr(more, "occ") ? "occ: {alpha: 0.95}\n" : "",
             m->has_hcp && !strstr(more, "hcp") ? "hcp: {share: 0.5, refresh: 7, ema: 0}\n" : "",
             !m->has_outcontrol || strstr(more, "outcontrol") ? ""
             : few                                            ? "outcontrol: {start: 1, window: 1}\n"
                                                              : "outcontrol: {start: 4, window: 4}\n",
             !m->has_oscireset || strstr(more, "oscireset") ? ""
             : few ? "oscireset: {start: 0, period: 3, window: 1, threshold: 1}\n"
                   : "oscireset: {start: 10, period: 10, window: 4, threshold: 2}\n",
             more);
    put(state, "awake.yaml", text);
}

static void on_step(void *user, const nb_step_report *report) {
    outcome *o = user;
    o->losses[o->steps++] = report->loss;
}

static void on_evaluation(void *user, const nb_eval_report *report) {
    outcome *o = user;
    o->evaluations[o->evaluated++] = report->loss;
}

/* Parameters and moments; not what mechanisms keep, which is theirs to arrange. */
static void digest_files(void **state, int32_t steps, char out[NI_CHECKSUM_SIZE]) {
    static const char *const files[] = {"model", "optimizer"};
    char *all = NULL, name[128];
    size_t size = 0;
    FILE *to = open_memstream(&all, &size);
    for (int f = 0; f < 2; f++) {
        ni_safetensors *file;
        nb_error err = {0};
        snprintf(name, sizeof name, "run/checkpoints/step-%08d/%s.safetensors", steps, files[f]);
        if (ni_safetensors_open(in_folder(state, name), &file, &err) != NB_OK)
            fail_msg("%s", err.message);
        for (int32_t i = 0; i < ni_safetensors_count(file); i++) {
            const ni_file_tensor *t = ni_safetensors_at(file, i);
            char sum[NI_CHECKSUM_SIZE];
            ni_checksum(t->data, t->bytes, sum);
            if (strncmp(t->name, "state/", 6) != 0)
                fprintf(to, "%s %s %s\n", t->name, ni_tensor_dtype_name(t->dtype), sum);
        }
        ni_safetensors_close(file);
    }
    fclose(to);
    ni_checksum(all, size, out);
    free(all);
}

static int32_t threads(void) {
    const char *text = getenv("NIBBLE_GOLDEN_THREADS");
    return text ? atoi(text) : 2;
}

/* The backend of an arm; */
static nb_backend *open_arm(arm which, nb_isa isa, int32_t team) {
    nb_backend *be;
    nb_error err = {0};
    const nb_backend_options options = {team, isa};
    assert_int_equal(nb_backend_open("cpu", &options, &be, &err), NB_OK);
    for (int bf16 = 0; which == FMA && bf16 < 2; bf16++) {
        nb_dtype type = bf16 ? NB_BF16 : NB_F32;
        if (be->ops->gemm_take(be, type, type, "fma chain", &err) != NB_OK)
            fail_msg("%s", err.message);
    }
    return be;
}

static outcome run(void **state, const char *recipe, const char *family, arm which, nb_isa isa, const char *more,
                   const char *set) {
    char text[2048], tiny[600];
    outcome o = {.refused = false};
    nb_run_config config;
    nb_recipe r;
    nb_error err = {0};
    if (nb_recipe_load(recipe, NI_TEST_SOURCE "/recipes", &r, &err) != NB_OK)
        fail_msg("%s", err.message);
    const bool wide = is_wide(&r), few = wide && isa == NB_ISA_SCALAR;
    const int32_t steps = few ? FEW_STEPS : STEPS;
    /* keep.last_blocks would leave a single block in BF16 */
    put_model(state, family, wide, isa == NB_ISA_SCALAR,
              wide || (isa == NB_ISA_SCALAR && r.keep.last_blocks == 0) ? 1 : 2);
    put_recipe(state, &r, few, more);
    ni_folder_remove(in_folder(state, "run"), NULL);
    snprintf(text, sizeof text,
             "model: %s/small.yaml\nrecipe: %s/awake.yaml\nout: %s/run\nsteps: %d\nseq: %d\nmicro_batch: 2\n"
             "accumulation: %d\ndata: {train: %s/train.bin, val: %s/val.bin, end_of_text: 0}\noptimizer: {lr: 3e-3}\n"
             "eval: {every: %d, sequences: 4}\ncheckpoint: {every: 0}\nlens: {every: 0}\nthreads: %d\n",
             (char *)*state, (char *)*state, (char *)*state, steps,
             wide                   ? 64
             : isa == NB_ISA_SCALAR ? 16
                                    : 32,
             few ? 1 : 2, (char *)*state, (char *)*state, steps / EVALUATIONS, threads());
    if (nb_run_config_parse(text, strlen(text), "golden", &set, set ? 1 : 0, &config, &err) != NB_OK)
        fail_msg("%s", err.message);
    nb_backend *be = open_arm(which, isa, threads());
    nb_trainer *t;
    nb_trainer_options options = {.recipes_dir = NI_TEST_SOURCE "/recipes",
                                  .callbacks = {.user = &o, .step = on_step, .evaluation = on_evaluation}};
    nb_model_config model;
    nb_model *shipped;
    snprintf(tiny, sizeof tiny, "%s-tiny", family);
    assert_int_equal(nb_model_config_load(tiny, NI_TEST_SOURCE "/models", &model, &err), NB_OK);
    nb_status fits = nb_model_create(be, &model, &r, 2, 64, true, &shipped, &err);
    if (fits == NB_OK) {
        nb_model_free(shipped);
        nb_status status = nb_trainer_create(be, &config, &options, &t, &err);
        if (status == NB_OK) {
            status = nb_trainer_run(t, NB_START_NEW, NULL, &err);
            nb_trainer_free(t);
        }
        if (status != NB_OK)
            fail_msg("%s on %s: %s", recipe, family, err.message);
        assert_true(o.steps == steps && o.evaluated == EVALUATIONS);
        digest_files(state, steps, o.state);
    } else {
        assert_int_equal(fits, NB_BAD_CONFIG);
        assert_non_null(strstr(err.message, "do not divide"));
        o.refused = true;
    }
    nb_backend_free(be);
    return o;
}

/* ---- the file ---- */

static char old[MOST_ROWS][ROW_SIZE], fresh[MOST_ROWS][ROW_SIZE];
static int32_t old_count, fresh_count, compared, elsewhere;

/* "any"; "cpu 6-207-2, avx512, bf16 onednn, ..." */
static void name_of_place(arm which, nb_isa isa, char *out, size_t size) {
    char line[256], blas[64], dnnl[64], cpu[96] = "";
    int numbers = 0;
    if (which == SCALAR || which == FMA) {
        snprintf(out, size, "any");
        return;
    }
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && numbers < 3 && fgets(line, sizeof line, file))
        if (strncmp(line, "cpu family", 10) == 0 || strncmp(line, "model\t", 6) == 0 ||
            strncmp(line, "stepping", 8) == 0) {
            numbers++;
            snprintf(cpu + strlen(cpu), sizeof cpu - strlen(cpu), "%s%d", cpu[0] ? "-" : "",
                     atoi(strchr(line, ':') + 1));
        }
    if (file)
        fclose(file);
    nb_backend *be = open_arm(which, isa, 1);
    ni_openblas_version(blas, sizeof blas);
    ni_onednn_version(dnnl, sizeof dnnl);
    snprintf(out, size, "cpu %s, %s, %s, %s, OpenBLAS %s, oneDNN %s", cpu, nb_isa_name(isa),
             be->ops->gemm_kernel(be, NB_BF16, NB_BF16), be->ops->gemm_kernel(be, NB_F32, NB_F32), blas, dnnl);
    nb_backend_free(be);
}

static const char *path_of_rows(void) {
    return NI_TEST_GOLDEN "/runs.txt";
}

static void read_rows(void) {
    FILE *file = fopen(path_of_rows(), "r");
    old_count = 0;
    while (file && old_count < MOST_ROWS && fgets(old[old_count], ROW_SIZE, file)) {
        old[old_count][strcspn(old[old_count], "\n")] = 0;
        old_count += old[old_count][0] != '#';
    }
    if (file)
        fclose(file);
}

/* `key` ends before " | place": name | place | digests. */
static void compare_row(const char *key, const char *place, const char *row) {
    const size_t n = strlen(key), with = n + 3 + strlen(place);
    bool known = false;
    for (int32_t i = 0; i < old_count; i++) {
        if (strncmp(old[i], key, n) != 0 || strncmp(old[i] + n, " | ", 3) != 0)
            continue;
        known = true;
        if (strncmp(old[i], row, with) != 0)
            continue;
        if (strcmp(old[i], row) != 0)
            fail_msg("what a run computes has changed:\n  was %s\n  is  %s", old[i], row);
        compared++;
        return;
    }
    if (!known || strcmp(place, "any") == 0)
        fail_msg("%s: no row in %s; hint: NIBBLE_GOLDEN_WRITE=1 adds it", key, path_of_rows());
    print_message("%s: not compared: the file has no row made on %s\n", key, place);
    elsewhere++;
}

static void write_rows(void) {
    FILE *file = fopen(path_of_rows(), "w");
    assert_non_null(file);
    fputs("# Written by NIBBLE_GOLDEN_WRITE=1 test_run_goldens: arm, family, recipe | made on | digests of\n"
          "# losses, evaluations, parameters and moments | first and last loss\n",
          file);
    for (int32_t i = 0; i < old_count; i++) {
        bool again = false;
        for (int32_t j = 0; j < fresh_count && !again; j++) {
            const char *end = strstr(strstr(fresh[j], " | ") + 3, " | ");
            again = strncmp(old[i], fresh[j], (size_t)(end - fresh[j]) + 3) == 0;
        }
        if (!again)
            fprintf(file, "%s\n", old[i]);
    }
    for (int32_t j = 0; j < fresh_count; j++)
        fprintf(file, "%s\n", fresh[j]);
    assert_int_equal(fclose(file), 0);
}

static void row_of(const char *key, const char *place, const outcome *o, char *row) {
    char losses[NI_CHECKSUM_SIZE], evaluations[NI_CHECKSUM_SIZE];
    ni_checksum(o->losses, (size_t)o->steps * sizeof *o->losses, losses);
    ni_checksum(o->evaluations, sizeof o->evaluations, evaluations);
    if (o->refused)
        snprintf(row, ROW_SIZE, "%s | %s | refused", key, place);
    else
        snprintf(row, ROW_SIZE, "%s | %s | %.*s %.*s %.*s | %.6f %.6f", key, place, DIGITS, losses, DIGITS, evaluations,
                 DIGITS, o->state, o->losses[0], o->losses[o->steps - 1]);
}

static int by_name(const void *a, const void *b) {
    return strcmp(a, b);
}

static bool is_asked_for(const char *name) {
    const char *only = getenv("NIBBLE_GOLDEN_ONLY");
    return !only || fnmatch(only, name, 0) == 0;
}

static int32_t list_recipes(char names[64][NB_NAME_SIZE]) {
    int32_t count = 0;
    DIR *folder = opendir(NI_TEST_SOURCE "/recipes");
    assert_non_null(folder);
    for (struct dirent *entry = readdir(folder); entry && count < 64; entry = readdir(folder)) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".yaml") != 0)
            continue;
        snprintf(names[count], NB_NAME_SIZE, "%.*s", (int)(dot - entry->d_name), entry->d_name);
        count += is_asked_for(names[count]);
    }
    closedir(folder);
    qsort(names, (size_t)count, NB_NAME_SIZE, by_name);
    return count;
}

/* Nothing in a recipe is asleep, on any family: no two of them end alike. */
static void differs_from_all(const outcome *o, const char *key, bool first) {
    static char seen[64][NI_CHECKSUM_SIZE];
    static int32_t count;
    count = first ? 0 : count;
    if (o->refused)
        return;
    for (int32_t i = 0; i < count; i++)
        if (strcmp(seen[i], o->state) == 0)
            fail_msg("%s: ends in the parameters of another recipe", key);
    assert_true(count < 64);
    memcpy(seen[count++], o->state, NI_CHECKSUM_SIZE);
}

/* nvfp4 with something more: what no shipped recipe has. */
typedef struct variant {
    const char *suffix, *more;
} variant;
static const variant own = {"", ""};
static const variant variants[] = {{"+late-switch", "late_switch: {at: 0.6}\n"},
                                   {"+delayed", "fprop: {x: {outer: delayed}}\ndgrad: {dy: {outer: delayed}}\n"
                                                "wgrad: {dy: {outer: delayed}, x: {outer: delayed}}\n"}};

/* bf16 with what recipes may say of attention, on the first family. */
static const variant attentions[] = {
    {"+attention-nvfp4", "attention: {forward: nvfp4}\n"},
    {"+attention-bf16-back", "attention: {forward: nvfp4, backward: bf16}\n"},
    {"+attention-sage", "attention: {forward: nvfp4, p_levels: two, smooth_k: true, v_blocks: head}\n"},
    {"+attention-mxfp4", "attention: {forward: mxfp4, delta: output}\n"}};

static void one_row(void **state, arm which, nb_isa isa, const char *place, const char *family, const char *recipe,
                    const variant *with, bool first) {
    char key[200], row[ROW_SIZE];
    snprintf(key, sizeof key, "%s %s %s%s", arm_names[which], family, recipe, with->suffix);
    outcome o = run(state, recipe, family, which, isa, with->more, NULL);
    row_of(key, place, &o, row);
    differs_from_all(&o, key, first);
    if (getenv("NIBBLE_GOLDEN_WRITE")) {
        assert_true(fresh_count < MOST_ROWS);
        memcpy(fresh[fresh_count++], row, ROW_SIZE);
    } else {
        compare_row(key, place, row);
    }
}

static bool is_wanted_variant(const char *recipe, const variant *v) {
    char name[64];
    snprintf(name, sizeof name, "%s%s", recipe, v->suffix);
    return is_asked_for(name);
}

static bool skipped_by_scalar(const char *recipe, const char *family) {
    bool taken = strcmp(recipe, "tetrajet-v2") == 0 || strcmp(recipe, "tetrajet-v2-released") == 0;
    if (strcmp(recipe, "quartet-2") == 0 || strcmp(recipe, "mxfp4-backward") == 0 || strcmp(recipe, "hifloat4") == 0)
        return strcmp(family, "llama") != 0;
    return strncmp(recipe, "tetrajet-v2", 11) == 0 && !(taken && strcmp(family, "llama") == 0);
}

/* ngpt is trained under the recipe that is made for it and under the two that it stands beside. */
static bool skipped_by_ngpt(const char *recipe, const char *family) {
    const bool taken = strcmp(recipe, "bf16") == 0 || strcmp(recipe, "nvfp4") == 0 || strcmp(recipe, "nvfp4-ngpt") == 0;
    return strcmp(family, "ngpt") == 0 && !taken;
}

static void rows_of(void **state, arm which, nb_isa isa) {
    static char names[64][NB_NAME_SIZE];
    char place[256];
    const int32_t count = list_recipes(names);
    name_of_place(which, isa, place, sizeof place);
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        for (int32_t i = 0; i < count; i++)
            if ((which != SCALAR || !skipped_by_scalar(names[i], families[f])) &&
                !skipped_by_ngpt(names[i], families[f]))
                one_row(state, which, isa, place, families[f], names[i], &own, i == 0);
        for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
            if (is_wanted_variant("nvfp4", &variants[v]) && strcmp(families[f], "ngpt") != 0)
                one_row(state, which, isa, place, families[f], "nvfp4", &variants[v], false);
        for (size_t v = 0; f == 0 && v < sizeof attentions / sizeof *attentions; v++)
            if (is_wanted_variant("bf16", &attentions[v]))
                one_row(state, which, isa, place, families[f], "bf16", &attentions[v], false);
    }
}

static nb_isa best(void) {
    return ni_isa_available(NB_ISA_AVX512) ? NB_ISA_AVX512
           : ni_isa_available(NB_ISA_AVX2) ? NB_ISA_AVX2
                                           : NB_ISA_PORTABLE;
}

/* Whether the machine would choose the products of another arm. */
static bool chooses_as_another(void) {
    char sums[2][64] = {{0}};
    nb_backend *be = open_arm(CHOSEN, best(), 1);
    for (int bf16 = 0; bf16 < 2; bf16++)
        be->ops->gemm_sums(be, bf16 ? NB_BF16 : NB_F32, bf16 ? NB_BF16 : NB_F32, sums[bf16], sizeof sums[bf16]);
    nb_backend_free(be);
    return best() == NB_ISA_PORTABLE || (strcmp(sums[0], "fma chain") == 0 && strcmp(sums[1], "fma chain") == 0);
}

static bool wanted(arm which) {
    const char *only = getenv("NIBBLE_GOLDEN_ARM");
    return !only || strcmp(only, arm_names[which]) == 0;
}

static void every_run(void **state) {
    const bool writes = getenv("NIBBLE_GOLDEN_WRITE"), all = getenv("NIBBLE_GOLDEN_ALL") || writes;
    read_rows();
    if (wanted(SCALAR))
        rows_of(state, SCALAR, NB_ISA_SCALAR);
    if (wanted(PORTABLE) && (all || best() == NB_ISA_PORTABLE))
        rows_of(state, PORTABLE, NB_ISA_PORTABLE);
    for (nb_isa isa = NB_ISA_AVX2; wanted(FMA) && isa <= best(); isa++)
        if (isa == best() || (all && !writes))
            rows_of(state, FMA, isa);
    if (wanted(CHOSEN) && !chooses_as_another())
        rows_of(state, CHOSEN, best());
    if (writes)
        write_rows();
    else
        print_message("%d rows compared, %d made on other machines\n", compared, elsewhere);
}

/* ---- were they awake? ---- */

/* A twin in which a mechanism never acts is the same until the step at which it acts, and not from there on. A weight
 * reset to its bin's centre after step 15 gives the forward pass of step 16 the same codes: step 17 shows it. */
static void mechanisms_act_when_they_should(void **state) {
    if (getenv("NIBBLE_GOLDEN_ONLY"))
        skip();
    static const struct {
        const char *recipe, *asleep;
        int32_t differs; /* index of the first loss that does */
    } cases[] = {
        {"chon", "hcp: {share: 0.5, refresh: 1000, ema: 0}\n", 8}, /* chosen in step 7 */
        {"tetrajet-v2-outcontrol", "outcontrol: {start: 1000}\n", 8},
        {"tetrajet-v2-oscireset", "oscireset: {start: 1000}\n", 17},
        {"tetrajet-v2-memeff", "oscireset: {start: 1000}\n", 17},
        {"tetrajet-v1", "qema: {warmup: 1000}\n", 10},
        {"tetrajet-v1-ramping", "qramping: {every: 10, window: 2, k2: 0}\n", 1}, /* calibrated before step 0 */
        {"nvfp4", "late_switch: {at: 0.6}\n", 18},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        outcome a = run(state, cases[c].recipe, "llama", CHOSEN, best(), "", NULL);
        outcome b = run(state, cases[c].recipe, "llama", CHOSEN, best(), cases[c].asleep, NULL);
        int32_t same = 0;
        while (same < STEPS && a.losses[same] == b.losses[same])
            same++;
        print_message("%s: alike for %d steps without %s", cases[c].recipe, same, cases[c].asleep);
        assert_int_equal(same, cases[c].differs);
    }
}

static void the_lens_changes_no_bit(void **state) {
    if (getenv("NIBBLE_GOLDEN_ONLY"))
        skip();
    static const char *const recipes[] = {"chon", "tetrajet-v2", "fp4-dge-occ"};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        outcome a = run(state, recipes[i], "llama", CHOSEN, best(), "", NULL);
        outcome b = run(state, recipes[i], "llama", CHOSEN, best(), "", "lens.every=5");
        assert_memory_equal(a.losses, b.losses, sizeof a.losses);
        assert_memory_equal(a.evaluations, b.evaluations, sizeof a.evaluations);
        assert_string_equal(a.state, b.state);
    }
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_folder, remove_temporary_folder)
    const struct CMUnitTest tests[] = {CASE(every_run), CASE(mechanisms_act_when_they_should),
                                       CASE(the_lens_changes_no_bit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
