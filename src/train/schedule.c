/* schedule.c: the learning rate over a run.
 *
 * With T steps, w of warm-up and step i counted from 0:
 *     i < w      (i + 1) / w
 *     cosine     m + (1 - m) (1 + cos(pi p)) / 2,    p = (i + 1 - w) / (T - w)       (arXiv:1608.03983)
 *     wsd        1, then linear to m over the last d steps                            (arXiv:2404.06395)
 *     constant   1
 * so that the last warm-up step takes the peak and the last step of all takes m exactly. T is the run's, or `length`:
 * then what comes after it takes m too.
 */
#include "nibble/train.h"

#include <math.h>

/* Steps that a length means in a run of `steps`: below 1 it is a share, rounded to the nearest step. */
static double steps_of(double length, int64_t steps) {
    return length < 1 ? nearbyint(length * (double)steps) : nearbyint(length);
}

double nb_schedule_factor(const nb_schedule *schedule, int64_t step, int64_t steps) {
    double total = schedule->length > 0 ? steps_of(schedule->length, steps) : (double)steps;
    double done = (double)step + 1;
    double warmup = steps_of(schedule->warmup, steps);
    if (done <= warmup)
        return done / warmup;
    double floor_ratio = schedule->min_ratio;
    switch (schedule->kind) {
    case NB_SCHEDULE_COSINE: {
        double progress = total > warmup ? (done - warmup) / (total - warmup) : 1;
        if (progress >= 1)
            return floor_ratio;
        return floor_ratio + (1 - floor_ratio) * 0.5 * (1 + cos(3.14159265358979323846 * progress));
    }
    case NB_SCHEDULE_WSD: {
        double decay = steps_of(schedule->decay, steps);
        double progress = decay > 0 ? (done - (total - decay)) / decay : 0;
        if (progress <= 0)
            return 1;
        return progress >= 1 ? floor_ratio : 1 - (1 - floor_ratio) * progress;
    }
    case NB_SCHEDULE_CONSTANT:
        break;
    }
    return 1;
}
