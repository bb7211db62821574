"""The workshop as a person runs it: every stage through the command line on a tiny target, and what each leaves."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from outrider.local import open_engine
from outrider.training.artifacts import COMMANDS
from support.engines import CURVE, request, settings
from support.workshop import OUTPUT, call, contents, made

PLOTS = importlib.util.find_spec("matplotlib") is not None
DRAWN = ("conditional.png", "reliability.png", "threshold.png")


def test_manifests_are_a_chain_of_hashes(workshop: Path) -> None:
    hashes = {kind: made(workshop, kind).hash for kind in COMMANDS}
    made_from = {
        "answers": {"prompts"},
        "features": {"answers"},
        "drafter": {"features"},
        "evaluation": {"drafter", "prompts"},
        "calibration": {"drafter", "evaluation"},
        "export": {"drafter", "evaluation", "calibration"},
        "report": {"evaluation", "calibration"},
    }
    for kind, before in made_from.items():
        inputs = made(workshop, kind).inputs
        assert {name: inputs[name] for name in before} == {name: hashes[name] for name in before}
    targets = {
        made(workshop, kind).inputs["target"] for kind in ("answers", "features", "drafter", "evaluation", "export")
    }
    assert len(targets) == 1


def test_each_folder_holds_what_the_manual_says(workshop: Path) -> None:
    wanted = {
        "prompts": {"train.jsonl", "heldout.jsonl"},
        "answers": {"train-00000.jsonl", "heldout-00000.jsonl"},
        "features": {"shard-00000.safetensors", "shards.json"},
        "drafter": {"config.json", "model.safetensors", "losses.jsonl"} | ({"losses.png"} if PLOTS else set()),
        "evaluation": {"evaluation.json", "answers-t0.jsonl", "answers-t1.jsonl", "rounds-drafter-t1.npz"},
        "calibration": {"calibration.json", "figures.json"},
        "export": {"config.json", "model.safetensors", "calibration.json", "README.md"},
        "report": {"report.md", "report.json"} | (set(DRAWN) if PLOTS else set()),
    }
    for kind, names in wanted.items():
        assert names <= made(workshop, kind).files.keys()
        assert not list((workshop / OUTPUT / kind).glob(".*"))
    losses = [json.loads(line) for line in (workshop / OUTPUT / "drafter/losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses] == list(range(1, 9))


def test_the_report_names_methods_and_embeds_its_plots(workshop: Path) -> None:
    text = (workshop / OUTPUT / "report/report.md").read_text("utf-8")
    assert "DSpark 1L γ3 (`drafter`)" in text
    assert "| prompt-lookup |" in text
    assert "τ at temperature 0" in text
    assert "τ at temperature 1" in text
    for name in DRAWN if PLOTS else ():
        assert f"]({name})" in text
        assert (workshop / OUTPUT / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_cutting_at_no_confidence_is_what_the_evaluation_measured(workshop: Path) -> None:
    report = json.loads((workshop / OUTPUT / "report/report.json").read_text("utf-8"))
    evaluation = json.loads((workshop / OUTPUT / "evaluation/evaluation.json").read_text("utf-8"))
    assert report["thresholds"].keys() == {"0", "1"}
    for temperature, domains in report["thresholds"].items():
        measured = evaluation["temperatures"][temperature]["methods"]["drafter"]["domains"]
        assert domains.keys() == measured.keys()
        for domain, points in domains.items():
            assert points[0]["accepted_per_verified"] == pytest.approx(measured[domain]["accepted_per_verified"])
            looked_at = [point["accepted"] + point["rejected"] for point in points]
            assert looked_at == sorted(looked_at, reverse=True)


def test_a_second_run_is_up_to_date_and_writes_nothing(workshop: Path) -> None:
    before = contents(workshop)
    for kind, stage in COMMANDS.items():
        assert f"{kind}: up to date" in call(workshop, stage)
    assert contents(workshop) == before


def test_the_export_drafts_and_changes_no_token(workshop: Path) -> None:
    lines = (workshop / OUTPUT / "answers/heldout-00000.jsonl").read_text("utf-8").splitlines()
    asked = [tuple(json.loads(line)["prompt_tokens"]) for line in lines[:6]]
    requests = [request(i, prompt, 24, ignore_eos=False) for i, prompt in enumerate(asked)]
    with open_engine(workshop / "target", settings=settings(), curve=CURVE) as plain:
        wanted = [each.tokens for each in plain.generate(requests)]
    with open_engine(workshop / "target", workshop / OUTPUT / "export", settings=settings(), curve=CURVE) as drafted:
        found = drafted.generate(requests)
    assert [each.tokens for each in found] == wanted
    rounds = [each for done in found if done.summary for each in done.summary.round_records]
    assert sum(admitted for admitted, _ in rounds) > 0
    assert sum(accepted for _, accepted in rounds) > 0


def test_a_second_drafter_shares_the_features_and_is_compared(copied: Path) -> None:
    flat = ("--name", "flat", "--set", "drafter.kind=dflash")
    call(copied, "train", *flat, "--set", "training.loss={ce: 1.0, tv: 0.0}")
    drafter = made(copied, "drafter", "flat")
    assert drafter.inputs == made(copied, "drafter").inputs
    assert not [name for name in load_file(copied / OUTPUT / "drafter-flat/model.safetensors") if "markov" in name]
    call(copied, "eval", *flat, "--set", f"evaluation.compare=[{copied / OUTPUT / 'drafter'}]")
    report = json.loads((copied / OUTPUT / "evaluation-flat/evaluation.json").read_text("utf-8"))
    alone = json.loads((copied / OUTPUT / "evaluation/evaluation.json").read_text("utf-8"))
    for temperature in ("0", "1"):
        methods = report["temperatures"][temperature]["methods"]
        assert list(methods) == ["drafter-flat", "drafter", "prompt-lookup"]
        assert methods["drafter"] == alone["temperatures"][temperature]["methods"]["drafter"]
    call(copied, "report", "--name", "flat")
    text = (copied / OUTPUT / "report-flat/report.md").read_text("utf-8")
    assert "DFlash (CE loss) 1L γ3 (`drafter-flat`)" in text
    assert "DSpark 1L γ3 (`drafter`)" in text
    assert made(copied, "evaluation").hash == made(copied, "calibration").inputs["evaluation"]
