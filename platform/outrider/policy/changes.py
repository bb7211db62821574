"""A change between two policies, and how two lists of facts become changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from outrider.policy.facts import Fact, Severity, Value

__all__ = ["Change", "Step", "compared", "steps"]

_SINGULAR = {"{its}": "its", "{gain}": "gains", "{lose}": "loses", "{have}": "has"}
_PLURAL = {"{its}": "their", "{gain}": "gain", "{lose}": "lose", "{have}": "have"}


@dataclass(frozen=True, slots=True)
class Change:
    """One consequence.

    subject: tenant, team, tier, model, batch class, route, operator or platform. names: of all that it happens to.
    what: the setting, with its unit. before, after: its values, None where there was or is none. tenants: those that
    feel it, when the subject is another. text: a clause that goes on after the names.
    """

    subject: str
    names: tuple[str, ...]
    what: str
    before: Value
    after: Value
    severity: Severity
    text: str
    tenants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A fact that changed; equal steps of several names are one change. `text` has its verbs in braces."""

    what: str
    before: Value
    after: Value
    severity: Severity
    text: str

    def change(self, subject: str, names: Sequence[str], tenants: Sequence[str] = ()) -> Change:
        """The step as what happens to `names`."""
        text = self.text.replace("{its} ", "") if subject == "platform" else self.text
        for mark, word in (_SINGULAR if len(names) == 1 else _PLURAL).items():
            text = text.replace(mark, word)
        ordered = tuple(sorted(names))
        return Change(subject, ordered, self.what, self.before, self.after, self.severity, text, tuple(sorted(tenants)))


def compared(
    subject: str, names: Sequence[str], old: Sequence[Fact], new: Sequence[Fact], tenants: Sequence[str] = ()
) -> Iterator[Change]:
    """The changes from one list of facts to another, of one subject."""
    for step in steps(old, new):
        yield step.change(subject, names, tenants)


def steps(old: Sequence[Fact], new: Sequence[Fact]) -> Iterator[Step]:
    """What differs between two lists of facts, in their order."""
    before, after = ({fact.what: fact for fact in facts} for facts in (old, new))
    for what in dict.fromkeys([*before, *after]):
        was = before.get(what) or _absent(after[what])
        now = after.get(what) or _absent(before[what])
        comes_or_goes = what not in before or what not in after
        if was.value != now.value and not (now.detail and comes_or_goes):
            yield Step(what, was.value, now.value, was.severity(now.value), _text(was, now))


def _absent(fact: Fact) -> Fact:
    """The same fact where there is no such thing."""
    shown = "none" if fact.more == "neutral" else "no limit"
    return Fact(fact.what, fact.label, None, shown, fact.more, fact.holds, fact.percent, fact.detail)


def _text(was: Fact, now: Fact) -> str:
    if now.holds:
        return f"{{gain}} {now.label}" if now.value else f"{{lose}} {now.label}"
    before, after = was.value, now.value
    verb, percent = "goes", ""
    if isinstance(before, int | float) and isinstance(after, int | float) and not isinstance(after, bool):
        verb = "rises" if after > before else "falls"
        percent = f" ({(after / before - 1) * 100:+.3g} %)" if now.percent and before else ""
    return f"{{its}} {now.label} {verb} {_arrow(was.shown, now.shown)}{percent}"


def _arrow(before: str, after: str) -> str:
    """`30 → 50 ms`: a unit that both share stands once."""
    number, _, unit = before.partition(" ")
    shared = bool(unit) and number[:1].isdigit() and after.endswith(f" {unit}")
    return f"{number if shared else before} → {after}"
