"""What a run comes to: accuracy with its interval, tokens, latency and cost, per domain and over all items."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outrider.errors import ConfigurationError, EvalMismatch
from outrider.evals.intervals import RESAMPLES, accuracy
from outrider.evals.outcomes import Outcome

__all__ = ["OVERALL", "Result", "Summary", "load_result", "summarise", "write_json", "write_text"]

OVERALL = "all"
KIND = "outrider-eval-result"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one domain's items. Latency is of answered items only; None is not known.

    accuracy: right ÷ items, errors among the items. first_s: to the first text. cost_usd: of all answered items.
    """

    items: int
    correct: int
    wrong: int
    errors: int
    cut_off: int
    accuracy: float
    low: float
    high: float
    interval: str
    prompt_tokens: int | None
    completion_tokens: int | None
    first_s_p50: float | None
    first_s_p95: float | None
    total_s_p50: float | None
    total_s_p95: float | None
    cost_usd: float | None
    cost_per_correct_usd: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: what was asked of whom, the figures by domain, and every outcome."""

    model: str
    configuration: Mapping[str, Any]
    run: Mapping[str, Any]
    domains: Mapping[str, Summary]
    overall: Summary
    outcomes: tuple[Outcome, ...]

    @classmethod
    def of(cls, model: str, configuration: Mapping[str, Any], outcomes: Sequence[Outcome], **run: Any) -> Result:
        """Figures of outcomes; `run` holds what did not change them (times, limit, concurrency)."""
        names = sorted({outcome.domain for outcome in outcomes})
        domains = {name: summarise([each for each in outcomes if each.domain == name]) for name in names}
        return cls(model, configuration, run, domains, summarise(outcomes), tuple(outcomes))

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": KIND,
            "format": FORMAT,
            "model": self.model,
            "configuration": dict(self.configuration),
            "run": dict(self.run),
            "intervals": f"95 %; percentile bootstrap over items (by group), {RESAMPLES} resamples, seeded; "
            "Wilson's where all or no answers are right",
            "domains": {name: asdict(summary) for name, summary in self.domains.items()},
            "overall": asdict(self.overall),
            "outcomes": [outcome.as_dict() for outcome in self.outcomes],
        }


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """Figures of some outcomes."""
    correct = sum(each.correct for each in outcomes)
    errors = sum(each.outcome == "error" for each in outcomes)
    answered = [each for each in outcomes if each.outcome != "error"]
    spread = accuracy([each.correct for each in outcomes], [f"{each.suite}/{each.group}" for each in outcomes])
    first = [each.first_s for each in answered if each.first_s is not None]
    total = [each.total_s for each in answered if each.total_s is not None]
    cost = _sum([each.cost_usd for each in answered])
    return Summary(
        items=len(outcomes),
        correct=correct,
        wrong=len(outcomes) - correct - errors,
        errors=errors,
        cut_off=sum(each.finish == "length" for each in answered),
        accuracy=correct / len(outcomes) if outcomes else 0.0,
        low=spread.low,
        high=spread.high,
        interval=spread.method,
        prompt_tokens=_whole(_sum([each.prompt_tokens for each in answered])),
        completion_tokens=_whole(_sum([each.completion_tokens for each in answered])),
        first_s_p50=_quantile(first, 0.5),
        first_s_p95=_quantile(first, 0.95),
        total_s_p50=_quantile(total, 0.5),
        total_s_p95=_quantile(total, 0.95),
        cost_usd=cost,
        cost_per_correct_usd=cost / correct if cost is not None and correct else None,
    )


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum, or None where a part of it is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _quantile(values: Sequence[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None


def load_result(path: Path) -> Result:
    """A result file of `outrider eval run`; figures are computed again from its outcomes. Raises EvalMismatch."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise EvalMismatch(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        hint = "; an unfinished run's .jsonl is no result: let the run finish" if path.suffix == ".jsonl" else ""
        raise EvalMismatch(f"{path}: cannot be read as JSON: {error}{hint}") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise EvalMismatch(f"{path}: not a result of `outrider eval run`")
    if data.get("format") != FORMAT:
        raise EvalMismatch(f"{path}: format {data.get('format')}, but this version reads format {FORMAT}; run it again")
    try:
        outcomes = [Outcome.of(each) for each in data["outcomes"]]
        return Result.of(str(data["model"]), dict(data["configuration"]), outcomes, **dict(data["run"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise EvalMismatch(f"{path}: damaged: {type(error).__name__}: {error}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all. Raises ConfigurationError where it cannot be written."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "replace").decode() + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file by a new one that is complete on disk, with the old one's permissions."""
    path = path.resolve() if path.is_symlink() else path
    name: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(name, path)
    except OSError as error:
        if name is not None and os.path.exists(name):
            os.unlink(name)
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror or error}") from error
