"""A file to a pydantic model, or to every reason why not at once."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from outrider.documents.problems import Problem
from outrider.documents.reader import Document, read_document
from outrider.documents.validation import schema_problems
from outrider.errors import ConfigurationError

__all__ = ["check_model", "load_model", "parse_model", "read_text"]

M = TypeVar("M", bound=BaseModel)
Checks = Callable[[Document], Iterable[Problem]]

_MAX_BYTES = 16 * 2**20


def load_model(
    path: str | os.PathLike[str],
    model: type[M],
    *,
    error: type[ConfigurationError] = ConfigurationError,
    noun: str = "document",
    checks: Checks | None = None,
) -> M:
    """Read a YAML file as `model`.

    noun: what the file is, as problems name it ("recipe"). checks: problems between parts of the document, found on
    its raw values so that they are reported together with the schema's.
    Raises `error` with one `file:line:column: field: text` per line, all of the file's problems together.
    """
    text = read_text(path, noun)
    if isinstance(text, Problem):
        raise error(str(text))
    return parse_model(text, os.fspath(path), model, error=error, noun=noun, checks=checks)


def parse_model(
    text: str,
    file: str,
    model: type[M],
    *,
    error: type[ConfigurationError] = ConfigurationError,
    noun: str = "document",
    checks: Checks | None = None,
) -> M:
    """As `load_model`, from text; `file` only names it in problems."""
    found, problems = check_model(read_document(text, file, noun), model, noun, checks)
    if found is None:
        raise error("\n".join(map(str, problems)))
    return found


def check_model(
    document: Document, model: type[M], noun: str = "document", checks: Checks | None = None
) -> tuple[M | None, tuple[Problem, ...]]:
    """A document as `model`, or None with every problem of it in the order of its lines."""
    problems = list(document.problems)
    found: M | None = None
    if not document.complete:
        pass
    elif document.data is None:
        problems.append(document.problem((), "the file is empty"))
    elif not isinstance(document.data, dict):
        problems.append(document.problem((), f"a {noun} is a mapping of fields"))
    else:
        try:
            found = model.model_validate(document.data)
        except ValidationError as error:
            problems += schema_problems(error, document, model)
        problems += checks(document) if checks else ()
    if problems:
        return None, tuple(sorted(problems, key=lambda each: (each.line, each.column)))
    return found, ()


def read_text(path: str | os.PathLike[str], noun: str = "document") -> str | Problem:
    """The text of a file, or why it cannot be had."""
    file = os.fspath(path)
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return _unplaced(file, "no such file")
    except IsADirectoryError:
        return _unplaced(file, "this is a directory; give the YAML file")
    except (OSError, ValueError) as error:
        return _unplaced(file, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if len(content) > _MAX_BYTES:
        return _unplaced(file, f"larger than {_MAX_BYTES // 2**20} MiB, the most a {noun} may have")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # UTF-32's mark begins so, too
        meant = " (it looks like UTF-16 or UTF-32)" if wide else ""
        message = f"byte 0x{content[error.start]:02x} is not UTF-8{meant}; save the file as UTF-8"
        return Problem(file, line, column, "", message)


def _unplaced(file: str, message: str) -> Problem:
    return Problem(file, 1, 1, "", message)
