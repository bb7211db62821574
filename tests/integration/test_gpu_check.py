"""The check of a GPU runs from end to end without one, so that it does not rot; and what it says can be relied on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider import profiles
from outrider.bench.gpu.__main__ import PARTS, run
from outrider.bench.gpu.figures import NO_GPU, Asked, Figure, table
from outrider.bench.gpu.gaps import idle
from outrider.bench.gpu.stand import Part, Stand
from outrider.errors import CurveError

ROOT = Path(__file__).resolve().parents[2]


def stand() -> Stand:
    return Stand(torch.device("cpu"), True, time.monotonic() + 60, "tiny")


def test_the_smoke_runs_every_part_and_measures_nothing(tmp_path: Path) -> None:
    out = tmp_path / "smoke.json"
    path = os.pathsep.join(str(ROOT / root) for root in ("platform", "kernels"))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "outrider.bench.gpu", "--smoke", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    held = json.loads(out.read_text("utf-8"))
    assert {part.name for part in PARTS} - {"kernels"} <= {f["name"].split(":")[0] for f in held["figures"]}
    for figure in held["figures"]:
        interpreted = figure["name"].startswith("correctness")
        assert (figure["value"] is not None and interpreted) or figure["reason"] == NO_GPU or interpreted
        assert figure.get("met") is not False, figure
    assert any(figure["value"] is not None for figure in held["figures"]), "the interpreter compared nothing"
    with pytest.raises(CurveError, match="without a GPU is no profile"):
        profiles.read(out)


def test_a_part_that_raises_fails_the_check_and_not_the_parts_after_it() -> None:
    def broken(_: Stand) -> list[Figure]:
        raise ValueError("no such kernel")

    parts = [Part("first", 0, broken), Part("second", 0, lambda _: [Figure("second", "found", "s", 1.0)])]
    kept: list[int] = []
    figures, failed = run(stand(), budget_s=60, parts=parts, keep=lambda so_far: kept.append(len(so_far)))
    assert failed == ["first"]
    assert "no such kernel" in figures[0].reason
    assert figures[1].value == 1.0
    assert kept == [1, 2]


def test_a_part_without_time_left_is_skipped_and_says_so() -> None:
    on_gpu = Stand(torch.device("cuda"), False, 0.0, "tiny")
    parts = [Part("long", 481, lambda _: [Figure("long", "found", "s", 1.0)])]
    figures, failed = run(on_gpu, budget_s=480, parts=parts, keep=lambda _: None)
    assert not failed
    assert figures[0].value is None
    assert "it needs 481" in figures[0].reason


def test_the_table_shows_what_was_asked() -> None:
    shown = table(
        [
            Figure("step", "fast", "ratio", 1.2, asked=Asked("≤", 1.25)),
            Figure("step", "slow", "ratio", 1.3, 1.29, 1.31, asked=Asked("≤", 1.25)),
            Figure("copy", "wide", "share", 0.75, asked=Asked("≥", 0.75)),
            Figure("copy", "absent", "share", asked=Asked("≥", 0.75), reason="no time left"),
        ]
    )
    lines = shown.splitlines()
    assert [line.split("  ")[-1] for line in lines[1:4]] == ["met", "NOT MET", "met"]
    assert "1.3 (1.29 to 1.31)" in lines[2]
    assert "no time left" in lines[4]
    assert "met" not in lines[4].casefold()


def event(ts: float, dur: float, correlation: int, cat: str = "kernel") -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "ts": ts, "dur": dur, "args": {"correlation": correlation}}


def test_gaps_of_the_host_are_told_from_gaps_within_a_graph() -> None:
    events = [
        event(0, 10, 1),
        event(12, 8, 1),  # 2 within a graph
        event(15, 3, 9, "gpu_memcpy"),  # beside it, on another stream
        event(50, 50, 2),  # 30 until the host launched this
        event(20, 5, 3, "cuda_runtime"),  # the host's own
        {"ph": "M", "name": "process_name"},
    ]
    found = idle(events)
    assert found is not None
    assert found.span_s == pytest.approx(100e-6)
    assert found.between_s == pytest.approx(30e-6)
    assert found.within_s == pytest.approx(2e-6)
    assert found.host_share == pytest.approx(0.3)
    assert idle([event(0, 1, 1, "cuda_runtime")]) is None
