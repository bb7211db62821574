"""YAML text to plain values that remember their lines.

Read from libyaml's event stream instead of through a composer: 1,000 tenants with positions take a third
of the time of a pure-Python composer, nesting is bounded without recursion (libyaml's composer crashes the
process on 100,000 brackets), and an alias bomb ends at its first anchor. Plain scalars follow YAML 1.2:
`yes`, `on` and `1:30` are text, and so are digits behind a zero.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from outrider.documents.problems import Path, Problem, dotted, shown

__all__ = ["Document", "read_document"]

_MAX_DEPTH = 32
_TOO_DEEP = f"nested deeper than {_MAX_DEPTH} levels"
_MAX_NUMBER_CHARACTERS = 40  # longer digit runs are hashes or mistakes, never prices
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")  # 08 is a name: YAML's versions disagree on it
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_LOADER = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader


@dataclass(slots=True)
class Document:
    """Plain values of one YAML file, the place of each, and what was wrong with the text itself.

    keys and values hold 1-based (line, column) by path: of the key that names a value, and of the value.
    complete: the text was read to its end; when False, `data` is not to be used and a problem says why.
    """

    file: str
    data: object = None
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    complete: bool = False

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> Problem:
        """A problem placed at the value of `path` (or its key), else at the nearest parent in the text."""
        spot = self.keys.get(path) if at_key else self.values.get(path)
        parent = path
        while spot is None and parent:
            parent = parent[:-1]
            spot = self.keys.get(parent) or self.values.get(parent)
        line, column = spot or (1, 1)
        return Problem(self.file, line, column, dotted(path), message)


def read_document(text: str, file: str, noun: str = "document") -> Document:
    """Parse one YAML document, a `noun`. Never raises on bad text: what is wrong with it ends up in `problems`."""
    document = Document(file)
    builder = _Builder(document, noun)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
        document.complete = True
    except _Refused as refusal:
        document.problems.append(refusal.problem)
    except yaml.MarkedYAMLError as error:
        document.problems.append(_syntax_problem(error, file))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        null = text[error.position : error.position + 1] == "\0"
        hint = "; is the file UTF-16? save it as UTF-8" if null else ""
        document.problems.append(Problem(file, line, column, "", f"YAML allows no control characters{hint}"))
    return document


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    detail = ", ".join(part for part in (error.problem, error.context) if part)
    if "cannot start any token" in detail:
        detail += " (a tab? indent with spaces; quote values that begin with @ or `)"
    if "maximum nesting depth" in detail:  # libyaml 0.2.6 reads ahead and counts brackets itself
        return Problem(file, line, column, "", _TOO_DEEP)
    return Problem(file, line, column, "", f"not valid YAML: {detail}")


class _Refused(Exception):
    """Valid YAML that documents here may not use and that ends the reading."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(slots=True)
class _Frame:
    """An open mapping or list. In a mapping, `key` is the one whose value comes next."""

    path: Path
    items: dict[str, object] | list[object]
    key: str | None = None
    duplicate: bool = False


class _Builder:
    """Folds events into values with an explicit stack."""

    def __init__(self, document: Document, noun: str) -> None:
        self._document = document
        self._noun = noun
        self._frames: list[_Frame] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """Consume one event. Raises _Refused for constructs that documents here do not use."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._refused(event, f"a second YAML document begins here; a {self._noun} is a single one")
        elif isinstance(event, yaml.NodeEvent):
            self._refuse_sharing(event)
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            else:
                self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._frames.pop()

    def _refuse_sharing(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None:
            message = f"a {self._noun} may not use anchors and aliases ({shown(event.anchor)}); write it out"
            raise self._refused(event, message)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise self._refused(event, f"a {self._noun} may not use the tag {shown(tag)}; remove it")

    def _refused(self, event: yaml.Event, message: str) -> _Refused:
        line, column = _spot(event)
        path = self._path() if self._frames else ()
        return _Refused(Problem(self._document.file, line, column, dotted(path), message))

    def _path(self) -> Path:
        """Where the next value goes; the mapping itself while its key is still unknown."""
        frame = self._frames[-1]
        if isinstance(frame.items, list):
            return (*frame.path, len(frame.items))
        return frame.path if frame.key is None else (*frame.path, frame.key)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        frame = self._frames[-1] if self._frames else None
        if frame is not None and isinstance(frame.items, dict) and frame.key is None:
            self._key(frame, frame.items, event)
            return
        self._put(_plain(event.value) if event.implicit[0] else event.value, event)

    def _key(self, frame: _Frame, items: dict[str, object], event: yaml.ScalarEvent) -> None:
        if event.value == "<<" and event.implicit[0]:
            raise self._refused(event, f"a {self._noun} may not use the merge key '<<'; write it out")
        frame.key = event.value
        path = (*frame.path, event.value)
        frame.duplicate = event.value in items
        if frame.duplicate:
            line, column = _spot(event)
            message = f"duplicate key; it was first set on line {self._document.keys[path][0]}"
            self._document.problems.append(Problem(self._document.file, line, column, dotted(path), message))
        else:
            self._document.keys.setdefault(path, _spot(event))

    def _open(self, event: yaml.Event) -> None:
        if len(self._frames) >= _MAX_DEPTH:
            raise self._refused(event, _TOO_DEEP)
        frame = self._frames[-1] if self._frames else None
        if frame is not None and isinstance(frame.items, dict) and frame.key is None:
            raise self._refused(event, "a key must be plain text, not a list or a mapping")
        items: dict[str, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._put(items, event)
        self._frames.append(_Frame(path, items))

    def _put(self, value: object, event: yaml.Event) -> Path:
        """Store a value where it belongs; of a duplicated key the first value stays."""
        if not self._frames:
            self._document.data = value
            self._document.values[()] = _spot(event)
            return ()
        frame, path = self._frames[-1], self._path()
        if isinstance(frame.items, list):
            frame.items.append(value)
        elif frame.key is not None and not frame.duplicate:
            frame.items[frame.key] = value
        frame.key = None
        self._document.values.setdefault(path, _spot(event))
        return path


def _spot(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _plain(text: str) -> object:
    """An unquoted scalar under YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_NUMBER_CHARACTERS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
