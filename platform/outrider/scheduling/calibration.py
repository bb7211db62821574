"""Applying calibration: a drafter's confidence logits to probabilities that mean what they say. NumPy only.

Sequential temperature scaling gives every slot k its own T_k, so that Π_{i≤k} σ(z_i/T_i) is the chance that slot k's
whole prefix is accepted (DSpark, arXiv 2607.05147). A temperature belongs to a verification rule and a class of
traffic: the head learns one of them, and the others survive more or less often.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.errors import DrafterMismatch

__all__ = ["CALIBRATION_FILE", "Calibration", "prefix_survival", "traffic_class"]

CALIBRATION_FILE = "calibration.json"
FORMAT_VERSION = 1
CLASSES = ("greedy", "sampled")
RULES = ("coupled", "rejection")


def traffic_class(temperature: float) -> str:
    """The class of a request's rows: "greedy" at temperature 0, else "sampled"."""
    return "sampled" if temperature > 0 else "greedy"


def prefix_survival(
    logits: NDArray[np.floating[Any]], temperatures: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Π_{i≤k} σ(z_i/T_i), float64 [R, γ], for logits [R, γ] and T [γ] or [R, γ]; without T all are 1."""
    scaled = logits.astype(np.float64) if temperatures is None else logits.astype(np.float64) / temperatures
    with np.errstate(over="ignore"):
        chance = 1.0 / (1.0 + np.exp(-scaled))
    return np.asarray(np.cumprod(chance, axis=1))


@dataclass(frozen=True, slots=True)
class Calibration:
    """T_k > 0 float64 [γ] by (rule, class); what is not there has temperature 1."""

    block_size: int
    temperatures: Mapping[tuple[str, str], NDArray[np.float64]]

    @classmethod
    def find(cls, directory: Path, block_size: int) -> Calibration | None:
        """The calibration in a drafter's directory, None where there is none.

        Raises DrafterMismatch for a file that is unreadable or for another block size, naming the field.
        """
        path = directory / CALIBRATION_FILE
        try:
            values = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _misfit(path, CALIBRATION_FILE, f"cannot be read as JSON: {error}") from None
        return cls.parse(values, path, block_size)

    @classmethod
    def parse(cls, values: object, path: Path, block_size: int) -> Calibration:
        """A file's content, checked; `path` only names it. Raises DrafterMismatch."""
        if not isinstance(values, dict):
            raise _misfit(path, CALIBRATION_FILE, "is not a JSON object")
        if values.get("format_version") != FORMAT_VERSION:
            found = values.get("format_version")
            raise _misfit(path, "format_version", f"is {found!r}, this version reads {FORMAT_VERSION}")
        if values.get("block_size") != block_size:
            found = values.get("block_size")
            raise _misfit(path, "block_size", f"is {found!r}, the drafter's is {block_size}")
        rules = values.get("rules")
        if not isinstance(rules, dict):
            raise _misfit(path, "rules", "is missing or no object")
        temperatures: dict[tuple[str, str], NDArray[np.float64]] = {}
        for rule, classes in rules.items():
            if rule not in RULES:
                raise _misfit(path, f"rules.{rule}", f"is unknown; rules are {', '.join(RULES)}")
            if not isinstance(classes, dict):
                raise _misfit(path, f"rules.{rule}", "is no object")
            for kind, slots in classes.items():
                field = f"rules.{rule}.{kind}"
                if kind not in CLASSES:
                    raise _misfit(path, field, f"is unknown; classes are {', '.join(CLASSES)}")
                if not isinstance(slots, list) or len(slots) != block_size or not all(map(_is_temperature, slots)):
                    raise _misfit(path, field, f"must be {block_size} finite temperatures above 0")
                temperatures[rule, kind] = np.array(slots, dtype=np.float64)
        return cls(block_size, temperatures)

    def survival(
        self, logits: NDArray[np.floating[Any]], temperature: NDArray[np.floating[Any]], rule: str = "coupled"
    ) -> NDArray[np.float64]:
        """Prefix survival float64 [R, γ] from logits [R, γ] of requests that sample at `temperature` [R].

        Blocks of another size than the calibration's are taken at face value: another drafter proposed them.
        """
        if logits.shape[1] != self.block_size:
            return prefix_survival(logits)
        ones = np.ones(self.block_size)
        greedy, sampled = (self.temperatures.get((rule, kind), ones) for kind in CLASSES)
        return prefix_survival(logits, np.where(np.asarray(temperature)[:, None] > 0, sampled, greedy))

    def to_json(self) -> dict[str, Any]:
        """What `parse` reads."""
        rules: dict[str, dict[str, list[float]]] = {}
        for (rule, kind), slots in sorted(self.temperatures.items()):
            rules.setdefault(rule, {})[kind] = [float(each) for each in slots]
        return {"format_version": FORMAT_VERSION, "block_size": self.block_size, "rules": rules}


def _is_temperature(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _misfit(path: Path, field: str, what: str) -> DrafterMismatch:
    return DrafterMismatch(
        f"drafter {path.parent.name}: {path.name}: {field} {what}; `outrider draft calibrate` writes a new one, and "
        "without the file confidences are taken as they are",
        param=field,
    )
