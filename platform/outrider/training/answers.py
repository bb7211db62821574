"""Answer records: JSONL shards that only grow, so that what was answered before a crash stays answered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from outrider.errors import ArtifactBroken
from outrider.training.storage import sync_directory

__all__ = ["SHARD_ANSWERS", "Answer", "AnswerWriter", "read_answers"]

SHARD_ANSWERS = 1024
_SYNC_EVERY = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt with what the target said: token ids, how it was sampled, and why it ended ("stop" or "length")."""

    id: str
    source: str
    domain: str
    license: str
    prompt_tokens: list[int]
    response_tokens: list[int]
    temperature: float
    seed: int
    finish: str


class AnswerWriter:
    """Appends the answers of one split in order, `SHARD_ANSWERS` to a file; opening it again goes on after the last.

    Every 16 answers are forced to disk together. A line that a kill tore off is cut away on opening.
    """

    def __init__(self, directory: Path, split: str) -> None:
        self._directory = directory
        self._split = split
        self._stream: BinaryIO | None = None
        self._unsynced = 0
        self.answers: list[Answer] = self._resume()

    def append(self, answer: Answer) -> None:
        """Write one answer. Raises OSError as the disk does."""
        if len(self.answers) % SHARD_ANSWERS == 0:
            self.close()
        if self._stream is None:
            self._stream = _shard(self._directory, self._split, len(self.answers) // SHARD_ANSWERS).open("ab")
            sync_directory(self._directory)
        self._stream.write(json.dumps(asdict(answer), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._stream.flush()
        self.answers.append(answer)
        self._unsynced += 1
        if self._unsynced >= _SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """Force what was written to the disk."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
        self._unsynced = 0

    def close(self) -> None:
        """Sync and close. Idempotent."""
        if self._stream is not None:
            self.sync()
            self._stream.close()
            self._stream = None

    def __enter__(self) -> AnswerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resume(self) -> list[Answer]:
        """Whole answers already there. A shard before the last one that is short is damage, not a crash."""
        answers: list[Answer] = []
        number = 0
        while (path := _shard(self._directory, self._split, number)).exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(path, len(whole))
            found = list(_parsed(whole, path))
            following = _shard(self._directory, self._split, number + 1).exists()
            if following and len(found) != SHARD_ANSWERS:
                raise _broken(path, f"{len(found)} answers instead of {SHARD_ANSWERS}")
            answers += found
            number += 1
        return answers


def read_answers(directory: Path, split: str) -> list[Answer]:
    """Every answer of a split ("train" or "heldout"), in the order of its prompts. Raises ArtifactBroken."""
    answers: list[Answer] = []
    number = 0
    while (path := _shard(directory, split, number)).exists():
        answers += _parsed(path.read_bytes(), path)
        number += 1
    return answers


def _shard(directory: Path, split: str, number: int) -> Path:
    return directory / f"{split}-{number:05}.jsonl"


def _parsed(content: bytes, path: Path) -> Iterator[Answer]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            answer = Answer(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise _broken(path, f"line {number} is no answer ({error})") from error
        if not _are_tokens(answer.prompt_tokens) or not _are_tokens(answer.response_tokens):
            raise _broken(path, f"line {number} has no tokens")
        yield answer


def _are_tokens(tokens: Sequence[int]) -> bool:
    return isinstance(tokens, list) and bool(tokens) and all(type(token) is int for token in tokens)


def _broken(path: Path, what: str) -> ArtifactBroken:
    return ArtifactBroken(f"{path}: {what}; `outrider draft regenerate --restart` rebuilds it")
