"""The file that ships: fitted on the models that ship, small, and silent about what was never measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrider import demo_models
from outrider.cli.evals_local import weights_digest
from outrider.evals import load_suite, shipped_suites
from outrider.quality import OTHER, SHIPPED, Assessor, fingerprint, held_out, load_assessor

FIGURES = Path(__file__).resolve().parents[2] / "load_tests/results/control/quality.json"
AGAIN = "fit it again: platform/outrider/training/GUIDE.md tells how"

ALIKE = {
    "What is 64 / 8?": "maths",
    "Leo buys 4 tickets for 6 dollars each. How much does he pay?": "maths",
    "A bus has 5 rows of 4 seats. 7 seats are taken. How many are free?": "maths",
    "I need a function `average(scores)` that returns the average of the scores.": "code",
    "Write `swap(a, b)`, a function that returns b and a.": "code",
    "I need a Python function `double_all(numbers)` that doubles each of the numbers.": "code",
    "Reverse the order of these words: sun, moon, star": "tasks",
    "Sort these numbers from large to small: 3, 88, 41": "tasks",
    "Use the text to answer.\n\ndef walk(top):\n    Generate file names.\n\nWhat is the first argument?": "prose",
}
UNLIKE = [
    "Who painted the Mona Lisa?",
    "Write a birthday message for my grandmother.",
    "Give me feedback on this business plan: we sell umbrellas in the desert.",
    "Qual é a melhor época para visitar o Brasil?",
    "How many people live in Canada?",
    "Rewrite this more politely: send me the report now.",
    "帮我写一封请假邮件",
    '{"user": 1, "name": "x"}',
]


@pytest.fixture(scope="module")
def shipped() -> Assessor:
    return load_assessor()


def test_it_was_fitted_on_the_models_and_suites_that_ship(shipped: Assessor) -> None:
    for name, about in shipped.fitted_on["models"].items():
        assert about["weights"] == weights_digest(demo_models.path(name)), AGAIN
    for suite in map(load_suite, shipped_suites()):
        assert shipped.fitted_on["suites"][suite.name] == suite.hash, AGAIN


def test_it_is_small_and_its_figures_are_committed(shipped: Assessor) -> None:
    assert SHIPPED.stat().st_size < 100_000
    figures = json.loads(FIGURES.read_text())
    assert figures["fingerprint"] == fingerprint(shipped), AGAIN
    for model in ("flash", "pro"):
        found = figures["models"][model]
        assert found["skill_interval"]["low"] > 0.3
        assert found["calibration_error"] < 0.05


def test_held_out_items_of_the_suites_have_estimates_and_their_domain(shipped: Assessor) -> None:
    for suite in map(load_suite, shipped_suites()):
        unseen = [item for item in suite.items if held_out(item.group, shipped.fitted_on["held_out_share"])]
        found = [shipped.assess(item.messages[-1]["content"]) for item in unseen]
        assert sum(each.domain == suite.domain for each in found) >= 0.99 * len(unseen)
        assert sum(set(each.success) == {"flash", "pro"} for each in found) >= 0.95 * len(unseen)


@pytest.mark.parametrize("text", ALIKE)
def test_prompts_like_the_suites_have_their_domain(shipped: Assessor, text: str) -> None:
    assert shipped.assess(text).domain == ALIKE[text]


@pytest.mark.parametrize("text", UNLIKE)
def test_other_prompts_have_none_and_no_estimates(shipped: Assessor, text: str) -> None:
    found = shipped.assess(text)
    assert (found.domain, dict(found.success)) == (OTHER, {})


def test_pro_is_estimated_higher_where_it_is_better(shipped: Assessor) -> None:
    success = shipped.assess("Ella has 43 cookies. Ella gets 25 more and then loses 9. How many cookies now?").success
    assert success["pro"] > success["flash"] + 0.1
