"""What a schema cannot say: references, uniqueness, and settings that are legal but surprising.

Errors are found on the raw values, so that they are reported together with schema errors elsewhere in the
document; whatever is not of the expected kind is skipped here, because the schema has already complained.
"""

from __future__ import annotations

from collections.abc import Iterator

from outrider.documents import Document, Path, Problem, shown, unknown
from outrider.policy.keys import DEMO_KEY, hash_key
from outrider.policy.model import DEFAULT_DOMAIN
from outrider.policy.schema import AUTO, PolicySpec

__all__ = ["cross_problems", "warnings"]


def cross_problems(document: Document) -> Iterator[Problem]:
    """Errors between the parts of a document."""
    models, classes, tiers = (_section(document, name) for name in ("models", "batch_classes", "tiers"))
    yield from _model_problems(document, models)
    for name, tier in tiers.items():
        place = ("tiers", name)
        chosen, also = tier.get("batch_class"), tier.get("also_batch_classes")
        yield from _reference(document, (*place, "batch_class"), chosen, "batch class", classes)
        yield from _references(document, (*place, "also_batch_classes"), also, "batch class", classes)
    for name, tenant in _section(document, "tenants").items():
        place = ("tenants", name)
        yield from _reference(document, (*place, "tier"), tenant.get("tier"), "tier", tiers)
        yield from _references(document, (*place, "models"), tenant.get("models"), "model", models)
    yield from _key_problems(document)
    yield from _depth_problems(document)


def _section(document: Document, name: str) -> dict[str, dict[str, object]]:
    """The named mappings of a section; what is no mapping stands as an empty one, since it exists by name."""
    root = document.data if isinstance(document.data, dict) else {}
    section = root.get(name)
    if not isinstance(section, dict):
        return {}
    return {key: value if isinstance(value, dict) else {} for key, value in section.items()}


def _reference(
    document: Document, path: Path, name: object, kind: str, known: dict[str, dict[str, object]]
) -> Iterator[Problem]:
    if isinstance(name, str) and name not in known:
        yield document.problem(path, unknown(kind, name, known))


def _references(
    document: Document, path: Path, names: object, kind: str, known: dict[str, dict[str, object]]
) -> Iterator[Problem]:
    """Each name of a list exists and stands there once."""
    if not isinstance(names, list):
        return
    for index, name in enumerate(names):
        yield from _reference(document, (*path, index), name, kind, known)
        if isinstance(name, str) and name in names[:index]:
            yield document.problem((*path, index), f"{kind} {shown(name)} is listed twice")


def _model_problems(document: Document, models: dict[str, dict[str, object]]) -> Iterator[Problem]:
    for name, model in models.items():
        if name == AUTO:
            message = f"'{AUTO}' is how tenants leave the choice open; give the model another name"
            yield document.problem(("models", name), message, at_key=True)
        quality = model.get("quality")
        if isinstance(quality, dict) and quality and DEFAULT_DOMAIN not in quality:
            message = f"'{DEFAULT_DOMAIN}' is required: it answers for every domain not named"
            yield document.problem(("models", name, "quality"), message, at_key=True)


def _key_problems(document: Document) -> Iterator[Problem]:
    """A key names one tenant."""
    owners: dict[str, str] = {}
    for name, tenant in _section(document, "tenants").items():
        keys = tenant.get("keys")
        for index, key in enumerate(keys if isinstance(keys, list) else []):
            digest = key.get("sha256") if isinstance(key, dict) else None
            if not isinstance(digest, str):
                continue
            if digest in owners:
                message = f"this key already belongs to tenant {shown(owners[digest])}"
                yield document.problem(("tenants", name, "keys", index, "sha256"), message)
            owners.setdefault(digest, name)


def _depth_problems(document: Document) -> Iterator[Problem]:
    routing = document.data.get("routing") if isinstance(document.data, dict) else None
    caps = routing.get("depth_caps") if isinstance(routing, dict) else None
    if not isinstance(caps, list) or not all(type(cap) is int for cap in caps):
        return
    if 0 not in caps:
        message = "must contain 0: the depth left when a drafter is away"
        yield document.problem(("routing", "depth_caps"), message)
    if sorted(set(caps)) != caps:
        yield document.problem(("routing", "depth_caps"), "must ascend, without repeats")


def warnings(spec: PolicySpec, document: Document) -> Iterator[Problem]:
    """Legal but probably not meant."""
    demo = hash_key(DEMO_KEY)
    for name, tenant in spec.tenants.items():
        for index, key in enumerate(tenant.keys):
            if key.sha256 == demo:
                message = "this is the documented demo key, known to all; replace it with `outrider keys new`"
                yield document.problem(("tenants", name, "keys", index, "sha256"), message)
        if not tenant.keys:
            yield document.problem(("tenants", name, "keys"), "no key: nobody can call as this tenant")
        bound = spec.tiers[tenant.tier].max_depth
        if tenant.max_depth is not None and tenant.max_depth > bound:
            message = f"has no effect: tier '{tenant.tier}' allows {bound} at most"
            yield document.problem(("tenants", name, "max_depth"), message)
    granted = {model for tenant in spec.tenants.values() for model in tenant.models}
    for name in spec.models:
        if name not in granted:
            yield document.problem(("models", name), "no tenant may use it", at_key=True)
