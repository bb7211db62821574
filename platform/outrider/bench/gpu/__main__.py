"""`python -m outrider.bench.gpu`: the whole check, one table, and a document that can be committed as a profile."""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils import logging as transformers_logging

from outrider import profiles
from outrider.bench.gpu.correctness import check_kernels
from outrider.bench.gpu.figures import Figure, table
from outrider.bench.gpu.models import PRESETS, preset_for
from outrider.bench.gpu.roofline import compare_kernels, measure_rates
from outrider.bench.gpu.rounds import measure_rounds
from outrider.bench.gpu.speed import measure_speed
from outrider.bench.gpu.stand import Part, Stand, describe_device, describe_versions
from outrider.bench.gpu.steps import build_models, measure_costs, measure_decode
from outrider.bench.setup import surroundings

__all__ = ["PARTS", "main", "run"]

PARTS: Final = (
    Part("device", 5, measure_rates),
    Part("correctness", 20, check_kernels),
    Part("kernels", 20, compare_kernels),
    Part("model", 40, build_models),
    Part("step", 20, measure_decode),
    Part("round", 30, measure_rounds),
    Part("speed", 30, measure_speed),
    Part("costs", 30, measure_costs),
)
"""In this order; what a part needs at least, in seconds."""
_SHARES: Final = {"correctness": 90.0, "kernels": 120.0, "step": 60.0, "round": 90.0, "speed": 100.0}
"""The most that a part may take of a run of 480 s: what it has not measured by then it skips."""
_WHOLE_S: Final = 480.0
_HUNG_S: Final = 60.0


def run(
    stand: Stand, *, budget_s: float, parts: Sequence[Part] = PARTS, keep: Callable[[Sequence[Figure]], None]
) -> tuple[list[Figure], list[str]]:
    """All figures, and the parts that failed. A part that raises does not keep the others from running.

    `keep` is told all figures so far after every part: what was measured outlives a run that hangs.
    """
    figures: list[Figure] = []
    failed: list[str] = []
    last_s = time.monotonic() + budget_s
    for part in parts:
        stand.ends_s = last_s
        if stand.left_s < part.needs_s * budget_s / _WHOLE_S:
            reason = f"{stand.left_s:.0f} s were left, it needs {part.needs_s:.0f}"
            figures.append(stand.missing(part.name, "all", "", reason))
            continue
        stand.ends_s = min(last_s, time.monotonic() + _SHARES.get(part.name, _WHOLE_S) * budget_s / _WHOLE_S)
        started = time.monotonic()
        try:
            figures += part.run(stand)
        except Exception as error:
            traceback.print_exc()
            failed.append(part.name)
            figures.append(Figure(part.name, "all", "", reason=f"FAILED: {type(error).__name__}: {error}"[:200]))
        keep(figures)
        print(f"{part.name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return figures, failed


def document(stand: Stand, figures: Sequence[Figure], budget_s: float) -> dict[str, Any]:
    """What `outrider.profiles` reads."""
    pair, where = stand.pair, surroundings()
    configuration = {
        "model": stand.preset,
        "weights": "random",
        "dtype": str(pair.target.dtype).removeprefix("torch.") if pair else None,
        "sizes": {name: getattr(PRESETS[stand.preset], name) for name in PRESETS[stand.preset].__slots__},
        "smoke": stand.smoke,
        "budget_s": budget_s,
        "load_average": where["load_average"],
    }
    return {
        "format": profiles.FORMAT,
        "device": describe_device(stand.device),
        "versions": describe_versions(),
        "revision": where["revision"],
        "time": where["time"],
        "configuration": configuration,
        "figures": [figure.as_dict() for figure in figures],
        "costs": stand.document.get("costs"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where everything ran and every kernel agreed with its reference; what is slow does not fail the check."""
    parser = argparse.ArgumentParser(prog="python -m outrider.bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the document there")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU: nothing is measured")
    parser.add_argument("--model", choices=sorted(PRESETS), help="default: the largest that fits")
    parser.add_argument("--budget", type=float, default=_WHOLE_S, metavar="S", help="seconds, 480 unless given")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="some parts alone")
    asked = parser.parse_args(arguments)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    smoke = asked.smoke or not torch.cuda.is_available()
    if smoke and not asked.smoke:
        print("there is no CUDA device here: tiny sizes on the CPU, and nothing is measured", flush=True)
    faulthandler.dump_traceback_later(asked.budget + _HUNG_S, exit=True)
    device = torch.device("cpu" if smoke else "cuda")
    preset = "tiny" if smoke else asked.model or preset_for(device)
    stand = Stand(device, smoke, time.monotonic() + asked.budget, preset)
    parts = [part for part in PARTS if asked.only is None or part.name in asked.only]

    def keep(figures: Sequence[Figure]) -> None:
        if asked.out is not None:
            asked.out.write_text(json.dumps(document(stand, figures, asked.budget), indent=2) + "\n", "utf-8")

    figures, failed = run(stand, budget_s=asked.budget, parts=parts, keep=keep)
    faulthandler.cancel_dump_traceback_later()
    keep(figures)
    print(table(figures))
    wrong = [figure.name for figure in figures if figure.part == "correctness" and figure.met is False]
    for name in (*wrong, *failed):
        print(f"FAILED: {name}", file=sys.stderr)
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    sys.exit(main())
