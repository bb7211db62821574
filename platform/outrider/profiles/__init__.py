"""Measured devices, as package data: what `make gpu-check` found on one, for simulation and planning.

Serving never reads these: it measures what it runs on. A profile is the document that the check writes (README.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from outrider.errors import CurveError
from outrider.scheduling import CostModel, parse_costs

__all__ = ["FORMAT", "DeviceProfile", "load", "names", "read"]

FORMAT: Final = 1
_HERE = Path(__file__).resolve().parent
_RENEW = "measure the device again with `make gpu-check`"


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One device as it was measured.

    costs: of a round of `model`, None where the check had no time for them; figures: value by name, measured ones
    only, units as in the document; device, versions, configuration: what was measured, with what and how.
    """

    name: str
    model: str
    costs: CostModel | None
    figures: Mapping[str, float]
    device: Mapping[str, Any]
    versions: Mapping[str, str]
    configuration: Mapping[str, Any]


def names() -> tuple[str, ...]:
    """The devices that have a committed profile, sorted."""
    return tuple(sorted(file.stem for file in _HERE.glob("*.json")))


def load(name: str) -> DeviceProfile:
    """A committed profile by its device's name; raises CurveError for an unknown or damaged one."""
    if name not in names():
        known = ", ".join(names()) or "none yet"
        raise CurveError(f"no profile of a device {name!r} was committed; there are: {known}", param="profile")
    return read(_HERE / f"{name}.json")


def read(path: Path) -> DeviceProfile:
    """A document that the check wrote on a GPU; raises CurveError naming file, field and fix."""
    try:
        held = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CurveError(f"cannot read the device profile {path}: {error.strerror}") from error
    except ValueError as error:
        raise CurveError(f"{path.name} is not a JSON file; {_RENEW}") from error
    found = held.get("format") if isinstance(held, dict) else None
    if found != FORMAT:
        raise CurveError(f"{path.name}: format: {found!r} where this version reads {FORMAT}; {_RENEW}", param="format")
    sections = {name: _section(path, held, name) for name in ("device", "versions", "configuration")}
    if sections["device"].get("type") != "cuda":
        raise CurveError(f"{path.name}: device.type: a run without a GPU is no profile; {_RENEW}", param="device")
    costs = held.get("costs")
    return DeviceProfile(
        name=path.stem,
        model=str(sections["configuration"].get("model", "")),
        costs=None if costs is None else parse_costs(costs, f"{path.name}: costs", _RENEW),
        figures=_figures(path, held.get("figures")),
        **sections,
    )


def _section(path: Path, held: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = held.get(name)
    if not isinstance(section, dict):
        raise CurveError(f"{path.name}: {name}: an object is missing; {_RENEW}", param=name)
    return MappingProxyType(section)


def _figures(path: Path, held: object) -> Mapping[str, float]:
    figures: dict[str, float] = {}
    for figure in held if isinstance(held, list) else [None]:
        if not isinstance(figure, dict) or not isinstance(figure.get("name"), str) or "value" not in figure:
            raise CurveError(
                f"{path.name}: figures: a list of {{name, value, …}} is missing; {_RENEW}", param="figures"
            )
        value = figure["value"]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CurveError(f"{path.name}: figures: {figure['name']}: {value!r} is no number", param="figures")
        figures[figure["name"]] = float(value)
    return MappingProxyType(figures)
