"""`outrider keys`: what is made loads, what is revoked is gone, and nothing else moves."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from outrider.policy import check_policy, hash_key, load_policy, parse_policy
from outrider.policy.editing import without_key
from support.commands import Ran

H = [hash_key(str(index)) for index in range(6)]
PLATFORM = f"""\
version: 1 # ünïcode before the marks
operators:
  - {{name: ann, sha256: {H[0]}}} # the only one
models: {{m: {{price_usd_per_million: {{input: 1, output: 1}}, quality: {{default: 1}}}}}}
batch_classes: {{b: {{}}}}
tiers: {{t: {{batch_class: b}}}}
teams: {{x: {{models: [m], tiers: [t]}}}}
tenants:
  acme:
    keys: # two of them
      # the old one
      - name: old
        sha256: {H[1]} # goes in June

      # the new one
      - name: new
        sha256: {H[2]}
    tier: t
    models: [m]
  flow: {{tier: t, models: [m], keys: [{{name: a, sha256: {H[3]}}}, {{name: b, sha256: {H[4]}}}]}}
"""
TEAM = f"""\
version: 1
team: x
tenants:
  mine:
    tier: t
    models: [m]
    keys:
    - name: last
      sha256: {H[5]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "teams").mkdir()
    (tmp_path / "platform.yaml").write_text(PLATFORM, encoding="utf-8")
    (tmp_path / "teams/x.yaml").write_text(TEAM)
    return tmp_path


@pytest.mark.parametrize("index", range(6))
def test_a_key_is_cut_out_and_nothing_else(index: int) -> None:
    text, other = (TEAM, PLATFORM) if index == 5 else (PLATFORM, TEAM)
    cut = without_key(text, H[index])
    assert H[index] not in cut
    assert without_key(other, H[index]) == other
    lost = [line for line in text.splitlines() if line not in cut.splitlines()]
    assert len(lost) <= 3
    assert all(each in cut for each in H if each in text and each != H[index])
    assert [line for line in cut.splitlines() if line.lstrip().startswith("#")] == [
        line for line in text.splitlines() if line.lstrip().startswith("#")
    ]


def test_revoke_shows_and_then_writes(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ("keys", "revoke", str(folder), "--tenant", "acme", "--name", "old")
    shown = Ran(capsys, *arguments)
    assert shown.code == 0
    assert [line for line in shown.lines() if line[:2] in ("- ", "+ ")] == [
        "-      - name: old",
        f"-        sha256: {H[1]} # goes in June",
    ]
    assert (folder / "platform.yaml").read_text(encoding="utf-8") == PLATFORM
    assert Ran(capsys, *arguments, "--write").code == 0
    assert (folder / "platform.yaml").read_text(encoding="utf-8") == without_key(PLATFORM, H[1])
    assert set(load_policy(folder).keys) == {*H[2:]}
    assert "0 keys fit" in Ran(capsys, *arguments).err


@pytest.mark.parametrize(
    ("which", "index"),
    [
        (["--tenant", "mine"], 5),
        (["--operator", "ann"], 0),
        (["--sha256", H[3][:12]], 3),
        (["--tenant", "flow", "--name", "b"], 4),
        (["--stdin"], 2),
    ],
)
def test_a_key_is_told_in_any_way_that_fits_one(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch, which: list[str], index: int
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n"))
    found = Ran(capsys, "keys", "revoke", str(folder), *which, "--write", "--json").json()
    assert found["sha256"] == H[index]
    policy = load_policy(folder)
    assert {*policy.keys, *policy.operators} == {*H} - {H[index]}


@pytest.mark.parametrize(
    ("which", "code", "said"),
    [
        ([], 2, "say which key"),
        (["--tenant", "acme"], 1, "2 keys fit, one must: acme/old, acme/new"),
        (["--tenant", "nobody"], 1, "0 keys fit, one must: none"),
    ],
)
def test_a_key_that_is_not_told_is_not_revoked(
    capsys: pytest.CaptureFixture[str], folder: Path, which: list[str], code: int, said: str
) -> None:
    ran = Ran(capsys, "keys", "revoke", str(folder), *which, "--write")
    assert ran.code == code
    assert said in ran.err
    assert (folder / "platform.yaml").read_text(encoding="utf-8") == PLATFORM


def test_revoking_needs_a_policy_that_loads(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "teams/x.yaml").write_text(TEAM.replace("team: x", "team: y"))
    ran = Ran(capsys, "keys", "revoke", str(folder), "--operator", "ann", "--write")
    assert ran.code == 1
    assert "unknown team 'y'" in ran.err


def test_new_keys_have_days_and_operators(capsys: pytest.CaptureFixture[str]) -> None:
    days = ("--expires", "2099-12-31", "--not-before", "2026-01-01")
    made = Ran(capsys, "keys", "new", "--operator", "ben", *days, "--json").json()
    assert made["yaml"].startswith('operators:\n  - {name: "ben", sha256: ')
    text = PLATFORM.replace("operators:\n", made["yaml"] + "\n")
    policy = parse_policy(text).policy
    assert policy is not None
    assert policy.operator_for_key(made["key"], 1.8e9) == "ben"
    assert policy.operators[made["sha256"]].expires_s == 4102444800


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--expires", "2020-01-01"], "2020-01-01 is over"),
        (["--expires", "31.12.2099"], "does not match the format"),
        (["--expires", "2098-01-01", "--not-before", "2099-01-01"], "ends before it begins"),
        (["--operator", "ann", "--tenant", "acme"], "give neither --tenant nor --name"),
    ],
)
def test_keys_that_would_never_be_good_are_not_made(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    ran = Ran(capsys, "keys", "new", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in " ".join(ran.err.replace("│", " ").split())


def test_the_example_survives_the_loss_of_any_key() -> None:
    examples = Path(__file__).resolve().parents[2] / "policies/examples"
    policy = check_policy(examples).policy
    assert policy is not None
    for digest in (*policy.keys, *policy.operators):
        texts = {file: file.read_text() for file in examples.rglob("*.yaml")}
        cut = {file: without_key(text, digest) for file, text in texts.items()}
        changed = [file for file in texts if texts[file] != cut[file]]
        assert len(changed) == 1
        assert len(texts[changed[0]].splitlines()) - len(cut[changed[0]].splitlines()) == 1
