"""A policy file to a policy, or to every reason why not at once."""

from __future__ import annotations

import os
from dataclasses import dataclass

from outrider.documents import Problem, check_model, read_document, read_text
from outrider.errors import PolicyError
from outrider.policy.checks import cross_problems, warnings
from outrider.policy.compile import compile_policy
from outrider.policy.model import Policy
from outrider.policy.schema import PolicySpec

__all__ = ["PolicyReport", "check_policy", "load_policy", "parse_policy"]


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
    text = read_text(path, "policy")
    return PolicyReport(None, (text,)) if isinstance(text, Problem) else parse_policy(text, os.fspath(path))


def parse_policy(text: str, file: str = "policy") -> PolicyReport:
    """Check and compile a policy's text; `file` only names it in problems."""
    document = read_document(text, file, "policy")
    if document.complete and document.data is None:
        return _refused(file, "the file is empty; policies/default.yaml shows a complete one")
    if document.complete and not isinstance(document.data, dict):
        return _refused(file, "a policy is a mapping that begins with `version: 1`")
    spec, problems = check_model(document, PolicySpec, "policy", cross_problems)
    if spec is None:
        return PolicyReport(None, problems)
    return PolicyReport(compile_policy(spec), warnings=tuple(warnings(spec, document)))


def _refused(file: str, message: str) -> PolicyReport:
    return PolicyReport(None, (Problem(file, 1, 1, "", message),))
