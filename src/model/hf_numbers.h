/* hf_numbers.h: the number types of tensor files, to and from FP32 and FP64 arrays. */
#ifndef NI_MODEL_HF_NUMBERS_H
#define NI_MODEL_HF_NUMBERS_H

#include "files/safetensors.h"
#include "nibble/format.h"

/* Whether values of this type can be parameters: F64, F32, F16, BF16. */
bool ni_hf_is_real(ni_tensor_dtype dtype);

/* from[count] of a file (perhaps unaligned) -> to[count] of type NB_F32 or NB_F64. */
void ni_hf_numbers_read(ni_tensor_dtype dtype, const void *from, size_t count, nb_dtype to_type, void *to);

/* from[count] of type NB_F32 or NB_F64 -> to[count] of a file, rounded to nearest even. F64 goes to 16 bits by way of
 * FP32. */
void ni_hf_numbers_write(ni_tensor_dtype dtype, nb_dtype from_type, const void *from, size_t count, void *to);

#endif
