"""Sampled output of the whole engine follows the target's own joint distribution; three realistic mistakes do not.

A vocabulary of eight is small enough to enumerate. Each request has its own seed, so its first three tokens are one
draw from the joint; they are chosen in the prefill step and in one to three speculative rounds with a real drafter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.engine.penalties import Penalties
from outrider.speculation import CoupledRule, RowSampling
from outrider.types import SamplingParams
from support.engines import make_engine, request, run
from support.statistics import chi_square, exact_joint
from support.surface import SURFACE
from support.tiny import TinyPair, make_drafter, make_target, reference

Record = Callable[[str, object], None]

VOCAB = 8
PROMPT = (3, 1, 4, 1, 5)
SAMPLES = 5000
HONEST = 1e-3
CAUGHT = 1e-6


class PositionBlindNoise(CoupledRule):
    """Mistake: the target's noise is keyed by seed and choice alone."""

    def choose(self, logits: Tensor, rows: RowSampling, positions: Tensor) -> list[int]:
        return super().choose(logits, rows, torch.zeros_like(positions))


class EmitsTheDraft(CoupledRule):
    """Mistake: on a mismatch the drafter's token is emitted, not the target's."""

    def emit(self, drafted: Sequence[int], chosen: Sequence[int]) -> tuple[list[int], int]:
        emitted, accepted = super().emit(drafted, chosen)
        if accepted < len(drafted):
            emitted[-1] = drafted[accepted]
        return emitted, accepted


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """Eight tokens, peaked logits, γ = 3; the drafter half knows the target, so rounds accept and reject."""
    folder = tmp_path_factory.mktemp("statistics")
    target = make_target(folder / "target", vocab=VOCAB, hidden=16, layers=1, context=16, spread=1.5, mixing=0.3)
    return TinyPair(target, make_drafter(folder / "drafter", target, gamma=3, layer_ids=(-1,), fitted=0.3, base=0.7))


@pytest.fixture(scope="module")
def stock_small(small: TinyPair) -> Any:
    return reference(small.target)


def draw(small: TinyPair, rule: CoupledRule | None = None, **sampling: Any) -> tuple[NDArray[np.int64], float, float]:
    """First three tokens of many seeds [N, 3], the share that took two decode rounds or more for them, and τ."""
    engine = make_engine(
        small.target,
        small.drafter,
        rule=rule,
        max_running_requests=256,
        max_queued_requests=SAMPLES,
        max_step_tokens=2048,
        kv_blocks=256,
    )
    asked = [request(i, PROMPT, 4, seed=i, **{"temperature": 1.0, **sampling}) for i in range(SAMPLES)]
    chunks = run(engine, asked)
    samples = np.array([[t for chunk in chunks[r.request_id] for t in chunk.tokens][:3] for r in asked])
    several, emitted, rounds = 0, 0, 0
    for one in chunks.values():
        summary = one[-1].summary
        assert summary is not None
        several += len(one[1].tokens) == 1
        emitted += summary.completion_tokens - 1
        rounds += summary.rounds
    return samples, several / SAMPLES, emitted / rounds


def exact(stock: Any, sampling: dict[str, Any]) -> NDArray[np.float64]:
    return exact_joint(stock, PROMPT, 3, SamplingParams(4, **{"temperature": 1.0, **sampling}))


@pytest.mark.parametrize("sampling", SURFACE, ids=lambda sampling: "+".join(sampling))
def test_output_follows_the_targets_joint_distribution(
    small: TinyPair, stock_small: Any, sampling: dict[str, Any], record_property: Record
) -> None:
    samples, several, tau = draw(small, **sampling)
    assert several > 0.2
    assert tau > 1.3
    p = chi_square(samples, exact(stock_small, sampling))
    record_property("p", p)
    assert p > HONEST


@pytest.mark.parametrize("rule", [PositionBlindNoise(), EmitsTheDraft()], ids=lambda rule: type(rule).__name__)
def test_a_realistic_mistake_is_caught(
    small: TinyPair, stock_small: Any, rule: CoupledRule, record_property: Record
) -> None:
    samples, _, _ = draw(small, rule)
    p = chi_square(samples, exact(stock_small, {}))
    record_property("p", p)
    assert p < CAUGHT


@pytest.mark.parametrize("sampling", [SURFACE[-1], {"frequency_penalty": 1.5}], ids=["all", "frequency"])
def test_penalties_blind_to_the_draft_are_caught(
    small: TinyPair,
    stock_small: Any,
    monkeypatch: pytest.MonkeyPatch,
    sampling: dict[str, Any],
    record_property: Record,
) -> None:
    """The mistake: every row of a block is processed with the committed tokens as its history."""
    aware = Penalties.apply

    def blind(self: Penalties, logits: NDArray[np.float32], draft: Sequence[int]) -> None:
        for row in range(len(draft) + 1):
            aware(self, logits[row : row + 1], [])

    monkeypatch.setattr(Penalties, "apply", blind)
    samples, _, _ = draw(small, **sampling)
    p = chi_square(samples, exact(stock_small, sampling))
    record_property("p", p)
    assert p < CAUGHT
