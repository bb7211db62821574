"""The platform's document: what its models, tiers, teams and depths say of each other."""

from __future__ import annotations

from collections.abc import Iterator

from outrider.documents import Document, Path, Problem, shown
from outrider.policy.checking.raw import Mapping, fields, number, section, strings
from outrider.policy.checking.references import reference, references, repeats
from outrider.policy.compile import PLATFORM
from outrider.policy.model import DEFAULT_DOMAIN
from outrider.policy.schema import AUTO, BatchClassSpec, RoutingSpec, TierSpec

__all__ = ["platform_problems"]


def platform_problems(document: Document) -> Iterator[Problem]:
    """Errors between the parts of the platform's document, but for its tenants and routes."""
    yield from _model_problems(document)
    yield from _tier_problems(document)
    yield from _team_problems(document)
    yield from _depth_problems(document)


def _model_problems(document: Document) -> Iterator[Problem]:
    for name, model in section(document, "models").items():
        if name == AUTO:
            message = f"'{AUTO}' is how tenants leave the choice open; give the model another name"
            yield document.problem(("models", name), message, at_key=True)
        quality = model.get("quality")
        if isinstance(quality, dict) and quality and DEFAULT_DOMAIN not in quality:
            message = f"'{DEFAULT_DOMAIN}' is required: it answers for every domain not named"
            yield document.problem(("models", name, "quality"), message, at_key=True)


def _tier_problems(document: Document) -> Iterator[Problem]:
    classes = section(document, "batch_classes")
    for name, tier in section(document, "tiers").items():
        place = ("tiers", name)
        also = tier.get("also_batch_classes")
        yield from reference(document, (*place, "batch_class"), tier.get("batch_class"), "batch class", classes)
        yield from references(document, (*place, "also_batch_classes"), also, "batch class", classes)
        yield from repeats(document, (*place, "degrade"), tier.get("degrade"), "promise")
        yield from _target_problems(document, place, tier, classes)
        yield from _tier_depth_problems(document, place, tier)


def _target_problems(document: Document, place: Path, tier: Mapping, classes: dict[str, Mapping]) -> Iterator[Problem]:
    """Targets that no request can meet: the whole before its first token, or all before a class lets it run."""
    ttft, deadline = number(tier.get("ttft_ms")), number(tier.get("deadline_ms"))
    if ttft is not None and deadline is not None and deadline < ttft:
        message = f"impossible: the whole answer in {deadline:g} ms, when its first token may take ttft_ms: {ttft:g}"
        yield document.problem((*place, "deadline_ms"), message)
    names = strings([tier.get("batch_class")]) + strings(tier.get("also_batch_classes"))
    waits = {name: _wait_ms(classes[name]) for name in names if name in classes}
    if not waits:
        return
    name = min(waits, key=lambda each: waits[each])
    for field, target in (("ttft_ms", ttft), ("deadline_ms", deadline)):
        if target is not None and target < waits[name]:
            message = f"impossible: batch class {shown(name)} may hold a request back for {waits[name]:g} ms"
            yield document.problem((*place, field), f"{message} (admission_wait_ms)")


def _wait_ms(batch_class: Mapping) -> float:
    default = BatchClassSpec.model_fields["admission_wait_ms"].default
    return number(batch_class.get("admission_wait_ms", default)) or 0.0


def _tier_depth_problems(document: Document, place: Path, tier: Mapping) -> Iterator[Problem]:
    least = number(tier.get("min_depth", 0))
    most = number(tier.get("max_depth", TierSpec.model_fields["max_depth"].default))
    if least is None or most is None or most < 0:
        return
    caps = _depth_caps(document)
    if least > most:
        yield document.problem((*place, "min_depth"), f"larger than max_depth, {most:g}")
    elif caps and not any(least <= cap <= most for cap in caps):
        listed = ", ".join(map(str, caps))
        message = f"no depth of routing.depth_caps ({listed}) lies between min_depth and max_depth"
        yield document.problem((*place, "min_depth"), message)


def _team_problems(document: Document) -> Iterator[Problem]:
    models, tiers = section(document, "models"), section(document, "tiers")
    for name, grant in section(document, "teams").items():
        place = ("teams", name)
        if name == PLATFORM:
            message = f"'{PLATFORM}' names this document's own layer; give the team another name"
            yield document.problem(place, message, at_key=True)
        yield from references(document, (*place, "models"), grant.get("models"), "model", models)
        yield from references(document, (*place, "tiers"), grant.get("tiers"), "tier", tiers)
        depth = number(grant.get("max_depth"))
        for tier in strings(grant.get("tiers")):
            least = number(fields(tiers.get(tier)).get("min_depth"))
            if depth is not None and least is not None and least > depth:
                message = f"less than min_depth {least:g} of tier {shown(tier)}, which the team is granted"
                yield document.problem((*place, "max_depth"), message)


def _depth_caps(document: Document) -> list[int]:
    """The depths that the router considers; none where they are not whole numbers."""
    default = RoutingSpec.model_fields["depth_caps"].default
    caps = fields(fields(document.data).get("routing")).get("depth_caps", default)
    return caps if isinstance(caps, list) and all(type(cap) is int for cap in caps) else []


def _depth_problems(document: Document) -> Iterator[Problem]:
    routing = fields(fields(document.data).get("routing"))
    caps = routing.get("depth_caps")
    if not isinstance(caps, list) or not all(type(cap) is int for cap in caps):
        return
    if 0 not in caps:
        message = "must contain 0: the depth left when a drafter is away"
        yield document.problem(("routing", "depth_caps"), message)
    if sorted(set(caps)) != caps:
        yield document.problem(("routing", "depth_caps"), "must ascend, without repeats")
