/* train.h: a run file, and the trainer that carries it out.
 *
 * A run file (YAML) names a model, a recipe, data and everything else that decides the bits of a training run; one
 * table of keys (src/train/run_keys.c) gives each its type, default, range and help, and docs/run-file.md is generated
 * from it.
 *
 * The trainer never prints: it reports through callbacks and writes only into the run folder:
 *     run.yaml        the effective configuration, every default filled in
 *     recipe.yaml     the effective recipe
 *     census.txt      which GEMM of which layer runs in which format on which kernel
 *     metrics.jsonl   one JSON object a line (docs/training.md, "The run folder")
 *     events.out.*    the same for TensorBoard
 *     lens/           measurements (docs/lens.md), where lens.every is not 0
 *     checkpoints/    step-00001000, ...: folders that Hugging Face loads (docs/training.md, "Checkpoints")
 */
#ifndef NIBBLE_TRAIN_H
#define NIBBLE_TRAIN_H

#include "backend.h"
#include "lens.h"
#include "model.h"
#include "ranks.h"
#include "recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NB_PATH_SIZE 512
#define NB_BF16_PATTERNS 16
#define NB_MODEL_CHANGES 16
#define NB_END_OF_TEXT_NONE (-1)
#define NB_END_OF_TEXT_AUTO (-2)
#define NB_PEAK_AUTO 0.0    /* measured when the run starts (nb_measure_peak) */
#define NB_PEAK_NONE (-1.0) /* no MFU is reported */

typedef enum nb_schedule_kind { NB_SCHEDULE_COSINE, NB_SCHEDULE_WSD, NB_SCHEDULE_CONSTANT } nb_schedule_kind;

/* Learning rate over the run. `warmup`, `decay` and `length` are steps, or shares of the run where below 1. */
typedef struct nb_schedule {
    nb_schedule_kind kind;
    double warmup;    /* linear from 0: step i of w takes (i+1)/w of the peak */
    double min_ratio; /* last learning rate / peak (cosine, wsd) */
    double decay;     /* wsd: length of the linear decay at the end */
    double length;    /* cosine, wsd: min_ratio is reached here and stays; 0 = at the end of the run */
} nb_schedule;

/* Factor on the peak learning rate at `step` (0-based) of a run of `steps`. */
NB_API double nb_schedule_factor(const nb_schedule *schedule, int64_t step, int64_t steps);

/* What happens when a loss or a gradient norm is not a number, or jumps by more than spike_z standard deviations. */
typedef enum nb_bad_policy {
    NB_BAD_STOP,     /* end the run with one line; the newest checkpoint stays */
    NB_BAD_SKIP,     /* leave the parameters as they are and go on with the next batch */
    NB_BAD_ROLLBACK, /* load the newest checkpoint and pass over the batches that led here */
    NB_BAD_BF16      /* put the modules of `bf16_modules` in BF16 from here on and take the step again */
} nb_bad_policy;

/* Which codes FP8 units of a GPU multiply (docs/gpu.md): of those under scales of rows or of the tensor the 4-bit ones,
 * all, none; 4-bit ones and MXFP4. */
typedef enum nb_fp8_units { NB_FP8_EXACT, NB_FP8_ALL, NB_FP8_NONE, NB_FP8_MXFP4 } nb_fp8_units;

/* What the ranks of a run share out (docs/many-processes.md). */
typedef enum nb_share {
    NB_SHARE_NONE,     /* each has everything */
    NB_SHARE_MOMENTS,  /* AdamW's moments, by whole tensors */
    NB_SHARE_GRADIENTS /* and the summed gradients, by sections of the model */
} nb_share;

/* What scales that do not fit an operand (bad_numbers.scales_limit) lead to. */
typedef enum nb_bad_scales {
    NB_SCALES_WARN, /* a warning, and an event in metrics.jsonl */
    NB_SCALES_BAD   /* the step is bad: the policy deals with it before the update */
} nb_bad_scales;

/* A run file. Paths are taken from the current folder, as on the command line. */
typedef struct nb_run_config {
    char model[NB_PATH_SIZE];                           /* models/NAME.yaml or a path */
    char model_changes[NB_MODEL_CHANGES][NB_NAME_SIZE]; /* "vocab=2048": keys of the model file, said otherwise */
    int32_t model_change_count;
    char recipe[NB_PATH_SIZE]; /* recipes/NAME.yaml or a path */
    char out[NB_PATH_SIZE];    /* the run folder */
    struct {
        char train[NB_PATH_SIZE];     /* a shard or a glob pattern of shards */
        char val[NB_PATH_SIZE];       /* the same; empty = no evaluation */
        char tokenizer[NB_PATH_SIZE]; /* as nb_tokenizer_load takes it; empty = unknown */
        int32_t end_of_text;          /* token between documents, or one of NB_END_OF_TEXT_* */
        bool cross_documents;         /* attention crosses the documents of a packed sequence */
    } data;
    int64_t steps;        /* optimizer steps; 0 = from tokens */
    int64_t tokens;       /* read when steps is 0; rounded up to whole steps */
    int64_t micro_batch;  /* sequences in one forward and backward pass */
    int64_t accumulation; /* micro-batches in one step */
    int64_t seq;          /* tokens of a sequence */
    nb_recompute recompute;
    int64_t head_rows; /* nb_model_options */
    struct {
        double lr, beta1, beta2, eps, weight_decay;
        bool decay_embeddings, decay_norms;
    } optimizer;
    nb_schedule schedule;
    double clip;   /* largest global gradient norm; 0 = no clipping */
    double z_loss; /* factor on lse^2 */
    struct {
        double cut; /* no matrix begins beyond so many standard deviations; 0 = none is cut */
    } init;
    struct {
        int32_t init, data, rounding;
    } seeds;
    struct {
        int64_t every;     /* steps; 0 = only at the end */
        int64_t sequences; /* of the validation data, spread evenly over it; 0 = all */
    } eval;
    struct {
        int64_t every; /* steps; 0 = only at the end */
        int64_t keep;  /* newest checkpoints kept; 0 = all */
    } checkpoint;
    struct {
        int64_t every;              /* steps; 0 = off */
        int64_t spread;             /* steps that a sample is spread over */
        int64_t window;             /* steps that weights are followed after a sample */
        int64_t hot_channels;       /* k of the top-k channels of X */
        int64_t attention_stride;   /* every so many queries are looked at */
        char modules[NB_NAME_SIZE]; /* pattern of module names */
        char tiles[NB_NAME_SIZE];   /* pattern of "MODULE/ROLE" whose maps of tiles are kept; empty: none */
    } lens;
    struct {
        nb_bad_policy policy;
        double spike_z;       /* loss or norm this many standard deviations above its last 128 is bad too; 0 = never */
        int64_t scales_every; /* steps between looks at saturated elements and vanished blocks; 0 = never */
        double scales_limit;  /* share of an operand above which they do not fit */
        nb_bad_scales scales;
        int64_t pass_over; /* rollback: batches passed over, the bad one last */
        int64_t patience;  /* bad steps in a row after which the run stops whatever the policy */
        char bf16_modules[NB_BF16_PATTERNS][NB_NAME_SIZE];
        int32_t bf16_module_count;
    } bad_numbers;
    int64_t print_every;    /* steps between printed lines; metrics.jsonl has every step */
    double peak_flops;      /* what MFU is a share of; or NB_PEAK_AUTO, NB_PEAK_NONE */
    bool deterministic;     /* false: kernels whose order of sums is not that of the next run may be chosen */
    nb_fp8_units fp8_units; /* which codes FP8 units multiply, where there are some */
    bool native_fp4;        /* units for four bits may multiply block-scaled codes */
    bool memory_check;      /* a process that by plan exceeds the memory that is left by more than 5 % ends before it
                               allocates; each rank asks for itself alone, whatever others beside it take */
    nb_share share;         /* what ranks share out, so that each has less of it */
    char backend[32];       /* "cpu", "cuda", "cuda:1": nb_backend_open */
    /* Whose least time on paper a step is held against: a name or a file, "auto", "none". */
    char machine[NB_PATH_SIZE];
    int32_t threads; /* 0 = all the process may use; never changes a bit of the result */
    nb_isa isa;
} nb_run_config;

/* Every key at its default; those that have none (model, out, data.train, steps or tokens, seq) are empty or 0. */
NB_API nb_status nb_run_config_defaults(nb_run_config *config, nb_error *err);

/* Reads a run file and then the overrides ("key=value", as --set gives them), and checks everything that needs no other
 * file. "model.KEY=value" changes a key of the model file. Messages carry file and line. */
NB_API nb_status nb_run_config_load(const char *path, const char *const *overrides, int32_t override_count,
                                    nb_run_config *out, nb_error *err);
/* The same over text; `name` stands for the file in messages. */
NB_API nb_status nb_run_config_parse(const char *text, size_t size, const char *name, const char *const *overrides,
                                     int32_t override_count, nb_run_config *out, nb_error *err);

/* The effective configuration as YAML (free with free()); NULL if memory ran out. */
NB_API char *nb_run_config_text(const nb_run_config *config);

/* Steps and tokens that the configuration comes to. */
NB_API int64_t nb_run_steps(const nb_run_config *config);
NB_API int64_t nb_run_tokens_per_step(const nb_run_config *config);

/* ---- what a trainer reports ---- */

typedef struct nb_step_report {
    int64_t step, steps; /* step is 1-based: how many are done */
    double loss;         /* mean over the step's micro-batches, before the update */
    double norm;         /* global gradient norm before clipping */
    double lr;
    double loss_z, norm_z; /* standard scores against the last 128 steps; NaN while there are fewer than 16 */
    double ms;             /* wall time of the step */
    double tokens_per_second;
    double mfu;          /* model FLOPs / time / peak; NaN where no peak was measured */
    double light;        /* least time on paper / time; NaN where no machine is known (nb_trainer_set_floor) */
    double seconds_left; /* from the mean of the last steps */
    bool skipped;        /* a bad number: parameters were left as they were */
    int64_t fp32_rows;   /* rows of operands that FP8 units did not hold exactly, multiplied in FP32 (fp8_units: mxfp4,
                            all) */
} nb_step_report;

typedef struct nb_eval_report {
    int64_t step;
    double loss; /* mean over the scored tokens, natural logarithm */
    int64_t tokens;
    double seconds;
} nb_eval_report;

typedef enum nb_note_kind {
    NB_NOTE_INFO,   /* resumed, checkpoint written, old one removed */
    NB_NOTE_WARNING /* a broken checkpoint passed over, a bad number that the policy deals with */
} nb_note_kind;

/* All members may be NULL. */
typedef struct nb_train_callbacks {
    void *user;
    void (*step)(void *user, const nb_step_report *report);
    void (*evaluation)(void *user, const nb_eval_report *report);
    void (*note)(void *user, nb_note_kind kind, const char *sentence);
    bool (*stop)(void *user); /* asked between micro-batches; true = checkpoint and return NB_INTERRUPTED */
} nb_train_callbacks;

typedef struct nb_trainer nb_trainer;

typedef struct nb_trainer_options {
    const char *recipes_dir, *models_dir; /* where names are searched; NULL = "recipes", "models" */
    double peak_flops;                    /* of the machine, for MFU; 0 = unknown (nb_measure_peak) */
    nb_train_callbacks callbacks;
    const int64_t *branches; /* steps after which a checkpoint is written and kept, besides those of the run file; must
                                outlive the trainer */
    int32_t branch_count;
    const nb_lens *lens; /* looks at the first micro-batch of every step, beside what the run file has the lens measure
                            (lens.every: 0 leaves it alone); NULL: nobody else. Must outlive the trainer */
    nb_ranks *ranks; /* that train together, each with its part of every step's micro-batches; rank 0 alone writes and
                        reports. NULL: this process alone. Must outlive the trainer */
    bool on_paper; /* no data is opened and no parameter drawn: for `nibble plan`, over a backend that computes nothing
                    */
    /* Once recipe, model file and data are read, before memory for the model is taken: `trainer` knows nb_trainer_check
     * and nothing else. A failure ends nb_trainer_create. It is called on every rank, each by itself: where it may fail
     * on one alone, all ask nb_ranks_agree behind nb_trainer_create. So it is where on_paper is set. NULL: nobody asks.
     */
    nb_status (*before_memory)(void *user, nb_trainer *trainer, nb_error *err);
    void *before_user;
} nb_trainer_options;

/* ---- the trainer ---- */

/* Loads recipe, model file and data, builds the model and draws its parameters. Nothing is written to disk.
 * The backend must outlive the trainer. */
NB_API nb_status nb_trainer_create(nb_backend *be, const nb_run_config *config, const nb_trainer_options *options,
                                   nb_trainer **out, nb_error *err);
NB_API void nb_trainer_free(nb_trainer *trainer);

/* What MFU is a share of, where it was measured after the trainer was made. */
NB_API void nb_trainer_set_peak(nb_trainer *trainer, double flops);

/* The least time of a step, in seconds, that the share of the speed of light is of; 0: unknown. */
NB_API void nb_trainer_set_floor(nb_trainer *trainer, double seconds);

/* One optimizer step: accumulation passes, clipping, AdamW. NB_BAD_NUMBER leaves the parameters as they were. */
NB_API nb_status nb_trainer_step(nb_trainer *trainer, nb_step_report *report, nb_error *err);

/* Mean loss over the validation data, with the recipe's own forward. */
NB_API nb_status nb_trainer_evaluate(nb_trainer *trainer, nb_eval_report *report, nb_error *err);

/* Writes the checkpoint folder `folder` atomically. Rank 0 does; where ranks share something out (nb_run_config.share)
 * only nb_trainer_run can, which all ranks are in. */
NB_API nb_status nb_trainer_save(nb_trainer *trainer, const char *folder, nb_error *err);

/* How a run begins. */
typedef enum nb_start {
    NB_START_NEW,    /* the run folder must not hold a run */
    NB_START_RESUME, /* from the newest good checkpoint of the run folder, or from step 0 if it has none */
    NB_START_FORK,   /* from the checkpoint `from`, whatever it was made with; the run folder must not hold a run */
    NB_START_BRANCH  /* as RESUME, but where the run folder has no checkpoint from `from`, which must be what this run
                        would have come to by itself: the same run file, and a recipe that trains alike until there
                        (nb_recipe_alike_steps). Ends in the bits of a run from step 0, or is refused. */
} nb_start;

/* Takes parameters, moments and position from a checkpoint. Every checksum is verified first. `as` says what it must
 * be: RESUME, FORK or BRANCH. What mechanisms keep is taken too; in FORK and BRANCH only where both recipes keep it. In
 * FORK a Hugging Face folder without nibble.json gives its parameters and the tokenizer's files, and the run is at step
 * 0. */
NB_API nb_status nb_trainer_load(nb_trainer *trainer, const char *folder, nb_start as, nb_error *err);

/* What nb_trainer_run would refuse before its first step, but for damaged tensors: found without reading or writing
 * any, so that nobody waits for it. A run folder that is not there is made and removed again. */
NB_API nb_status nb_trainer_check(nb_trainer *trainer, nb_start start, const char *from, nb_error *err);

/* The whole run: start, steps, evaluations, checkpoints, metrics. Returns NB_OK at the last step, NB_INTERRUPTED after
 * a stop with its checkpoint written, NB_BAD_NUMBER where the policy is at its end. */
NB_API nb_status nb_trainer_run(nb_trainer *trainer, nb_start start, const char *from, nb_error *err);

NB_API int64_t nb_trainer_steps_done(const nb_trainer *trainer);
NB_API nb_model *nb_trainer_model(nb_trainer *trainer);
NB_API const nb_recipe *nb_trainer_recipe(const nb_trainer *trainer);

/* Every byte the process holds for the run, largest first: the model's rows, moments, accumulation, data, host. Returns
 * how many rows there are. */
NB_API int32_t nb_trainer_memory(const nb_trainer *trainer, nb_memory_row *rows, int32_t max_rows);

/* Bytes that masters, gradients and moments take less than they would in FP32; 0 where the recipe keeps all of them in
 * FP32. */
NB_API int64_t nb_trainer_memory_saved(const nb_trainer *trainer);

/* What MFU is a share of on this machine, measured: the better of two products, in FLOP/s. */
typedef struct nb_peak {
    double flops; /* the larger of the two */
    double bf16;  /* BF16 operands (the backend's `act`) */
    double nvfp4; /* NVFP4 operands, 1x16 by 16x16; 0 where the backend multiplies none */
} nb_peak;

/* Takes about half a second. */
NB_API nb_status nb_measure_peak(nb_backend *be, nb_peak *peak, nb_error *err);

/* ---- checkpoints ---- */

/* What nibble.json of a checkpoint says. */
typedef struct nb_checkpoint_info {
    int64_t step;
    nb_run_config config;
} nb_checkpoint_info;

/* Reads and verifies nibble.json alone. Of a Hugging Face folder without one: step 0, and the defaults of a run file
 * for its sizes and tokenizer. */
NB_API nb_status nb_checkpoint_info_read(const char *folder, nb_checkpoint_info *out, nb_error *err);

/* Verifies every file and every tensor of a checkpoint; the message names the first that is wrong. */
NB_API nb_status nb_checkpoint_verify(const char *folder, nb_error *err);

/* A model for inference, as a checkpoint holds it: parameters from its folder, run file from nibble.json (of a Hugging
 * Face folder without one: see nb_checkpoint_info_read, with BF16 as its recipe). */
typedef struct nb_loaded {
    nb_checkpoint_info info;
    nb_recipe recipe; /* the trained one, or the one asked for */
    nb_model *model;
    char missing[2 * NB_NAME_SIZE]; /* state of the recipe that the checkpoint does not hold, "" if none: its mechanisms
                                   begin anew, as in the first forward pass of a run */
    bool first_batch;               /* hcp of `missing` state chose its channels from an evaluation's first batch */
} nb_loaded;

/* Verifies the checkpoint and builds its model for micro-batches of batch x seq tokens (0: those of the run). `recipe`
 * replaces the trained recipe unless NULL; what its mechanisms go by (hot channels, moving averages) comes from the
 * checkpoint where it holds that. Free with nb_loaded_free. */
NB_API nb_status nb_load_checkpoint(nb_backend *be, const char *folder, const nb_recipe *recipe, int64_t batch,
                                    int64_t seq, nb_loaded *out, nb_error *err);
NB_API void nb_loaded_free(nb_loaded *loaded);

/* Mean loss of a loaded model over token shards, as the run evaluated; `sequences` 0 = all of them. Where the hot
 * channels of hcp are missing they are chosen from the first batch, before any loss: without channels the loss would be
 * that of the recipe without its patch. */
NB_API nb_status nb_loaded_evaluate(nb_loaded *loaded, const char *data, int64_t sequences, nb_eval_report *report,
                                    nb_error *err);

/* Newest checkpoint under `run_folder` that verifies. NB_BAD_FILE with `path` empty if there is none. Broken ones on
 * the way are told to `note` (may be NULL). */
NB_API nb_status nb_checkpoint_newest(const char *run_folder, char *path, size_t size,
                                      void (*note)(void *user, nb_note_kind kind, const char *sentence), void *user,
                                      nb_error *err);

#ifdef __cplusplus
}
#endif
#endif
