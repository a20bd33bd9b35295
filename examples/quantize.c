/* quantize.c: a small matrix in NVFP4: codes, scales, and what is lost.
 *
 *     cc -std=c11 quantize.c $(pkg-config --cflags --libs nibble) -o quantize
 */
#include <nibble/backend.h>

#include <math.h>
#include <stdio.h>

enum { ROWS = 4, COLS = 32 };

/* NVFP4, blocks of 1x16: E2M1 elements, an E4M3 scale a block, one FP32 scale a tensor. */
static const nb_quantizer nvfp4 = {.element = NB_ELEMENT_E2M1,
                                   .scale_type = NB_SCALE_E4M3,
                                   .rule = NB_RULE_ABSMAX,
                                   .outer = NB_OUTER_TENSOR,
                                   .block_rows = 1,
                                   .block_cols = 16,
                                   .round = NB_ROUND_EVEN};

static void print_row(const nb_qtensor *t, int row) {
    printf("row %d  scales", row);
    for (int block = 0; block < COLS / 16; block++)
        printf(" %02x", t->scales[row * (COLS / 16) + block]);
    printf("  codes ");
    for (int col = 0; col < COLS; col++) /* two a byte, the even one in the low half */
        printf("%x", t->codes[row * (COLS / 2) + col / 2] >> 4 * (col % 2) & 15);
    printf("\n");
}

static nb_status quantize(nb_backend *be, nb_error *err) {
    float x[ROWS * COLS], decoded[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++)
        x[i] = sinf((float)i) * (float)(1 + i % 7);
    NB_TRY(nb_quantizer_check_shape(&nvfp4, ROWS, COLS, err));
    void *memory = be->ops->alloc(be, nb_qtensor_bytes(&nvfp4, ROWS, COLS).total);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a matrix of %d x %d", ROWS, COLS);
    nb_qtensor t = nb_qtensor_place(&nvfp4, ROWS, COLS, memory);
    const nb_mat from = nb_mat_of(x, NB_F32, ROWS, COLS), to = nb_mat_of(decoded, NB_F32, ROWS, COLS);
    const nb_noise noise = {0}; /* read by stochastic rounding only */
    nb_status status = be->ops->quantize(be, &t, &from, false, &noise, NULL, err);
    if (status == NB_OK)
        status = be->ops->dequantize(be, &to, &t, false, true, err);
    if (status == NB_OK) {
        char text[256];
        double lost = 0, all = 0;
        printf("%s, tensor scale %.9g\n", nb_quantizer_text(&nvfp4, text, sizeof text), (double)*t.tensor_scale);
        for (int row = 0; row < ROWS; row++)
            print_row(&t, row);
        for (int i = 0; i < ROWS * COLS; i++) {
            lost += pow((double)x[i] - (double)decoded[i], 2);
            all += pow((double)x[i], 2);
        }
        printf("relative error %.4f\n", sqrt(lost / all));
    }
    be->ops->release(be, memory);
    return status;
}

int main(void) {
    nb_error err = {0};
    nb_backend *be;
    const nb_cpu_options options = {0}; /* all threads, the best instruction set */
    nb_status status = nb_backend_cpu(&options, &be, &err);
    if (status == NB_OK) {
        status = quantize(be, &err);
        nb_backend_free(be);
    }
    if (status != NB_OK)
        fprintf(stderr, "quantize: %s\n", err.message);
    return status != NB_OK;
}
