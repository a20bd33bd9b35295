/* param_array.h: one number for each parameter (its gradient, a moment of it) in one array of one type.
 *
 * Tensors lie as in the model's array of masters (nb_param.offset). Types other than `real` save memory; those that
 * need it have a scale a tensor (ni_scaled in backend/arguments.h).
 */
#ifndef NI_MODEL_PARAM_ARRAY_H
#define NI_MODEL_PARAM_ARRAY_H

#include "backend/arguments.h"
#include "nibble/model.h"

typedef struct ni_param_place {
    int64_t offset, length; /* elements */
} ni_param_place;

typedef struct ni_param_array {
    nb_backend *be;
    nb_dtype dtype;
    nb_scale_rule rule;
    int32_t count;      /* tensors */
    int32_t begin, end; /* those that it has: all, or a part */
    int64_t elements;   /* of the array: tensors and what lies between them */
    ni_param_place *at; /* [count] */
    void *data;         /* [elements] */
    float *scales;      /* [count]; NULL where the type needs none */
    int32_t sections;   /* runs of tensors whose squares are summed in one; 0: all are */
    int32_t *section;   /* [sections + 1]: the first tensor of each */
} ni_param_array;

/* Zeroes. `what` names it if there is no memory: "first moments". */
nb_status ni_param_array_create(nb_backend *be, const nb_param *params, int32_t count, nb_dtype dtype,
                                nb_scale_rule rule, const char *what, ni_param_array *out, nb_error *err);
/* For the tensors begin .. end - 1 alone; the others are not asked for. */
nb_status ni_param_array_create_part(nb_backend *be, const nb_param *params, int32_t count, int32_t begin, int32_t end,
                                     nb_dtype dtype, nb_scale_rule rule, const char *what, ni_param_array *out,
                                     nb_error *err);
/* Places without data. */
nb_status ni_param_array_place(nb_backend *be, const nb_param *params, int32_t count, nb_dtype dtype,
                               ni_param_array *out, nb_error *err);
/* Another of the same kind. */
nb_status ni_param_array_create_like(const ni_param_array *like, const char *what, ni_param_array *out, nb_error *err);
void ni_param_array_free(ni_param_array *array);

/* The tensors begin .. end - 1 of an array that has all, where they lie; it owns nothing. */
ni_param_array ni_param_array_part(const ni_param_array *array, int32_t begin, int32_t end);

ni_scaled ni_param_array_at(const ni_param_array *array, int32_t index);
size_t ni_param_array_bytes(const ni_param_array *array);
void ni_param_array_zero(ni_param_array *array);

/* Arrays of one model and one type. */
void ni_param_array_copy(ni_param_array *to, const ni_param_array *from);
void ni_param_array_add(ni_param_array *to, const ni_param_array *from); /* to += from */

/* Sections as another array of the same model has them. */
nb_status ni_param_array_take_sections(ni_param_array *array, int32_t sections, const int32_t *section, nb_error *err);

/* The sum of squares in parts that add up in order: one a section, or one a tensor where the type is not real. `parts`
 * is backend memory for ni_param_array_parts() doubles; those of tensors that the array does not have are left alone.
 * NaN and Inf propagate. */
int32_t ni_param_array_parts(const ni_param_array *array);
void ni_param_array_sum_squares(const ni_param_array *array, double *parts);
/* The same of the sections begin .. end - 1 alone, of a type that is real. */
void ni_param_array_square_sections(const ni_param_array *array, int32_t begin, int32_t end, double *parts);

/* The gradients of a model made for training, as its recipe keeps them. */
ni_param_array *ni_model_gradients(nb_model *model);

/* Called in a backward pass, on its thread, where gradients are kept by the model: those from `element` of their array
 * on are done. */
typedef void ni_gradient_watch(void *self, int64_t element);
void ni_model_watch_gradients(nb_model *model, ni_gradient_watch *watch, void *self);

/* A model whose gradients are kept by somebody else (`hands_on`): its backward pass adds them up in a window and hands
 * on each section, tensors begin .. end - 1 as they lie in the array of all, once it is complete, from the last section
 * to the first, zeroes where nothing is scored. ni_model_gradients then has places and no data. What is handed on may
 * be written over, and is forgotten. NULL: nobody takes it. `hands_codes`: its weights go to others as model/handed.h
 * has it; `parted`: and others keep no masters of those that do: ni_model_part_masters (masters.h) says who has which,
 * before anything is read. */
typedef struct ni_model_shared {
    bool hands_on, hands_codes, parted;
} ni_model_shared;
typedef void ni_gradient_taker(void *self, int32_t begin, int32_t end, void *grads);
nb_status ni_model_create(nb_backend *be, const nb_model_config *config, const nb_recipe *recipe,
                          const nb_model_options *options, const ni_model_shared *shared, nb_model **out,
                          nb_error *err);
void ni_model_hand_gradients_to(nb_model *model, ni_gradient_taker *taker, void *self);

/* Whether a linear layer's name fits a pattern, as nb_keep has them. */
bool ni_model_has_module(const nb_model *model, const char *pattern);

/* Masters, of any type; without data where another rank has it. ni_model_param_open gives one in real, in place or
 * decoded until the next is opened; what is written there counts once it is closed. */
ni_scaled ni_model_master(const nb_model *model, int32_t index);

/* Two weights of one shape, of which the one's output gates the other's (SwiGLU). */
typedef struct ni_gated_pair {
    char module[NB_NAME_SIZE]; /* that they belong to: "layers.3.mlp" */
    int32_t gate, up;          /* parameters */
} ni_gated_pair;
/* The pairs of block `block`, at most `most`; returns how many there are. */
int32_t ni_model_gated_pairs(const nb_model *model, int32_t block, ni_gated_pair *pairs, int32_t most);
void *ni_model_param_open(nb_model *model, int32_t index);
void ni_model_param_close(nb_model *model, int32_t index);

/* Values of a tensor in real, to host memory. */
void ni_model_param_read(nb_model *model, int32_t index, void *host);

/* Bytes that masters take, and those that are taken besides where some are decoded to be read. */
typedef struct ni_master_bytes {
    size_t wide, narrow, room;
} ni_master_bytes;
ni_master_bytes ni_model_master_bytes(const nb_model *model);

/* Bytes in which one block's gradients are added up before they are packed; 0 where gradients are real. */
size_t ni_model_gradient_window(const nb_model *model);

#endif
