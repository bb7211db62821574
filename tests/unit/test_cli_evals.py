"""`outrider eval` as a person meets it: a tiny model, real files, exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from outrider.cli.evals import app
from outrider.cli.evals_local import weights_digest
from outrider.errors import ConfigurationError, EndpointError, EvalMismatch, SuiteError
from outrider.evals import Outcome, Result, write_json
from outrider.policy import load_policy

POLICY = Path(__file__).resolve().parents[2] / "policies/default.yaml"


def call(*arguments: str | Path, code: int = 0) -> str:
    ran = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert ran.exit_code == code, ran.output
    return ran.output


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Six items; the tiny model says nothing sensible, but `any` text passes every second one."""
    items = [
        {"id": f"i{n}", "prompt": "hello " * n + "there", "check": {"any": ["(?s).*" if n % 2 else "impossible"]}}
        for n in range(6)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "suite.yaml").write_text(
        "name: tiny\ndomain: prose\ndescription: Anything.\nlicense: CC0-1.0\nitems: items.jsonl\n"
        "sampling: {max_tokens: 6}\ncheck: {type: pattern}\n"
    )
    return tmp_path / "suite.yaml"


def saved(path: Path, right: list[bool], model: str = "flash") -> Path:
    outcomes = [
        Outcome("s", str(n), "d", "maths", str(n), "correct" if each else "wrong", total_s=1.0)
        for n, each in enumerate(right)
    ]
    write_json(path, Result.of(model, {}, outcomes).as_dict())
    return path


@pytest.mark.usefixtures("given_curve")
def test_a_model_directory_is_asked_and_goes_on(
    suite: Path, worded: Path, worded_drafter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.json"
    options = ("--target", worded, "--model", "flash", "--out", out, "--policy", POLICY, "--concurrency", "3")
    shown = call("run", suite, *options, "--drafter", worded_drafter)
    assert "prose" in shown
    assert "50.0%" in shown
    made = json.loads(out.read_text())
    assert made["model"] == "flash"
    assert made["overall"]["correct"] == 3
    assert made["overall"]["completion_tokens"] <= 36
    assert made["overall"]["cost_usd"] > 0
    assert str(tmp_path) not in json.dumps(made["configuration"])
    lines = out.with_suffix(".jsonl").read_text().splitlines()
    assert len(lines) == 7
    out.with_suffix(".jsonl").write_text("\n".join(lines[:5]) + "\n")
    again = json.loads(call("run", suite, *options, "--drafter", worded_drafter, "--json"))
    assert again["run"]["outcomes_kept_from_before"] == 4
    assert json.loads(out.read_text())["overall"]["correct"] == 3
    with pytest.raises(EvalMismatch, match="drafter was"):
        call("run", suite, *options)
    plain = json.loads(call("run", suite, *options, "--restart", "--json"))
    assert plain["overall"]["correct"] == 3
    assert out.with_suffix(".jsonl.old").exists()
    answers = [{each["id"]: each["answer"] for each in json.loads(text)["outcomes"]} for text in (json.dumps(made),)]
    assert answers[0] == {each["id"]: each["answer"] for each in json.loads(out.read_text())["outcomes"]}


@pytest.mark.usefixtures("given_curve")
def test_a_prompt_that_does_not_fit_is_one_error(suite: Path, worded: Path, tmp_path: Path) -> None:
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    lines.append(json.dumps({"id": "long", "prompt": "x" * 4000, "check": {"any": ["."]}}))
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    made = json.loads(call("run", suite, "--target", worded, "--out", tmp_path / "r.json", "--json"))
    assert (made["overall"]["items"], made["overall"]["errors"]) == (7, 1)


def test_a_broken_item_refuses_the_run_before_anything_is_asked(suite: Path, tmp_path: Path) -> None:
    with open(tmp_path / "items.jsonl", "a") as stream:
        stream.write('{"id": "x"}\n')
    with pytest.raises(SuiteError, match=r"items\.jsonl:7:1"):
        call("run", suite, "--url", "http://127.0.0.1:9", "--model", "m", "--out", tmp_path / "r.json")
    assert not list(tmp_path.glob("r.*"))
    assert "items.jsonl:7:1" in call("check", suite, code=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give --url URL --model NAME, or --target DIR"),
        (("--url", "http://x", "--target", "d"), "give --url"),
        (("--url", "http://x"), "--url needs --model"),
        (("--url", "http://x", "--model", "m", "--drafter", "d"), "--drafter belongs to --target"),
        (("--url", "http://x", "--model", "m", "--out", "r.txt"), "ends in .json"),
        (("--url", "http://x", "--model", "m", "--input-price", "1"), "together"),
        (("--url", "http://x", "--model", "m", "--policy", str(POLICY)), "no model 'm'; known: flash, pro"),
    ],
)
def test_options_that_do_not_fit_are_said(suite: Path, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said.replace(".", r"\.")):
        call("run", suite, *options)


def test_an_absent_endpoint_keeps_nothing_but_the_header(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    options = ("--url", "http://127.0.0.1:9", "--model", "m", "--out", out, "--retries", "0", "--give-up-after", "3")
    with pytest.raises(EndpointError, match=r"no connection to http://127\.0\.0\.1:9"):
        call("run", suite, *options)
    assert not out.exists()
    assert out.with_suffix(".jsonl").exists()


def test_list_show_check_and_schema() -> None:
    listed = json.loads(call("list", "--json"))
    assert [each["name"] for each in listed] == ["code", "maths", "prose", "tasks"]
    assert "maths" in call("list")
    shown: dict[str, Any] = json.loads(call("show", "maths", "--items", "2", "--json"))
    assert len(shown["shown"]) == 2
    assert shown["shown"][0]["check"]["extract"] == "last_number"
    assert "user:" in call("show", "tasks")
    assert "640 items, valid; 640 references pass" in call("check", "prose")
    assert json.loads(call("schema", "item"))["title"] == "Outrider eval item"
    call("schema", "sweet", code=2)


def test_a_reference_that_fails_its_own_check_is_found(suite: Path, tmp_path: Path) -> None:
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"reference": "possible"})
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    assert "item i0: its own reference fails its check" in call("check", suite, code=1)


def test_compare_says_and_exits(tmp_path: Path) -> None:
    weak, strong = saved(tmp_path / "a.json", [False] * 20), saved(tmp_path / "b.json", [True] * 20, "pro")
    assert "better" in call("compare", weak, strong, "--fail-if", "worse")
    assert "worse" in call("compare", strong, weak)
    call("compare", strong, weak, "--fail-if", "worse", code=3)
    call("compare", weak, weak, "--fail-if", "worse")
    call("compare", weak, weak, "--fail-if", "not-better", code=3)
    call("compare", weak, weak, "--fail-if", "wrose", code=2)
    found = json.loads(call("compare", weak, strong, "--json"))
    assert found["domains"]["maths"]["verdict"] == found["domains"]["all"]["verdict"] == "better"
    with pytest.raises(EvalMismatch, match="--common"):
        call("compare", weak, saved(tmp_path / "c.json", [True] * 3))


def test_quality_is_written_into_a_policy(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    shutil.copy(POLICY, file)
    file.chmod(0o640)
    run = saved(tmp_path / "a.json", [True, True, True, False])
    assert "flash:\n    quality: {default: 0.750, maths: 0.750}" in call("quality", run)
    assert file.read_text() == POLICY.read_text()
    call("quality", run, "--write", file)
    assert load_policy(file).models["flash"].quality["maths"] == 0.75
    assert file.stat().st_mode & 0o777 == 0o640
    call("quality", run, "--model", "pro", "--write", file, "--json")
    assert load_policy(file).models["pro"].quality["maths"] == 0.75
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match="unknown model 'max'"):
        call("quality", run, "--model", "max", "--write", file)
    assert file.read_bytes() == before


def test_a_model_trained_again_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-2.safetensors").write_bytes(b"two")
    (tmp_path / "model-1.safetensors").write_bytes(b"one")
    before = weights_digest(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert weights_digest(tmp_path) == before
    (tmp_path / "model-2.safetensors").write_bytes(b"too")
    assert weights_digest(tmp_path) != before
