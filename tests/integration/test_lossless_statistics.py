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

from outrider.speculation import CoupledRule, RowSampling, choose
from support.engines import make_engine, request, run
from support.statistics import chi_square, exact_joint
from support.tiny import TinyPair, make_drafter, make_target, reference

Record = Callable[[str, object], None]

VOCAB = 8
PROMPT = (3, 1, 4, 1, 5)
SAMPLES = 5000
HONEST = 1e-3
CAUGHT = 1e-6


class RepeatPenalty:
    """Takes 3 off the logit of the token before: the smallest processor that depends on history."""

    def __call__(self, logits: Tensor, prefixes: Sequence[Sequence[int]]) -> Tensor:
        last = torch.tensor([prefix[-1] for prefix in prefixes])
        return logits.scatter_add(1, last[:, None], torch.full((len(prefixes), 1), -3.0))


class PositionBlindNoise(CoupledRule):
    """Mistake: the target's noise is keyed by seed and choice alone."""

    def choose(
        self, logits: Tensor, rows: RowSampling, positions: Tensor, prefixes: Sequence[Sequence[int]] | None
    ) -> list[int]:
        return super().choose(logits, rows, torch.zeros_like(positions), prefixes)


class EmitsTheDraft(CoupledRule):
    """Mistake: on a mismatch the drafter's token is emitted, not the target's."""

    def emit(self, drafted: Sequence[int], chosen: Sequence[int]) -> tuple[list[int], int]:
        emitted, accepted = super().emit(drafted, chosen)
        if accepted < len(drafted):
            emitted[-1] = drafted[accepted]
        return emitted, accepted


class DraftBlindProcessors(CoupledRule):
    """Mistake: every row of a block is processed with the committed tokens as its history."""

    def choose(
        self, logits: Tensor, rows: RowSampling, positions: Tensor, prefixes: Sequence[Sequence[int]] | None
    ) -> list[int]:
        assert prefixes is not None
        committed: dict[int, Sequence[int]] = {}
        for seed, prefix in zip(rows.seeds.tolist(), prefixes, strict=True):
            committed.setdefault(seed, prefix)
        return choose(self.processors[0](logits, [committed[seed] for seed in rows.seeds.tolist()]), rows, positions)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """Eight tokens, peaked logits, γ = 3; the drafter half knows the target, so rounds accept and reject."""
    folder = tmp_path_factory.mktemp("statistics")
    target = make_target(folder / "target", vocab=VOCAB, hidden=16, layers=1, context=16, spread=1.5, mixing=0.3)
    return TinyPair(target, make_drafter(folder / "drafter", target, gamma=3, layer_ids=(-1,), fitted=0.3, base=0.7))


@pytest.fixture(scope="module")
def stock_small(small: TinyPair) -> Any:
    return reference(small.target)


def draw(small: TinyPair, rule: CoupledRule | None = None, **sampling: float) -> tuple[NDArray[np.int64], float, float]:
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


@pytest.mark.parametrize("sampling", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}])
def test_output_follows_the_targets_joint_distribution(
    small: TinyPair, stock_small: Any, sampling: dict[str, float], record_property: Record
) -> None:
    samples, several, tau = draw(small, **sampling)
    assert several > 0.2
    assert tau > 1.3
    p = chi_square(samples, exact_joint(stock_small, PROMPT, 3, **sampling))
    record_property("p", p)
    assert p > HONEST


def test_output_with_a_processor_follows_the_processed_distribution(
    small: TinyPair, stock_small: Any, record_property: Record
) -> None:
    penalty = RepeatPenalty()
    samples, several, _ = draw(small, CoupledRule((penalty,)))
    p = chi_square(samples, exact_joint(stock_small, PROMPT, 3, processors=(penalty,)))
    record_property("p", p)
    assert several > 0.2
    assert p > HONEST


@pytest.mark.parametrize(
    "rule",
    [PositionBlindNoise(), EmitsTheDraft(), DraftBlindProcessors((RepeatPenalty(),))],
    ids=lambda rule: type(rule).__name__,
)
def test_a_realistic_mistake_is_caught(
    small: TinyPair, stock_small: Any, rule: CoupledRule, record_property: Record
) -> None:
    samples, _, _ = draw(small, rule)
    p = chi_square(samples, exact_joint(stock_small, PROMPT, 3, processors=rule.processors))
    record_property("p", p)
    assert p < CAUGHT
