"""YAML text to values with places."""

from __future__ import annotations

import pytest

from outrider.documents import read_document


def value_of(text: str) -> object:
    document = read_document(f"key: {text}\n", "f")
    assert document.complete
    assert not document.problems
    assert isinstance(document.data, dict)
    return document.data["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("False", False),
        ("yes", "yes"), ("on", "on"), ("1:30", "1:30"), ("0x1F", 31), ("0o17", 15), ("017", "017"), ("-3", -3),
        ("1e3", 1000.0), (".5", 0.5), ("-.inf", float("-inf")), ("1_000", "1_000"), ("'5'", "5"), ('"true"', "true"),
        ("2024-01-01", "2024-01-01"), ("1" * 64, "1" * 64), ("[1, a]", [1, "a"]), ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)  # fmt: skip
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text_whatever_they_look_like() -> None:
    document = read_document("1: a\ntrue: b\nnull: c\n", "f")
    assert document.data == {"1": "a", "true": "b", "null": "c"}


def test_places_are_one_based_and_count_characters() -> None:
    document = read_document("é:\n  ü: [x, ñ]\n", "f")
    assert document.keys[("é",)] == (1, 1)
    assert document.keys[("é", "ü")] == (2, 3)
    assert document.values[("é", "ü", 1)] == (2, 10)


def test_a_missing_place_falls_back_to_the_nearest_parent() -> None:
    document = read_document("a:\n  b: {c: 1}\n", "f")
    assert str(document.problem(("a", "b", "d"), "text")) == "f:2:3: a.b.d: text"
    assert str(document.problem((), "text")) == "f:1:1: text"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "f:2:1: a: duplicate key; it was first set on line 1"),
        ("a: {b: 1, c: 2, b: 3}", "f:1:17: a.b: duplicate key; it was first set on line 1"),
        ("a: &x 1", "f:1:4: a: a document may not use anchors and aliases ('x'); write it out"),
        ("a: [1, *x]", "f:1:8: a[1]: a document may not use anchors and aliases ('x'); write it out"),
        ("a: !!python/object:os.system x", "a document may not use the tag"),
        ("? [a]\n: 1", "f:1:3: a key must be plain text, not a list or a mapping"),
        ("a: 1\n---\nb: 1", "f:2:1: a second YAML document begins here; a document is a single one"),
        ("a:\n\tb: 1", "indent with spaces"),
        ("a: [1,\nb: 2", "not valid YAML"),
        ("a: 'x", "not valid YAML"),
        ("a: 1\nb: \x07", "f:2:4: YAML allows no control characters"),
    ],
)
def test_what_a_policy_may_not_hold(text: str, message: str) -> None:
    problems = read_document(text, "f").problems
    assert len(problems) == 1
    assert message in str(problems[0])


@pytest.mark.parametrize("brackets", ["[", "{a: ", "- "])
def test_nesting_is_bounded_without_recursion(brackets: str) -> None:
    problems = read_document(brackets * 100_000, "f").problems
    assert len(problems) == 1
    assert "nested deeper than 32 levels" in str(problems[0])


def test_of_a_duplicated_key_the_first_value_stays() -> None:
    document = read_document("a: {x: 1}\na: {y: 2}\nb: 3", "f")
    assert document.data == {"a": {"x": 1}, "b": 3}
    assert len(document.problems) == 1
