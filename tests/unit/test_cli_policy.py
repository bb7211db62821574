"""`outrider policy` and `outrider keys` as a person meets them: output, errors on stderr, exit codes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer

from outrider.cli.explain import idle_snapshots
from outrider.cli.main import _MODULES, COMMANDS
from outrider.policy import DEMO_KEY, hash_key, load_policy, parse_policy
from outrider.routing import RouteQuery, decide
from outrider.telemetry import EventLog, RequestEvent, RequestOutcome
from outrider.types import Budgets
from support.commands import Ran

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = str(ROOT / "policies/default.yaml")


def test_check_summarises_a_good_policy(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "policy", "check", DEFAULT)
    assert ran.code == 0
    assert "valid" in ran.out
    assert "flash ($0.05 in, $0.2 out per million)" in ran.out
    assert "warning:" in ran.err
    assert "documented demo key" in ran.err


def test_check_lists_every_problem_and_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        Path(DEFAULT).read_text().replace("tier: standard", "tier: gold").replace("version: 1", "version: 2")
    )
    ran = Ran(capsys, "policy", "check", str(file))
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["version", "tenants.demo.tier"]
    assert all(line.startswith(f"{file}:") for line in lines)
    as_json = Ran(capsys, "policy", "check", str(file), "--json")
    assert as_json.code == 1
    assert as_json.json()["policy"] is None
    assert [problem["field"] for problem in as_json.json()["problems"]] == ["version", "tenants.demo.tier"]


def test_check_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = Ran(capsys, "policy", "check", DEFAULT, "--json").json()
    assert found["problems"] == []
    assert found["policy"]["version"] == load_policy(DEFAULT).version
    assert found["policy"]["tenants"] == 1
    assert found["warnings"][0]["line"] > 1


def test_explain_shows_candidates_drops_and_winner(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "policy", "explain", DEFAULT, "--tenant", "demo", "--tpot-ms", "7")
    assert ran.code == 0
    assert ran.out.count("chosen") == 1
    assert "breaks tpot_ms" in ran.out
    assert "auto, objective balanced" in ran.out
    assert "nominal" in ran.err


def test_explain_as_json_is_the_decision(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "policy", "explain", DEFAULT, "--tenant", "demo", "--model", "pro", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json()["model"] == "pro"
    assert ran.json()["candidates"][0]["feasible"] is True


def test_explain_with_snapshots(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    loads = {name: asdict(snapshot) for name, (snapshot,) in idle_snapshots(load_policy(DEFAULT)).items()}
    loads["flash"]["drafter_ready"] = False
    file = tmp_path / "load.json"
    arguments = ("policy", "explain", DEFAULT, "--tenant", "demo", "--model", "flash", "--snapshots", str(file))
    file.write_text(json.dumps(loads))
    ran = Ran(capsys, *arguments)
    assert "no drafter is attached to flash" in ran.out
    assert "nominal" not in ran.err
    loads["flash"]["quue"] = 1
    file.write_text(json.dumps(loads))
    assert "unknown fields of a load snapshot: quue" in Ran(capsys, *arguments).err
    for content in ("{", "[]", '{"flash": {}}', '{"flash": 3}', '{"flash": {"model": 3}}'):
        file.write_text(content)
        ran = Ran(capsys, *arguments)
        assert ran.code == 1
        assert "not load snapshots by model" in ran.err
        assert len(ran.err.splitlines()) == 1


def test_explain_shows_a_refusal_as_the_tenant_would_see_it(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("policy", "explain", DEFAULT, "--tenant", "demo", "--ttft-ms", "0.01")
    ran = Ran(capsys, *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert "refused with 429 no_feasible_route" in ran.err
    refused = Ran(capsys, *arguments, "--json").json()["refused"]
    assert (refused["status"], refused["code"]) == (429, "no_feasible_route")


def test_explain_a_recorded_decision(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = load_policy(DEFAULT)
    query = RouteQuery(policy.tenants["demo"], "auto", dict.fromkeys(policy.models, 50), 20)
    decision = decide(query, idle_snapshots(policy), policy, now_s=0.0, decision_id="dec-1")
    common: dict[str, Any] = {
        "time_s": 0.0, "request_id": "r", "tenant": "demo", "endpoint": "chat", "model": "auto",
        "policy_version": policy.version, "stream": False, "budgets": Budgets(),
    }  # fmt: skip
    log = EventLog(tmp_path / "events.jsonl")
    log.append(RequestEvent(decision_id="dec-1", decision=decision, outcome=RequestOutcome(200), **common))
    refused = RequestOutcome(429, error_code="no_feasible_route")
    log.append(RequestEvent(decision_id="dec-2", outcome=refused, **common))
    log.close()
    events = ("--events", str(log.path))
    ran = Ran(capsys, "policy", "explain", "--decision", "dec-1", *events)
    assert ran.code == 0
    assert "decision dec-1" in ran.out
    assert "chosen" in ran.out
    assert "nothing was decided" in Ran(capsys, "policy", "explain", "--decision", "dec-2", *events).err
    assert "no decision dec-3" in Ran(capsys, "policy", "explain", "--decision", "dec-3", *events).err
    missing = Ran(capsys, "policy", "explain", "--decision", "dec-1", "--events", str(tmp_path / "none"))
    assert (missing.code, missing.err.strip()) == (1, f"outrider: {tmp_path / 'none'}: no such event log")


def test_keys_new_prints_a_key_once_and_its_hash_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "keys", "new", "--tenant", "acme")
    key, _, yaml = ran.out.partition("\n\n")
    assert key.startswith("sk-outrider-")
    assert key != DEMO_KEY
    assert hash_key(key) in yaml
    assert key not in yaml
    rest = Path(DEFAULT).read_text().partition("\ntenants:\n")
    tail = rest[2][rest[2].index("\nrouting:") :]
    policy = parse_policy(f"{rest[0]}\n{yaml.rstrip()}\n    tier: standard\n    models: [pro]\n{tail}").policy
    assert policy is not None
    assert policy.tenant_for_key(key, 0.0).name == "acme"
    found = Ran(capsys, "keys", "new", "--json", "--name", "ci").json()
    assert (found["sha256"], found["name"]) == (hash_key(found["key"]), "ci")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["policy", "check", "no.yaml"], 1, "no.yaml:1:1: no such file"),
        (["policy", "explain", "no.yaml", "--tenant", "x"], 1, "outrider: no.yaml:1:1: no such file"),
        (["policy", "explain", DEFAULT, "--tenant", "x"], 1, "no tenant 'x'; known: demo"),
        (["policy", "explain"], 2, "give a policy file"),
        (["policy", "explain", "--decision", "x"], 2, "needs --events"),
        (["policy", "explain", DEFAULT, "--tenant", "demo", "--prompt-tokens", "0"], 2, "--prompt-tokens"),
        (["policy", "check"], 2, "Missing argument"),
        (["polcy"], 2, "No such command"),
        (["keys", "new", "--what"], 2, "No such option"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, text: str) -> None:
    ran = Ran(capsys, *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert text in ran.err
    assert code == 2 or len(ran.err.splitlines()) == 1
    assert "Traceback" not in ran.err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "--help")
    assert all(name in ran.out and text[:20] in ran.out for name, text in COMMANDS.items())
    assert Ran(capsys, "--version").out.startswith("outrider ")
    assert "--tenant" in Ran(capsys, "policy", "explain", "--help").out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_mounted_command_exists(name: str) -> None:
    assert isinstance(importlib.import_module(f"outrider.cli.{_MODULES.get(name, name)}").app, typer.Typer)


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "outrider", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "platform")},
    )
    assert done.stdout.startswith("outrider ")
