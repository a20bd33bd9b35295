/* run_data.h: the data of a run: its tokenizer, its validation data, and host memory for one micro-batch. */
#ifndef NI_TRAIN_RUN_DATA_H
#define NI_TRAIN_RUN_DATA_H

#include "data/dataset.h"
#include "data/tokenizer.h"
#include "nibble/train.h"

typedef struct ni_batch_buffer {
    int32_t *memory;
    size_t bytes;
    ni_dataset_buffers buffers; /* to fill */
    nb_batch view;              /* to read: the same memory */
} ni_batch_buffer;

nb_status ni_batch_buffer_create(int64_t batch, int64_t seq, ni_batch_buffer *out, nb_error *err);
void ni_batch_buffer_free(ni_batch_buffer *buffer);

/* The tokenizer of a run file (NULL if it names none) and the token between documents (-1 for none). After a failure
 * `out` is the caller's to free. */
nb_status ni_run_tokenizer(const nb_run_config *config, int32_t vocab, ni_tokenizer **out, int32_t *end_of_text,
                           nb_error *err);

/* Opens validation data as the run file says: in order, eval.sequences of them, whole micro-batches. */
nb_status ni_open_validation(const nb_run_config *config, const char *path, int64_t vocab, int32_t end_of_text,
                             ni_dataset **out, nb_error *err);

#endif
