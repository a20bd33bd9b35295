/* family.c: what tells one family of models from another. */
#include "model/decoder.h"

static const ni_family_traits families[] = {
    {.family = NB_LLAMA,
     .embedding = "embed_tokens",
     .mixer_norm = "input_layernorm",
     .mlp_norm = "post_attention_layernorm",
     .mixer_kind = &ni_attention_kind},
    {.family = NB_QWEN3,
     .embedding = "embed_tokens",
     .mixer_norm = "input_layernorm",
     .mlp_norm = "post_attention_layernorm",
     .qk_norm = NI_QK_NORM_HEAD,
     .mixer_kind = &ni_attention_kind},
    {.family = NB_OLMO2,
     .embedding = "embed_tokens",
     .mixer_norm = "post_attention_layernorm",
     .mlp_norm = "post_feedforward_layernorm",
     .post_norm = true,
     .qk_norm = NI_QK_NORM_WHOLE,
     .mixer_kind = &ni_attention_kind},
    {.family = NB_GLA,
     .embedding = "embeddings",
     .mixer_norm = "attn_norm",
     .mlp_norm = "mlp_norm",
     .mixer_kind = &ni_gla_kind},
    {.family = NB_NGPT, .embedding = "embed_tokens", .sphere = true, .mixer_kind = &ni_attention_kind},
};

const ni_family_traits *ni_family_find(nb_family family) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (families[i].family == family)
            return &families[i];
    return NULL;
}
