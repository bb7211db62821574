"""A policy file to a policy, or to every reason why not at once."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pydantic import ValidationError

from outrider.errors import PolicyError
from outrider.policy.checks import cross_problems, warnings
from outrider.policy.compile import compile_policy
from outrider.policy.document import read_document
from outrider.policy.model import Policy
from outrider.policy.problems import Problem
from outrider.policy.schema import PolicySpec
from outrider.policy.validation import schema_problems

__all__ = ["PolicyReport", "check_policy", "load_policy", "parse_policy"]

_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What reading a document gave: a policy, or problems; warnings come only with a policy."""

    policy: Policy | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read, check and compile a policy file.

    Raises PolicyError with one `file:line:column: field: text` per line, all of a document's errors together.
    """
    report = check_policy(path)
    if report.policy is None:
        raise PolicyError("\n".join(map(str, report.problems)))
    return report.policy


def check_policy(path: str | os.PathLike[str]) -> PolicyReport:
    """As `load_policy`, but problems and warnings come back as values. Raises nothing for a bad file."""
    file = os.fspath(path)
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return _refused(file, "no such file")
    except IsADirectoryError:
        return _refused(file, "this is a directory; give the YAML file")
    except (OSError, ValueError) as error:
        return _refused(file, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if len(content) > _MAX_BYTES:
        return _refused(file, f"larger than {_MAX_BYTES // 2**20} MiB, the most a policy may have")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        return _refused(file, message, line, column)
    return parse_policy(text, file)


def parse_policy(text: str, file: str = "policy") -> PolicyReport:
    """Check and compile a policy's text; `file` only names it in problems."""
    document = read_document(text, file)
    if not document.complete:
        return PolicyReport(None, tuple(document.problems))
    if document.data is None:
        return _refused(file, "the file is empty; policies/default.yaml shows a complete one")
    if not isinstance(document.data, dict):
        return _refused(file, "a policy is a mapping that begins with `version: 1`")
    problems = list(document.problems)
    try:
        spec = PolicySpec.model_validate(document.data)
    except ValidationError as error:
        problems += schema_problems(error, document)
    problems += cross_problems(document)
    if problems:
        return PolicyReport(None, tuple(sorted(problems, key=lambda each: (each.line, each.column))))
    return PolicyReport(compile_policy(spec), warnings=tuple(warnings(spec, document)))


def _refused(file: str, message: str, line: int = 1, column: int = 1) -> PolicyReport:
    return PolicyReport(None, (Problem(file, line, column, "", message),))
