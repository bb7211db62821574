"""Routes of any document: names, conditions that can hold, and whether they leave anybody a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from collections.abc import Mapping as Map

from outrider.documents import Document, Path, Problem, shown
from outrider.policy.checking.raw import Mapping, fields, mappings, number, section, strings
from outrider.policy.checking.references import references
from outrider.policy.model import DEFAULT_DOMAIN

__all__ = ["route_problems"]

_ANY = "*"


def route_problems(document: Document, platform: Document, tenants: Map[str, Mapping]) -> Iterator[Problem]:
    """Errors of a document's routes; `tenants` are those that it may name, and all that they apply to."""
    models = section(platform, "models")
    seen: Counter[str] = Counter()
    for index, route in mappings(fields(document.data).get("routes")):
        place: Path = ("routes", index)
        for name in strings([route.get("name")]):
            seen[name] += 1
            if seen[name] > 1:
                yield document.problem(
                    (*place, "name"), f"a second route named {shown(name)}; decisions go by the name"
                )
        match = fields(route.get("match"))
        yield from references(document, (*place, "match", "tenants"), match.get("tenants"), "tenant", tenants)
        yield from _condition_problems(document, (*place, "match"), match)
        yield from references(document, (*place, "models"), route.get("models"), "model", models)
        named = strings(match.get("tenants"))
        meant = [tenants[name] for name in named if name in tenants] if named else tenants.values()
        yield from _nothing_left(document, place, route, {tuple(strings(each.get("models"))) for each in meant}, models)


def _condition_problems(document: Document, place: Path, match: Mapping) -> Iterator[Problem]:
    lengths = fields(match.get("prompt_tokens"))
    least, most = number(lengths.get("min")), number(lengths.get("max"))
    if least is not None and most is not None and least > most:
        yield document.problem((*place, "prompt_tokens", "min"), f"larger than max, {most:g}: no prompt is so long")
    patterns = match.get("workflows")
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else []):
        if isinstance(pattern, str) and _ANY in pattern[:-1]:
            message = f"'{_ANY}' may stand at the end only: it is all workflows that begin with what stands before it"
            yield document.problem((*place, "workflows", index), message)


def _nothing_left(
    document: Document,
    place: Path,
    route: Mapping,
    grants: Collection[tuple[str, ...]],
    models: dict[str, Mapping],
) -> Iterator[Problem]:
    """A route whose models or quality floor leave none of its tenants (by what they may use) any model."""
    only = strings(route.get("models"))
    known = [tuple(name for name in grant if name in models) for grant in grants]
    if not any(known) or any(name not in models for name in only):
        return
    left = {name for grant in known for name in grant if not only or name in only}
    if not left:
        yield document.problem(
            (*place, "models"), "none of its tenants may use any of them: it would refuse everything"
        )
        return
    floor, tags = number(route.get("quality")), strings(fields(route.get("match")).get("tags"))
    scores = {name: score for name in sorted(left) if (score := _best_score(name, tags, models)) is not None}
    if floor is not None and floor <= 1 and len(scores) == len(left) and max(scores.values()) < floor:
        best = max(scores, key=lambda name: scores[name])
        message = (
            f"no model that its tenants may use reaches {floor:g}; the best is {shown(best)} with {scores[best]:g}"
        )
        yield document.problem((*place, "quality"), message)


def _best_score(name: str, tags: list[str], models: dict[str, Mapping]) -> float | None:
    """A model's score on the best of the domains that requests with one of `tags` (none: any) can have."""
    quality = fields(models[name].get("quality"))
    measured = {domain for model in models.values() for domain in fields(model.get("quality"))}
    if tags and all(tag in measured for tag in tags):
        found = [number(quality.get(tag, quality.get(DEFAULT_DOMAIN))) for tag in tags]
    else:
        found = [number(score) for score in quality.values()]
    scores = [score for score in found if score is not None]
    return max(scores, default=None)
