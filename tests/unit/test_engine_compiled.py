"""The compiled target step: same answers as eager, taken over without anyone waiting for a compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from outrider.engine import TargetModel
from outrider.engine.attention import Span
from outrider.engine.target import FlatBatch
from outrider_kernels import library
from outrider_kernels.decoder_step import CACHE_VARIABLE
from support.tiny import TinyPair

pytestmark = pytest.mark.usefixtures("compiled")


def prompt(target: TargetModel, length: int) -> tuple[FlatBatch, torch.Tensor]:
    cache = target.new_cache(8, 16)
    tokens = torch.arange(length) % target.vocab_size
    batch = FlatBatch(
        tokens, torch.arange(length), (Span(0, length, cache.slots_of(list(range(8)))),), torch.arange(length)
    )
    logits = target.forward(batch, cache)
    assert logits is not None
    assert cache.features is not None
    return batch, torch.cat((logits, cache.features[:length]), dim=1)


def test_eager_serves_until_the_step_is_compiled(
    pair: TinyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    library.cache_clear()
    target = TargetModel.load(pair.target, drafter=pair.drafter)
    assert target.compiled is not None
    assert not target.compiled.ready  # loading did not wait
    eager = prompt(target, 63)[1]
    assert target.compiled.pending.wait() is not None
    assert target.compiled.ready
    torch.testing.assert_close(prompt(target, 63)[1], eager, rtol=1e-4, atol=1e-4)


def test_a_warm_cache_serves_from_the_first_step(pair: TinyPair) -> None:
    target = TargetModel.load(pair.target, drafter=pair.drafter)
    assert target.compiled is not None
    assert target.compiled.ready
    eager = TargetModel.load(pair.target, drafter=pair.drafter, compiled=False)
    assert eager.compiled is None
    torch.testing.assert_close(prompt(target, 100)[1], prompt(eager, 100)[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"stock": True}, {"dtype": torch.bfloat16}, {"compiled": False}])
def test_what_stays_eager(pair: TinyPair, options: dict[str, object]) -> None:
    assert TargetModel.load(pair.target, **options).compiled is None  # type: ignore[arg-type]
