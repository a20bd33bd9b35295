/* screen.h: what a training run shows: memory table, census, step lines, bar. */
#ifndef NI_CLI_SCREEN_H
#define NI_CLI_SCREEN_H

#include "base/progress.h"
#include "nibble/train.h"

typedef struct ni_screen {
    ni_progress progress; /* out is NULL when quiet */
    const char *label;    /* before the bar's text: "nvfp4 seed 1"; may be empty */
    int64_t print_every;
    double began;
    int64_t last_step;
    double last_loss, last_val_loss; /* NaN until there is one */
    int64_t printed_lines;
} ni_screen;

ni_screen ni_screen_open(bool quiet, const char *label, int64_t print_every);
void ni_screen_close(ni_screen *screen);

/* Callbacks of a trainer that draw on `screen`; `stop` asks ni_stop_requested. */
nb_train_callbacks ni_screen_callbacks(ni_screen *screen);

/* Memory by row, biggest first, and its sum; the program's own part is `program_bytes`. */
void ni_screen_memory(ni_screen *screen, const nb_trainer *trainer, size_t program_bytes);

/* Those rows and how many they are, and their sum, without the program. */
enum { NI_MEMORY_ROWS = 32 };
double ni_memory_total(const nb_trainer *trainer);
int32_t ni_memory_rows(const nb_trainer *trainer, nb_memory_row rows[NI_MEMORY_ROWS]);

/* The census, GEMMs that run alike in one line. */
void ni_screen_census(ni_screen *screen, nb_trainer *trainer, const char *file);

/* "1,234,567"; "12.3M"; "1.2 GiB". Each writes into `text` and returns it. */
char *ni_count_text(int64_t count, char *text, size_t size);
char *ni_short_count_text(double count, char *text, size_t size);
char *ni_bytes_text(double bytes, char *text, size_t size);

/* From here on SIGINT, SIGTERM, SIGHUP (unless it is ignored) and SIGPIPE ask for a stop; a second one, but for
 * SIGPIPE, ends the process at once. */
void ni_stop_on_signals(void);
bool ni_stop_requested(void);

/* Bytes of memory that the process holds now; 0 if the system does not say. */
size_t ni_resident_bytes(void);

#endif
