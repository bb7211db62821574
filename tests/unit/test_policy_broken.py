"""A corpus of broken policies: each is refused with exactly the lines that its `.txt` holds, and changes nothing."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from outrider.errors import PolicyError
from outrider.policy import Source, check_policy, load_policy, parse_policies, read_sources

CORPUS = Path(__file__).resolve().parents[1] / "data/policies/broken"
CASES = sorted(each for each in CORPUS.iterdir() if each.suffix != ".txt")
NOW_S = datetime(2027, 1, 1, tzinfo=UTC).timestamp()


def said(case: Path) -> list[str]:
    """Every line of the refusal, with places inside the corpus."""
    report = check_policy(case, now_s=NOW_S)
    assert report.policy is None, f"{case.name} was accepted"
    return [str(problem).replace(f"{CORPUS}{os.sep}", "").replace(os.sep, "/") for problem in report.problems]


def test_the_corpus_is_as_large_as_it_is_meant_to_be() -> None:
    assert len(CASES) >= 70
    assert {each.with_suffix(".txt") for each in CASES} == set(CORPUS.glob("*.txt"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_each_broken_policy_is_refused_with_place_and_fix(case: Path) -> None:
    assert said(case) == case.with_suffix(".txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_what_was_read_before_is_untouched(case: Path) -> None:
    running = load_policy(CORPUS.parents[3] / "policies/default.yaml")
    before = repr(running)
    check_policy(case, now_s=NOW_S, known_keys=running.keys)
    assert repr(running) == before
    assert load_policy(CORPUS.parents[3] / "policies/default.yaml") == running


@pytest.mark.parametrize("secret", ["my-secret-key"])
def test_no_refusal_repeats_a_secret(secret: str) -> None:
    holders = [case for case in CASES if case.is_file() and secret.encode() in case.read_bytes()]
    assert holders
    assert not any(secret in line for case in holders for line in said(case))


def test_a_key_that_ran_out_while_it_was_in_force_is_a_warning() -> None:
    case = CORPUS / "key-expired.yaml"
    digest = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    again = check_policy(case, now_s=NOW_S, known_keys={digest})
    assert again.policy is not None
    assert [warning.message for warning in again.warnings] == [
        "the key expired on 2026-06-30; remove it or give a later day"
    ]
    assert check_policy(case).warnings == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: " + "[" * 100_000, "nested deeper than 32 levels"),
        ("#" * (16 * 2**20 + 1), "huge:1:1: larger than 16 MiB, the most a policy may have"),
        ("a: " + "9" * 1_000_000, "huge:1:1: a: unknown field 'a'"),
        ("".join(f"k{index}: 1\n" for index in range(20_000)), "huge:1:1: k0: unknown field 'k0'"),
        ("- " * 200_000, "nested deeper than 32 levels"),
        ("x" * 3_000_000 + ": 1", "not valid YAML"),
    ],
    ids=["brackets", "bytes", "digits", "fields", "dashes", "key"],
)
def test_huge_documents_end_in_short_lines(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "huge"
    file.write_text(text)
    with pytest.raises(PolicyError) as refusal:
        load_policy(file)
    first = refusal.value.message.replace(f"{tmp_path}{os.sep}", "").splitlines()
    assert any(line in each for each in first), first[:3]
    assert max(map(len, first)) < 1_000


def test_problems_of_all_documents_come_together_whatever_the_order_of_teams() -> None:
    sources, _ = read_sources(CORPUS / "teams-share-a-tenant")
    assert [Path(source.file).name for source in sources] == ["platform.yaml", "ads.yaml", "search.yaml"]
    broken = [Source(source.file, source.text + "\nstray: 1\n") for source in sources]
    reports = [parse_policies(broken[0], teams) for teams in (broken[1:], broken[:0:-1])]
    assert all(sum("stray" in str(problem) for problem in report.problems) == 3 for report in reports)
