"""The schema of policy documents as JSON Schema, for editors and for other tools."""

from __future__ import annotations

from outrider.policy.schema import PolicySpec, TeamFileSpec

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(*, team: bool = False) -> dict[str, object]:
    """The JSON Schema (2020-12) of the platform's document, or of a team's.

    It holds fields, kinds, ranges and allowed words. What goes across parts of documents (references, grants, targets
    that cannot be met) only `outrider policy check` sees.
    """
    model = TeamFileSpec if team else PolicySpec
    found: dict[str, object] = model.model_json_schema()
    _tidy(found)
    title = "Outrider policy, a team's document" if team else "Outrider policy"
    return {"$schema": _DIALECT, **found, "title": title}


def _tidy(node: object) -> None:
    """Close mappings whose names have a pattern, and drop titles that only repeat field names."""
    if isinstance(node, dict):
        if "patternProperties" in node:
            node["additionalProperties"] = False
        if isinstance(node.get("title"), str):
            del node["title"]
        for child in node.values():
            _tidy(child)
    elif isinstance(node, list):
        for child in node:
            _tidy(child)
