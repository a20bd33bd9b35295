/* linear.c: one linear layer trained under a recipe, with an optimizer of one's own: W learns to be another matrix.
 *
 *     cc -std=c11 linear.c $(pkg-config --cflags --libs nibble) -lm -o linear
 *     ./linear nvfp4 $(pkg-config --variable=datadir nibble)
 */
#include <nibble/linear.h>

#include <math.h>
#include <stdio.h>

enum { TOKENS = 48, IN = 64, OUT = 32, STEPS = 40 };

/* On the CPU the backend's memory is the program's: plain arrays serve. */
static float w[OUT * IN], target[OUT * IN], dw[OUT * IN];
static float x[TOKENS * IN], y[TOKENS * OUT], dy[TOKENS * OUT];

static float number(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / (float)(1 << 23) - 1;
}

/* Mean squared error of y = x w^T beside x target^T; dy is its gradient. */
static double error_of(void) {
    double sum = 0;
    for (int t = 0; t < TOKENS; t++)
        for (int n = 0; n < OUT; n++) {
            double want = 0;
            for (int k = 0; k < IN; k++)
                want += (double)x[t * IN + k] * (double)target[n * IN + k];
            const double off = (double)y[t * OUT + n] - want;
            dy[t * OUT + n] = (float)(2 * off / (TOKENS * OUT));
            sum += off * off / (TOKENS * OUT);
        }
    return sum;
}

static nb_status train(nb_linear *linear, nb_error *err) {
    const nb_mat mx = nb_mat_of(x, NB_F32, TOKENS, IN), my = nb_mat_of(y, NB_F32, TOKENS, OUT),
                 mdy = nb_mat_of(dy, NB_F32, TOKENS, OUT);
    float *const grads[] = {dw};
    unsigned random = 7;
    for (unsigned step = 0; step < STEPS; step++) {
        const nb_pass pass = {.step = step, .steps = STEPS, .rounding_seed = 1};
        for (int i = 0; i < TOKENS * IN; i++)
            x[i] = number(&random);
        NB_TRY(nb_linear_forward(linear, &pass, true, &mx, &my, err));
        const double error = error_of();
        NB_TRY(nb_linear_backward(linear, &pass, false, &mx, &mdy, NULL, grads, err));
        for (int i = 0; i < OUT * IN; i++)
            w[i] -= 20 * dw[i];
        NB_TRY(nb_linear_stepped(linear, &pass, err)); /* the weights moved, and mechanisms have their turn */
        if (step == 0 || step == STEPS - 1)
            printf("step %u  error %.4f\n", step + 1, error);
    }
    return NB_OK;
}

static nb_status run(const char *name, const char *recipes, nb_backend *be, nb_error *err) {
    nb_recipe recipe;
    nb_workspace *workspace;
    nb_linear *linear;
    nb_census_row rows[3];
    unsigned random = 3;
    for (int i = 0; i < OUT * IN; i++) {
        w[i] = number(&random) / 8;
        target[i] = number(&random) / 8;
    }
    NB_TRY(nb_recipe_load(name, recipes, &recipe, err));
    NB_TRY(nb_workspace_create(be, &workspace, err));
    const nb_linear_layer layer = {.name = "mine", .out = OUT, .dtype = NB_F32, .weight = w};
    const nb_linear_spec spec = {.recipe = &recipe,
                                 .block = -1,
                                 .input = "mine.input",
                                 .in = IN,
                                 .rows = TOKENS,
                                 .training = true,
                                 .layers = &layer,
                                 .count = 1};
    nb_status status = nb_linear_create(workspace, &spec, &linear, err);
    if (status == NB_OK) {
        nb_linear_census(linear, rows, 3);
        for (int i = 0; i < 3; i++)
            printf("%s  %s: %s\n", rows[i].gemm, rows[i].formats, rows[i].kernel);
        status = train(linear, err);
        nb_linear_free(linear);
    }
    nb_workspace_free(workspace);
    return status;
}

int main(int argc, char **argv) {
    nb_error err = {0};
    nb_backend *be;
    char recipes[1024];
    snprintf(recipes, sizeof recipes, "%s/recipes", argc > 2 ? argv[2] : ".");
    nb_status status = nb_backend_open("cpu", NULL, &be, &err);
    if (status == NB_OK) {
        status = run(argc > 1 ? argv[1] : "nvfp4", recipes, be, &err);
        nb_backend_free(be);
    }
    if (status != NB_OK)
        fprintf(stderr, "linear: %s\n", err.message);
    return status != NB_OK;
}
