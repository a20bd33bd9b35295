/* compare_table.c: gaps to the twin, paired over seeds, each with the interval in which it holds; recipes are ranked
 * only where the paired difference of the two is apart from zero. */
#include "cli/compare_table.h"

#include "files/file.h"
#include "files/json.h"
#include "report/paired.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In nats: losses of twins are compared by their difference. */
static ni_paired gap_of(const ni_compared_all *all, int32_t row) {
    return ni_paired_of(all->rows[row].losses, all->rows[0].losses, all->seeds);
}

static double mean_loss(const ni_compared_all *all, int32_t row) {
    return ni_paired_of(all->rows[row].losses, NULL, all->seeds).mean;
}

static double percent(const ni_compared_all *all, double nats) {
    return 100 * nats / mean_loss(all, 0);
}

static void print_gap(double gap) {
    if (isnan(gap))
        printf(" %8s", "-");
    else
        printf(" %+.5f", gap);
}

static void print_row(const ni_compared_all *all, int32_t row) {
    const ni_compared *r = &all->rows[row];
    const ni_paired gap = gap_of(all, row);
    printf("%-26s %15.5f", r->name, mean_loss(all, row));
    if (row == 0) {
        printf(" %9s\n", "twin");
        return;
    }
    printf(" %+9.5f %+8.3f%%", gap.mean, percent(all, gap.mean));
    if (all->seeds > 1) {
        if (gap.pairs > 1)
            printf("  +- %.5f ", gap.half);
        else
            printf("  %10s ", "one seed");
        for (int32_t s = 0; s < all->seeds; s++)
            print_gap(r->losses[s] - all->rows[0].losses[s]);
    }
    putchar('\n');
}

/* Which recipes are more than chance apart: every pair that is, the lower loss first. */
static void print_order(const ni_compared_all *all) {
    int32_t said = 0, pairs = 0;
    for (int32_t i = 0; i < all->count; i++)
        for (int32_t j = i + 1; j < all->count; j++, pairs++) {
            const ni_paired p = ni_paired_of(all->rows[i].losses, all->rows[j].losses, all->seeds);
            if (!ni_paired_apart(&p))
                continue;
            printf("%s %s is below %s by %.5f +- %.5f\n",
                   said++ ? "      " : "Apart:", all->rows[p.mean < 0 ? i : j].name, all->rows[p.mean < 0 ? j : i].name,
                   fabs(p.mean), p.half);
        }
    if (said < pairs)
        printf("%s %d of %d pairs %s not ranked: the 95 %% interval of the difference holds zero.\n",
               said ? "The other" : "Of these,", pairs - said, pairs, pairs - said == 1 ? "is" : "are");
}

void ni_compare_print(const ni_compared_all *all) {
    printf("\n%-26s %15s %9s %9s%s\n", "recipe", "validation loss", "gap, nats", "gap",
           all->seeds > 1 ? "  95 % interval; each seed" : "");
    for (int32_t i = 0; i < all->count; i++)
        print_row(all, i);
    printf("\nGap = L_recipe - L_bf16 at the last step, each loss with its own forward pass on all of the validation "
           "text.\n");
    if (all->from)
        printf("Every run began as %s.\n", all->from);
    if (all->seeds == 1)
        printf("This is one seed: how far such gaps scatter is not known from it; --seeds 3 tells.\n");
    else if (all->count > 1)
        print_order(all);
}

static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *row_of(const ni_compared_all *all, int32_t row) {
    const ni_compared *r = &all->rows[row];
    const ni_paired gap = gap_of(all, row);
    json_t *object = json_object(), *losses = json_array(), *gaps = json_array();
    for (int32_t s = 0; s < all->seeds; s++) {
        ni_json_push(&losses, json_real(r->losses[s]));
        ni_json_push(&gaps, json_real(r->losses[s] - all->rows[0].losses[s]));
    }
    ni_json_put(&object, "recipe", json_string(r->name));
    if (r->branched_from) {
        ni_json_put(&object, "branched_from", json_string(r->branched_from));
        ni_json_put(&object, "branched_at", json_integer(r->branched_at));
    }
    ni_json_put(&object, "val_loss", json_real(mean_loss(all, row)));
    ni_json_put(&object, "val_losses", losses);
    ni_json_put(&object, "gap", json_real(gap.mean));
    ni_json_put(&object, "gaps", gaps);
    ni_json_put(&object, "gap_percent", json_real(percent(all, gap.mean)));
    ni_json_put(&object, "gap_deviation", number(gap.deviation));
    ni_json_put(&object, "gap_interval", number(gap.half)); /* 95 %, mean +- this */
    return object;
}

static nb_status write_json(json_t *root, const char *folder, nb_error *err) {
    char path[4096];
    char *text = ni_json_text(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    json_decref(root);
    if (!text)
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory for compare.json", folder);
    snprintf(path, sizeof path, "%s/compare.json", folder);
    nb_status status = ni_file_write(path, text, strlen(text), err);
    free(text);
    return status;
}

nb_status ni_compare_write_order(const ni_compared_all *all, const char *folder, nb_error *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/compare.json", folder);
    json_t *root, *order;
    NB_TRY(ni_json_load_if_there(path, &root, err));
    order = json_array();
    root = root ? root : json_object();
    for (int32_t i = 0; i < all->count; i++)
        ni_json_push(&order, json_string(all->rows[i].name));
    ni_json_put(&root, "order", order);
    return write_json(root, folder, err);
}

nb_status ni_compare_write(const ni_compared_all *all, const char *folder, nb_error *err) {
    json_t *root = json_object(), *list = json_array();
    ni_json_put(&root, "seeds", json_integer(all->seeds));
    ni_json_put(&root, "steps", json_integer(all->steps));
    if (all->from)
        ni_json_put(&root, "from", json_string(all->from));
    for (int32_t i = 0; i < all->count; i++)
        ni_json_push(&list, row_of(all, i));
    ni_json_put(&root, "recipes", list);
    return write_json(root, folder, err);
}
