"""Names that must exist, and lists that must not repeat themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from outrider.documents import Document, Path, Problem, shown, unknown

__all__ = ["reference", "references", "repeats"]


def reference(document: Document, path: Path, name: object, kind: str, known: Collection[str]) -> Iterator[Problem]:
    """The name at `path` is one of those known."""
    if isinstance(name, str) and name not in known:
        yield document.problem(path, unknown(kind, name, known))


def references(document: Document, path: Path, names: object, kind: str, known: Collection[str]) -> Iterator[Problem]:
    """Each name of a list exists and stands there once."""
    for index, name in enumerate(names if isinstance(names, list) else []):
        yield from reference(document, (*path, index), name, kind, known)
    yield from repeats(document, path, names, kind)


def repeats(document: Document, path: Path, names: object, kind: str) -> Iterator[Problem]:
    """Each name of a list stands there once."""
    seen: set[str] = set()
    for index, name in enumerate(names if isinstance(names, list) else []):
        if isinstance(name, str):
            if name in seen:
                yield document.problem((*path, index), f"{kind} {shown(name)} is listed twice")
            seen.add(name)
