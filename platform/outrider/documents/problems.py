"""What is wrong with a document, said so that its author can fix it without asking."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Path", "Problem", "dotted", "kind_of", "shown", "unknown"]

Path = tuple[str | int, ...]
"""Where a value sits in a document: mapping keys and sequence indices from the root."""

_SHOWN_CHARACTERS = 60
_LISTED_NAMES = 12


@dataclass(frozen=True, slots=True)
class Problem:
    """One error or warning: file:line:column (1-based), dotted field, one line of text."""

    file: str
    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: "
        return place + (f"{self.field}: {self.message}" if self.field else self.message)


def dotted(path: Path) -> str:
    """`tenants.demo.keys[0].sha256` for a path."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{_one_line(step)}" if text else _one_line(step)
    return text


def shown(value: object) -> str:
    """A scalar as people would recognise it from their file: quoted if text, one line, cut when long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{_one_line(value)}'" if isinstance(value, str) else _one_line(str(value))


def kind_of(value: object) -> str:
    """The YAML kind of a value in plain words, with the value itself where it is short enough to help."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return f"text {shown(value)}" if isinstance(value, str) else shown(value)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown tier 'interactve'; did you mean 'interactive'? known: batch, interactive, standard`."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"; did you mean {shown(close[0])}?" if close else ";"
    listed = ", ".join(map(_one_line, names[:_LISTED_NAMES])) or "none"
    more = f" and {len(names) - _LISTED_NAMES} more" if len(names) > _LISTED_NAMES else ""
    return f"unknown {kind} {shown(name)}{hint} known: {listed}{more}"


def _one_line(text: str) -> str:
    """Printable and bounded, so that one problem stays one line of a terminal."""
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)
