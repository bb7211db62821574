"""Results, comparisons of them, and qualities for a policy."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from outrider.errors import ConfigurationError, EvalMismatch
from outrider.evals import (
    Outcome,
    Result,
    compare,
    load_result,
    measured_quality,
    quality_yaml,
    with_quality,
    write_json,
)
from outrider.policy import load_policy, parse_policy

POLICY = Path(__file__).resolve().parents[2] / "policies/default.yaml"


def outcome(number: int, right: bool, domain: str = "maths", **more: object) -> Outcome:
    made = Outcome(
        domain, f"{domain}-{number}", f"digest-{number}", domain, str(number), "correct" if right else "wrong",
        prompt_tokens=10, completion_tokens=number, first_s=0.1, total_s=0.1 * (number + 1), cost_usd=0.5,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def result(right: list[bool], domain: str = "maths", model: str = "flash") -> Result:
    outcomes = [outcome(n, each, domain) for n, each in enumerate(right)]
    return Result.of(model, {"suites": {domain: "hash"}}, outcomes, limit=None)


def test_figures_of_a_run() -> None:
    outcomes = [outcome(n, n < 3) for n in range(4)]
    lost = outcome(9, False, outcome="error", prompt_tokens=None, completion_tokens=None, total_s=None, cost_usd=None)
    overall = Result.of("m", {}, [*outcomes, lost]).overall
    assert (overall.items, overall.correct, overall.wrong, overall.errors) == (5, 3, 1, 1)
    assert overall.accuracy == 0.6
    assert (overall.prompt_tokens, overall.completion_tokens) == (40, 6)
    assert overall.total_s_p50 == pytest.approx(0.25)
    assert overall.cost_usd == 2.0
    assert overall.cost_per_correct_usd == pytest.approx(2 / 3)


def test_what_is_not_known_is_not_nothing() -> None:
    overall = Result.of("m", {}, [outcome(0, True, cost_usd=None), outcome(1, False)]).overall
    assert overall.cost_usd is None
    assert overall.cost_per_correct_usd is None
    nothing_right = Result.of("m", {}, [outcome(0, False)]).overall
    assert nothing_right.cost_usd == 0.5
    assert nothing_right.cost_per_correct_usd is None


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    made = result([True, False, True])
    write_json(tmp_path / "r.json", made.as_dict())
    assert load_result(tmp_path / "r.json") == made
    assert list(tmp_path.iterdir()) == [tmp_path / "r.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a result"),
        ('{"kind": "outrider-eval-result", "format": 99}', "format 99"),
        ('{"kind": "outrider-eval-result", "format": 1, "outcomes": [{}]}', "damaged"),
        ('{"kind": "outrider-eval-result", "format": 1}', "damaged"),
    ],
)
def test_a_file_that_is_no_result_is_said(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(EvalMismatch, match=said):
        load_result(tmp_path / "r.json")
    with pytest.raises(EvalMismatch, match="no such file"):
        load_result(tmp_path / "none.json")


def test_better_worse_and_cannot_tell() -> None:
    weak, strong = result([n % 3 == 0 for n in range(90)]), result([n % 3 < 2 for n in range(90)])
    found = compare(weak, strong)["maths"]
    assert found.verdict == "better"
    assert (found.won, found.lost) == (30, 0)
    assert found.low > 0.2
    assert compare(strong, weak)["maths"].verdict == "worse"
    other = result([n % 3 == 1 for n in range(90)])
    assert compare(weak, other)["all"].verdict == "cannot tell"


def test_other_items_are_refused_unless_the_common_ones_are_asked_for() -> None:
    first, second = result([True] * 10), result([True] * 8)
    with pytest.raises(EvalMismatch, match=r"10 items against 8.*--common compares the 8"):
        compare(first, second)
    assert compare(first, second, common=True)["maths"].items == 8
    changed = Result.of("m", {"suites": {"maths": "new"}}, [replace(each, digest="x") for each in first.outcomes])
    with pytest.raises(EvalMismatch, match="suite maths: hash / new"):
        compare(first, changed)
    with pytest.raises(EvalMismatch, match="no item in common"):
        compare(first, changed, common=True)


def test_quality_is_the_accuracy_per_domain_and_default_their_mean() -> None:
    runs = [result([True, False], "maths"), result([True] * 4, "code"), result([True], "maths", "pro")]
    flash, pro = measured_quality(runs)
    assert flash.scores == {"default": 0.75, "maths": 0.5, "code": 1.0}
    assert quality_yaml(flash) == "  flash:\n    quality: {default: 0.750, maths: 0.500, code: 1.000}\n"
    assert pro.scores == {"default": 1.0, "maths": 1.0}
    careful = measured_quality([runs[1]], lower_bound=True)[0]
    assert careful.scores["code"] == pytest.approx(0.51, abs=0.01)
    with pytest.raises(EvalMismatch, match="two results measure flash on maths"):
        measured_quality([runs[0], runs[0]])
    with pytest.raises(EvalMismatch, match="results are of flash, pro"):
        measured_quality(runs, name="x")


def test_only_the_scores_of_the_model_change_in_a_policy() -> None:
    before = POLICY.read_text()
    quality = measured_quality([result([True, False], "maths"), result([True, True, False], "tasks")])[0]
    after = with_quality(before, "p", quality)
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 1
    policy = parse_policy(after).policy
    assert policy is not None
    old = load_policy(POLICY).models["flash"].quality
    expected = {**old, "default": 0.583, "maths": 0.5, "tasks": 0.667}
    assert policy.models["flash"].quality == expected
    assert policy.models["pro"] == load_policy(POLICY).models["pro"]
    assert policy.models["flash"].quality_for(["tasks"]) == 0.667


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_block_with_comments_keeps_them(newline: str) -> None:
    block = "    quality:  # measured in May\n      default: 0.40\n      maths: 0.45   # sums\n    # more below\n"
    before, replaced = re.subn(r"    quality: \{.*\}\n", block, POLICY.read_text(), count=1)
    assert replaced == 1
    before = before.replace("\n", newline)
    quality = measured_quality([result([True, False], "maths"), result([True], "tasks")])[0]
    after = with_quality(before, "p", quality)
    wanted = block.replace("0.40", "0.750").replace("0.45   # sums\n", "0.500   # sums\n      tasks: 1.000\n")
    assert after == before.replace(block.replace("\n", newline), wanted.replace("\n", newline))
    assert parse_policy(after).policy is not None


def test_a_model_the_policy_does_not_know_is_said() -> None:
    quality = measured_quality([result([True], model="flahs")])[0]
    with pytest.raises(ConfigurationError, match=r"unknown model 'flahs'; did you mean 'flash'\?"):
        with_quality(POLICY.read_text(), "p.yaml", quality)


def test_json_keeps_every_outcome(tmp_path: Path) -> None:
    made = result([True, False])
    text = json.dumps(made.as_dict())
    assert json.loads(text)["domains"]["maths"]["interval"] == "bootstrap"
    assert len(json.loads(text)["outcomes"]) == 2
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_json(tmp_path / "r.json" / "x.json", {}) if (tmp_path / "r.json").write_text("") == 0 else None
