/* trainer.h: the state of a run, shared by the files of this room. */
#ifndef NI_TRAIN_TRAINER_H
#define NI_TRAIN_TRAINER_H

#include "accumulate.h"
#include "auto_scale.h"
#include "combine.h"
#include "data/tokenizer.h"
#include "data/tokenizer_kept.h"
#include "drowned.h"
#include "hand_over.h"
#include "lens/join.h"
#include "metrics.h"
#include "nibble/train.h"
#include "optimizer.h"
#include "overlap.h"
#include "reduce.h"
#include "results.h"
#include "run_data.h"
#include "share.h"
#include "shared_gradients.h"
#include "touched.h"

#define NI_PASSED_MAX 4096

/* What a checkpoint must restore beside tensors. */
typedef struct ni_position {
    int64_t step;       /* optimizer steps done, skipped ones among them */
    int64_t next_batch; /* number of the next step's data, counted in steps; runs ahead of `step` after a rollback */
    int64_t passed[NI_PASSED_MAX]; /* numbers of batches that are never used; ascending */
    int32_t passed_count;
    bool modules_in_bf16; /* bad_numbers.bf16_modules are in force */
    int64_t evaluated;    /* step of the last evaluation; 0 = none */
    int64_t drowned;      /* first step whose dgrad and wgrad run in BF16 since gradients drowned; 0: none yet */
    ni_window loss_window, norm_window;
} ni_position;

/* Why nb_trainer_step refused a step. */
typedef enum ni_bad_kind {
    NI_BAD_NONE,
    NI_BAD_NONFINITE,
    NI_BAD_ZERO,
    NI_BAD_SPIKE,
    NI_BAD_SCALES,
    NI_BAD_DEAD
} ni_bad_kind;

/* Of a calibration (calibrate.c), while one runs. */
typedef struct ni_calibration {
    int32_t update; /* 1-based; 0: none runs */
    int64_t batch;  /* number of the update's data, counted in steps, in a stream that no step of the run reads */
} ni_calibration;

struct ni_scale_watch;
/* What a rank names when all search for where a bad number began. */
typedef struct ni_suspect {
    double squares, sum; /* of a gradient, and of all that the rank has */
    int32_t which;       /* tensor; -1: none */
} ni_suspect;

struct nb_trainer {
    nb_backend *be;
    nb_run_config config;
    nb_train_callbacks callbacks;
    char recipes_dir[NB_PATH_SIZE], models_dir[NB_PATH_SIZE];
    nb_model_config model_config;
    nb_recipe recipe;         /* as loaded */
    nb_recipe working_recipe; /* with bad_numbers.bf16_modules kept in BF16, where they are in force */
    nb_model *model;
    ni_dataset *train, *val; /* val: NULL without evaluation; both NULL on paper */
    ni_tokenizer *tokenizer; /* NULL: unknown */
    ni_tokenizer_kept kept;  /* files of the checkpoint that was loaded: they go on where the tokenizer is unknown */
    int32_t end_of_text;     /* token; -1: the data is one document */
    ni_batch_buffer batch;
    ni_share share;
    ni_shared_gradients shared;
    ni_param_array own; /* of the model's gradients, those whose sums this rank has */
    ni_hand_over handed;
    ni_optimizer optimizer;
    nb_ranks *ranks;  /* NULL: one process */
    double last_norm; /* of the last step's gradients, which every rank found for itself */
    struct {
        double words, exchange; /* seconds in all: ranks' words before a step; gradients after its backward pass */
        int64_t steps;
    } waited;
    ni_accumulator accumulator;
    ni_touched touched;
    ni_reducer reducer;
    ni_auto_scale auto_scale;
    ni_overlap overlap;
    ni_combiner combiner;
    ni_results results;
    ni_position at;
    ni_calibration calibration;
    int64_t steps;
    const int64_t *branches; /* steps whose checkpoints are written and kept whatever the run file says */
    int32_t branch_count;
    double peak_flops;
    double floor_seconds; /* of a step, on paper; 0: unknown */
    const nb_lens *lens;  /* looks at the first micro-batch of the next step; NULL: nobody does */
    const nb_lens *guest; /* nb_trainer_options.lens: looks at the first micro-batch of every step */
    ni_lens_pair both;
    ni_drowned_watch drowned; /* of this step, where the recipe asks for it */
    ni_lens_pair with_drowned;
    struct ni_scale_watch *scales; /* what it finds makes the step bad; NULL: it may find what it likes */
    ni_suspect *suspects;          /* [ranks]: taken beforehand, so that no rank stays away from a search */
    ni_bad_kind bad;               /* of the last step */
    bool wants_dead;               /* the next step looks for parameters that get no gradient */
    int32_t dead, first_dead;      /* how many the last step found, and the first of them */
    bool seen;                     /* a lens of rank 0 sees this step */
    bool torn;                     /* an update failed half-way: what there is must not be saved */
    double mean_ms;                /* moving average of the step time, for the time left */
};

/* Adds to an error of memory which keys of the run would make it fit. */
void ni_hint_at_memory(const nb_run_config *config, nb_error *err);

/* How the model of a run is built. */
nb_model_options ni_run_model_options(const nb_run_config *config);

/* The pass of micro-batch `micro_batch` at `step` of a run: noise, and what the late switch says. */
nb_pass ni_run_pass(const nb_run_config *config, const nb_recipe *recipe, int64_t step, int64_t micro_batch);

/* Where the pass of micro-batch `micro_batch` of the present step stands. */
nb_pass ni_trainer_pass(const nb_trainer *trainer, int64_t micro_batch);

/* Loss and gradients of micro-batch `index` of the present step alone, into `results` and the model's gradients. `lens`
 * may be NULL. */
nb_status ni_trainer_micro_batch(nb_trainer *trainer, int64_t index, const nb_lens *lens, nb_error *err);

/* Sums the gradients of all micro-batches, those of other ranks among them; the model's gradients hold the sum. */
nb_status ni_trainer_accumulate(nb_trainer *trainer, const nb_lens *lens, nb_error *err);

/* Where that sum is: all of it, or what is this rank's. */
const ni_param_array *ni_trainer_gradients(nb_trainer *trainer);

/* The model of the run, built for its recipe as it stands. */
nb_status ni_trainer_create_model(nb_trainer *trainer, nb_error *err);

/* Before a step: the calibration of the recipe's mechanisms, where one is due. */
nb_status ni_trainer_calibrate(nb_trainer *trainer, nb_error *err);

/* What step `step` (from 0) asks of the backend: all micro-batches, one document a sequence, and the update. For a
 * trainer on paper, whose numbers mean nothing: none is looked at. */
nb_status ni_trainer_rehearse(nb_trainer *trainer, int64_t step, nb_error *err);

/* Whether this rank has somebody who looks at masters: rank 0, with a lens or a watch over scales. */
static inline bool ni_trainer_looks(const nb_trainer *t) {
    const bool any = t->config.lens.every > 0 || t->config.bad_numbers.scales_every > 0 || t->guest;
    return any && nb_ranks_rank(t->ranks) == 0;
}

/* What the lens comes to hold while it follows weights, at most. */
size_t ni_trainer_followed_bytes(const nb_trainer *trainer);
/* The same of what it measures in a step that it samples. */
size_t ni_trainer_measured_bytes(const nb_trainer *trainer);

/* Micro-batches that each of `ranks` has; NB_BAD_CONFIG where they cannot be shared out. */
nb_status ni_share_of(const nb_run_config *config, int64_t ranks, int64_t *count, nb_error *err);

/* Micro-batches of a step that this rank has, and the first of them. */
int64_t ni_trainer_share(const nb_trainer *trainer, int64_t *first);

/* What depends on the model's tensors, made anew: for a model that was built anew. */
nb_status ni_trainer_renew_combiner(nb_trainer *trainer, nb_error *err);
nb_status ni_trainer_renew_handed(nb_trainer *trainer, nb_error *err);

/* Goes past the present step without touching a parameter. */
void ni_trainer_skip(nb_trainer *trainer);

/* Never use batch `number` from here on. NB_BAD_NUMBER if the list is full. */
nb_status ni_trainer_pass_over(nb_trainer *trainer, int64_t number, nb_error *err);

/* Builds the model anew with bad_numbers.bf16_modules in BF16; parameters and moments stay. */
nb_status ni_trainer_modules_to_bf16(nb_trainer *trainer, nb_error *err);

/* Back to step 0: parameters drawn again, moments zero. */
nb_status ni_trainer_restart(nb_trainer *trainer, nb_error *err);

/* NB_BAD_NUMBER, by name, where a parameter holds a number that is not finite. */
nb_status ni_trainer_check_params(nb_trainer *trainer, nb_error *err);

/* Finds where the number began that made the last step bad: the first parameter, operand of a GEMM or gradient that is
 * not finite; the first operand that is all zero; the gradient that a jump is most in; the operand whose scales fit
 * worst; the first operand that is all zero behind a parameter without a gradient. The sentence goes on after
 * ni_trainer_origin_words. */
void ni_trainer_find_origin(nb_trainer *trainer, char *where, size_t size);
const char *ni_trainer_origin_words(const nb_trainer *trainer); /* ", first in " */

/* The census as a table of lines, and what became of the run since (free with free()); NULL if memory ran out. */
char *ni_census_text(const nb_trainer *trainer);

/* The recipe as YAML with every default (free with free()); NULL if memory ran out. */
char *ni_recipe_to_text(const nb_recipe *recipe);

#endif
