"""Prompt records: what teams hand in as JSONL or Parquet, and what `prepare` makes of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.errors import DataError, InvalidRequest, MissingExtra
from outrider.text import TextModel

__all__ = ["BadRecord", "PromptRecord", "encode_prompt", "parse_record", "read_file", "read_prompts"]

_ROLES = ("system", "user", "assistant")
_FIX = "give `messages` (a list of {role, content}, the last from the user) or `prompt` (text)"


class BadRecord(Exception):
    """One record that cannot be used; the text says why and what to change."""


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """A question to the target: a conversation that ends with a user turn, or plain text to go on with.

    source names the document it was taken from: everything from one source falls on the same side of the split.
    """

    id: str
    source: str
    domain: str
    license: str
    messages: tuple[tuple[str, str], ...] = ()
    prompt: str = ""

    @property
    def text(self) -> str:
        """All words of it, for comparing prompts."""
        return "\n".join(content for _, content in self.messages) or self.prompt

    def to_json(self, tokens: int) -> str:
        """One line of train.jsonl or heldout.jsonl; `tokens` is the length of the encoded prompt."""
        messages = [{"role": role, "content": content} for role, content in self.messages]
        asked: dict[str, Any] = {"messages": messages} if messages else {"prompt": self.prompt}
        about = {"id": self.id, "source": self.source, "domain": self.domain, "license": self.license}
        return json.dumps({**about, **asked, "tokens": tokens}, ensure_ascii=False)


def read_file(path: Path) -> Iterator[tuple[int, Any]]:
    """(line or row number from 1, record) of a JSONL or Parquet file; a line that is not JSON comes as a BadRecord.

    Raises DataError for a file that cannot be read, MissingExtra for Parquet without pyarrow.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, _parsed(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return BadRecord("not UTF-8; save the file as UTF-8")
    except ValueError as error:
        return BadRecord(f"not JSON ({error}); each line is one JSON object")
    except RecursionError:
        return BadRecord("nested too deeply; each line is one flat JSON object")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra(
            f"{path}: reading Parquet needs pyarrow; `pip install 'outrider[train]'`, or give JSONL"
        ) from error
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error


def parse_record(value: Any) -> PromptRecord:
    """A record as a prompt; a final assistant turn is dropped, unknown fields are ignored. Raises BadRecord."""
    if isinstance(value, BadRecord):
        raise value
    if not isinstance(value, Mapping):
        raise BadRecord(f"a record is a JSON object, not {type(value).__name__}; {_FIX}")
    messages, prompt = value.get("messages"), value.get("prompt")
    if messages is not None and prompt is not None:
        raise BadRecord("has both `messages` and `prompt`; keep one")
    if messages is None and prompt is None:
        raise BadRecord(f"has neither `messages` nor `prompt`; {_FIX}")
    turns: tuple[tuple[str, str], ...] = ()
    if messages is not None:
        turns = _turns(messages)
    elif not isinstance(prompt, str) or not prompt.strip():
        raise BadRecord("`prompt` is empty or no text")
    content = json.dumps([turns, prompt], ensure_ascii=False).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(content).hexdigest()[:16]
    return PromptRecord(
        id=_label(value, "id", digest),
        source=_label(value, "source", digest),
        domain=_label(value, "domain", "general"),
        license=_label(value, "license", "unknown"),
        messages=turns,
        prompt="" if messages is not None else str(prompt),
    )


def _turns(messages: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(messages, list) or not messages:
        raise BadRecord(f"`messages` is empty or no list; {_FIX}")
    turns: list[tuple[str, str]] = []
    for place, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        content = message.get("content") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise BadRecord(f"messages[{place}].role is {role!r}; roles are {', '.join(_ROLES)}")
        if not isinstance(content, str):
            raise BadRecord(f"messages[{place}].content is no text")
        turns.append((role, content))
    if turns[-1][0] == "assistant":
        turns.pop()
    if not turns or turns[-1][0] != "user":
        raise BadRecord("`messages` has no user turn to answer at its end")
    if not turns[-1][1].strip():
        raise BadRecord("the last user turn is empty")
    return tuple(turns)


def _label(value: Mapping[str, Any], name: str, default: str) -> str:
    found = value.get(name)
    if found is None:
        return default
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str) or not found.strip():
        raise BadRecord(f"`{name}` is empty or no text; leave it out or give text")
    return found


def encode_prompt(record: PromptRecord, text: TextModel) -> list[int]:
    """Token ids up to where the answer begins. Raises BadRecord when the chat template refuses the conversation."""
    try:
        if record.messages:
            return text.encode_chat([{"role": role, "content": content} for role, content in record.messages])
        return text.encode(record.prompt)
    except (InvalidRequest, UnicodeEncodeError) as error:
        raise BadRecord(str(error)) from error


def read_prompts(file: Path) -> list[PromptRecord]:
    """The records of a train.jsonl or heldout.jsonl that `prepare` wrote. Raises DataError."""
    records = []
    for number, value in read_file(file):
        try:
            records.append(parse_record(value))
        except BadRecord as error:
            raise DataError(f"{file}:{number}: {error}; `outrider draft prepare --restart` rebuilds it") from error
    return records
