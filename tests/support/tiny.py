"""Tiny real models, saved as directories: a Qwen3 target with weights large enough that its context matters, and a
DSpark drafter whose Markov head is fitted to that target, so that drafts are partly accepted without any training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from outrider.drafter.config import DSparkConfig
from outrider.drafter.model import DSparkModel

__all__ = ["TinyPair", "make_drafter", "make_target", "reference"]


@dataclass(frozen=True)
class TinyPair:
    """Directories of a target and its drafter."""

    target: Path
    drafter: Path


def make_target(
    directory: Path,
    *,
    vocab: int = 97,
    hidden: int = 48,
    layers: int = 3,
    context: int = 256,
    spread: float = 3.0,
    mixing: float = 0.2,
    eos: int | list[int] | None = None,
    seed: int = 1,
) -> Path:
    """A random Qwen3 whose logits have standard deviation near `spread`; `mixing` scales what layers add."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                continue
            if name.startswith("model.embed_tokens"):
                weight.normal_(std=1.0)
            elif name.startswith("lm_head"):
                weight.normal_(std=spread / hidden**0.5)
            else:
                weight.normal_(std=mixing * 3 / weight.shape[1] ** 0.5)
    model.save_pretrained(directory)
    return directory


def reference(directory: Path) -> Any:
    """The same weights under stock transformers attention."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def make_drafter(
    directory: Path,
    target: Path,
    *,
    gamma: int = 7,
    layer_ids: tuple[int, ...] = (0, 1),
    base: float = 0.5,
    fitted: float = 1.0,
    confidence_bias: float = 1.0,
    seed: int = 2,
    **overrides: Any,
) -> Path:
    """A random DSpark drafter; its Markov head holds `fitted` times the target's mean logits after each token."""
    model = reference(target)
    config = DSparkConfig.for_target(
        _as_qwen3(model.config),
        num_hidden_layers=2,
        block_size=gamma,
        mask_token_id=model.config.vocab_size - 1,
        target_layer_ids=layer_ids,
        markov_rank=min(32, model.config.vocab_size),
        **overrides,
    )
    torch.manual_seed(seed)
    drafter = DSparkModel(config)
    with torch.no_grad():
        # in an order of its own: a seed's weights do not change with the order in which a module declares its parts
        parts = ("embed_tokens", "lm_head", "norm", "hidden_norm", "fc", "layers", "markov_head", "confidence_head")
        for name, weight in sorted(drafter.named_parameters(), key=lambda pair: parts.index(pair[0].split(".")[0])):
            if weight.dim() == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
            if name == "lm_head.weight":
                weight.mul_(base)
        left, scale, right = torch.linalg.svd(_mean_logits(model))
        rank = config.markov_rank
        drafter.markov_head.markov_w1.weight.copy_(left[:, :rank] * scale[:rank].sqrt())
        drafter.markov_head.markov_w2.weight.copy_(fitted * right[:rank].T * scale[:rank].sqrt())
        assert drafter.confidence_head is not None
        drafter.confidence_head.proj.weight.mul_(0.3)
        drafter.confidence_head.proj.bias.fill_(confidence_bias)
    drafter.save(directory, torch.float32)
    return directory


def _as_qwen3(config: Any) -> dict[str, Any]:
    """A target's sizes under Qwen3's names: a DSpark drafter of Qwen3 layers can follow any target of its width."""
    if config.model_type == "qwen3":
        return dict(config.to_dict())
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")
    sizes = {name: getattr(config, name) for name in names}
    own = {"intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    return sizes | own | {"model_type": "qwen3", "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e4}


@torch.no_grad()
def _mean_logits(model: Any, contexts: int = 8, length: int = 6) -> Tensor:
    """Mean target logits [V, V] after each token over random contexts."""
    vocab = model.config.vocab_size
    ids = torch.randint(vocab, (contexts * vocab, length), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = torch.arange(vocab).repeat(contexts)
    logits = model(ids).logits[:, -1].view(contexts, vocab, vocab).mean(0)
    mean: Tensor = logits - logits.mean(dim=1, keepdim=True)
    return mean
