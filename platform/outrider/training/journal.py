"""The log of a training run: one JSON line per step, TensorBoard events where that is installed, a plot at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["Journal", "read_journal"]

LOSSES = "losses.jsonl"
EVENTS = "tensorboard"


class Journal:
    """Appends to `directory`/losses.jsonl; lines of steps after `step`, which a killed run left, are dropped first."""

    def __init__(self, directory: Path, step: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / LOSSES
        kept = [line for line in _lines(path) if line["step"] <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._writer: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(directory / EVENTS), purge_step=step + 1 if step else None)
        else:
            print("no TensorBoard events: the extra `train` is not installed", file=sys.stderr)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures of one step."""
        self._file.write(json.dumps({"step": step, **{name: round(each, 7) for name, each in figures.items()}}) + "\n")
        if self._writer is not None:
            for name, each in figures.items():
                self._writer.add_scalar(name, each, step)

    def flush(self) -> None:
        """Everything written so far is readable."""
        self._file.flush()
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Flush and let the files go."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_journal(directory: Path) -> list[dict[str, float]]:
    """Every step's figures, in order; a last line cut short is left out."""
    return _lines(directory / LOSSES)


def _lines(path: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
    return found
