"""Checks of answers: what is right, what is wrong, and code that misbehaves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from outrider.evals.checks import Check, Exact, Pattern, Property, find_code
from outrider.evals.sandbox import SandboxLimits, run_calls, same_value


def exact(answer: str | list[str], **more: Any) -> Exact:
    return Exact(type="exact", answer=answer, **more)


def runs(*calls: dict[str, str], **more: Any) -> Property:
    return Property.model_validate({"type": "property", "python_runs": {"calls": list(calls), **more}})


@pytest.mark.parametrize(
    ("check", "text", "right"),
    [
        (exact("42", extract="last_number"), "3 * 14 = 42.\nThe answer is 42.", True),
        (exact("42", extract="last_number"), "42 is not 43", False),
        (exact("1000", extract="last_number"), "about 1,000.00", True),
        (exact("-3", extract="last_number"), "4 - 7 = -3.", True),
        (exact("3", extract="last_number"), "10-3", True),
        (exact("7", extract="first_number"), "7 of 9", True),
        (exact("7", extract="last_number"), "seven", False),
        (exact("Paris"), "  `Paris`. ", True),
        (exact("Paris"), "paris", False),
        (exact("Paris", ignore_case=True), "PARIS", True),
        (exact("a b"), "a\n  b", True),
        (exact("a.", strip_punctuation=False), "a", False),
        (exact(["yes", "no"]), "no", True),
        (exact("é"), "e\N{COMBINING ACUTE ACCENT}", True),
        (exact("b", extract="last_line"), "a\nb\n\n", True),
        (Pattern(type="pattern", any=["a+", "b+"]), "xxbxx", True),
        (Pattern(type="pattern", any=["a+"], full_match=True), "aab", False),
        (Pattern(type="pattern", any=["a+"], full_match=True), " aaa\n", True),
        (Pattern(type="pattern", all=["a", "b"]), "ab", True),
        (Pattern(type="pattern", all=["a", "b"]), "aa", False),
        (Pattern(type="pattern", none=["(?i)sorry"]), "I am SORRY", False),
        (Pattern(type="pattern", none=["sorry"]), "", True),
        (Property(type="property", python_parses=True), "```python\nx = 1\n```", True),
        (Property(type="property", python_parses=True), "```python\nx = = 1\n```", False),
        (Property(type="property", json_valid=True), 'Sure:\n```json\n{"a": 1}\n```', True),
        (Property(type="property", json_keys=["a", "b"]), '{"a": 1}', False),
        (Property(type="property", max_words=2), "one two three", False),
        (Property(type="property", min_words=2, lines=1), "one two", True),
        (Property(type="property", contains=["A"], ignore_case=True), "an a", True),
        (Property(type="property", not_contains=["a"]), "an a", False),
        (Property(type="property", starts_with="an", ends_with="a"), " an a\n", True),
    ],
)
def test_right_and_wrong(check: Check, text: str, right: bool) -> None:
    verdict = check.judge(text)
    assert verdict.correct is right
    assert bool(verdict.why) is not right


def test_why_says_what_was_found() -> None:
    assert exact("48", extract="last_number").judge("it is 50").why == "expected '48', got '50'"
    assert exact("48", extract="last_number").judge("many").why == "no last number in the answer"
    assert "3 words, more than 2" in Property(type="property", max_words=2).judge("a b c").why


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "pattern"},
        {"type": "pattern", "any": ["("]},
        {"type": "property"},
        {"type": "exact", "answer": []},
        {"type": "property", "python_runs": {"calls": [{"call": "f(1)"}]}},
        {"type": "property", "python_runs": {"calls": [{"call": "f(1)", "returns": "x y"}]}},
        {"type": "property", "python_runs": {"calls": [{"call": "x = 1", "returns": "1"}]}},
    ],
)
def test_a_check_that_expects_nothing_or_nonsense_is_refused(fields: dict[str, Any]) -> None:
    kinds = {"pattern": Pattern, "property": Property, "exact": Exact}
    with pytest.raises(ValidationError):
        kinds[fields["type"]].model_validate(fields)


def test_code_is_run_and_compared() -> None:
    check = runs(
        {"call": "f(3)", "returns": "[3, 4]"},
        {"call": "f('a')", "raises": "TypeError"},
        {"call": "g()", "prints": "hi"},
    )
    right = "Here:\n```python\ndef f(x):\n    return [x, x + 1]\ndef g():\n    print('hi')\n```"
    assert check.judge(right).correct
    wrong = check.judge(right.replace("x + 1", "x + 2"))
    assert wrong.why == "f(3) should give '[3, 4]', but gave '[3, 5]'"
    assert "NameError: name 'g'" in check.judge(right.replace("def g", "def h")).why
    assert "should print 'hi', but printed 'ho'" in check.judge(right.replace("'hi'", "'ho'")).why
    assert check.judge("I cannot.").why.startswith("not valid Python")
    assert check.judge("```python\n```").why == "no code in the answer"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("while True: pass", "did not end within"),
        ("import time; time.sleep(60)", "did not end within"),
        ("x = [0] * 10**10", "MemoryError"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "not allowed"),
        ("import os; os.system('true')", "not allowed"),
        ("import subprocess; subprocess.run(['true'])", "not allowed"),
        ("open('/tmp/outrider-escaped', 'w')", "not allowed"),
        ("import os; os.remove('/tmp/outrider-none')", "not allowed"),
        ("import os; os._exit(0)", "reported nothing"),
        ("raise SystemExit", "SystemExit"),
        ("import os; os.write(1, b'[]'); os._exit(0)", "reported nothing"),
        ("print('x' * 10**9)", "MemoryError"),
    ],
)
def test_code_that_misbehaves_is_only_wrong(code: str, said: str) -> None:
    found = run_calls(code, ["1"], SandboxLimits(time_s=1.0))
    assert isinstance(found, str)
    assert said in found
    assert not Path("/tmp/outrider-escaped").exists()


def test_the_child_sees_no_environment_and_leaves_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_API_KEY", "secret")
    found = run_calls("import os\nopen('left', 'w').write('x')", ["'OUTRIDER_API_KEY' in os.environ", "os.getcwd()"])
    assert isinstance(found, list)
    assert found[0].value == "False"
    assert not os.path.exists(str(found[1].value).strip("'"))


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ("2", 2, True), ("2.0", 2, True), ("0.30000000000000004", 0.3, True), ("True", 1, False), ("1", True, False),
        ("(1, 2)", [1, 2], False), ("{'a': [1.0]}", {"a": [1]}, True), ("{2, 1}", {1, 2}, True), ("nan", 1.0, False),
        ("<object at 0x1>", 1, False), ("'1'", 1, False), ("1" * 5000, 1, False), (None, None, False),
    ],
)  # fmt: skip
def test_values_are_compared_as_values(got: str | None, expected: object, same: bool) -> None:
    assert same_value(got, expected) is same


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("Run:\n```bash\nls\n```\n```python\nx = 1\n```\n```py\ny = 2\n```", "x = 1\n\ny = 2\n"),
        ("```python\nx = 1", "x = 1"),
    ],
)
def test_code_is_found_in_an_answer(text: str, code: str) -> None:
    assert find_code(text) == code
