"""Tenants of any document: what they refer to, their keys, their budgets."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from outrider.documents import Document, Path, Problem, shown
from outrider.policy.checking.raw import Mapping, fields, mappings, number, section
from outrider.policy.checking.references import reference, references

__all__ = ["KeyCheck", "account_problems", "tenant_problems"]


def tenant_problems(document: Document, platform: Document) -> Iterator[Problem]:
    """Errors of a document's tenants against the platform's models and tiers."""
    models, tiers = section(platform, "models"), section(platform, "tiers")
    for name, tenant in section(document, "tenants").items():
        place = ("tenants", name)
        tier = tenant.get("tier")
        yield from reference(document, (*place, "tier"), tier, "tier", tiers)
        yield from references(document, (*place, "models"), tenant.get("models"), "model", models)
        depth = number(tenant.get("max_depth"))
        least = number(fields(tiers.get(tier) if isinstance(tier, str) else None).get("min_depth"))
        if depth is not None and least is not None and depth < least:
            yield document.problem((*place, "max_depth"), f"less than min_depth {least:g} of tier {shown(tier)}")


def account_problems(document: Document) -> Iterator[Problem]:
    """One budget per period on each account, tenant or team."""
    for kind in ("teams", "tenants"):
        for name, account in section(document, kind).items():
            yield from _budget_problems(document, (kind, name, "budgets"), account.get("budgets"))


def _budget_problems(document: Document, place: Path, budgets: object) -> Iterator[Problem]:
    periods: set[str] = set()
    for index, budget in mappings(budgets):
        period = budget.get("per")
        if isinstance(period, str):
            if period in periods:
                message = f"a second budget per {shown(period)[1:-1]}; keep the one that is meant"
                yield document.problem((*place, index, "per"), message)
            periods.add(period)


@dataclass
class KeyCheck:
    """Keys of all documents: each opens one door, in a span of days that is not over.

    now_s: seconds of the epoch by which keys have expired, None when days are not to be judged. known: hashes of keys
    in the policy that runs: those may have expired, which is then a warning.
    """

    now_s: float | None = None
    known: Collection[str] = ()
    warnings: list[Problem] = field(default_factory=list)
    _owners: dict[str, tuple[str, Document]] = field(default_factory=dict)

    def problems(self, documents: Sequence[Document]) -> Iterator[Problem]:
        """Errors of the keys of these documents; what is a warning is left in `warnings`."""
        for document in documents:
            operators = fields(document.data).get("operators")
            for index, key in mappings(operators):
                yield from self._key(document, ("operators", index), key, f"operator {shown(key.get('name'))}")
            for name, tenant in section(document, "tenants").items():
                place = ("tenants", name, "keys")
                names: set[str] = set()
                for index, key in mappings(tenant.get("keys")):
                    yield from self._key(document, (*place, index), key, f"tenant {shown(name)}")
                    label = key.get("name")
                    if isinstance(label, str):
                        if label in names:
                            message = f"a second key named {shown(label)}; names tell a tenant's keys apart"
                            yield document.problem((*place, index, "name"), message)
                        names.add(label)

    def _key(self, document: Document, place: Path, key: Mapping, owner: str) -> Iterator[Problem]:
        digest = key.get("sha256")
        if isinstance(digest, str):
            if digest in self._owners:
                other, where = self._owners[digest]
                elsewhere = "" if where is document else f" in {where.file}"
                yield document.problem((*place, "sha256"), f"this key already belongs to {other}{elsewhere}")
            self._owners.setdefault(digest, (owner, document))
        begins, ends = _day(key.get("not_before")), _day(key.get("expires"))
        if begins is not None and ends is not None and begins > ends:
            yield document.problem((*place, "expires"), f"before not_before, {begins}: the key would never be good")
        if ends is not None and self.now_s is not None and _end_s(ends) <= self.now_s:
            problem = document.problem((*place, "expires"), f"the key expired on {ends}; remove it or give a later day")
            if digest in self.known:
                self.warnings.append(problem)
            else:
                yield problem


def _day(value: object) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _end_s(day: date) -> float:
    """The midnight (UTC) with which a day ends; the calendar's last day has none."""
    return datetime.combine(day, time(), UTC).timestamp() + timedelta(days=1).total_seconds()
