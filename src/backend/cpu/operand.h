/* operand.h: what stands behind the codes of a right operand on the CPU. */
#ifndef NI_BACKEND_CPU_OPERAND_H
#define NI_BACKEND_CPU_OPERAND_H

#include "backend/cpu/cpu.h"
#include "backend/ref/operand_parts.h"

typedef enum ni_form {
    NI_FORM_NONE,
    NI_FORM_PANELS, /* packed (packed.h) */
    NI_FORM_INNER,  /* BF16, without scales that stay outside of the sum */
    NI_FORM_NUMBERS /* BF16, all of it: the other side has no codes */
} ni_form;

/* What a product of A in this quantizer with b reads. */
ni_form ni_form_of(const nb_quantizer *a, const nb_operand *b);

/* That form of b, made now if it is not there; NULL where b holds another. */
nb_status ni_right_form(nb_backend *be, const nb_quantizer *a, const nb_operand *b, const void **memory, nb_error *err);

/* to[i] = from[columns[i]], i < n; F32 or BF16 */
void ni_gather_row(void *to, const void *from, nb_dtype type, const int32_t *columns, int64_t n);

/* Largest magnitude of a matrix as it lies: its amax where it is known. */
float ni_cpu_amax(nb_backend *be, const nb_mat *x);

#endif
