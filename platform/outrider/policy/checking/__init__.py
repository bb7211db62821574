"""What a schema cannot say: references, uniqueness, grants, and settings that are legal but surprising."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from outrider.documents import Document, Problem
from outrider.policy.checking.grants import grant_problems, ownership_problems
from outrider.policy.checking.platform import platform_problems
from outrider.policy.checking.raw import section
from outrider.policy.checking.routes import route_problems
from outrider.policy.checking.surprises import surprises
from outrider.policy.checking.tenants import KeyCheck, account_problems, tenant_problems

__all__ = ["KeyCheck", "cross_problems", "surprises"]


def cross_problems(platform: Document, teams: Sequence[Document], keys: KeyCheck) -> Iterator[Problem]:
    """Errors between the parts of documents, all of which were read to their ends."""
    everybody = {name: tenant for each in (platform, *teams) for name, tenant in section(each, "tenants").items()}
    yield from platform_problems(platform)
    yield from route_problems(platform, platform, everybody)
    yield from ownership_problems(platform, teams)
    for document in (platform, *teams):
        yield from tenant_problems(document, platform)
        yield from account_problems(document)
    for document in teams:
        yield from route_problems(document, platform, section(document, "tenants"))
        yield from grant_problems(document, platform)
    yield from keys.problems((platform, *teams))
