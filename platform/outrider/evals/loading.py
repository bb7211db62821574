"""Suite files to suites, or to every reason why not at once; nothing is asked of a model before that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from outrider.documents import Document, Problem, check_model, read_document, read_text, schema_problems, shown, unknown
from outrider.errors import SuiteError
from outrider.evals.checks import CHECKS, Check
from outrider.evals.suite import Item, ItemSpec, Suite, SuiteSpec, make_item

__all__ = ["check_suite", "find_suite", "load_suite", "shipped_suites"]

SHIPPED = Path(__file__).parent / "suites"
_MOST_PROBLEMS = 50


def shipped_suites() -> list[Path]:
    """The suites that come with Outrider, by name."""
    return sorted(SHIPPED.glob("*.yaml"))


def find_suite(name: str | Path) -> Path:
    """The file of a suite: a path, or the name of a shipped one. Raises SuiteError."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    known = {each.stem: each for each in shipped_suites()}
    if str(name) in known:
        return known[str(name)]
    raise SuiteError(f"{unknown('suite', str(name), known)}; or give the path of a suite's YAML file", param="suite")


def load_suite(name: str | Path) -> Suite:
    """Read a suite and all its items.

    Raises SuiteError with one `file:line:column: field: text` per line: one broken item refuses the suite.
    """
    suite, problems = check_suite(find_suite(name))
    if suite is None:
        lines = [str(problem) for problem in problems[:_MOST_PROBLEMS]]
        if len(problems) > _MOST_PROBLEMS:
            lines.append(f"… and {len(problems) - _MOST_PROBLEMS} more problems")
        raise SuiteError("\n".join(lines))
    return suite


def check_suite(path: Path) -> tuple[Suite | None, tuple[Problem, ...]]:
    """As `load_suite`, but problems come back as values."""
    text = read_text(path, "suite")
    if isinstance(text, Problem):
        return None, (text,)
    document = read_document(text, str(path), "suite")
    spec, problems = check_model(document, SuiteSpec, "suite")
    if spec is None:
        return None, problems
    file = path.parent / spec.items
    lines = read_text(file, "suite's items")
    if isinstance(lines, Problem):
        place = document.problem(("items",), f"{file}: {lines.message}")
        return None, (place,)
    if spec.check.get("type", "exact") not in CHECKS:
        return None, (document.problem(("check", "type"), unknown("check", str(spec.check["type"]), CHECKS)),)
    found = list(_items(lines, str(file), spec))
    broken = tuple(each for each in found if isinstance(each, Problem))
    items = tuple(each for each in found if isinstance(each, Item))
    if not found:
        broken = (Problem(str(file), 1, 1, "", "holds no item; a suite has one at least"),)
    if broken:
        return None, broken
    return Suite(spec.name, spec.domain, spec.description, spec.license, spec.sampling, items), ()


def _items(text: str, file: str, spec: SuiteSpec) -> Iterator[Item | Problem]:
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        record = _record(line, file, number)
        if isinstance(record, Problem):
            yield record
            continue
        place = Document(file, record, values={(): (number, 1)})
        try:
            item = ItemSpec.model_validate(record)
        except ValidationError as error:
            yield from (_named(each, record) for each in schema_problems(error, place, ItemSpec))
            continue
        if item.id in lines:
            message = f"{shown(item.id)} is the id of line {lines[item.id]} already; ids pair two runs, so each is once"
            yield place.problem(("id",), message)
        lines.setdefault(item.id, number)
        merged = _merged(spec.check, item.check)
        check = _check(merged, place)
        if isinstance(check, tuple):
            yield from (_named(each, record) for each in check)
        else:
            yield make_item(item, check, merged, spec.sampling)


def _record(line: str, file: str, number: int) -> dict[str, Any] | Problem:
    try:
        record = json.loads(line, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
        json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair cannot be sent to anyone
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg}; an item is one JSON object on one line"
        return Problem(file, number, error.colno, "", message)
    except (ValueError, RecursionError) as error:
        return Problem(file, number, 1, "", f"not usable JSON: {error}")
    if not isinstance(record, dict):
        return Problem(file, number, 1, "", 'an item is a JSON object such as {"id": "…", "prompt": "…", "check": {…}}')
    return record


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An item's check over the suite's; one of another type stands alone."""
    if own.get("type", defaults.get("type")) != defaults.get("type"):
        return dict(own)
    return {**defaults, **own}


def _check(fields: dict[str, Any], place: Document) -> Check | tuple[Problem, ...]:
    """The check that a mapping describes, or what is wrong with it."""
    kind = fields.get("type")
    if kind is None:
        message = f"this field is required, here or in the suite's check; known: {', '.join(CHECKS)}"
        return (place.problem(("check", "type"), message),)
    if not isinstance(kind, str) or kind not in CHECKS:
        return (place.problem(("check", "type"), unknown("check", str(kind), CHECKS)),)
    try:
        return CHECKS[kind].model_validate(fields)
    except ValidationError as error:
        found = schema_problems(error, place, CHECKS[kind])
        return tuple(replace(each, field=f"check.{each.field}" if each.field else "check") for each in found)


def _named(problem: Problem, record: Mapping[str, Any]) -> Problem:
    """The problem with its item's id, since people look items up by that."""
    name = record.get("id")
    return replace(problem, message=f"{problem.message} (item {shown(name)})") if isinstance(name, str) else problem
