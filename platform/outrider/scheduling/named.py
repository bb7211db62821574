"""Schedulers by the names that configurations and benchmarks use."""

from __future__ import annotations

from outrider.errors import ConfigurationError
from outrider.scheduling.algorithm1 import Algorithm1
from outrider.scheduling.asynchronous import Asynchronous
from outrider.scheduling.baselines import DepthTable, FixedDepth, NoDrafts, Threshold
from outrider.scheduling.constrained import Constrained
from outrider.scheduling.scheduler import PrefixScheduler

__all__ = ["scheduler_named"]

_ALLOWED = "none, fixed:DEPTH, threshold:SURVIVAL, table:REQUESTS=DEPTH,…, algorithm1, asynchronous, constrained"


def scheduler_named(name: str) -> PrefixScheduler:
    """The scheduler of a name such as `constrained`, `fixed:3`, `threshold:0.5` or `table:2=7,8=5,32=1`.

    Raises ConfigurationError with the names there are.
    """
    kind, _, value = name.partition(":")
    try:
        match kind, value:
            case "none", "":
                return NoDrafts()
            case "algorithm1", "":
                return Algorithm1()
            case "asynchronous", "":
                return Asynchronous()
            case "constrained", "":
                return Constrained()
            case "fixed", depth if int(depth) > 0:
                return FixedDepth(int(depth))
            case "threshold", least if 0.0 < float(least) <= 1.0:
                return Threshold(float(least))
            case "table", steps:
                return DepthTable(_steps(steps))
    except ValueError:
        pass
    raise ConfigurationError(f"scheduler {name!r} is unknown; there are {_ALLOWED}", param="scheduler")


def _steps(text: str) -> tuple[tuple[int, int], ...]:
    """Raises ValueError unless requests ascend and depths are 0 or more."""
    if not text:
        return DepthTable().steps
    steps = [(int(upto), int(depth)) for upto, _, depth in (each.partition("=") for each in text.split(","))]
    uptos = [upto for upto, _ in steps]
    if uptos != sorted(set(uptos)) or uptos[0] < 1 or min(depth for _, depth in steps) < 0:
        raise ValueError(text)
    return tuple(steps)
