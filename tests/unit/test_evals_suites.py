"""Suites that a team writes: what loads, and what is said about what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import SuiteError
from outrider.evals import find_suite, json_schemas, load_suite

SUITE = """\
name: capitals
domain: facts
description: Capitals of countries.
license: CC0-1.0
items: items.jsonl
sampling: {max_tokens: 16}
check: {type: exact, ignore_case: true}
"""
ITEMS: list[dict[str, Any]] = [
    {"id": "fr", "prompt": "Capital of France?", "check": {"answer": "Paris"}},
    {"id": "de", "messages": [{"role": "user", "content": "Capital of Germany?"}], "check": {"answer": "Berlin"}},
    {"id": "it", "prompt": "Capital of Italy?", "check": {"type": "pattern", "any": ["Roma|Rome"]}, "group": "south"},
]


def written(folder: Path, suite: str = SUITE, items: list[Any] | str = ITEMS) -> Path:
    text = items if isinstance(items, str) else "".join(json.dumps(item) + "\n" for item in items)
    (folder / "items.jsonl").write_text(text)
    (folder / "suite.yaml").write_text(suite)
    return folder / "suite.yaml"


def refusal(path: Path) -> str:
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    return caught.value.message


def test_an_item_s_check_is_laid_over_the_suite_s(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path))
    first, second, third = suite.items
    assert first.check.judge("PARIS").correct
    assert second.messages == ({"role": "user", "content": "Capital of Germany?"},)
    assert third.check.judge("Rome").correct
    assert (first.group, third.group) == ("fr", "south")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"id": "x", "prompt": "?", "chekc": {}}, "chekc: unknown field 'chekc'; did you mean 'check'?"),
        ({"id": "x", "prompt": "?", "check": {"anwser": "a"}}, "check.anwser: unknown field 'anwser'; did you mean"),
        ({"id": "x", "prompt": "?", "check": {"type": "exakt"}}, "unknown check 'exakt'; did you mean 'exact'?"),
        ({"id": "x", "prompt": "?"}, "check.answer: this field is required"),
        ({"id": "x", "check": {"answer": "a"}}, "give either 'prompt' or 'messages'"),
        ({"id": "x", "prompt": "?", "check": {"type": "pattern", "any": ["("]}}, "check.any[0]: not a regular"),
        ({"id": "fr", "prompt": "?", "check": {"answer": "a"}}, "'fr' is the id of line 1 already"),
        ({"id": "x", "messages": [{"role": "assistant", "content": "a"}], "check": {"answer": "a"}}, "be the user's"),
        ({"id": "x", "prompt": 3, "check": {"answer": "a"}}, "prompt: expected text, got 3"),
        ({"prompt": "?", "check": {"answer": "a"}}, "id: this field is required"),
        ([1], "an item is a JSON object"),
        ({"id": "x", "prompt": "\ud800", "check": {"answer": "a"}}, "not usable JSON"),
    ],
)  # fmt: skip
def test_one_broken_item_refuses_the_suite_and_says_where(tmp_path: Path, item: Any, said: str) -> None:
    message = refusal(written(tmp_path, items=[*ITEMS, item]))
    assert message.startswith(f"{tmp_path / 'items.jsonl'}:4:1: ")
    assert said in message


def test_all_problems_are_said_at_once_with_their_lines(tmp_path: Path) -> None:
    text = '{"id": "a", "prompt": "?"}\n\n{"id": 1}\n{"id": "b", "id": "c"}\n{broken\n'
    lines = refusal(written(tmp_path, items=text)).splitlines()
    places = [line.removeprefix(str(tmp_path / "items.jsonl")).split(":")[1] for line in lines]
    assert places == sorted(places)
    assert {"1", "3", "4", "5"} == set(places)
    assert any("'id' is given twice" in line for line in lines)


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("domain: facts", "domian: facts", 2, "domian: unknown field 'domian'; did you mean 'domain'?"),
        ("max_tokens: 16", "max_tokens: 0", 6, "sampling.max_tokens: must be at least 1"),
        ("type: exact", "type: exat", 7, "check.type: unknown check 'exat'; did you mean 'exact'?"),
        ("items.jsonl", "none.jsonl", 5, "none.jsonl: no such file"),
        ("name: capitals", "name: Capital Cities", 1, "name: a name is 1 to 64"),
        ("license: CC0-1.0\n", "", 1, "license: this field is required"),
    ],
)
def test_a_broken_suite_file_names_line_field_and_fix(
    tmp_path: Path, before: str, after: str, line: int, said: str
) -> None:
    message = refusal(written(tmp_path, SUITE.replace(before, after)))
    at_place = [each for each in message.splitlines() if each.startswith(f"{tmp_path / 'suite.yaml'}:{line}:")]
    assert any(said in each for each in at_place)


@pytest.mark.parametrize("items", ["", "\n\n"])
def test_a_suite_without_items_is_refused(tmp_path: Path, items: str) -> None:
    assert "holds no item" in refusal(written(tmp_path, items=items))


def test_an_unknown_name_gets_the_closest_one(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="did you mean 'maths'"):
        find_suite("math")
    assert "no such file" in refusal(tmp_path / "nothing.yaml")


def test_the_hash_covers_questions_checks_and_sampling_only(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path))
    same = SUITE.replace("Capitals of countries.", "Other words.").replace("CC0-1.0", "MIT")
    assert load_suite(written(tmp_path, same, ITEMS[::-1])).hash == suite.hash
    for other in (SUITE.replace("16", "17"), SUITE.replace("true", "false"), SUITE.replace("facts", "geography")):
        assert load_suite(written(tmp_path, other)).hash != suite.hash
    asked_otherwise = [*ITEMS[:2], ITEMS[2] | {"prompt": "Italy's capital?"}]
    assert load_suite(written(tmp_path, items=asked_otherwise)).hash != suite.hash


def test_a_system_prompt_stands_first_and_can_be_overridden(tmp_path: Path) -> None:
    plain = load_suite(written(tmp_path))
    briefed = load_suite(written(tmp_path, SUITE.replace("max_tokens: 16", "max_tokens: 16, system: Be brief.")))
    assert briefed.items[0].messages[0] == {"role": "system", "content": "Be brief."}
    other = briefed.sampled({"system": "Be long.", "temperature": 1.0})
    assert other.items[0].messages == ({"role": "system", "content": "Be long."}, *plain.items[0].messages)
    assert len({plain.hash, briefed.hash, other.hash}) == 3
    assert briefed.sampled({}) is briefed


def test_a_small_sample_is_part_of_a_larger_one(tmp_path: Path) -> None:
    items = [{"id": f"i{n}", "prompt": "?", "check": {"answer": "a"}} for n in range(50)]
    suite = load_suite(written(tmp_path, items=items))
    small, large = ({item.id for item in suite.sample(n)} for n in (5, 20))
    assert len(small) == 5
    assert small < large
    assert suite.sample(None) == suite.sample(99) == suite.items


def test_schemas_know_the_fields_of_suite_and_items() -> None:
    schemas = json_schemas()
    assert {"name", "domain", "items", "check"} <= set(schemas["suite"]["properties"])
    assert schemas["item"]["additionalProperties"] is False
    kinds = schemas["item"]["properties"]["check"]["anyOf"]
    assert {kind["properties"]["type"]["const"] for kind in kinds} == {"exact", "pattern", "property"}
    assert "PythonCall" in schemas["item"]["$defs"]
