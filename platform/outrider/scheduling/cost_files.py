"""Cost models as JSON files: written by `outrider profile`, read where a deployment names one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from outrider.errors import CurveError, OutputNotWritable
from outrider.scheduling.costs import CostModel, CostSubject
from outrider.scheduling.curve import StepCostCurve

__all__ = ["costs_document", "parse_costs", "read_costs", "write_costs"]

_FORMAT = 1
_RENEW = "measure it again with `outrider profile`"


def costs_document(costs: CostModel, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content; `configuration` tells a reader the circumstances and is not read back."""
    return {
        "format": _FORMAT,
        "version": costs.version,
        "fingerprint": costs.subject.fingerprint if costs.subject else None,
        "subject": asdict(costs.subject) if costs.subject else None,
        "verify": [{"context_tokens": context, "points": curve.points()} for context, curve in costs.verify],
        "draft": None if costs.draft is None else {"points": costs.draft.points()},
        "append_row_s": costs.append_row_s,
        "transfer_s": costs.transfer_s,
        "configuration": dict(configuration),
    }


def write_costs(path: Path, costs: CostModel, configuration: Mapping[str, Any]) -> None:
    """Write measured costs. Raises OutputNotWritable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(costs_document(costs, configuration), indent=2) + "\n", "utf-8")
    except OSError as error:
        raise OutputNotWritable(f"cannot write the cost profile {path}: {error.strerror}") from error


def read_costs(path: Path) -> CostModel:
    """The costs in a file, stale or not; raises CurveError naming file, field and fix."""
    try:
        held = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CurveError(f"cannot read the cost profile {path}: {error.strerror}") from error
    except ValueError as error:
        raise CurveError(f"{path.name} is not a JSON file; {_RENEW}") from error
    return parse_costs(held, path.name, _RENEW)


def parse_costs(held: object, where: str, renew: str) -> CostModel:
    """The costs of a document that `costs_document` made, stale or not.

    Raises CurveError naming the place `where` it lay, the field, and how to `renew` it.
    """
    if not isinstance(held, dict) or held.get("format") != _FORMAT:
        found = held.get("format") if isinstance(held, dict) else None
        raise CurveError(f"{where}: format: {found!r} where this version reads {_FORMAT}; {renew}", param="format")
    try:
        return _costs(held)
    except CurveError as error:
        raise CurveError(f"{where}: {error.message}; {renew}", param=error.param) from error


def _costs(held: Mapping[str, Any]) -> CostModel:
    subject = _subject(held.get("subject"))
    if held.get("fingerprint") != subject.fingerprint:
        raise CurveError("fingerprint: it is not the subject's: the file was changed", param="fingerprint")
    rows = held.get("verify")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CurveError("verify: a list of {context_tokens, points} is missing", param="verify")
    verify = []
    for place, row in enumerate(rows):
        context = row.get("context_tokens")
        if not isinstance(context, int):
            raise CurveError(f"verify[{place}].context_tokens: {context!r} is no number of tokens", param="verify")
        verify.append((context, _curve(row, f"verify[{place}]")))
    draft = held.get("draft")
    if draft is not None and not isinstance(draft, dict):
        raise CurveError("draft: neither null nor {points}", param="draft")
    drafted = None if draft is None else _curve(draft, "draft", may_be_flat=True)
    times = [_number(held.get(name), name) for name in ("append_row_s", "transfer_s")]
    return CostModel(tuple(verify), drafted, times[0], times[1], subject)


def _subject(held: object) -> CostSubject:
    names = [each.name for each in fields(CostSubject)]
    if not isinstance(held, dict) or sorted(held) != sorted(names):
        raise CurveError(f"subject: its fields must be {', '.join(names)}", param="subject")
    for name in names:
        if not isinstance(held[name], str):
            raise CurveError(f"subject.{name}: {held[name]!r} is no text", param="subject")
    return CostSubject(**held)


def _curve(held: Mapping[str, Any], where: str, *, may_be_flat: bool = False) -> StepCostCurve:
    """The points as they stand: what would have to be pooled was not written by us."""
    points = held.get("points")
    pairs = isinstance(points, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in points)
    if not isinstance(points, list) or not pairs:
        raise CurveError(f"{where}.points: a list of [size, seconds] is missing", param=where)
    sizes = [_number(size, f"{where}.points") for size, _ in points]
    seconds = [_number(value, f"{where}.points") for _, value in points]
    if sizes != sorted(set(sizes)) or any(size != int(size) for size in sizes):
        raise CurveError(f"{where}.points: the sizes are not whole and ascending", param=where)
    if seconds != sorted(seconds):
        raise CurveError(f"{where}.points: the seconds fall where the sizes rise", param=where)
    try:
        return StepCostCurve.measured(
            [(int(b), s) for b, s in zip(sizes, seconds, strict=True)], may_be_flat=may_be_flat
        )
    except CurveError as error:
        raise CurveError(f"{where}.points: {error.message}", param=where) from error


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CurveError(f"{where}: {value!r} is no number", param=where)
    return float(value)
