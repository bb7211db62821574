"""Two runs over the same items: better, worse, or cannot tell; and what the difference costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from outrider.errors import EvalMismatch
from outrider.evals.intervals import Interval, difference, mcnemar, ratio
from outrider.evals.outcomes import Outcome
from outrider.evals.result import Result

__all__ = ["Comparison", "Ratio", "Side", "compare"]

Verdict = Literal["better", "worse", "cannot tell"]
Side = tuple[Outcome, Outcome]

SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True)
class Ratio:
    """The second run's figure over the first's, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second run against the first over paired items.

    verdict: `better` or `worse` when the interval of the difference leaves out 0 and McNemar's p is below 0.05, so
    that a handful of items decides nothing; else `cannot tell`. won, lost: items that only the second, only the
    first got right.
    """

    items: int
    first_accuracy: float
    second_accuracy: float
    difference: float
    low: float
    high: float
    interval: str
    won: int
    lost: int
    mcnemar_p: float
    verdict: Verdict
    first_text_ratio: Ratio | None
    latency_ratio: Ratio | None
    cost_ratio: Ratio | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def compare(first: Result, second: Result, *, common: bool = False) -> dict[str, Comparison]:
    """Comparisons by domain, and over all items under `all`.

    Raises EvalMismatch unless both ran the same items under the same checks and sampling; `common` takes those that
    are the same in both, and needs one at least.
    """
    pairs = _paired(first, second, common)
    domains = sorted({one.domain for one, _ in pairs})
    found = {name: _compared([pair for pair in pairs if pair[0].domain == name]) for name in domains}
    return {**found, "all": _compared(pairs)}


def _paired(first: Result, second: Result, common: bool) -> list[Side]:
    ours = {outcome.key: outcome for outcome in first.outcomes}
    theirs = {outcome.key: outcome for outcome in second.outcomes}
    shared = [key for key in ours if key in theirs and ours[key].digest == theirs[key].digest]
    if not common and (len(shared) != len(ours) or len(shared) != len(theirs)):
        raise EvalMismatch(_why_not(first, second, len(shared)))
    if not shared:
        raise EvalMismatch("the two results have no item in common: other suites, or other checks or sampling")
    return [(ours[key], theirs[key]) for key in shared]


def _why_not(first: Result, second: Result, shared: int) -> str:
    """What differs, and what can be done."""
    hashes = [_hashes(result.configuration) for result in (first, second)]
    changed = sorted(name for name in {*hashes[0], *hashes[1]} if hashes[0].get(name) != hashes[1].get(name))
    said = "; ".join(
        f"suite {name}: {hashes[0].get(name, 'not run')} / {hashes[1].get(name, 'not run')}" for name in changed
    )
    said = said or f"{len(first.outcomes)} items against {len(second.outcomes)}, of the same suites"
    return f"the two results are not of the same items ({said}); --common compares the {shared} that both hold"


def _hashes(configuration: Mapping[str, Any]) -> dict[str, str]:
    suites = configuration.get("suites")
    return {str(name): str(value) for name, value in suites.items()} if isinstance(suites, dict) else {}


def _compared(pairs: Sequence[Side]) -> Comparison:
    first, second = [one.correct for one, _ in pairs], [two.correct for _, two in pairs]
    groups = _groups(pairs)
    spread, p = difference(first, second, groups), mcnemar(first, second)
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    return Comparison(
        items=len(pairs),
        first_accuracy=sum(first) / len(pairs),
        second_accuracy=sum(second) / len(pairs),
        difference=(sum(second) - sum(first)) / len(pairs),
        low=spread.low,
        high=spread.high,
        interval=spread.method,
        won=won,
        lost=lost,
        mcnemar_p=p,
        verdict=_verdict(spread, p),
        first_text_ratio=_ratio(pairs, "first_s", median=True),
        latency_ratio=_ratio(pairs, "total_s", median=True),
        cost_ratio=_ratio(pairs, "cost_usd", median=False),
    )


def _groups(pairs: Sequence[Side]) -> list[str]:
    return [f"{one.suite}/{one.group}" for one, _ in pairs]


def _verdict(spread: Interval, p: float) -> Verdict:
    if 0.0 in spread or p >= SIGNIFICANCE:
        return "cannot tell"
    return "better" if spread.low > 0 else "worse"


def _ratio(pairs: Sequence[Side], name: str, *, median: bool) -> Ratio | None:
    """Over the items where both runs know the figure; None where there is none."""
    known = [(one, two) for one, two in pairs if getattr(one, name) is not None and getattr(two, name) is not None]
    first, second = [float(getattr(one, name)) for one, _ in known], [float(getattr(two, name)) for _, two in known]
    if not known or sum(first) <= 0 or sum(second) <= 0:
        return None
    middle = np.median if median else np.sum
    base = float(middle(first))
    if base <= 0:
        return None
    spread = ratio(first, second, _groups(known), median=median)
    return Ratio(float(middle(second)) / base, spread.low, spread.high)
