"""Assessing prompts: what is fitted is found again, what was not measured is not estimated, bad files are refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outrider.errors import EvalMismatch, OutputNotWritable, QualityFileError
from outrider.quality import (
    Assessment,
    Assessor,
    Pair,
    by_tags,
    fingerprint,
    fit_assessor,
    held_out,
    load_assessor,
    prompt_text,
    save_assessor,
)
from outrider.quality.features import HEAD_CHARS, SHAPES, TAIL_CHARS, features
from outrider.quality.files import sealed
from support.quality import make_pairs, true_success

HARD = "How many figs are 8 figs times 12 figs?"
EASY = "How many figs are 8 figs plus 12 figs?"


@pytest.fixture(scope="module")
def assessor() -> Assessor:
    return fit_assessor(make_pairs(1200), {"models": {"small": {"weights": "ab"}}, "suites": {"s": "cd"}})


@pytest.fixture
def file(assessor: Assessor, tmp_path: Path) -> Path:
    path = tmp_path / "quality.bin"
    save_assessor(path, assessor)
    return path


def test_probabilities_are_those_of_the_truth_for_easy_and_for_hard_questions(assessor: Assessor) -> None:
    fresh = [pair.text for pair in make_pairs(600, seed=3)]
    for model in ("small", "large"):
        for chance in {true_success(text)[model] for text in fresh}:
            said = [assessor.assess(text).success[model] for text in fresh if true_success(text)[model] == chance]
            assert np.mean(said) == pytest.approx(chance, abs=0.1)
            assert np.std(said) < 0.1


def test_domains_are_guessed_and_a_tag_wins(assessor: Assessor) -> None:
    assert assessor.assess(EASY).domain == "sums"
    assert assessor.assess("Write a function `f_3(items)` that sums the items.").domain == "functions"
    tagged = assessor.assess(EASY, ["unheard-of", "functions", "sums"])
    assert (tagged.domain, tagged.domain_probability) == ("functions", 1.0)


def test_a_domain_that_only_the_policy_knows_has_no_estimates(assessor: Assessor) -> None:
    assert assessor.assess(EASY, ["law"], known={"law"}) == Assessment("law", 1.0)
    assert assessor.assess(EASY, ["law"]).domain == "sums"


@pytest.mark.parametrize("text", ["", "Hello!", "Wie spät ist es in Lissabon?", "今日は", "\ud800", "{}" * 40])
def test_what_is_unlike_all_that_was_measured_is_other(assessor: Assessor, text: str) -> None:
    found = assessor.assess(text)
    assert (found.domain, dict(found.success)) == ("other", {})


def test_an_unfamiliar_prompt_of_a_tagged_domain_keeps_the_tag_only(assessor: Assessor) -> None:
    assert assessor.assess("What is the meaning of life?", ["sums"]) == Assessment("sums", 1.0)


def test_tags_alone_estimate_nothing() -> None:
    assert by_tags(EASY, ["x", "sums"], {"sums"}) == Assessment("sums", 1.0)
    assert by_tags(EASY, ["x"], {"sums"}) == Assessment("other", 0.0)


def test_the_last_message_of_the_user_is_assessed() -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    assert prompt_text(turns) == "a"
    parts = [{"type": "text", "text": "c"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "d"}]
    assert prompt_text([*turns, {"role": "user", "content": parts}]) == "c\nd"
    assert prompt_text([{"role": "system", "content": "s"}]) == ""
    assert prompt_text([{"role": "user", "content": None}]) == ""


def test_features_tell_words_pairs_numbers_and_shapes_apart() -> None:
    def words(text: str) -> set[int]:
        return set(features(text)[:-SHAPES].tolist())

    assert words("ab") != words("a b")
    assert words("a b") != words("b a")
    assert words("12 + 7") != words("13 + 7")
    assert words("1234 + 7") == words("1235 + 7")
    assert not words("")
    assert features("a b 3")[-SHAPES:].tolist() == features("c d 4")[-SHAPES:].tolist()
    for other in ("a, b 3", "a b\n3", "a b 33", "`a` 3", "a é 3", "a b 3 3", "a b 3" * 9):
        assert features(other)[-SHAPES:].tolist() != features("a b 3")[-SHAPES:].tolist()


def test_a_long_prompt_is_read_at_both_ends() -> None:
    middle = " filler" * 100_000
    assert len(features(middle)) < HEAD_CHARS + TAIL_CHARS
    plain = features(f"{middle}")
    assert set(features(f"begin{middle}").tolist()) - set(plain.tolist())
    assert set(features(f"{middle} end").tolist()) - set(plain.tolist())


def test_every_process_sees_the_same_features() -> None:
    text = "Wie viele Äpfel hat Mia, 12 oder 1234? `f(x)`\n"
    code = f"from outrider.quality.features import features; print(features({text!r}).tolist())"
    for seed in ("1", "2"):
        path = ":".join(path for path in sys.path if path)
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert json.loads(done.stdout) == features(text).tolist()


def test_fitting_repeats_and_its_file_says_the_same(assessor: Assessor, file: Path) -> None:
    loaded = load_assessor(file)
    assert fingerprint(loaded) == fingerprint(assessor)
    assert loaded.fitted_on == assessor.fitted_on
    for pair in make_pairs(50, seed=2):
        assert loaded.assess(pair.text) == assessor.assess(pair.text)
    again = file.with_name("again.bin")
    save_assessor(again, loaded)
    assert again.read_bytes() == file.read_bytes()


def test_a_group_is_held_out_wherever_it_comes_up() -> None:
    share = [held_out(f"group {number}", 0.25) for number in range(4000)]
    assert sum(share) == pytest.approx(1000, abs=120)
    assert not any(held_out(f"group {number}", 0.0) for number in range(100))


def test_held_out_outcomes_do_not_reach_the_fit(assessor: Assessor) -> None:
    flipped = [
        replace(pair, correct={name: not right for name, right in pair.correct.items()})
        if held_out(pair.group, 0.25)
        else pair
        for pair in make_pairs(1200)
    ]
    assert fingerprint(fit_assessor(flipped, {**assessor.fitted_on})) == fingerprint(
        fit_assessor(make_pairs(1200), {**assessor.fitted_on})
    )


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "0 items to fit on"),
        (make_pairs(60), "items to fit on"),
        ([pair for pair in make_pairs(800) if pair.domain == "sums"], "one domain"),
        ([replace(pair, group=pair.group[-1]) for pair in make_pairs(800)], "of [0-9] groups"),
        ([replace(pair, correct={"small": True}) for pair in make_pairs(400)], "small got every item right"),
    ],
)
def test_pairs_that_teach_nothing_are_refused(pairs: list[Pair], said: str) -> None:
    with pytest.raises(EvalMismatch, match=said):
        fit_assessor(pairs, {})


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(QualityFileError, match=r"cannot read the quality file .*none\.bin"):
        load_assessor(tmp_path / "none.bin")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"{}", b"\x80\x04N.", b"\0" * 500])
def test_a_foreign_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "quality.bin"
    path.write_bytes(content)
    with pytest.raises(QualityFileError, match=r"quality\.bin: not a quality file; fit it again with `outrider eval"):
        load_assessor(path)


def test_every_damage_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    for at in range(8, len(whole), len(whole) // 60):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            file.write_bytes(damaged)
            with pytest.raises(QualityFileError, match="checksum"):
                load_assessor(file)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": np.zeros(3)}, "no header"),
        ({"header": np.frombuffer(b"[1]", np.uint8)}, "not a mapping"),
        ({"header": np.frombuffer(b"{", np.uint8)}, "no header"),
        ({"header": np.array([{}])}, "no header"),
    ],
)
def test_other_arrays(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    path, stored = tmp_path / "quality.bin", io.BytesIO()
    np.savez(stored, **arrays)
    path.write_bytes(sealed(stored.getvalue()))
    with pytest.raises(QualityFileError, match=said):
        load_assessor(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format: 2 where"),
        ({"features": 0}, "features: 0 where"),
        ({"models": ["small"]}, "unusable: ValueError: model_weights"),
        ({"models": "small"}, "models is not a list of names"),
        ({"domains": []}, "domains is not a list of names"),
        ({"least_probability": "x"}, "unusable"),
        ({"fitted_on": 3}, "unusable"),
        ({"fitted_on": {"held_out_share": 0.25}}, "unusable: KeyError: 'items'"),
    ],
)
def test_a_header_of_something_else_is_refused(file: Path, change: dict[str, Any], said: str) -> None:
    with np.load(io.BytesIO(file.read_bytes()[40:])) as held:
        arrays = {name: held[name] for name in held.files}
    header = json.loads(arrays.pop("header").tobytes()) | change
    stored = io.BytesIO()
    np.savez(stored, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    file.write_bytes(sealed(stored.getvalue()))
    with pytest.raises(QualityFileError, match=said):
        load_assessor(file)


def test_a_file_that_cannot_be_written_leaves_nothing(assessor: Assessor, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputNotWritable, match="taken"):
        save_assessor(tmp_path / "taken" / "quality.bin", assessor)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputNotWritable, match="folder"):
        save_assessor(tmp_path / "folder", assessor)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "taken"]
