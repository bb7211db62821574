"""Toy worlds in which speculative decoding can be enumerated: a few requests, tokens, slots and rounds.

Shapes: R requests, V tokens, γ slots, L output tokens of each request that are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from outrider.scheduling import Requests, RoundCosts, StepCostCurve, hopeless, needed_tokens
from outrider.scheduling.scheduler import Bools, Floats, Ints

__all__ = ["Tokens", "World", "plain_world", "random_curve", "random_world"]

Tokens = tuple[int, ...]

_FIRST = (0.2, 0.5, 0.7, 0.7, 0.9, 1.0)
_LATER = (0.0, 0.0, 0.1, 0.5, 0.7, 0.9, 0.9, 1.0)
"""Confidences: few values, so that ties are common, and later ones that tell much of the token before."""


@dataclass(frozen=True)
class World:
    """What target, drafter, confidence head and scheduler's circumstances are; round and slot count from 0.

    target, draft: p and q after n output tokens, by request and n, float64 [V]·(n + 1); n < L and n < L + γ − 1.
    confidence: c of a slot by round, request and slot, an array with an axis for each token of the block it looks at:
    as many as its slot has before it. One more, and it looks at the token that it judges.
    expected: prefix survival foretold for the first round, float64 [R, γ]; later it is what the last drafted block had,
    all of it, which also tells of tokens that were discarded.
    target_s, round_s: seconds per token a request was promised, infinity for none, and the seconds of a round.
    """

    target: Sequence[Sequence[Floats]]
    draft: Sequence[Sequence[Floats]]
    confidence: Sequence[Sequence[Sequence[Floats]]]
    expected: Floats
    costs: RoundCosts
    caps: Ints
    weights: Floats
    target_s: Floats
    round_s: float = 1.0
    tenants: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    allowances: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    lag_tokens: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    probes: Bools = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    """Requests probed in the first round."""
    room_tokens: int = -1

    @property
    def size(self) -> int:
        return len(self.target)

    @property
    def vocab(self) -> int:
        return len(self.target[0][0])

    @property
    def length(self) -> int:
        return len(self.target[0])

    @property
    def slots(self) -> int:
        return int(self.expected.shape[1])

    @property
    def rounds(self) -> int:
        return len(self.confidence)

    def survival(self, round_index: int, request: int, block: Tokens) -> Floats:
        """Live prefix survival float64 [γ]; 0 where nothing was drafted."""
        tables = self.confidence[round_index][request]
        return np.cumprod([table[block[: table.ndim]] for table in tables]) if block else np.zeros(self.slots)

    def requests(self, round_index: int, active: Sequence[int], emitted: Sequence[int], expected: Floats) -> Requests:
        """What a scheduler is told before the round; the first token was emitted before the first round, at time 0."""
        rows = list(active)
        done = np.array([emitted[r] for r in rows])
        caps = np.minimum(self.caps[rows], self.length - done - 1)
        slots = np.arange(self.slots) < caps[:, None]
        reachable = 1.0 + np.where(slots, expected[rows], 0.0).sum(axis=1)
        promised = self.target_s[rows]
        needed = needed_tokens(round_index * self.round_s, np.zeros(len(rows)), done + 1, promised, self.round_s)
        lost = hopeless(needed, reachable, promised, self.round_s, self.length - done)
        return Requests(
            caps=caps,
            weights=self.weights[rows],
            expected=expected[rows],
            lag_tokens=self.lag_tokens[rows] if len(self.lag_tokens) else self.lag_tokens,
            remaining=self.length - done,
            needed=np.where(lost, 0.0, needed),
            tenants=self.tenants[rows] if len(self.tenants) else self.tenants,
            allowances=self.allowances,
            probes=self.probes[rows] & (round_index == 0) if len(self.probes) else self.probes,
            room_tokens=self.room_tokens,
        )


def plain_world(
    p: Sequence[float],
    q: Sequence[float],
    confidence: Sequence[Sequence[object]],
    curve: StepCostCurve,
    *,
    length: int,
    rounds: int = 1,
    **others: Any,
) -> World:
    """A world in which p and q know no history; `confidence` by request and slot, the same in every round.

    Forecasts are right about blocks of token 0 unless `others`, fields of the world, say so.
    """
    size, slots, vocab = len(confidence), len(confidence[0]), len(p)
    tables = [[np.array(table, dtype=np.float64) for table in row] for row in confidence]
    expected = np.cumprod([[table[(0,) * table.ndim] for table in row] for row in tables], axis=1)
    fields: dict[str, Any] = {
        "target": [[np.broadcast_to(p, (vocab,) * n + (vocab,)) for n in range(length)]] * size,
        "draft": [[np.broadcast_to(q, (vocab,) * n + (vocab,)) for n in range(length + slots - 1)]] * size,
        "confidence": [tables] * rounds,
        "expected": expected,
        "costs": RoundCosts(curve),
        "caps": np.full(size, slots),
        "weights": np.ones(size),
        "target_s": np.full(size, np.inf),
    }
    return World(**(fields | others))


def random_curve(rng: np.random.Generator, smallest: int, largest: int, kind: str = "") -> StepCostCurve:
    """A step curve over these sizes: convex, steep, in stairs, or a leap that what follows it may be worth."""
    count = largest - smallest
    rises = {
        "convex": np.sort(rng.choice((0.02, 0.1, 0.2, 0.4), count)),
        "steep": np.sort(rng.choice((0.3, 0.5, 0.8, 1.0), count)),
        "stairs": rng.choice((0.0, 0.0, 0.0, 0.1, 0.5, 1.0), count),
        "leap": np.where(np.arange(count) == rng.integers(2), rng.choice((0.4, 0.6, 0.8, 1.0)), 0.02),
    }
    kind = kind or str(rng.choice(["leap", *rises]))
    seconds = 1.0 + np.concatenate(([0.0], np.cumsum(rises[kind])))
    return StepCostCurve(tuple(range(smallest, largest + 1)), tuple(map(float, seconds)), kind)


def random_world(seed: int, *, vocab: int = 2, slots: int = 2, rounds: int = 2, size: int = 2) -> World:
    """Allowances, weights, caps, room, probes, lags, prompts beside, bad forecasts; odd seeds: floors, dear tokens."""
    rng = np.random.default_rng(seed)
    floors = seed % 2 == 1
    length = slots + 2
    confidence = [[[rng.choice(_LATER if slot else _FIRST, (vocab,) * slot) for slot in range(slots)]
                   for _ in range(size)] for _ in range(rounds)]  # fmt: skip
    others = int(rng.choice((0, 0, 0, 3)))
    draft_s = float(rng.choice((0.0, 0.02, 0.2)))
    return World(
        target=[[_rows(rng, vocab, n) for n in range(length)] for _ in range(size)],
        draft=[[_rows(rng, vocab, n) for n in range(length + slots - 1)] for _ in range(size)],
        confidence=confidence,
        expected=np.cumprod(rng.choice(_FIRST[2:], (size, slots)), axis=1),
        costs=RoundCosts(
            random_curve(rng, others + size, others + size * (1 + slots), "steep" if floors else ""),
            draft=lambda requests: np.asarray(draft_s * (1.0 + 0.2 * requests), dtype=np.float64),
            plain_s=0.05,
            drafted_s=0.1,
            append_row_s=float(rng.choice((0.0, 0.02))),
            other_tokens=others,
        ),
        caps=rng.choice((slots, slots, slots, slots - 1), size),
        weights=rng.choice((0.5, 1.0, 1.0, 1.0, 2.0), size),
        target_s=1.0 / (0.9 * rng.choice((1.5, 2.0, 2.3, 2.6), size)) if floors else np.full(size, np.inf),
        tenants=rng.integers(0, 2, size) * rng.integers(0, 2),
        allowances=rng.choice((-1, 1, 1, 2) if floors else (-1, -1, -1, 2), 2),
        lag_tokens=rng.integers(0, 4, size),
        probes=rng.integers(0, 4, size) == 0,
        room_tokens=int(rng.choice((-1, -1, size, size + 1))),
    )


def _rows(rng: np.random.Generator, vocab: int, tokens: int) -> Floats:
    """Distributions after every history of so many tokens, some without mass on some token: [V]·(tokens + 1)."""
    mass = rng.dirichlet(np.ones(vocab), (vocab,) * tokens)
    mass[rng.random(mass.shape) < 0.08] = 0.0
    mass[mass.sum(axis=-1) == 0] = 1.0
    return np.asarray(mass / mass.sum(axis=-1, keepdims=True), dtype=np.float64)
