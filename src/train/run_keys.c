/* run_keys.c: every key of a run file, once: name, type, default, range, help and where the default comes from. */
#include "run_keys.h"

#include "data/utf8.h"

#include "base/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(member) NI_FIELD(nb_run_config, member)
#define MOST 1e15 /* counts of steps and tokens; exact in double */

static const ni_word schedule_words[] = {
    {"cosine", NB_SCHEDULE_COSINE, "half a cosine from the peak to min_ratio"},
    {"wsd", NB_SCHEDULE_WSD, "flat, then linear to min_ratio over `decay`"},
    {"constant", NB_SCHEDULE_CONSTANT, "flat after the warm-up"},
    {NULL, 0, NULL},
};

static const ni_word policy_words[] = {
    {"stop", NB_BAD_STOP, "end the run; the newest checkpoint stays"},
    {"skip", NB_BAD_SKIP, "leave the parameters as they are and go on with the next batch"},
    {"rollback", NB_BAD_ROLLBACK, "load the newest checkpoint and pass over the batches that led here"},
    {"bf16", NB_BAD_BF16, "put bad_numbers.bf16_modules in BF16 from here on and take the step again"},
    {NULL, 0, NULL},
};

static const ni_word recompute_words[] = {
    {"none", NB_RECOMPUTE_NONE, "every activation is kept until the backward pass has read it"},
    {"mlp", NB_RECOMPUTE_MLP, "what lies inside of the MLPs is made again in the backward pass"},
    {"block", NB_RECOMPUTE_BLOCK, "everything inside of a block is made again, from the residual stream before it"},
    {NULL, 0, NULL},
};

static const ni_word share_words[] = {
    {"none", NB_SHARE_NONE, "each has everything"},
    {"moments", NB_SHARE_MOMENTS, "each has AdamW's moments of its tensors; half as many bytes more go over links"},
    {"gradients", NB_SHARE_GRADIENTS,
     "and their summed gradients alone, where they are fp32; as many bytes as without sharing"},
    {NULL, 0, NULL},
};

static const ni_word fp8_words[] = {
    {"exact", NB_FP8_EXACT, "4-bit codes, whose sums lose nothing there"},
    {"all", NB_FP8_ALL, "8-bit codes too, whose sums lost up to 0.12 % of their magnitudes (docs/gpu.md)"},
    {"mxfp4", NB_FP8_MXFP4,
     "4-bit codes and MXFP4, whose rows are exact there or go to FP32, and whose sums are cut as those of 8-bit codes"},
    {"none", NB_FP8_NONE, "everything is multiplied in BF16"},
    {NULL, 0, NULL},
};

static const ni_word isa_words[] = {
    {"auto", NB_ISA_AUTO, "the best of this machine"},
    {"scalar", NB_ISA_SCALAR, "reference code for everything"},
    {"portable", NB_ISA_PORTABLE, "plain C, and SDOT on ARM"},
    {"avx2", NB_ISA_AVX2, "AVX2"},
    {"avx512", NB_ISA_AVX512, "AVX-512 with VNNI and BF16"},
    {NULL, 0, NULL},
};

static const ni_word scales_words[] = {
    {"warn", NB_SCALES_WARN, "a warning, and an event in metrics.jsonl"},
    {"bad", NB_SCALES_BAD, "the step is bad, and the policy deals with it"},
    {NULL, 0, NULL},
};

static const ni_word length_words[] = {{"run", 0, "at the last step"}, {NULL, 0, NULL}};
static const ni_word uncut_words[] = {{"none", 0, "a whole normal distribution"}, {NULL, 0, NULL}};

static const ni_word auto_words[] = {{"auto", 0, "all that the process may use"}, {NULL, 0, NULL}};

static const ni_word peak_words[] = {
    {"auto", NB_PEAK_AUTO, "measured when the run starts"},
    {"none", NB_PEAK_NONE, "no MFU is reported"},
    {NULL, 0, NULL},
};

static const ni_word end_of_text_words[] = {
    {"auto", NB_END_OF_TEXT_AUTO, "what the tokenizer says, else the folder that model names; none without both"},
    {"none", NB_END_OF_TEXT_NONE, "the data is one document"},
    {NULL, 0, NULL},
};

static const ni_key rows[] = {
    /* ---- what is trained, on what, where to ---- */
    {.path = "model",
     .type = NI_KEY_TEXT,
     FIELD(model),
     .help = "name of a model in models/, or the path of a file or of a Hugging Face folder"},
    {.path = "model_changes",
     .type = NI_KEY_TEXTS,
     NI_FIELD_TEXTS(nb_run_config, model_changes, model_change_count),
     .fallback = "[]",
     .help = "keys of the model file, said otherwise, as [vocab=2048]; `--set model.vocab=2048` adds one",
     .source = "our choice"},
    {.path = "recipe",
     .type = NI_KEY_TEXT,
     FIELD(recipe),
     .fallback = "bf16",
     .help = "name of a recipe in recipes/, or the path of a file",
     .source = "our choice"},
    {.path = "out", .type = NI_KEY_TEXT, FIELD(out), .help = "run folder, made by the run"},
    {.path = "data.train",
     .type = NI_KEY_TEXT,
     FIELD(data.train),
     .help = "token shard, or a glob pattern of shards (in quotes)"},
    {.path = "data.val",
     .type = NI_KEY_TEXT,
     FIELD(data.val),
     .fallback = "\"\"",
     .help = "the same for validation; empty: no evaluation",
     .source = "our choice"},
    {.path = "data.tokenizer",
     .type = NI_KEY_TEXT,
     FIELD(data.tokenizer),
     .fallback = "\"\"",
     .help = "bytes, a SentencePiece model, a tokenizer.json or a folder; goes into every checkpoint",
     .source = "our choice"},
    {.path = "data.end_of_text",
     .type = NI_KEY_INT,
     FIELD(data.end_of_text),
     .fallback = "auto",
     .high = INT32_MAX,
     .words = end_of_text_words,
     .help = "token between documents",
     .source = "our choice"},
    {.path = "data.cross_documents",
     .type = NI_KEY_BOOL,
     FIELD(data.cross_documents),
     .fallback = "false",
     .help = "attention crosses the documents packed into one sequence",
     .source = "our choice"},

    /* ---- how much ---- */
    {.path = "steps",
     .type = NI_KEY_INT,
     FIELD(steps),
     .fallback = "0",
     .high = NI_MOST_STEPS,
     .help = "optimizer steps; 0: as many as `tokens` needs",
     .source = "exactly one of steps and tokens is given"},
    {.path = "tokens",
     .type = NI_KEY_INT,
     FIELD(tokens),
     .fallback = "0",
     .high = MOST,
     .help = "training tokens, rounded up to whole steps; 0: `steps` says",
     .source = "see steps"},
    {.path = "seq", .type = NI_KEY_INT, FIELD(seq), .low = 1, .high = 1 << 20, .help = "tokens of a sequence"},
    {.path = "micro_batch",
     .type = NI_KEY_INT,
     FIELD(micro_batch),
     .fallback = "8",
     .low = 1,
     .high = 1 << 20,
     .help = "sequences in one forward and backward pass; amax and rounding noise belong to it",
     .source = "our choice"},
    {.path = "accumulation",
     .type = NI_KEY_INT,
     FIELD(accumulation),
     .fallback = "1",
     .low = 1,
     .high = 1 << 20,
     .help = "micro-batches in one optimizer step",
     .source = "our choice"},
    {.path = "recompute",
     .type = NI_KEY_CHOICE,
     FIELD(recompute),
     .fallback = "none",
     .words = recompute_words,
     .help = "activations that are made twice instead of kept: less memory, more time, the same bits",
     .source = "our choice"},
    {.path = "head_rows",
     .type = NI_KEY_INT,
     FIELD(head_rows),
     .fallback = "0",
     .high = 1 << 24,
     .help = "tokens whose logits exist at one time; dW of the head is summed over so many at a time. 0: as many as "
             "make 2^24 logits on a CPU, 2^28 on a GPU",
     .source = "our choice"},

    /* ---- optimizer and schedule ---- */
    {.path = "optimizer.lr",
     .type = NI_KEY_FLOAT,
     FIELD(optimizer.lr),
     .fallback = "3e-4",
     .positive = true,
     .high = 10,
     .help = "peak learning rate of AdamW",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "optimizer.beta1",
     .type = NI_KEY_FLOAT,
     FIELD(optimizer.beta1),
     .fallback = "0.9",
     .high = 0.999999,
     .help = "decay of the first moment",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "optimizer.beta2",
     .type = NI_KEY_FLOAT,
     FIELD(optimizer.beta2),
     .fallback = "0.95",
     .high = 0.999999,
     .help = "decay of the second moment",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "optimizer.eps",
     .type = NI_KEY_FLOAT,
     FIELD(optimizer.eps),
     .fallback = "1e-8",
     .positive = true,
     .high = 1,
     .help = "added to the root of the second moment",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "optimizer.weight_decay",
     .type = NI_KEY_FLOAT,
     FIELD(optimizer.weight_decay),
     .fallback = "0.1",
     .high = 10,
     .help = "decoupled decay of matrices",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "optimizer.decay_embeddings",
     .type = NI_KEY_BOOL,
     FIELD(optimizer.decay_embeddings),
     .fallback = "false",
     .help = "decay the embedding (and a tied head) too",
     .source = "OLMo 2, as trained in arXiv:2510.27527"},
    {.path = "optimizer.decay_norms",
     .type = NI_KEY_BOOL,
     FIELD(optimizer.decay_norms),
     .fallback = "false",
     .help = "decay norms and biases too, as the released runs of arXiv:2510.27527",
     .source = "the common choice"},
    {.path = "schedule.kind",
     .type = NI_KEY_CHOICE,
     FIELD(schedule.kind),
     .fallback = "cosine",
     .words = schedule_words,
     .help = "learning rate over the run",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "schedule.warmup",
     .type = NI_KEY_FLOAT,
     FIELD(schedule.warmup),
     .fallback = "0.05",
     .high = MOST,
     .help = "linear warm-up in steps; below 1: share of the run",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "schedule.min_ratio",
     .type = NI_KEY_FLOAT,
     FIELD(schedule.min_ratio),
     .fallback = "0.1",
     .high = 1,
     .help = "last learning rate / peak",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "schedule.decay",
     .type = NI_KEY_FLOAT,
     FIELD(schedule.decay),
     .fallback = "0.2",
     .high = MOST,
     .help = "wsd: decay at the end in steps; below 1: share of the run",
     .source = "arXiv:2509.25149"},
    {.path = "schedule.length",
     .type = NI_KEY_FLOAT,
     FIELD(schedule.length),
     .fallback = "run",
     .high = MOST,
     .words = length_words,
     .help = "cosine, wsd: the step at which min_ratio is reached, to stay; below 1: share of the run",
     .source = "our choice"},
    {.path = "clip",
     .type = NI_KEY_FLOAT,
     FIELD(clip),
     .fallback = "1.0",
     .high = 1e9,
     .help = "largest global gradient norm; 0: no clipping",
     .source = "arXiv:2510.27527 code"},
    {.path = "z_loss",
     .type = NI_KEY_FLOAT,
     FIELD(z_loss),
     .fallback = "0",
     .high = 1,
     .help = "factor on the squared log of the softmax sum (OLMo 2: 1e-5)",
     .source = "our choice"},

    /* ---- the first parameters ---- */
    {.path = "init.cut",
     .type = NI_KEY_FLOAT,
     FIELD(init.cut),
     .fallback = "none",
     .low = 0.5,
     .high = 1e9,
     .words = uncut_words,
     .help = "standard deviations beyond which no matrix begins: what is drawn there is drawn again (OLMo 2: 3)",
     .source = "the default of transformers and fla"},

    /* ---- seeds ---- */
    {.path = "seeds.init",
     .type = NI_KEY_INT,
     FIELD(seeds.init),
     .fallback = "1",
     .high = INT32_MAX,
     .help = "of the first parameters",
     .source = "our choice"},
    {.path = "seeds.data",
     .type = NI_KEY_INT,
     FIELD(seeds.data),
     .fallback = "1",
     .high = INT32_MAX,
     .help = "of the order of the data",
     .source = "our choice"},
    {.path = "seeds.rounding",
     .type = NI_KEY_INT,
     FIELD(seeds.rounding),
     .fallback = "1",
     .high = INT32_MAX,
     .help = "of stochastic rounding and fresh Hadamard signs",
     .source = "our choice"},

    /* ---- what happens on the way ---- */
    {.path = "eval.every",
     .type = NI_KEY_INT,
     FIELD(eval.every),
     .fallback = "250",
     .high = MOST,
     .help = "steps between evaluations; 0: only at the end",
     .source = "our choice"},
    {.path = "eval.sequences",
     .type = NI_KEY_INT,
     FIELD(eval.sequences),
     .fallback = "64",
     .high = MOST,
     .help = "validation sequences, spread evenly over the data; 0: all",
     .source = "our choice"},
    {.path = "checkpoint.every",
     .type = NI_KEY_INT,
     FIELD(checkpoint.every),
     .fallback = "1000",
     .high = MOST,
     .help = "steps between checkpoints; 0: only at the end",
     .source = "our choice"},
    {.path = "checkpoint.keep",
     .type = NI_KEY_INT,
     FIELD(checkpoint.keep),
     .fallback = "3",
     .high = 1e6,
     .help = "newest checkpoints kept; 0: all",
     .source = "our choice"},
    {.path = "lens.every",
     .type = NI_KEY_INT,
     FIELD(lens.every),
     .fallback = "100",
     .high = MOST,
     .help = "steps between lens measurements; 0: off",
     .source = "our choice: at most 2 % of the time"},
    {.path = "lens.window",
     .type = NI_KEY_INT,
     FIELD(lens.window),
     .fallback = "50",
     .high = MOST,
     .help = "steps after a sample in which weights are followed to see which oscillate; ends before the next sample",
     .source = "arXiv:2510.27527"},
    {.path = "lens.hot_channels",
     .type = NI_KEY_INT,
     FIELD(lens.hot_channels),
     .fallback = "16",
     .low = 1,
     .high = 4096,
     .help = "how many of the largest channels of X are named",
     .source = "our choice"},
    {.path = "lens.attention_stride",
     .type = NI_KEY_INT,
     FIELD(lens.attention_stride),
     .fallback = "16",
     .low = 1,
     .high = 1e6,
     .help = "every so many queries of attention are looked at",
     .source = "our choice"},
    {.path = "lens.modules",
     .type = NI_KEY_TEXT,
     FIELD(lens.modules),
     .fallback = "\"*\"",
     .help = "pattern of the module names that are looked at",
     .source = "our choice"},
    {.path = "lens.tiles",
     .type = NI_KEY_TEXT,
     FIELD(lens.tiles),
     .fallback = "\"\"",
     .help = "pattern of MODULE/ROLE whose map of 16x16 tiles is kept whole, as \"layers.7.*/fprop.x\" or "
             "\"*.scan/output\"; "
             "empty: none",
     .source = "our choice; figure 4 of arXiv:2602.02047"},
    {.path = "bad_numbers.policy",
     .type = NI_KEY_CHOICE,
     FIELD(bad_numbers.policy),
     .fallback = "stop",
     .words = policy_words,
     .help = "what a NaN, an Inf or a spike leads to",
     .source = "our choice"},
    {.path = "bad_numbers.spike_z",
     .type = NI_KEY_FLOAT,
     FIELD(bad_numbers.spike_z),
     .fallback = "0",
     .high = 1e6,
     .help = "a loss or norm this many standard deviations above its last 128 is bad too; 0: never",
     .source = "our choice"},
    {.path = "bad_numbers.pass_over",
     .type = NI_KEY_INT,
     FIELD(bad_numbers.pass_over),
     .fallback = "1",
     .low = 1,
     .high = 1e6,
     .help = "rollback: how many batches to pass over, the bad one last",
     .source = "our choice"},
    {.path = "bad_numbers.patience",
     .type = NI_KEY_INT,
     FIELD(bad_numbers.patience),
     .fallback = "10",
     .low = 1,
     .high = 1e6,
     .help = "bad steps in a row after which the run stops under any policy",
     .source = "our choice"},
    {.path = "bad_numbers.scales_every",
     .type = NI_KEY_INT,
     FIELD(bad_numbers.scales_every),
     .fallback = "100",
     .high = MOST,
     .help = "steps between looks for elements that saturate, blocks that vanish and parameters without a gradient; 0: "
             "never",
     .source = "our choice"},
    {.path = "bad_numbers.scales_limit",
     .type = NI_KEY_FLOAT,
     FIELD(bad_numbers.scales_limit),
     .fallback = "0.25",
     .positive = true,
     .high = 1,
     .help = "share of one operand above which its scales do not fit",
     .source = "our choice"},
    {.path = "bad_numbers.scales",
     .type = NI_KEY_CHOICE,
     FIELD(bad_numbers.scales),
     .fallback = "warn",
     .words = scales_words,
     .help = "what scales that do not fit, or a parameter without a gradient, lead to",
     .source = "our choice"},
    {.path = "bad_numbers.bf16_modules",
     .type = NI_KEY_TEXTS,
     NI_FIELD_TEXTS(nb_run_config, bad_numbers.bf16_modules, bad_numbers.bf16_module_count),
     .fallback = "[]",
     .help = "bf16: patterns of module names, as in a recipe's keep.modules",
     .source = "our choice"},
    {.path = "print_every",
     .type = NI_KEY_INT,
     FIELD(print_every),
     .fallback = "10",
     .low = 1,
     .high = MOST,
     .help = "steps between printed lines; metrics.jsonl has every step",
     .source = "our choice"},

    /* ---- which kernels may run: the order of sums, so last bits ---- */
    {.path = "deterministic",
     .type = NI_KEY_BOOL,
     FIELD(deterministic),
     .fallback = "true",
     .help = "a run gives the same bits each time; false lets cuBLASLt split a sum among blocks that add in any order, "
             "and cuDNN, where a GPU has it, do attention. Everything else, and everything on a CPU, sums in one order "
             "whatever this says",
     .source = "our choice"},
    {.path = "fp8_units",
     .type = NI_KEY_CHOICE,
     FIELD(fp8_units),
     .fallback = "exact",
     .words = fp8_words,
     .help = "which codes FP8 units of a GPU multiply: of those under scales of rows or of the tensor, and MXFP4",
     .source = "our choice"},
    {.path = "native_fp4",
     .type = NI_KEY_BOOL,
     FIELD(native_fp4),
     .fallback = "false",
     .help =
         "4-bit units of a GPU multiply nvfp4 and mxfp4 codes; compiled and tested as far as a CPU can, never run on "
         "such a GPU",
     .source = "our choice"},

    /* ---- the machine: none of these changes a bit of the result ---- */
    {.path = "memory_check",
     .type = NI_KEY_BOOL,
     FIELD(memory_check),
     .fallback = "true",
     .help =
         "before anything is allocated a process ends that by plan exceeds the memory that is left by more than 5 %; "
         "each of several ranks asks for itself alone, as if it had all that is left; false begins it",
     .source = "our choice"},
    {.path = "peak_flops",
     .type = NI_KEY_FLOAT,
     FIELD(peak_flops),
     .fallback = "auto",
     .positive = true,
     .high = 1e20,
     .words = peak_words,
     .help = "FLOP/s that MFU is a share of",
     .source = "our choice"},
    {.path = "share",
     .type = NI_KEY_CHOICE,
     FIELD(share),
     .fallback = "none",
     .words = share_words,
     .help = "what ranks share out (docs/many-processes.md)",
     .source = "our choice; moments and gradients: arXiv:1910.02054, first and second stage"},
    {.path = "backend",
     .type = NI_KEY_TEXT,
     FIELD(backend),
     .fallback = "cpu",
     .help = "what computes: cpu, cuda (the first GPU) or cuda:NUMBER",
     .source = "our choice"},
    {.path = "threads",
     .type = NI_KEY_INT,
     FIELD(threads),
     .fallback = "auto",
     .high = 4096,
     .words = auto_words,
     .help = "threads of the CPU backend",
     .source = "our choice"},
    {.path = "isa",
     .type = NI_KEY_CHOICE,
     FIELD(isa),
     .fallback = "auto",
     .words = isa_words,
     .help = "instruction set of the CPU backend",
     .source = "our choice"},
};

static nb_status finish(void *record, const ni_yaml_node *node, nb_error *err) {
    const nb_run_config *c = record;
    if ((c->steps > 0) == (c->tokens > 0))
        return ni_keys_fail(err, node, c->steps > 0 ? "tokens" : "steps",
                            "%s of steps and tokens %s given; expected exactly one, as `steps: 1000`",
                            c->steps > 0 ? "both" : "neither", c->steps > 0 ? "are" : "is");
    if (c->seq > INT32_MAX / c->micro_batch)
        return ni_keys_fail(err, node, "micro_batch",
                            "micro_batch x seq = %lld x %lld tokens are too many for one pass; hint: accumulation",
                            (long long)c->micro_batch, (long long)c->seq);
    int64_t steps = nb_run_steps(c), per_step = nb_run_tokens_per_step(c);
    if (steps > NI_MOST_STEPS || (double)steps * (double)per_step > MOST)
        return ni_keys_fail(err, node, c->steps > 0 ? "steps" : "tokens",
                            "%lld steps of %lld tokens are too many; expected at most %lld steps and %.0e tokens",
                            (long long)steps, (long long)per_step, (long long)NI_MOST_STEPS, MOST);
    if (c->bad_numbers.policy == NB_BAD_BF16 && c->bad_numbers.bf16_module_count == 0)
        return ni_keys_fail(err, node, "bad_numbers.policy",
                            "policy bf16 needs bad_numbers.bf16_modules, as `bf16_modules: [\"*.down_proj\"]`");
    return NB_OK;
}

static const char intro[] =
    "A run file says everything that decides the bits of a training run. `nibble train RUN.yaml --set key=value` "
    "changes\n"
    "one key on the command line; the run folder keeps the effective file, every default filled in, as `run.yaml`.\n"
    "Paths are taken from the current folder. What the keys do together (a step, the schedule, initial parameters, "
    "MFU,\n"
    "checkpoints, bad numbers) is in training.md.\n";

const ni_keys ni_run_keys = {.name = "run file",
                             .intro = intro,
                             .rows = rows,
                             .count = NI_COUNT(rows),
                             .size = sizeof(nb_run_config),
                             .finish = finish};

/* ---- --set ---- */

static bool is_model_change(const char *override) {
    return strncmp(override, "model.", 6) == 0;
}

/* Takes the place of an earlier one of the same key. */
static nb_status add_model_change(nb_run_config *c, const char *change, nb_error *err) {
    for (const char *at = change; *at; at += ni_utf8_character(at, strlen(at))) /* run.yaml repeats it */
        if (ni_utf8_character(at, strlen(at)) == 0 || (unsigned char)*at < 0x20 || *at == 0x7f)
            return nb_fail(err, NB_BAD_CONFIG, "--set model.KEY=VALUE holds bytes that are not UTF-8 text");
    const char *equals = strchr(change, '=');
    if (!equals || equals == change || strlen(change) >= NB_NAME_SIZE)
        return nb_fail(err, NB_BAD_CONFIG, "--set model.%.80s: expected key=value, as in model.vocab=2048", change);
    int32_t at = 0;
    while (at < c->model_change_count && strncmp(c->model_changes[at], change, (size_t)(equals - change) + 1) != 0)
        at++;
    if (at == NB_MODEL_CHANGES)
        return nb_fail(err, NB_BAD_CONFIG,
                       "--set model.%s: more than %d changes; hint: write a model file with base:", change,
                       NB_MODEL_CHANGES);
    if (at == c->model_change_count)
        c->model_change_count++;
    memset(c->model_changes[at], 0, sizeof c->model_changes[at]);
    memcpy(c->model_changes[at], change, strlen(change));
    return NB_OK;
}

/* The overrides and then the table, over a file that was read. */
static nb_status read_with(ni_yaml *doc, const char *const *overrides, int32_t count, nb_run_config *out,
                           nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        if (!is_model_change(overrides[i]))
            NB_TRY(ni_yaml_set(doc, overrides[i], NULL, err));
    NB_TRY(ni_keys_read(&ni_run_keys, out, doc->root, err));
    for (int32_t i = 0; i < count; i++)
        if (is_model_change(overrides[i]))
            NB_TRY(add_model_change(out, overrides[i] + 6, err));
    return NB_OK;
}

nb_status nb_run_config_parse(const char *text, size_t size, const char *name, const char *const *overrides,
                              int32_t override_count, nb_run_config *out, nb_error *err) {
    ni_yaml doc = {0};
    nb_status status = ni_yaml_parse(text, size, name, &doc, err);
    if (status == NB_OK && doc.root->kind != NI_YAML_MAP)
        status = ni_yaml_fail(err, doc.root, "expected a map of keys, as `model: tiny`");
    if (status == NB_OK)
        status = read_with(&doc, overrides, override_count, out, err);
    ni_yaml_free(&doc);
    return status;
}

nb_status nb_run_config_defaults(nb_run_config *config, nb_error *err) {
    static const char required[] = "{model: x, out: x, data: {train: x}, steps: 1, seq: 1}";
    NB_TRY(nb_run_config_parse(required, sizeof required - 1, "defaults", NULL, 0, config, err));
    memset(config->model, 0, sizeof config->model);
    memset(config->out, 0, sizeof config->out);
    memset(config->data.train, 0, sizeof config->data.train);
    config->steps = config->seq = 0;
    return NB_OK;
}

nb_status nb_run_config_load(const char *path, const char *const *overrides, int32_t override_count, nb_run_config *out,
                             nb_error *err) {
    ni_yaml doc = {0};
    nb_status status = ni_yaml_load(path, &doc, err);
    if (status == NB_OK)
        status = read_with(&doc, overrides, override_count, out, err);
    ni_yaml_free(&doc);
    return status;
}

char *nb_run_config_text(const nb_run_config *config) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    bool whole = ni_keys_print(&ni_run_keys, config, NULL, NI_COMMENTS_NONE, to);
    return ni_memory_text(to, &text, whole);
}

int64_t nb_run_tokens_per_step(const nb_run_config *config) {
    return config->micro_batch * config->accumulation * config->seq;
}

int64_t nb_run_steps(const nb_run_config *config) {
    if (config->steps > 0)
        return config->steps;
    int64_t per_step = nb_run_tokens_per_step(config);
    return (config->tokens + per_step - 1) / per_step;
}

/* ---- which keys decide the bits ---- */

static bool is_free_on_resume(const char *path) {
    static const char *const prefixes[] = {"recompute",   "deterministic", "out",         "data.tokenizer",
                                           "eval.",       "checkpoint.",   "lens.",       "bad_numbers.",
                                           "print_every", "peak_flops",    "backend",     "threads",
                                           "isa",         "share",         "memory_check"};
    for (size_t i = 0; i < NI_COUNT(prefixes); i++)
        if (strncmp(path, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

bool ni_run_config_differs(const nb_run_config *a, const nb_run_config *b, char *key, size_t size) {
    for (size_t i = 0; i < NI_COUNT(rows); i++) {
        const ni_key *row = &rows[i];
        if (is_free_on_resume(row->path))
            continue;
        /* Records are zeroed before they are filled, so texts compare whole. */
        if (memcmp((const char *)a + row->offset, (const char *)b + row->offset, row->size) != 0) {
            snprintf(key, size, "%s", row->path);
            return true;
        }
    }
    return false;
}
