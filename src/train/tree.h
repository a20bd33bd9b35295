/* tree.h: a sum of doubles in the tree of accumulate.h: the first and second number are added, the third and fourth,
 * then such pairs; what is left at the end is added from the smallest subtree up. Numbers come one at a time.
 *
 * Whoever holds an aligned block of 2^n numbers computes one node of the tree: the sum does not depend on how many do.
 */
#ifndef NI_TRAIN_TREE_H
#define NI_TRAIN_TREE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ni_sum_tree {
    uint64_t count;   /* numbers so far; bit l: a subtree of 2^l numbers is open */
    double level[64]; /* its sum */
} ni_sum_tree;

static inline void ni_tree_add(ni_sum_tree *tree, double number) {
    int level = 0;
    for (; tree->count >> level & 1; level++)
        number = tree->level[level] + number;
    tree->level[level] = number;
    tree->count++;
}

static inline double ni_tree_total(const ni_sum_tree *tree) {
    double total = 0;
    bool any = false;
    for (int level = 0; level < 64; level++)
        if (tree->count >> level & 1) {
            total = any ? tree->level[level] + total : tree->level[level];
            any = true;
        }
    return total;
}

#endif
