"""A look before serving: does the flat forward over paged memory compute what the model computes by itself?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from outrider.engine.attention import Span
from outrider.engine.batch import FlatBatch
from outrider.engine.cache import PagedCache
from outrider.engine.capability import own_logits
from outrider.errors import ModelDirectoryError

__all__ = ["CHECKED_TOKENS", "check_forward"]

CHECKED_TOKENS = 16
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.15}
"""Largest difference as a share of the logits' norm: rounding, not another function."""


@torch.inference_mode()
def check_forward(
    forward: Callable[[FlatBatch, PagedCache], Tensor | None], cache: PagedCache, model: Any, name: str
) -> None:
    """Compare one random sequence, computed twice side by side in two ragged steps, with the model's own forward.

    cache: two blocks that hold the sequence. Raises ModelDirectoryError when the logits differ: then the family does
    something that the flat forward does not know of.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (cache.block_size,), generator=generator).to(model.device)
    try:
        expected = own_logits(model, tokens)
        found = _in_two_steps(forward, cache, tokens)
    except Exception as error:  # whatever a family's forward raises
        raise ModelDirectoryError(
            f"model {name} of type {model.config.model_type!r} does not run: {error}", param="directory"
        ) from error
    if not expected.isfinite().all():
        raise ModelDirectoryError(f"model {name}: its weights give logits that are not finite", param="directory")
    difference = max(float((each - expected).norm() / expected.norm()) for each in found)
    if not difference <= _TOLERANCE[model.dtype]:
        raise ModelDirectoryError(
            f"model {name} of type {model.config.model_type!r} does something that flat batches do not carry: its "
            f"logits differ from its own forward by {difference:.2g} of their norm",
            param="directory",
        )


def _in_two_steps(
    forward: Callable[[FlatBatch, PagedCache], Tensor | None], cache: PagedCache, tokens: Tensor
) -> list[Tensor]:
    """Logits [n, V] of two copies of the sequence, cut at different places, so that both steps are ragged."""
    count, device = len(tokens), tokens.device
    slots = [cache.slots_of([block]) for block in (1, 0)]
    cuts = (count // 2, count // 3)
    parts: list[list[Tensor]] = [[], []]
    for starts, ends in (((0, 0), cuts), (cuts, (count, count))):
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        positions = torch.cat([torch.arange(s, e, device=device) for s, e in zip(starts, ends, strict=True)])
        spans = tuple(Span(start, length, slot) for start, length, slot in zip(starts, lengths, slots, strict=True))
        rows = torch.arange(len(positions), device=device)
        logits = forward(FlatBatch(tokens[positions], positions, spans, rows), cache)
        assert logits is not None
        for own, part in zip(parts, torch.split(logits, lengths), strict=True):
            own.append(part)
    return [torch.cat(own) for own in parts]
