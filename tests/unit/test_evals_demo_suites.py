"""The shipped suites: held out, answerable, not answerable by anything, and made by the generator that says so."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from outrider.evals import Suite, find_suite, load_suite, shipped_suites
from outrider.evals.checks import Pattern
from outrider.training.data import build_corpus
from outrider.training.data.document import split_of
from outrider.training.demo_suites import ITEMS_PER_SUITE, _answer_patterns, _prose, further_items, suite_items

NAMES = ("code", "maths", "prose", "tasks")
LARGEST_BYTES = 350_000


@cache
def loaded(name: str) -> Suite:
    return load_suite(name)


@cache
def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in find_suite(name).with_suffix(".jsonl").read_text().splitlines()]


def reference(record: dict[str, Any]) -> str:
    return str(record.get("reference") or record["check"]["answer"])


def source(name: str, record: dict[str, Any]) -> str:
    """The key of the split, as the corpus has it."""
    if name == "code":
        return f"snippet:{record['group']}"
    return str(record["group"]).rpartition(":")[0] if name == "prose" else str(record["prompt"])


def test_four_suites_ship() -> None:
    assert [path.stem for path in shipped_suites()] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_size_and_licence(name: str) -> None:
    suite = loaded(name)
    assert len(suite.items) == ITEMS_PER_SUITE >= 600
    assert suite.domain == name
    assert "Apache-2.0" in suite.license
    assert ("PSF" in suite.license) is (name == "prose")
    assert find_suite(name).with_suffix(".jsonl").stat().st_size < LARGEST_BYTES
    assert (suite.sampling.temperature, suite.sampling.max_tokens) == (0.0, 200)


@pytest.mark.parametrize("name", NAMES)
def test_every_item_is_held_out(name: str) -> None:
    assert all(split_of(source(name, record)) == "heldout" for record in records(name))
    assert len({record["prompt"] for record in records(name)}) == ITEMS_PER_SUITE


@cache
def trained_questions() -> frozenset[str]:
    corpus = build_corpus(scale=0.05)
    documents = [*corpus.train, *corpus.final]
    return frozenset(turn["content"] for each in documents for turn in each.messages if turn["role"] == "user")


@pytest.mark.parametrize("name", NAMES)
def test_no_question_was_trained_on(name: str) -> None:
    assert len(trained_questions()) > 1000
    assert not trained_questions() & {record["prompt"] for record in records(name)}


@pytest.mark.parametrize("name", NAMES)
def test_the_right_answer_passes_and_a_wrong_one_fails(name: str) -> None:
    """All items; code, which is run, by a sample. Wrong: the answer of another item with another result."""
    suite, every = loaded(name), records(name)
    numbers = random.Random(5).sample(range(len(every)), 40) if name == "code" else range(len(every))
    for number in numbers:
        check, right = suite.items[number].check, reference(every[number])
        assert check.judge(right).correct, suite.items[number].id
        wrong = right.replace("return", "return None and") if name == "code" else "I do not know."
        wrong = wrong.replace("print(i)", "print(i + 1)")
        assert not check.judge(wrong).correct, suite.items[number].id
        assert not check.judge("").correct


@pytest.mark.parametrize("name", ["maths", "prose", "tasks"])
def test_other_items_answers_seldom_pass(name: str) -> None:
    """Small counts and sums coincide; a check that lets anything through would not stay below one in twenty."""
    suite, answers = loaded(name), [reference(record) for record in records(name)]
    passed = sum(item.check.judge(answers[n - 7]).correct for n, item in enumerate(suite.items))
    assert passed < len(answers) / 20


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("`timeout`", True), ("timeout", True), ("timeout.", True), ("It is called `timeout`.", True),
        ("The first argument is `timeout`, in seconds.", True), ("`time`", False),
        ("It has a timeout somewhere", False), ("`timeouts`", False), ("`path` or maybe `x`" * 20 + "`timeout`", False),
    ],
)  # fmt: skip
def test_prose_patterns_tolerate_wording_and_nothing_else(said: str, right: bool) -> None:
    check = Pattern(type="pattern", full_match=True, any=_answer_patterns("`timeout`"))
    assert check.judge(said).correct is right


@pytest.mark.parametrize("name", ["code", "maths", "tasks"])
def test_the_generator_makes_the_shipped_items_again(name: str) -> None:
    assert suite_items(name) == records(name)


def test_prose_is_made_in_the_shipped_form(tmp_path: Path) -> None:
    """Its passages are of the Python that runs this, so only the form is the same everywhere."""
    made = [{"id": f"prose-{n}", **each} for n, each in enumerate(_prose(12, random.Random(3), stride=6))]
    assert len(made) == 12
    assert {frozenset(record) for record in made} == {frozenset(record) for record in records("prose")}
    assert all(split_of(source("prose", record)) == "heldout" for record in made)
    shape = Path(find_suite("prose")).read_text().replace("prose.jsonl", "made.jsonl")
    (tmp_path / "made.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    (tmp_path / "made.yaml").write_text(shape)
    suite = load_suite(tmp_path / "made.yaml")
    assert all(item.check.judge(reference(record)).correct for item, record in zip(suite.items, made, strict=True))


@pytest.mark.parametrize("name", ["code", "maths", "tasks"])
def test_further_items_are_held_out_too_and_none_of_the_suites(name: str) -> None:
    used = {str(record["prompt"]) for record in records(name)}
    found = further_items(name, 200, used)
    prompts = [str(record["prompt"]) for record in found]
    assert len(set(prompts)) == 200
    assert not used & set(prompts)
    assert all(split_of(source(name, record)) == "heldout" for record in found)
    assert found == further_items(name, 200, used)
