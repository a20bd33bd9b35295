/* probe_policy.c: measures what each layer would lose under each format of a list while the checkpoint trains on in
 * BF16, and writes the recipe that gives every layer the cheapest format within a budget (the idea of LoKA,
 * arXiv:2605.10886, of which we could read the abstract). Of two formats of equal size the one that errs less.
 *
 * The norm: an operand's error is |x - Q(x)| / |x|, Frobenius, to nearest, without rotation, over all the numbers of
 * the steps that are watched; a product's is the root of the sum of its operands' squares, as errors that know nothing
 * of each other add up; a layer's the largest of its three products'.
 */
#include "cli/probe_policy.h"

#include "cli/cli.h"
#include "files/file.h"
#include "recipe/policy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LAYERS = 4096 };

/* Squares of one operand in both orientations, as it is read along one and the other contraction. */
typedef struct sums {
    double squares, error;
} sums;
typedef struct tensor {
    char name[NB_NAME_SIZE];
    sums of[NB_POLICY_FORMATS][2];
    bool misfit[NB_POLICY_FORMATS]; /* its shape has no blocks of this format */
} tensor;

typedef struct tensors {
    tensor *list;
    int32_t count;
} tensors;

typedef struct watch {
    nb_backend *be;
    const nb_policy *policy;
    nb_quantizer formats[NB_POLICY_FORMATS];
    tensors x, w, dy;
    bool full, failed;
    nb_error error;
} watch;

/* ---- watching ---- */

static tensor *find(tensors *all, const char *name) {
    for (int32_t i = 0; i < all->count; i++)
        if (strcmp(all->list[i].name, name) == 0)
            return &all->list[i];
    return NULL;
}

static tensor *find_or_add(watch *w, tensors *all, const char *name) {
    tensor *t = find(all, name);
    if (t || w->full)
        return t;
    if (all->count == MOST_LAYERS) {
        w->full = true;
        return NULL;
    }
    t = &all->list[all->count++];
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

static nb_status measure(watch *w, tensor *t, int32_t format, const nb_mat *x, bool transpose, nb_error *err) {
    const nb_quantizer *q = &w->formats[format];
    const int64_t rows = transpose ? x->cols : x->rows, cols = transpose ? x->rows : x->cols;
    nb_quantize_stats stats;
    if (nb_quantizer_is_bf16(q))
        return NB_OK;
    if (nb_quantizer_check_shape(q, rows, cols, NULL) != NB_OK) {
        t->misfit[format] = true;
        return NB_OK;
    }
    void *memory = nb_backend_alloc(w->be, nb_qtensor_bytes(q, rows, cols).total);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "probe: no memory for %lld x %lld codes", (long long)rows, (long long)cols);
    const nb_qtensor codes = nb_qtensor_place(q, rows, cols, memory);
    nb_status status = nb_quantize(w->be, &codes, x, transpose, NULL, &stats, err);
    nb_backend_release(w->be, memory);
    NB_TRY(status);
    t->of[format][transpose].squares += stats.sum_sq;
    t->of[format][transpose].error += stats.sum_sq_error;
    return NB_OK;
}

static void on_operand(void *context, const nb_lens_operand *seen) {
    watch *w = context;
    tensors *all = seen->role == NB_FPROP_X    ? &w->x
                   : seen->role == NB_FPROP_W  ? &w->w
                   : seen->role == NB_DGRAD_DY ? &w->dy
                                               : NULL;
    if (!all || !seen->source || w->failed)
        return;
    tensor *t = find_or_add(w, all, seen->module);
    for (int32_t f = 0; t && f < w->policy->format_count && !w->failed; f++)
        for (int transpose = 0; transpose < 2 && !w->failed; transpose++)
            w->failed = measure(w, t, f, seen->source, transpose, &w->error) != NB_OK;
}

/* ---- choosing ---- */

static double squared(const tensor *t, int32_t format, int transpose) {
    const sums *s = &t->of[format][transpose];
    return s->squares > 0 ? s->error / s->squares : 0;
}

/* Of the layer under a format; Inf where it has no blocks of it. */
static double error_of(const tensor *x, const tensor *w, const tensor *dy, int32_t format) {
    if (x->misfit[format] || w->misfit[format] || dy->misfit[format])
        return INFINITY;
    const double products[3] = {squared(x, format, 0) + squared(w, format, 0),
                                squared(dy, format, 0) + squared(w, format, 1),
                                squared(dy, format, 1) + squared(x, format, 1)};
    return sqrt(fmax(products[0], fmax(products[1], products[2])));
}

/* X under its own name, or under that of the layers that share it: "layers.0.mlp.input" of up_proj. */
static const tensor *input_of(watch *w, const char *module) {
    char shared[NB_NAME_SIZE + 8], *leaf;
    const tensor *x = find(&w->x, module);
    snprintf(shared, sizeof shared, "%s", module);
    while (!x && (leaf = strrchr(shared, '.'))) {
        snprintf(leaf, sizeof shared - (size_t)(leaf - shared), ".input");
        x = find(&w->x, shared);
        *leaf = 0;
    }
    return x;
}

static double bits_of(const nb_quantizer *q) {
    enum { SIDE = 1024 };
    const nb_qtensor_size size = nb_qtensor_bytes(q, SIDE, SIDE);
    return nb_quantizer_is_bf16(q) ? 16 : 8 * (double)(size.codes + size.scales + size.outer_scales) / (SIDE * SIDE);
}

/* Blocks come in any order; a line a kind, '.' where nothing was seen. */
static nb_status put_digit(nb_policy *p, const char *module, int32_t format, nb_error *err) {
    const char *kind = ni_policy_kind(module);
    const size_t block = (size_t)atoi(module + 7), name = strlen(kind);
    int32_t i = 0;
    while (i < p->layer_count && (strncmp(p->layers[i], kind, name) != 0 || p->layers[i][name] != ' '))
        i++;
    if (i == NB_POLICY_LAYERS || name + 2 + block >= NB_NAME_SIZE)
        return nb_fail(err, NB_UNSUPPORTED, "%s: a policy holds %d kinds of layers and lines of %d characters", module,
                       NB_POLICY_LAYERS, NB_NAME_SIZE - 1);
    char *line = p->layers[i];
    if (i == p->layer_count) {
        p->layer_count++;
        snprintf(line, NB_NAME_SIZE, "%s ", kind);
    }
    for (size_t at = strlen(line); at <= name + 1 + block; at++)
        line[at] = '.';
    line[name + 1 + block] = (char)('0' + format);
    return NB_OK;
}

static nb_status choose(watch *w, const ni_policy_probe *how, nb_policy *policy, nb_error *err) {
    double bits[NB_POLICY_FORMATS] = {0};
    int32_t counts[NB_POLICY_FORMATS] = {0};
    printf("%-32s", "relative error of a product");
    for (int32_t f = 0; f < policy->format_count; f++) {
        bits[f] = bits_of(&w->formats[f]);
        printf(" %10.10s", policy->formats[f]);
    }
    printf("  takes\n");
    for (int32_t i = 0; i < w->dy.count; i++) {
        const char *module = w->dy.list[i].name;
        const tensor *weight = find(&w->w, module), *x = input_of(w, module);
        int32_t best = -1;
        double least = INFINITY;
        if (!ni_policy_kind(module) || !weight || !x)
            continue;
        printf("%-32s", module);
        for (int32_t f = 0; f < policy->format_count; f++) {
            const double error = error_of(x, weight, &w->dy.list[i], f);
            printf(" %10.4f", error);
            if (error <= how->budget &&
                (best < 0 || bits[f] < bits[best] || (bits[f] == bits[best] && error < least))) {
                best = f;
                least = error;
            }
        }
        printf("  %s\n", policy->formats[best]);
        counts[best]++;
        NB_TRY(put_digit(policy, module, best, err));
    }
    printf("\nwithin a budget of %g:", how->budget);
    for (int32_t f = 0; f < policy->format_count; f++)
        printf(" %d in %s (%.4g bits)%s", (int)counts[f], policy->formats[f], bits[f],
               f + 1 < policy->format_count ? "," : "\n");
    return policy->layer_count ? NB_OK : nb_fail(err, NB_INTERNAL, "probe: no linear layer of a block was seen");
}

/* ---- the formats, the run, the file ---- */

/* "mxfp4, {format: nvfp4, block: 16x16}": commas within braces do not part. */
static nb_status read_formats(const char *text, watch *w, nb_policy *p, nb_error *err) {
    int depth = 0;
    size_t used = 0;
    for (const char *c = text;; c++) {
        depth += (*c == '{') - (*c == '}');
        const bool parts = !*c || (depth == 0 && (*c == ',' || *c == ' '));
        if (!parts && (used || *c != ' ') && used < NB_NAME_SIZE - 1)
            p->formats[p->format_count][used++] = *c;
        if (parts && used) {
            if (p->format_count == NB_POLICY_FORMATS - 1)
                return nb_fail(err, NB_BAD_USAGE, "--formats: at most %d", NB_POLICY_FORMATS - 1);
            p->formats[p->format_count][used] = 0;
            if (nb_quantizer_parse(p->formats[p->format_count], &w->formats[p->format_count], err) != NB_OK)
                return nb_fail_within(err, "--formats");
            p->format_count++;
            used = 0;
        }
        if (!*c)
            break;
    }
    snprintf(p->formats[p->format_count], NB_NAME_SIZE, "bf16"); /* within every budget */
    w->formats[p->format_count++] = nb_quantizer_bf16();
    return NB_OK;
}

static nb_status train_and_watch(watch *w, const ni_policy_probe *how, nb_error *err) {
    char recipes[NB_PATH_SIZE], models[NB_PATH_SIZE];
    nb_checkpoint_info info;
    const nb_lens lens = {.context = w, .operand = on_operand};
    const nb_trainer_options options = {.recipes_dir = recipes, .models_dir = models, .lens = &lens};
    nb_trainer *trainer;
    NB_TRY(ni_cli_folder("recipes", recipes, sizeof recipes, err));
    NB_TRY(ni_cli_folder("models", models, sizeof models, err));
    NB_TRY(nb_checkpoint_info_read(how->folder, &info, err));
    nb_run_config config = info.config;
    snprintf(config.recipe, sizeof config.recipe, "bf16");
    NB_TRY(nb_trainer_create(w->be, &config, &options, &trainer, err));
    nb_status status = nb_trainer_load(trainer, how->folder, NB_START_FORK, err);
    for (int64_t i = 0; i < how->steps && status == NB_OK; i++) {
        nb_step_report report;
        status = nb_trainer_step(trainer, &report, err);
    }
    nb_trainer_free(trainer);
    if (status == NB_OK && w->failed) {
        *err = w->error;
        return w->error.status;
    }
    return status;
}

static nb_status write_recipe(const ni_policy_probe *how, const nb_policy *p, nb_error *err) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", how->out);
    fprintf(
        to,
        "# Written by nibble probe --policy: of each layer the cheapest of the formats whose products err by at most\n"
        "# %g (|x - Q(x)| / |x| of both operands, squares added), over %lld steps from %s.\n"
        "base: %s\nname: policy\nfamily: LoKA\npaper: arXiv:2605.10886\nabout: \"a format a layer, within an error of "
        "%g\"\n"
        "keep: {first_blocks: 0, last_blocks: 0}\npolicy:\n  formats: [",
        how->budget, (long long)how->steps, how->folder, how->base ? how->base : "nvfp4", how->budget);
    for (int32_t f = 0; f < p->format_count; f++)
        fprintf(to, "%s\"%s\"", f ? ", " : "", p->formats[f]);
    fprintf(to, "]\n  layers:\n");
    for (int32_t i = 0; i < p->layer_count; i++)
        fprintf(to, "    - \"%s\"\n", p->layers[i]);
    const bool whole = fclose(to) == 0;
    nb_status status = whole ? ni_file_write(how->out, text, strlen(text), err)
                             : nb_fail(err, NB_NO_MEMORY, "%s: out of memory", how->out);
    free(text);
    return status;
}

static nb_status probe(watch *w, const ni_policy_probe *how, nb_policy *policy, nb_error *err) {
    NB_TRY(ni_cli_range("budget", how->budget, 0, INFINITY, err)); /* BF16 errs by 0: a layer has a format in any */
    NB_TRY(ni_cli_range("steps", (double)how->steps, 1, INFINITY, err));
    NB_TRY(read_formats(how->formats ? how->formats : "mxfp4, nvfp4, mxfp8", w, policy, err));
    NB_TRY(train_and_watch(w, how, err));
    if (w->full)
        return nb_fail(err, NB_UNSUPPORTED, "probe: more than %d linear layers", MOST_LAYERS);
    NB_TRY(choose(w, how, policy, err));
    return write_recipe(how, policy, err);
}

nb_status ni_cli_probe_policy(nb_backend *be, const ni_policy_probe *how, nb_error *err) {
    nb_policy policy = {.format_count = 0};
    watch w = {.be = be, .policy = &policy};
    tensors *all[] = {&w.x, &w.w, &w.dy};
    bool there = true;
    for (int i = 0; i < 3; i++) {
        all[i]->list = calloc(MOST_LAYERS, sizeof(tensor));
        there = there && all[i]->list;
    }
    nb_status status = there ? probe(&w, how, &policy, err) : nb_fail(err, NB_NO_MEMORY, "probe: out of memory");
    for (int i = 0; i < 3; i++)
        free(all[i]->list);
    return status;
}
