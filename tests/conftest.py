"""Fixtures shared by tests that run real tiny models."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined; Triton's own when transformers imports it

from outrider.local import LinkKind, LocalEngine
from outrider_kernels import BuildError, library
from support.engines import open_tiny
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


@pytest.fixture(scope="session")
def separated_engine(pair: TinyPair) -> Iterator[LocalEngine]:
    """An engine whose drafter runs in a process of its own: seconds to start, so all tests share it."""
    with open_tiny(pair.target, pair.drafter, LinkKind.PROCESS) as engine:
        yield engine


@pytest.fixture
def separated(separated_engine: LocalEngine) -> LocalEngine:
    """The shared engine with a healthy, patient drafter; where the last test lost it, a fresh one is attached."""
    drafting: Any = separated_engine.engine.drafting
    drafting._timeout_s, drafting.lost = 60.0, 0
    if not drafting.ready:
        separated_engine.attach_drafter()
    return separated_engine


@pytest.fixture(scope="session")
def compiled() -> ctypes.CDLL:
    """The compiled decoder step; skips where this machine cannot build it."""
    try:
        return library()
    except BuildError as error:
        pytest.skip(f"no compiled step here: {error}")
