"""Fixtures shared by tests that run real tiny models."""

from __future__ import annotations

import pytest
import torch

from support.tiny import TinyPair, make_drafter, make_target, reference

torch.set_num_threads(1)  # matrices this small gain nothing from threads, and wait long for them on a busy machine


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """A target of 97 tokens and 256 positions, and a γ = 7 drafter whose proposals it partly accepts."""
    folder = tmp_path_factory.mktemp("pair")
    target = make_target(folder / "target")
    return TinyPair(target, make_drafter(folder / "drafter", target))


@pytest.fixture(scope="session")
def stock(pair: TinyPair) -> object:
    """The target of `pair` under stock transformers."""
    return reference(pair.target)
