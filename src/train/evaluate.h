/* evaluate.h: the mean loss of a model over validation data. */
#ifndef NI_TRAIN_EVALUATE_H
#define NI_TRAIN_EVALUATE_H

#include "dist/ranks.h"
#include "nibble/train.h"
#include "run_data.h"

/* Mean loss over the whole data set in micro-batches of the buffer's size. A last micro-batch that is not full is
 * filled up with sequences whose targets are not scored. `pass` is the same for all but its micro_batch. Between
 * micro-batches callbacks->stop is asked (`callbacks` may be NULL): NB_INTERRUPTED. Ranks take a part each (`ranks` may
 * be NULL), and all get the same report; they ask for a stop together, before they begin. */
nb_status ni_evaluate(nb_model *model, const ni_dataset *data, ni_batch_buffer *buffer, const nb_pass *pass,
                      const nb_train_callbacks *callbacks, nb_ranks *ranks, nb_eval_report *report, nb_error *err);

#endif
