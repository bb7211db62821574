"""`outrider chat` on a tiny model: one question, a conversation, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from outrider.cli.chat import app
from outrider.errors import ConfigurationError, ContextLengthExceeded

pytestmark = pytest.mark.usefixtures("given_curve")


def chat(worded: Path, drafter: Path | None, *arguments: str, typed: str = "") -> str:
    models = ["--target", str(worded), *(["--drafter", str(drafter)] if drafter else [])]
    result = CliRunner().invoke(app, [*arguments, *models], input=typed, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_question(worded: Path, worded_drafter: Path) -> None:
    answer = json.loads(chat(worded, worded_drafter, "hello", "--max-tokens", "12", "--json"))
    assert answer["completion_tokens"] <= 12
    assert answer["rounds"] <= answer["completion_tokens"]
    assert 1 <= answer["acceptance_tokens"] <= 8
    assert answer["finish_reason"] in ("length", "stop")


def test_a_seed_repeats_an_answer_at_any_depth(worded: Path, worded_drafter: Path) -> None:
    options = ("hello", "--max-tokens", "12", "--temperature", "1", "--json", "--seed")
    answers = [
        json.loads(chat(worded, worded_drafter, *options, *more))["content"]
        for more in (["3"], ["3", "--depth", "0"], ["4"])
    ]
    assert answers[0] == answers[1] != answers[2]


def test_a_conversation_remembers_and_goes_on_after_a_refusal(worded: Path) -> None:
    typed = f"hello\n{'x' * 4000}\nand there\n\nnever read\n"
    lines = chat(worded, None, "--max-tokens", "6", "--json", typed=typed).splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(answers) == 2


def test_text_and_figures_for_people(worded: Path, worded_drafter: Path) -> None:
    shown = chat(worded, worded_drafter, "hello", "--max-tokens", "8")
    assert "tokens in" in shown
    assert "τ" in shown


def test_a_prompt_that_does_not_fit_is_refused(worded: Path) -> None:
    with pytest.raises(ContextLengthExceeded):
        chat(worded, None, "x" * 4000)


def test_a_drafter_needs_its_target(worded_drafter: Path) -> None:
    with pytest.raises(ConfigurationError, match="--target"):
        CliRunner().invoke(app, ["hello", "--drafter", str(worded_drafter)], catch_exceptions=False)
