"""Policy documents to a policy, or to every reason why not at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from outrider.documents import Document, Problem, check_model, read_document
from outrider.errors import PolicyError
from outrider.policy.checking import KeyCheck, cross_problems, surprises
from outrider.policy.compile import compile_policy
from outrider.policy.model import Policy
from outrider.policy.schema import PolicySpec, TeamFileSpec
from outrider.policy.sources import Source, read_sources

__all__ = ["PolicyReport", "check_policy", "load_policy", "parse_policies", "parse_policy"]

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What reading documents gave: a policy, or problems; warnings come only with a policy."""

    policy: Policy | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def accepted(self) -> Policy:
        """The policy. Raises PolicyError with one `file:line:column: field: text` per line."""
        if self.policy is None:
            raise PolicyError("\n".join(map(str, self.problems)))
        return self.policy


def load_policy(path: str | os.PathLike[str], teams: Iterable[str | os.PathLike[str]] = ()) -> Policy:
    """Read, check and compile a platform's file with its teams' files, or a directory that holds them.

    Raises PolicyError with one `file:line:column: field: text` per line, all errors of all documents together.
    """
    return check_policy(path, teams).accepted()


def check_policy(
    path: str | os.PathLike[str],
    teams: Iterable[str | os.PathLike[str]] = (),
    *,
    now_s: float | None = None,
    known_keys: Collection[str] = (),
) -> PolicyReport:
    """As `load_policy`, but problems and warnings come back as values. Raises nothing for a bad file."""
    sources, problems = read_sources(path, teams)
    if problems:
        return PolicyReport(None, problems)
    return parse_policies(sources[0], sources[1:], now_s=now_s, known_keys=known_keys)


def parse_policy(text: str, file: str = "policy") -> PolicyReport:
    """Check and compile a platform's text that stands alone; `file` only names it in problems."""
    return parse_policies(Source(file, text))


def parse_policies(
    platform: Source, teams: Sequence[Source] = (), *, now_s: float | None = None, known_keys: Collection[str] = ()
) -> PolicyReport:
    """Check and compile the documents of a platform and its teams; the order of teams does not count.

    now_s: seconds of the epoch by which a key must not have expired; None judges no days, so that a policy that was
    good once loads again. known_keys: hashes of keys in the policy that runs, which may have expired meanwhile.
    """
    spec, document, problems = _read(platform, PolicySpec)
    files = [_read(team, TeamFileSpec) for team in teams]
    documents = [each for _, each, _ in files]
    keys = KeyCheck(now_s, known_keys)
    found = [*problems, *(problem for _, _, own in files for problem in own)]
    if all(isinstance(each.data, dict) and each.complete for each in (document, *documents)):
        found += cross_problems(document, documents, keys)
    specs = [(spec, each) for spec, each, _ in files if spec is not None]
    if found or spec is None:
        return PolicyReport(None, _ordered(found, (document, *documents)))
    warnings = [*keys.warnings, *surprises(spec, document, specs)]
    return PolicyReport(
        compile_policy(spec, [each for each, _ in specs]), warnings=_ordered(warnings, (document, *documents))
    )


def _read(source: Source, model: type[M]) -> tuple[M | None, Document, tuple[Problem, ...]]:
    document = read_document(source.text, source.file, "policy")
    if document.complete and document.data is None:
        return None, document, (document.problem((), "the file is empty; policies/default.yaml shows a complete one"),)
    if document.complete and not isinstance(document.data, dict):
        return None, document, (Problem(source.file, 1, 1, "", "a policy is a mapping that begins with `version: 1`"),)
    spec, problems = check_model(document, model, "policy")
    return spec, document, problems


def _ordered(problems: Iterable[Problem], documents: Sequence[Document]) -> tuple[Problem, ...]:
    """By document, then by place."""
    rank = {document.file: index for index, document in enumerate(documents)}
    return tuple(sorted(problems, key=lambda each: (rank[each.file], each.line, each.column)))
