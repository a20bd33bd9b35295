/* serve.h: coded weights in the files of the programs that serve them.
 *
 *                        codes                      block scales     what stands above them
 *     compressed-tensors weight_packed U8 [N, K/2]  weight_scale     weight_global_scale [1], a divisor
 *     ModelOpt           weight        U8 [N, K/2]  weight_scale     weight_scale_2 [], a factor
 *     GGUF               NAME.weight, blocks of 64 with their scales NAME.scale [1], a factor
 *
 * MXFP4 has nothing above its block scales. Layers that are not coded are written as numbers of the type asked for.
 * What each reader makes of them: docs/export.md.
 */
#ifndef NI_MODEL_SERVE_H
#define NI_MODEL_SERVE_H

#include "files/gguf.h"
#include "model/coded.h"
#include "model/hf.h"

/* config.json and model.safetensors for vLLM, SGLang and transformers, into a folder that exists. */
nb_status ni_serve_compressed_tensors(ni_coded_model *coded, const char *folder, ni_tensor_dtype dtype,
                                      ni_hf_marks marks, nb_error *err);
/* The same for TensorRT-LLM, and hf_quant_config.json. NVFP4 alone. */
nb_status ni_serve_modelopt(ni_coded_model *coded, const char *folder, ni_tensor_dtype dtype, ni_hf_marks marks,
                            nb_error *err);

/* One file for llama.cpp. `file` holds the keys of the tokenizer; the model's are added. Vectors are FP32. */
nb_status ni_serve_gguf(ni_coded_model *coded, ni_gguf *file, const char *path, ni_tensor_dtype dtype, nb_error *err);

#endif
