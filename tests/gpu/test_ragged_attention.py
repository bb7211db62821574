"""Ragged paged attention: the reference is the engine's eager attention, and the kernel is the reference."""

from __future__ import annotations

import pytest
import torch

from outrider.engine.attention import PagedBatch, attend
from outrider_kernels.ragged_attention import ragged_attention
from outrider_kernels.ragged_attention import reference as plain
from support.kernels import DEVICE
from support.ragged import ragged_step

VARIANTS = [{}, {"window": 5}, {"softcap": 1.5}, {"sinks": True}, {"window": 3, "softcap": 2.0, "sinks": True}]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(
    ("lengths", "contexts"), [([1], [0]), ([1, 8, 3], [62, 0, 17]), ([40, 1, 0, 2], [9, 30, 11, 0])], ids=str
)
def test_the_reference_agrees_with_the_engine(
    lengths: list[int], contexts: list[int], variant: dict[str, object]
) -> None:
    step = ragged_step(lengths, contexts, padding=3)
    options = dict(variant)
    if options.pop("sinks", False):
        options["sinks"] = torch.randn(4, device=DEVICE)
    spans = [span for span in step.spans if span.length]
    paged = PagedBatch.of(spans, [step.kv], query_groups=2)
    new = step.kv[paged.write]
    real = sum(lengths)
    wanted = attend(step.query[:real], new, step.kv, paged, 0.3, **options)  # type: ignore[arg-type]
    found = ragged_attention(step.query, step.kv, step.rows, scaling=0.3, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(found[:real], wanted, rtol=0, atol=2e-6)
    assert not found[real:].any()


def test_a_long_batch_is_attended_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    step = ragged_step([3, 1, 0, 5], [2, 40, 0, 7])
    whole = plain.ragged_attention(step.query, step.kv, step.rows, scaling=0.3)
    monkeypatch.setattr(plain, "_LOGITS_AT_ONCE", 1)
    assert torch.equal(plain.ragged_attention(step.query, step.kv, step.rows, scaling=0.3), whole)
