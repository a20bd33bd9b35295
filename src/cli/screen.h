/* screen.h: what a training run shows: memory table, census, step lines, bar. */
#ifndef NB_CLI_SCREEN_H
#define NB_CLI_SCREEN_H

#include "base/progress.h"
#include "nibble/train.h"

typedef struct nb_screen {
    nb_progress progress; /* out is NULL when quiet */
    const char *label;    /* before the bar's text: "nvfp4 seed 1"; may be empty */
    int64_t print_every;
    double began;
    int64_t last_step;
    double last_loss, last_val_loss; /* NaN until there is one */
    int64_t printed_lines;
} nb_screen;

nb_screen nb_screen_open(bool quiet, const char *label, int64_t print_every);
void nb_screen_close(nb_screen *screen);

/* Callbacks of a trainer that draw on `screen`; `stop` asks nb_stop_requested. */
nb_train_callbacks nb_screen_callbacks(nb_screen *screen);

/* Memory by row, biggest first, and its sum; the program's own part is `program_bytes`. */
void nb_screen_memory(nb_screen *screen, const nb_trainer *trainer, size_t program_bytes);

/* The census, GEMMs that run alike in one line. */
void nb_screen_census(nb_screen *screen, nb_trainer *trainer, const char *file);

/* "1,234,567"; "12.3M"; "1.2 GiB". Each writes into `text` and returns it. */
char *nb_count_text(int64_t count, char *text, size_t size);
char *nb_short_count_text(double count, char *text, size_t size);
char *nb_bytes_text(double bytes, char *text, size_t size);

/* From here on SIGINT and SIGTERM ask for a stop; a second one ends the process at once. */
void nb_stop_on_signals(void);
bool nb_stop_requested(void);

/* Bytes of memory that the process holds now; 0 if the system does not say. */
size_t nb_resident_bytes(void);

#endif
