"""The record of a run: one JSON line per answered item, appended as it finishes, read again to go on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from outrider.errors import ConfigurationError, EvalMismatch

__all__ = ["Outcome", "OutcomeLog"]

Kind = Literal["correct", "wrong", "error"]
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """One item's result. `error` (no answer came) is not `correct`, so it stays in every denominator.

    digest: of question, check and sampling: only items of one digest are compared. first_s, total_s in seconds.
    """

    suite: str
    id: str
    digest: str
    domain: str
    group: str
    outcome: Kind
    why: str = ""
    answer: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_s: float | None = None
    total_s: float | None = None
    cost_usd: float | None = None
    finish: str | None = None
    served_by: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Suite and item id: what pairs two runs."""
        return (self.suite, self.id)

    @property
    def correct(self) -> bool:
        """Whether a right answer came."""
        return self.outcome == "correct"

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Outcome:
        """From `as_dict`. Raises ValueError for anything else."""
        known = {each.name for each in fields(cls)}
        try:
            made = cls(**{name: value for name, value in record.items() if name in known})
        except TypeError as error:
            raise ValueError(str(error)) from None
        texts = (made.suite, made.id, made.digest, made.domain, made.group, made.why)
        if made.outcome not in ("correct", "wrong", "error") or not all(isinstance(each, str) for each in texts):
            raise ValueError("not an outcome")
        return made


class OutcomeLog:
    """An append-only file; its first line says what was asked, every further one is an outcome.

    A context manager. Opening a file of another configuration raises EvalMismatch and leaves it untouched; a last
    line that a crash tore is cut off.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any]) -> None:
        self._path = path
        self.done: dict[tuple[str, str], Outcome] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = open(path, "ab", buffering=0)  # noqa: SIM115 — closed by __exit__
        except OSError as error:
            raise ConfigurationError(f"{path}: outcomes cannot be kept there: {error.strerror or error}") from error
        try:
            self._lock()
            if path.stat().st_size:
                self._resume(configuration)
        except BaseException:
            self._stream.close()
            raise
        if path.stat().st_size == 0:
            self._write({"outrider_eval": FORMAT, "configuration": dict(configuration)})

    def __enter__(self) -> OutcomeLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome; the last one of an item counts. One write, so a crash tears the last line at most."""
        self.done[outcome.key] = outcome
        self._write(outcome.as_dict())

    def _write(self, record: Mapping[str, Any]) -> None:
        data = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            written = self._stream.write(data)
            while written is not None and written < len(data):
                data = data[written:]
                written = self._stream.write(data)
        except OSError as error:
            message = f"{self._path}: cannot be written ({error.strerror}); outcomes before this one are kept"
            raise ConfigurationError(message) from error

    def _lock(self) -> None:
        """Two runs must not ask everything twice and mix their lines; the lock goes with the open file."""
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"{self._path}: another eval writes there now; give another --out") from None

    def _resume(self, configuration: Mapping[str, Any]) -> None:
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].split(b"\n")[:-1]
        if lines:
            self._expect(lines[0], configuration)
        for number, line in enumerate(lines[1:], 2):
            outcome = self._outcome(line, number)
            self.done[outcome.key] = outcome
        if whole < len(content):
            if not lines and not content.startswith(b'{"outrider_eval"'):
                raise self._foreign()
            os.truncate(self._path, whole)

    def _expect(self, line: bytes, configuration: Mapping[str, Any]) -> None:
        try:
            head = json.loads(line)
            before = head["configuration"] if head["outrider_eval"] == FORMAT else None
        except (ValueError, KeyError, TypeError):
            before = None
        if not isinstance(before, dict):
            raise self._foreign()
        names = sorted({*before, *configuration})
        changed = [name for name in names if before.get(name) != _plain(configuration.get(name))]
        if changed:
            said = "; ".join(
                f"{each} was {_short(before.get(each))}, is {_short(configuration.get(each))}" for each in changed
            )
            raise EvalMismatch(f"{self._path} holds outcomes of another run ({said}); give another --out, or --restart")

    def _outcome(self, line: bytes, number: int) -> Outcome:
        try:
            return Outcome.of(json.loads(line))
        except (ValueError, AttributeError, TypeError) as error:
            message = f"{self._path}:{number}: not an outcome ({error}); remove the line, or begin again with --restart"
            raise EvalMismatch(message) from None

    def _foreign(self) -> EvalMismatch:
        return EvalMismatch(f"{self._path} exists and holds no eval outcomes; give another --out, or --restart")


def _plain(value: object) -> object:
    return json.loads(json.dumps(value))


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "…"
