"""The drafter's input projection, which runs beside the target: C = hidden_norm(fc(F)).

Shapes: n rows, m tapped layers, d the target's hidden size. Projecting here sends d values per token over the link
instead of m·d (arXiv 2607.05147).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from outrider.drafter.config import DSparkConfig
from outrider.drafter.loading import check_shapes, read_tensors
from outrider.errors import DrafterMismatch

__all__ = ["FeatureProjection", "projection_fingerprint"]


def projection_fingerprint(fc: Tensor, hidden_norm: Tensor) -> str:
    """sha256 hex over the fp32 bytes of fc [d, m·d] and hidden_norm [d]: equal exactly when both project alike."""
    digest = hashlib.sha256(fc.detach().float().contiguous().cpu().numpy().tobytes())
    digest.update(hidden_norm.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FeatureProjection:
    """fc [d, m·d] and hidden_norm [d] of one drafter with the target layers it taps (−1: the embedding output)."""

    fc: Tensor
    hidden_norm: Tensor
    eps: float
    layer_ids: tuple[int, ...]
    block_size: int
    fingerprint: str

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        context_tokens: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> FeatureProjection:
        """Read a DeepSpec drafter directory for a target of the given vocabulary, hidden size, depth and context.

        Raises ModelDirectoryError when a file is missing or unreadable, DrafterMismatch when the drafter was made for
        another target: vocabulary, hidden size, depth, fewer positions than the target's context (a longer request
        would break the link for everyone), or a tapped layer that is out of range or the final one (whose hidden state
        is post-norm and was never in the training cache).
        """
        config = DSparkConfig.load(directory)
        name = directory.name
        for field, held, ours in (
            ("vocab_size", config.vocab_size, vocab_size),
            ("hidden_size", config.hidden_size, hidden_size),
            ("num_target_layers", config.num_target_layers, num_layers),
        ):
            if held != ours:
                raise DrafterMismatch(
                    f"drafter {name}: config.json {field} is {held}, its target has {ours}", param=field
                )
        if config.max_position_embeddings < context_tokens:
            raise DrafterMismatch(
                f"drafter {name}: config.json max_position_embeddings is {config.max_position_embeddings}, its "
                f"target's context has {context_tokens}",
                param="max_position_embeddings",
            )
        layer_ids = config.target_layer_ids
        shapes = {"fc.weight": (hidden_size, len(layer_ids) * hidden_size), "hidden_norm.weight": (hidden_size,)}
        tensors = read_tensors(directory, shapes.keys())
        check_shapes(directory, tensors, shapes)
        fc, norm = (tensors[tensor].float() for tensor in shapes)
        return cls(
            fc=fc.to(dtype),
            hidden_norm=norm.to(dtype),
            eps=config.rms_norm_eps,
            layer_ids=layer_ids,
            block_size=config.block_size,
            fingerprint=projection_fingerprint(fc, norm),
        )

    def to(self, device: torch.device) -> FeatureProjection:
        """The same projection with its tensors on `device`."""
        return FeatureProjection(
            self.fc.to(device),
            self.hidden_norm.to(device),
            self.eps,
            self.layer_ids,
            self.block_size,
            self.fingerprint,
        )

    def __call__(self, features: Tensor) -> Tensor:
        """Rows C [n, d] from concatenated tapped hidden states F [n, m·d]."""
        return torch.rms_norm(features @ self.fc.T, self.hidden_norm.shape, self.hidden_norm, self.eps)
