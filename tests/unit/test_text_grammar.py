"""What may be asked of a text, what is refused and how, and that compiling is shared and safe."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import InvalidRequest, MissingExtra
from outrider.text import Matcher, TextModel, check_constraint, compile_constraint, grammar
from outrider.types import Constraint


@pytest.fixture(scope="module")
def text(worded: Path) -> TextModel:
    return TextModel.load(worded)


def schema(source: Any) -> Constraint:
    return Constraint("json_schema", source if isinstance(source, str) else json.dumps(source))


def regex(source: str) -> Constraint:
    return Constraint("regex", source)


def accepts(constraint: Constraint, text: TextModel, answer: str) -> bool:
    matcher = compile_constraint(constraint, text).matcher()
    tokens = text.encode(answer, add_special_tokens=False)
    return matcher.admissible(tokens) == len(tokens) and matcher.consume(tokens) and matcher.accepting


OBJECT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (
            schema(OBJECT),
            ['{"name":"Ann","age":3}', '{"name": "é🐟", "age": 150}', '{\n  "name": "\\u00e9",\n  "age": 0\n}'],
            ['{"name":"Anna","age":3}', '{"name":"A","age":151}', '{"name":"A"}', '{"name":"A","age":3,"x":1}', "hi"],
        ),
        (schema({"type": "integer", "multipleOf": 5}), ["0", "-15", "20"], ["7", "1.5", "05"]),
        (schema({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 7}]}), ["3", "7"], ["2", "8"]),
        (schema(True), ['"x"', "[1, null]", "{}"], ["", "nul"]),
        (schema({"enum": ["a", 1, None]}), ['"a"', "1", "null"], ['"b"', "2"]),
        (
            schema({"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}),
            ["[]", "[[],[[]]]"],
            ["[1]", "[[]"],
        ),
        (regex(r"(19|20)\d\d-(0[1-9]|1[0-2])"), ["1999-12", "2024-01"], ["1899-12", "2024-13", "2024-1"]),
        (regex("^ab*$"), ["a", "abb"], ["b", "ba", "ab\n"]),
        (regex(""), [""], ["a"]),
    ],
)
def test_texts_are_accepted_and_refused(
    text: TextModel, constraint: Constraint, good: list[str], bad: list[str]
) -> None:
    assert [answer for answer in good if not accepts(constraint, text, answer)] == []
    assert [answer for answer in bad if accepts(constraint, text, answer)] == []


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        (schema('{"type": "obj'), "does not parse"),
        (schema([]), "must be an object"),
        (schema({"type": "strin"}), "strin"),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema({"not": {"type": "string"}}), "not"),
        (schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf"),
        (schema({"$ref": "http://elsewhere/schema"}), "http://elsewhere/schema"),
        (schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
        (schema({"type": "string", "format": "no such format"}), "no such format"),
        (schema({"type": "integer", "minimum": 5, "maximum": 3}), "Unsatisfiable"),
        (schema(False), "must be an object"),
        (schema("[" * 50_000), "does not parse"),
        (schema('{"items":' * 900 + "{}" + "}" * 900), "nested"),
        (schema({"description": "x" * 200_000}), "longer than"),
        (regex("(a"), "unclosed group"),
        (regex(r"(a|b)\1"), "backreferences"),
        (regex(r"a(?!b)"), "look-around"),
        (regex(r"[^\s\S]"), "fits no text"),
        (regex("a\\"), "middle of an escape"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(text: TextModel, constraint: Constraint, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        check_constraint(constraint, text)
    assert caught.value.param == "response_format"
    assert len(caught.value.message) < 500


def test_special_tokens_are_never_part_of_a_text(text: TextModel) -> None:
    matcher = compile_constraint(regex(r"(.|\n)*"), text).matcher()
    [allowed], [may_end] = matcher.masks(())
    assert may_end
    assert text.special_ids
    assert not any(allowed[token] for token in text.special_ids)
    assert allowed[text.encode("<", add_special_tokens=False)[0]]


def test_a_grammar_without_end_goes_on_and_one_that_is_done_does_not(text: TextModel) -> None:
    def after(source: str, answer: str) -> Matcher:
        matcher = compile_constraint(regex(source), text).matcher()
        assert matcher.consume(text.encode(answer, add_special_tokens=False))
        return matcher

    assert after("ab*", "ab").accepting
    assert not after("ab*", "ab").complete
    assert after("ab?", "ab").complete
    assert not after("abc", "ab").accepting
    [allowed], [may_end] = after("ab?", "ab").masks(())
    assert may_end
    assert not allowed.any()


def test_whitespace_between_json_tokens_is_bounded(text: TextModel) -> None:
    assert accepts(schema({"type": "array"}), text, "[\n                1 ]")
    assert not accepts(schema({"type": "array"}), text, "[  1]")
    assert not accepts(schema({"type": "array"}), text, "[\n\n1]")


def test_a_grammar_is_compiled_once_and_matchers_are_apart(text: TextModel) -> None:
    one, other = (compile_constraint(regex("xy|xz"), text) for _ in range(2))
    assert one is other
    first, second = one.matcher(), one.matcher()
    assert first.consume(text.encode("xy", add_special_tokens=False))
    assert first.complete
    assert second.admissible(text.encode("xz", add_special_tokens=False)) == 2


def test_the_least_recently_used_grammar_is_forgotten(text: TextModel) -> None:
    first = compile_constraint(regex("first"), text)
    for number in range(grammar._KEPT_GRAMMARS - 1):
        compile_constraint(regex(f"other{number}"), text)
    assert compile_constraint(regex("first"), text) is first
    for number in range(grammar._KEPT_GRAMMARS):
        compile_constraint(regex(f"again{number}"), text)
    assert compile_constraint(regex("first"), text) is not first


def test_threads_compile_and_match_at_once(text: TextModel) -> None:
    def work(number: int) -> bool:
        return accepts(regex(f"thread{number % 5}(a|b)+"), text, f"thread{number % 5}abab")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


def test_without_the_library_the_error_says_what_to_install(text: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra, match="pip install llguidance"):
        check_constraint(regex("never compiled before"), text)
