"""The small trained models that ship with Outrider: a demonstration and a test bed (see MODEL_CARD.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outrider.errors import ModelDirectoryError

__all__ = ["NAMES", "held_out", "path"]

NAMES = ("flash", "flash-drafter", "pro", "pro-drafter")
_HERE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """The directory of a shipped model or drafter; raises ModelDirectoryError for an unknown or absent one."""
    if name not in NAMES:
        raise ModelDirectoryError(f"there is no demo model {name!r}; choose from {', '.join(NAMES)}", param="model")
    directory = _HERE / name
    if not (directory / "config.json").is_file():
        raise ModelDirectoryError(
            f"the demo model {name!r} is not installed; run `outrider models build` to make it", param="model"
        )
    return directory


def held_out(domain: str | None = None) -> Iterator[dict[str, Any]]:
    """Prompts no demo model was trained on: {domain, kind, messages, answer?}; all domains unless one is named."""
    with (_HERE / "heldout.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            item: dict[str, Any] = json.loads(line)
            if domain is None or item["domain"] == domain:
                yield item
