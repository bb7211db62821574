"""Tiny random models of many families, with what makes each of them special switched on and weights that show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

__all__ = ["FAMILIES", "VOCAB", "WINDOW", "make_family"]

VOCAB, WINDOW = 97, 8

_SLIDING = {"sliding_window": WINDOW}
_ALTERNATING = _SLIDING | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SCALED_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_PARTIAL_ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": _SCALED_ROPE, "attention_bias": True, "mlp_bias": True},
    "qwen2": _SLIDING | {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": _SLIDING | {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3_moe": _EXPERTS | {"num_experts": 4, "norm_topk_prob": True},
    "mistral": _SLIDING,
    "mixtral": _SLIDING | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": _ALTERNATING
    | {"query_pre_attn_scalar": 37, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": _ALTERNATING | {"query_pre_attn_scalar": 37, "final_logit_softcapping": 5.0},
    "phi": {"qk_layernorm": True, "rope_parameters": _PARTIAL_ROPE},
    "phi3": _SLIDING,
    "olmo2": {},
    "olmo3": _ALTERNATING,
    "starcoder2": _SLIDING,
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.2},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "cohere2": _ALTERNATING | {"logit_scale": 0.5},
    "gpt_oss": _ALTERNATING | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt2": {},
    "gpt_neox": {},
}  # fmt: skip
"""Fields on top of the sizes below, by model_type."""

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def make_family(directory: Path, model_type: str, *, seed: int = 1, shard: str = "5GB", **fields: Any) -> Path:
    """A random model whose context and special features matter: logits spread, norms, biases and sinks are not trivial.

    phi and gpt2 have no head_dim of their own: theirs is hidden_size / num_attention_heads.
    """
    defaults = AutoConfig.for_model(model_type)
    sizes = {key: value for key, value in _SIZES.items() if hasattr(defaults, key) or key in defaults.attribute_map}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **(sizes | FAMILIES[model_type] | fields)), dtype=torch.float32
    )
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        for weight in model.parameters():
            if weight is head or weight is embedding:
                weight.normal_(std=0.15 if head is embedding else 1.0 if weight is embedding else 0.4)
            elif weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
            else:
                weight.normal_(std=0.8 / min(weight.shape[-2:]) ** 0.5)
    model.save_pretrained(directory, max_shard_size=shard)
    return directory
