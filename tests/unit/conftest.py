"""A tiny pair of models that also has words: a tokenizer and a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider.scheduling import CostModel
from support.engines import CURVE
from support.texts import VOCAB, save_tokenizer
from support.tiny import make_drafter, make_target


@pytest.fixture(scope="session")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of 288 byte-level tokens and 256 positions; <|im_end|> ends an answer."""
    directory = tmp_path_factory.mktemp("worded") / "target"
    return save_tokenizer(make_target(directory, vocab=VOCAB, eos=1))


@pytest.fixture(scope="session")
def worded_drafter(worded: Path) -> Path:
    """Its drafter."""
    return make_drafter(worded.parent / "drafter", worded)


@pytest.fixture
def given_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """`open_engine` takes given costs: on a busy machine a measured one may be anything, even flat."""
    monkeypatch.setattr("outrider.local.engine.measure_steps", lambda *_, **__: CostModel.given(CURVE))
