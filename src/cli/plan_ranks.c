/* plan_ranks.c: bytes on links, and how much longer a step takes for them. */
#include "cli/plan_ranks.h"

#include "cli/screen.h"
#include "train/reduce.h"

#include <stdio.h>
#include <string.h>

static double seconds_of(const ni_machine_links *links, const ni_exchange_cost *cost) {
    const double near = cost->near_bytes > 0 ? cost->near_bytes / links->near_rate : 0;
    const double far = cost->far_bytes > 0 ? cost->far_bytes / links->far_rate : 0;
    return near + far + cost->near_messages * links->near_message + cost->far_messages * links->far_message;
}

static double rounds_of(double bytes) {
    const int64_t rounds = (int64_t)(bytes / NI_REDUCED_BYTES) + 1;
    return (double)rounds;
}

static int64_t near_of(const ni_machine_links *links, int64_t ranks) {
    return ranks < links->near_ranks ? ranks : links->near_ranks;
}

static ni_exchange_cost each_with_each(double bytes, double ranks, double near) {
    const double rounds = rounds_of(bytes);
    return (ni_exchange_cost){.near_bytes = 2 * bytes * (near - 1) / ranks,
                              .far_bytes = 2 * bytes * (ranks - near) / ranks,
                              .near_messages = 2 * rounds * (near - 1),
                              .far_messages = 2 * rounds * (ranks - near)};
}

static ni_exchange_cost machines_first(double bytes, double ranks, double near) {
    const double rounds = rounds_of(bytes), machines = ranks / near;
    return (ni_exchange_cost){.near_bytes = 2 * bytes * (near - 1) / near,
                              .far_bytes = 2 * bytes / near * (machines - 1) / machines,
                              .near_messages = 2 * rounds * (near - 1),
                              .far_messages = 2 * rounds * (machines - 1)};
}

ni_exchange_cost ni_exchange_of(const ni_machine_links *links, double bytes, int64_t ranks) {
    const int64_t near = near_of(links, ranks);
    ni_exchange_cost cost = (near & (near - 1)) == 0 ? machines_first(bytes, (double)ranks, (double)near)
                                                     : each_with_each(bytes, (double)ranks, (double)near);
    cost.seconds = seconds_of(links, &cost);
    return cost;
}

ni_exchange_cost ni_gather_of(const ni_machine_links *links, double bytes, int64_t ranks) {
    const double near = (double)near_of(links, ranks), all = (double)ranks;
    ni_exchange_cost cost = each_with_each(bytes / 2, all, near);
    cost.near_messages /= 2;
    cost.far_messages /= 2;
    cost.seconds = seconds_of(links, &cost);
    return cost;
}

nb_status ni_check_links(const ni_machine *machine, int64_t ranks, nb_error *err) {
    const ni_machine_links *links = &machine->links;
    const int64_t near = near_of(links, ranks);
    if (near > 1 && links->near_rate == 0)
        return nb_fail(err, NB_BAD_CONFIG, "--ranks: links.near.rate of machine %s is unknown", machine->name);
    if (ranks > near && links->far_rate == 0)
        return nb_fail(err, NB_BAD_CONFIG,
                       "--ranks: links.far.rate of machine %s is unknown, and %lld ranks are more "
                       "than its links.near.ranks %d",
                       machine->name, (long long)ranks, (int)links->near_ranks);
    if (ranks % near != 0)
        return nb_fail(err, NB_BAD_CONFIG, "--ranks: %lld ranks do not fill machines of %d; expected a multiple",
                       (long long)ranks, (int)links->near_ranks);
    return NB_OK;
}

static void print_step(const ni_machine *machine, const ni_ranks_plan *plan, const char *what, double seconds) {
    const double peak = machine->peak > 0 ? machine->peak : machine->rate[NI_PAPER_bf16];
    printf("  %-52s %12.3f %16.0f", what, seconds * 1e3, plan->tokens / seconds);
    if (peak > 0)
        printf(" %8.1f %%", 100 * plan->flops / (seconds * peak * (double)plan->ranks));
    putchar('\n');
}

static void print_exchange(const char *what, const ni_exchange_cost *cost) {
    printf("  %-52s %10.4f %10.4f %10.0f %12.3f\n", what, cost->near_bytes / 1e9, cost->far_bytes / 1e9,
           cost->near_messages + cost->far_messages, cost->seconds * 1e3);
}

static void print_fit(const ni_machine *machine, const char *what, double bytes) {
    char text[32];
    printf("  %-52s %12s", what, ni_bytes_text(bytes, text, sizeof text));
    if (machine->memory > 0)
        printf(bytes > machine->memory ? "  more than the %s of a rank" : "  of %s",
               ni_bytes_text(machine->memory, text, sizeof text));
    putchar('\n');
}

void ni_print_ranks(const ni_machine *machine, const ni_ranks_plan *plan) {
    const int64_t near = near_of(&machine->links, plan->ranks);
    /* to the ranks that add up, and their sums to owners alone: half of a ring's way and a rank's part of it; of two
     * each adds up what it owns */
    const double back = plan->ranks == 2 ? 0 : 0.5 / (double)plan->ranks, way = plan->owned ? 0.5 + back : 1;
    const ni_exchange_cost cost = ni_exchange_of(&machine->links, plan->gradients * way, plan->ranks);
    const ni_exchange_cost weights = ni_gather_of(&machine->links, plan->weights, plan->ranks);
    const double hidden = (cost.seconds > plan->backward ? cost.seconds - plan->backward : 0) +
                          (plan->weights > 0 && !plan->weights_behind ? weights.seconds : 0);
    const double exchange = cost.seconds + (plan->weights > 0 ? weights.seconds : 0);
    const double left = 1 - 1 / (double)plan->ranks;
    printf("\n%lld ranks: %lld x %lld, each with %lld of the %lld micro-batches\n", (long long)plan->ranks,
           (long long)(plan->ranks / near), (long long)near, (long long)plan->micro_batches,
           (long long)(plan->micro_batches * plan->ranks));
    printf("\n%-54s %10s %10s %10s %12s\n", "out of a rank, and as much into it", "GB near", "GB far", "messages",
           "ms");
    print_exchange("gradients", &cost);
    if (plan->weights > 0)
        print_exchange(strcmp(plan->share, "gradients") == 0 ? "weights (share: gradients)"
                                                             : "weights (share: moments)",
                       &weights);
    printf("\n%-54s %12s %16s %10s\n", "the step", "ms", "tokens/s", "MFU");
    print_step(machine, plan, "arithmetic alone", plan->seconds);
    print_step(machine, plan, "and the exchange after it", plan->seconds + exchange);
    print_step(machine, plan, "the exchange behind the backward pass", plan->seconds + hidden);
    printf("\n%s\n", "memory of a rank");
    print_fit(machine, "as it is", plan->memory);
    if (plan->weights == 0) { /* codes of weights that go to others lie otherwise: that is another plan */
        printf("  %s\n", "--set share=moments or share=gradients: what sharing out leaves of it");
        return;
    }
    const double shared = plan->memory - (plan->moments + plan->masters) * left + plan->parcels;
    print_fit(machine, "moments and masters shared out (share: moments)", shared);
    if (plan->masters > 0)
        print_fit(machine, "  rank 0, where a lens looks at all masters", shared + plan->masters * left);
    if (plan->kept > 0)
        print_fit(machine, "gradients too (share: gradients)", shared - plan->gradients + plan->kept);
}
