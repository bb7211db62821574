"""Applying calibration: a drafter's confidence logits to probabilities that mean what they say. NumPy only.

Sequential temperature scaling gives every slot k its own T_k, so that Π_{i≤k} σ(z_i/T_i) is the chance that slot k's
whole prefix is accepted (DSpark, arXiv 2607.05147). A temperature belongs to a verification rule and a class of
traffic: the head learns one of them, and the others survive more or less often.

Maps are Outrider's own, after the temperatures. The head learns the chance of a match at temperature 1; how often
greedy answers agree is no sigmoid of it, so no temperature bends the one into the other. A map is a non-decreasing
function of prefix survival per slot: s_k = a_{k−1}·σ(z_k/T_k), a_k = min(a_{k−1}, f_k(s_k)), a_0 = 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from outrider.errors import DrafterMismatch

__all__ = ["CALIBRATION_FILE", "Calibration", "SurvivalMap", "prefix_survival", "traffic_class"]

CALIBRATION_FILE = "calibration.json"
FORMAT_VERSIONS = (1, 2)
"""2 has maps; without them 1 is written, which older versions read."""
CLASSES = ("greedy", "sampled")
RULES = ("coupled", "rejection")


def traffic_class(temperature: float) -> str:
    """The class of a request's rows: "greedy" at temperature 0, else "sampled"."""
    return "sampled" if temperature > 0 else "greedy"


@dataclass(frozen=True, slots=True)
class SurvivalMap:
    """Piecewise linear f: [0, 1] → [0, 1] through (input, output) points, float64 [P], P ≥ 1; level beyond the ends.

    Inputs ascend strictly and outputs do not fall.
    """

    inputs: NDArray[np.float64]
    outputs: NDArray[np.float64]

    def __call__(self, survival: NDArray[np.float64]) -> NDArray[np.float64]:
        """f of every element; but 0 stays 0, because it marks slots where nothing was proposed."""
        return np.where(survival > 0, np.interp(survival, self.inputs, self.outputs), 0.0)


def prefix_survival(
    logits: NDArray[np.floating[Any]],
    temperatures: NDArray[np.float64] | None = None,
    maps: Sequence[SurvivalMap] | None = None,
) -> NDArray[np.float64]:
    """Π_{i≤k} σ(z_i/T_i), float64 [R, γ], for logits [R, γ] and T [γ] or [R, γ]; without T all are 1.

    With γ `maps` each slot's survival goes through its map before the next slot builds on it (see the module).
    """
    scaled = logits.astype(np.float64) if temperatures is None else logits.astype(np.float64) / temperatures
    with np.errstate(over="ignore"):
        chance = 1.0 / (1.0 + np.exp(-scaled))
    if maps is None:
        return np.asarray(np.cumprod(chance, axis=1))
    survival = np.empty_like(chance)
    before = np.ones(len(chance))
    for slot, each in enumerate(maps):
        before = np.minimum(before, np.interp(before * chance[:, slot], each.inputs, each.outputs))
        survival[:, slot] = before
    survival[np.logical_or.accumulate(chance == 0, axis=1)] = 0.0  # as in SurvivalMap: 0 stays 0
    return survival


@dataclass(frozen=True, slots=True)
class Calibration:
    """T_k > 0 float64 [γ], and γ maps, by (rule, class); what is not there has temperature 1 and no maps."""

    block_size: int
    temperatures: Mapping[tuple[str, str], NDArray[np.float64]]
    maps: Mapping[tuple[str, str], Sequence[SurvivalMap]] = field(default_factory=dict)

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
        version = values.get("format_version")
        if version not in FORMAT_VERSIONS:
            known = " and ".join(map(str, FORMAT_VERSIONS))
            raise _misfit(path, "format_version", f"is {version!r}, this version reads {known}")
        if version == 1 and "maps" in values:
            raise _misfit(path, "maps", "needs format_version 2")
        if values.get("block_size") != block_size:
            found = values.get("block_size")
            raise _misfit(path, "block_size", f"is {found!r}, the drafter's is {block_size}")
        temperatures: dict[tuple[str, str], NDArray[np.float64]] = {}
        for key, name, slots in _by_class(values.get("rules"), "rules", path):
            if not isinstance(slots, list) or len(slots) != block_size or not all(map(_is_temperature, slots)):
                raise _misfit(path, name, f"must be {block_size} finite temperatures above 0")
            temperatures[key] = np.array(slots, dtype=np.float64)
        maps: dict[tuple[str, str], Sequence[SurvivalMap]] = {}
        for key, name, slots in _by_class(values.get("maps", {}), "maps", path):
            if not isinstance(slots, list) or len(slots) != block_size:
                raise _misfit(path, name, f"must be {block_size} maps, one per slot")
            maps[key] = tuple(_parse_map(each, f"{name}[{slot}]", path) for slot, each in enumerate(slots))
        return cls(block_size, temperatures, maps)

    def survival(
        self, logits: NDArray[np.floating[Any]], temperature: NDArray[np.floating[Any]], rule: str = "coupled"
    ) -> NDArray[np.float64]:
        """Prefix survival float64 [R, γ] from logits [R, γ] of requests that sample at `temperature` [R].

        Blocks of another size than the calibration's are taken at face value: another drafter proposed them.
        """
        if logits.shape[1] != self.block_size:
            return prefix_survival(logits)
        sampled = np.asarray(temperature) > 0
        greedy, drawn = ((rule, kind) for kind in CLASSES)
        if not sampled.any():
            return prefix_survival(logits, self.temperatures.get(greedy), self.maps.get(greedy))
        survival = np.empty(logits.shape)
        for key, rows in ((greedy, ~sampled), (drawn, sampled)):
            survival[rows] = prefix_survival(logits[rows], self.temperatures.get(key), self.maps.get(key))
        return survival

    def renewed(
        self, key: tuple[str, str], temperatures: NDArray[np.float64], maps: Sequence[SurvivalMap] | None
    ) -> Calibration:
        """The same with another calibration of one (rule, class)."""
        others = {each: found for each, found in self.maps.items() if each != key}
        kept = others if maps is None else {**others, key: maps}
        return Calibration(self.block_size, {**self.temperatures, key: temperatures}, kept)

    def to_json(self) -> dict[str, Any]:
        """What `parse` reads."""
        rules: dict[str, dict[str, list[float]]] = {}
        for (rule, kind), slots in sorted(self.temperatures.items()):
            rules.setdefault(rule, {})[kind] = [float(each) for each in slots]
        values: dict[str, Any] = {"format_version": 1, "block_size": self.block_size, "rules": rules}
        if not self.maps:
            return values
        maps: dict[str, dict[str, Any]] = {}
        for (rule, kind), found in sorted(self.maps.items()):
            points = [{"inputs": each.inputs.tolist(), "outputs": each.outputs.tolist()} for each in found]
            maps.setdefault(rule, {})[kind] = points
        return values | {"format_version": 2, "maps": maps}


def _by_class(rules: object, section: str, path: Path) -> Iterator[tuple[tuple[str, str], str, object]]:
    """((rule, class), the field's name, its value) of a section. Raises DrafterMismatch for unknown names."""
    if not isinstance(rules, dict):
        raise _misfit(path, section, "is missing or no object")
    for rule, classes in rules.items():
        if rule not in RULES:
            raise _misfit(path, f"{section}.{rule}", f"is unknown; rules are {', '.join(RULES)}")
        if not isinstance(classes, dict):
            raise _misfit(path, f"{section}.{rule}", "is no object")
        for kind, slots in classes.items():
            name = f"{section}.{rule}.{kind}"
            if kind not in CLASSES:
                raise _misfit(path, name, f"is unknown; classes are {', '.join(CLASSES)}")
            yield (rule, kind), name, slots


def _parse_map(value: object, name: str, path: Path) -> SurvivalMap:
    if not isinstance(value, dict):
        raise _misfit(path, name, "is no object with inputs and outputs")
    found: dict[str, NDArray[np.float64]] = {}
    for part in ("inputs", "outputs"):
        numbers = value.get(part)
        if not isinstance(numbers, list) or not numbers or not all(map(_is_share, numbers)):
            raise _misfit(path, f"{name}.{part}", "must be a list of numbers in [0, 1]")
        found[part] = np.array(numbers, dtype=np.float64)
    inputs, outputs = found["inputs"], found["outputs"]
    if len(inputs) != len(outputs):
        raise _misfit(path, f"{name}.outputs", f"must be as many as the inputs: {len(inputs)}, not {len(outputs)}")
    if (np.diff(inputs) <= 0).any():
        raise _misfit(path, f"{name}.inputs", "must ascend, without repeats")
    if (np.diff(outputs) < 0).any():
        raise _misfit(path, f"{name}.outputs", "must not fall")
    return SurvivalMap(inputs, outputs)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_temperature(value: object) -> bool:
    return _is_number(value) and math.isfinite(value) and value > 0


def _misfit(path: Path, field: str, what: str) -> DrafterMismatch:
    return DrafterMismatch(
        f"drafter {path.parent.name}: {path.name}: {field} {what}; `outrider draft calibrate` writes a new one, and "
        "without the file confidences are taken as they are",
        param=field,
    )
