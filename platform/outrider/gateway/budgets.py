"""Latency and money budgets of one request, from its body and its headers; the body wins."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError

from outrider.errors import InvalidRequest
from outrider.gateway.schema import OutriderOptions
from outrider.gateway.validation import first_fault
from outrider.types import Budgets

__all__ = ["BUDGET_HEADERS", "merge_headers", "to_budgets"]

BUDGET_HEADERS: Mapping[str, str] = {
    "x-llm-d-slo-ttft-ms": "ttft_ms",
    "x-llm-d-slo-tpot-ms": "tpot_ms",
    "x-outrider-ttft-ms": "ttft_ms",
    "x-outrider-tpot-ms": "tpot_ms",
    "x-outrider-deadline-ms": "deadline_ms",
    "x-outrider-max-cost-usd": "max_cost_usd",
    "x-outrider-quality": "quality",
    "x-outrider-workflow": "workflow",
}
"""Header to body field; where two name one field, the later row wins."""

DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def merge_headers(options: OutriderOptions, headers: Mapping[str, str]) -> OutriderOptions:
    """The options with gaps filled from headers. Raises InvalidRequest naming a header that makes no sense.

    A malformed header is refused even where the body overrides it: a caller who sends one meant something.
    """
    merged: dict[str, object] = {}
    for header, field in BUDGET_HEADERS.items():
        text = headers.get(header)
        if text is not None:
            merged[field] = _checked(header, field, text.strip())
    if not merged:
        return options
    return options.model_copy(
        update={field: value for field, value in merged.items() if getattr(options, field) is None}
    )


def to_budgets(options: OutriderOptions) -> Budgets:
    """Milliseconds of the HTTP edge to seconds."""
    return Budgets(
        ttft_s=_seconds(options.ttft_ms),
        tpot_s=_seconds(options.tpot_ms),
        deadline_s=_seconds(options.deadline_ms),
        max_cost_usd=options.max_cost_usd,
        quality=options.quality,
    )


def _checked(header: str, field: str, text: str) -> object:
    value: object = text
    if field != "workflow":
        if not DECIMAL.fullmatch(text):
            raise InvalidRequest(f"header '{header}' must be a number", param=header)
        value = float(text)
    try:
        return getattr(OutriderOptions.model_validate({field: value}), field)
    except ValidationError as error:
        message = first_fault(error, {}).message.partition(": ")[2]
        raise InvalidRequest(f"header '{header}' {message}", param=header) from None


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3
