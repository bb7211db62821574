"""Values of a document by kind, whatever else is in it.

Checks between parts of documents run on these, so that their errors come together with the schema's: whatever is not
of the expected kind is skipped here, because the schema has already complained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from outrider.documents import Document

__all__ = ["Mapping", "fields", "mappings", "number", "section", "strings"]

Mapping = dict[str, object]


def fields(value: object) -> Mapping:
    """A mapping as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def section(document: Document, name: str) -> dict[str, Mapping]:
    """The named mappings of a section; what is no mapping stands as an empty one, since it exists by name."""
    return {key: fields(value) for key, value in fields(fields(document.data).get(name)).items()}


def mappings(value: object) -> Iterator[tuple[int, Mapping]]:
    """The mappings in a list, each with its index."""
    for index, each in enumerate(value if isinstance(value, list) else []):
        if isinstance(each, dict):
            yield index, each


def strings(value: object) -> list[str]:
    """The texts in a list."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def number(value: object) -> float | None:
    """A finite number that is not a truth value, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
