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

/* Quantizes the matrix at `from` in the backend's memory and prints what came of it; x is the same matrix, here. */
static nb_status quantize(nb_backend *be, const float *x, void *memory, nb_error *err) {
    static _Alignas(64) uint8_t host[8192]; /* the codes and scales of a matrix this small */
    float decoded[ROWS * COLS];
    const size_t bytes = nb_qtensor_bytes(&nvfp4, ROWS, COLS).total;
    char *codes = memory, *from = codes + sizeof host;
    const nb_qtensor t = nb_qtensor_place(&nvfp4, ROWS, COLS, codes), here = nb_qtensor_place(&nvfp4, ROWS, COLS, host);
    const nb_mat m = nb_mat_of(from, NB_F32, ROWS, COLS);
    const nb_noise noise = {0}; /* read by stochastic rounding only */
    NB_TRY(nb_backend_write(be, from, x, sizeof decoded, err));
    NB_TRY(nb_quantize(be, &t, &m, false, &noise, NULL, err));
    NB_TRY(nb_backend_read(be, host, codes, bytes, err));
    NB_TRY(nb_dequantize(be, &m, &t, err)); /* over the numbers that it came from */
    NB_TRY(nb_backend_read(be, decoded, from, sizeof decoded, err));
    char text[256];
    double lost = 0, all = 0;
    printf("%s, tensor scale %.9g\n", nb_quantizer_text(&nvfp4, text, sizeof text), (double)*here.tensor_scale);
    for (int row = 0; row < ROWS; row++)
        print_row(&here, row);
    for (int i = 0; i < ROWS * COLS; i++) {
        lost += pow((double)x[i] - (double)decoded[i], 2);
        all += pow((double)x[i], 2);
    }
    printf("relative error %.4f\n", sqrt(lost / all));
    return NB_OK;
}

static nb_status run(nb_backend *be, nb_error *err) {
    float x[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++)
        x[i] = sinf((float)i) * (float)(1 + i % 7);
    NB_TRY(nb_quantizer_check_shape(&nvfp4, ROWS, COLS, err));
    void *memory = nb_backend_alloc(be, 8192 + sizeof x);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a matrix of %d x %d", ROWS, COLS);
    nb_status status = quantize(be, x, memory, err);
    nb_backend_release(be, memory);
    return status;
}

int main(void) {
    nb_error err = {0};
    nb_backend *be;
    const nb_backend_options options = {0}; /* all threads, the best instruction set */
    nb_status status = nb_backend_open("cpu", &options, &be, &err);
    if (status == NB_OK) {
        status = run(be, &err);
        nb_backend_free(be);
    }
    if (status != NB_OK)
        fprintf(stderr, "quantize: %s\n", err.message);
    return status != NB_OK;
}
