"""One JSON line per request: what was asked, decided, predicted, and what came of it.

The types hold counts, names and times only, so prompts and completions cannot reach the file.
"""

from __future__ import annotations

import fcntl
import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import msgspec

from outrider.errors import ConfigurationError
from outrider.types import Budgets, Decision

__all__ = ["EventLog", "RequestEvent", "RequestOutcome"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What happened. Times are None where the request did not get that far.

    ttft_s: received to first token; tpot_s: (wall − TTFT)/(completion tokens − 1); queue, prefill and decode
    are the engine's own; rounds: (admitted, accepted) of each decode round. With several choices ttft_s is of the first
    token of any, other times are the slowest choice's, counts and rounds are of all, and prompts count once.
    wait_s: in the gateway's line. cache_hit: the answer was kept from an equal request.
    """

    status: int
    finish_reason: str | None = None
    error_code: str | None = None
    limited_by: str | None = None
    e2e_s: float = 0.0
    ttft_s: float | None = None
    tpot_s: float | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    admitted_tokens: int = 0
    accepted_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0
    wait_s: float = 0.0
    cache_hit: bool = False
    rounds: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """One request that reached the router; `decision` is None when no candidate was feasible.

    time_s: wall clock at arrival. max_tokens: what the tenant asked for. model: what the tenant named. choices: answers
    asked for, n for each prompt.
    """

    time_s: float
    request_id: str
    decision_id: str
    tenant: str
    endpoint: str
    model: str
    policy_version: str
    stream: bool
    budgets: Budgets
    outcome: RequestOutcome
    decision: Decision | None = None
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    workflow: str | None = None
    tags: tuple[str, ...] = ()
    choices: int = 1
    schema: int = 1


class EventLog:
    """An append-only file of events. Encoding and writing happen on one thread of its own.

    Appending never blocks: events beyond `max_pending` waiting for a slow disk, and events that cannot be
    written, are counted in `dropped`. `flush` and `close` wait for the operating system's buffers; no fsync.
    """

    def __init__(self, path: str | Path, *, max_pending: int = 10_000) -> None:
        self.path = Path(path)
        self.dropped = 0
        self._max_pending = max_pending
        self._pending: queue.SimpleQueue[RequestEvent | threading.Event | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Open the file and start the writer. Raises ConfigurationError where the path cannot be written."""
        with self._starting:
            if self._writer is not None:
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = self.path.open("ab", buffering=0)
            except OSError as error:
                raise ConfigurationError(f"event log {self.path} cannot be written: {error.strerror}") from error
            self._writer = threading.Thread(target=self._write, args=(file,), name="outrider-events", daemon=True)
            self._writer.start()

    def append(self, event: RequestEvent) -> None:
        """Hand one event to the writer, starting it if need be."""
        if self._writer is None:
            self.start()
        if self._pending.qsize() >= self._max_pending:
            self.dropped += 1
            return
        self._pending.put(event)

    def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until everything appended so far is in the file."""
        if self._writer is not None and self._writer.is_alive():
            written = threading.Event()
            self._pending.put(written)
            written.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is pending and stop the writer. The log can still be read."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._pending.put(None)
            writer.join(timeout_s)

    def read(self) -> Iterator[RequestEvent]:
        """Every whole event, oldest first; a torn line (a writer was killed) is skipped."""
        for line in self._lines():
            event = _decode(line)
            if event is not None:
                yield event

    def find(self, decision_id: str) -> RequestEvent | None:
        """The newest event of a decision, or None."""
        needle = decision_id.encode()
        found = None
        for line in self._lines():
            if needle in line:  # most lines are never parsed
                event = _decode(line)
                if event is not None and event.decision_id == decision_id:
                    found = event
        return found

    def _lines(self) -> Iterator[bytes]:
        self.flush()
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from file

    def _write(self, file: FileIO) -> None:
        """The writer thread: one write per batch, under the file's lock, so that no other process sees half of it."""
        with file:
            with _locked(file):
                _end_torn_line(self.path, file)
            running = True
            while running:
                lines, waiting, running = self._next_batch()
                if lines:
                    try:
                        with _locked(file):
                            file.write(b"".join(lines))
                    except OSError as error:
                        self._lose(len(lines), error)
                for flushed in waiting:
                    flushed.set()

    def _lose(self, count: int, error: Exception) -> None:
        self.dropped += count
        _log.error("event log %s: %d events lost: %s", self.path, count, error)

    def _next_batch(self) -> tuple[list[bytes], list[threading.Event], bool]:
        """(encoded lines, flush calls to answer, whether to go on); blocks for the first item only."""
        lines: list[bytes] = []
        waiting: list[threading.Event] = []
        item = self._pending.get()
        while True:
            if item is None:
                return lines, waiting, False
            if isinstance(item, threading.Event):
                waiting.append(item)
            else:
                try:
                    lines.append(msgspec.json.encode(item) + b"\n")
                except (TypeError, ValueError, OverflowError) as error:
                    self._lose(1, error)
            if len(lines) >= 256:
                return lines, waiting, True
            try:
                item = self._pending.get_nowait()
            except queue.Empty:
                return lines, waiting, True


def _decode(line: bytes) -> RequestEvent | None:
    try:
        return msgspec.json.decode(line, type=RequestEvent)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


@contextmanager
def _locked(file: FileIO) -> Iterator[None]:
    """Holds the file among all its writers: the end of a line being written is not a torn one.

    The system drops the lock of a process that is killed. A file that knows no locks is written without.
    """
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _end_torn_line(path: Path, file: FileIO) -> None:
    """A predecessor killed in mid-write must not spoil the first line of this writer."""
    size = path.stat().st_size
    if size:
        with path.open("rb") as reader:
            reader.seek(size - 1)
            if reader.read(1) != b"\n":
                file.write(b"\n")
