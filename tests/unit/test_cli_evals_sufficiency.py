"""`outrider eval sufficiency` as a person meets it: results in, a file and its figures out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from outrider.cli.evals import app
from outrider.errors import EvalMismatch, SuiteError
from outrider.evals import Outcome, Result, Suite, load_suite, write_json
from outrider.quality import load_assessor
from support.quality import make_pairs

PAIRS = make_pairs(700)


def call(*arguments: str | Path) -> str:
    ran = CliRunner().invoke(app, ["sufficiency", *map(str, arguments)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two suites in `suites`, and the results of two models over both."""
    folder = tmp_path_factory.mktemp("sufficiency")
    (folder / "suites").mkdir()
    suites = [write_suite(folder / "suites", domain) for domain in ("sums", "functions")]
    for model in ("small", "large"):
        write_json(folder / f"{model}.json", result(model, suites).as_dict())
    return folder


def write_suite(folder: Path, domain: str) -> Suite:
    items = [
        {"id": pair.group, "prompt": pair.text, "check": {"answer": "1"}} for pair in PAIRS if pair.domain == domain
    ]
    (folder / f"{domain}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / f"{domain}.yaml").write_text(
        f"name: {domain}\ndomain: {domain}\ndescription: d\nlicense: CC0-1.0\nitems: {domain}.jsonl\n"
        "check: {type: exact}\n"
    )
    return load_suite(folder / f"{domain}.yaml")


def result(model: str, suites: list[Suite]) -> Result:
    right = {pair.group: pair.correct[model] for pair in PAIRS}
    outcomes = [
        Outcome(s.name, i.id, i.digest, s.domain, i.group, "correct" if right[i.id] else "wrong")
        for s in suites
        for i in s.items
    ]
    outcomes[0] = Outcome(
        *(getattr(outcomes[0], name) for name in ("suite", "id", "digest", "domain", "group")), "error"
    )
    about = {
        "model": model,
        "weights": f"{model}-weights",
        "suites": {suite.name: suite.hash for suite in suites},
        "sampling": {suite.name: suite.sampling.model_dump() for suite in suites},
        "prices_usd_per_million": None,
    }
    return Result.of(model, about, outcomes)


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    given = (folder / "small.json", folder / "large.json", "--suites", folder / "suites")
    said = json.loads(call("fit", *given, "--out", folder / "fitted.quality", "--json"))
    assert said["fitted_on"]["models"] == {m: {"weights": f"{m}-weights"} for m in ("small", "large")}
    assert sum(said["fitted_on"]["items"].values()) == pytest.approx(0.75 * 699, abs=40)
    assert said["bytes"] == (folder / "fitted.quality").stat().st_size
    return folder / "fitted.quality"


def test_a_fitted_file_is_reported_on_and_asked(folder: Path, file: Path) -> None:
    given = (folder / "small.json", folder / "large.json", "--suites", folder / "suites", "--file", file)
    shown = call("report", *given, "--out", folder / "figures.json")
    assert "Estimates of a right answer" in shown
    assert "With a quality floor: small where" in shown
    figures = json.loads((folder / "figures.json").read_text())
    assert figures == json.loads(call("report", *given, "--json"))
    assert figures["models"]["small"]["skill"] > 0.2
    asked = json.loads(call("ask", "How many figs are 8 figs times 12 figs?", "--file", file, "--json"))
    assert asked["domain"] == "sums"
    assert asked["success"]["large"] > asked["success"]["small"]
    assert "no estimate" in call("ask", "Hello", "--file", file)
    assert "law" not in call("ask", "Hello", "--tag", "law", "--file", file)


def test_the_order_of_results_is_the_order_of_models(folder: Path, file: Path) -> None:
    assert load_assessor(file).sufficiency.models == ("small", "large")


def test_results_that_cannot_be_paired_are_refused(folder: Path, tmp_path: Path) -> None:
    small, large, out = folder / "small.json", folder / "large.json", tmp_path / "x.quality"
    with pytest.raises(EvalMismatch, match="not a shipped one: name its file by --suites"):
        call("fit", small, large, "--out", out)
    with pytest.raises(SuiteError, match="no suite"):
        call("fit", small, large, "--out", out, "--suites", tmp_path)
    changed = json.loads(large.read_text())
    changed["outcomes"][5]["digest"] = "else"
    write_json(tmp_path / "changed.json", changed)
    with pytest.raises(EvalMismatch, match="has changed since large was asked"):
        call("fit", small, tmp_path / "changed.json", "--out", out, "--suites", folder / "suites")
    changed = json.loads(large.read_text())
    changed["configuration"]["weights"] = "others"
    write_json(tmp_path / "other.json", changed)
    with pytest.raises(EvalMismatch, match="two different models"):
        call("fit", large, tmp_path / "other.json", "--out", out, "--suites", folder / "suites")
    changed = json.loads(large.read_text())
    changed["outcomes"] = changed["outcomes"][:1]
    write_json(tmp_path / "one.json", changed)
    with pytest.raises(EvalMismatch, match="no item in common"):
        call("fit", small, tmp_path / "one.json", "--out", out, "--suites", folder / "suites")
    assert not out.exists()
