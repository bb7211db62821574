"""Fixtures shared by integration tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.workshop import finished_workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages of the workshop have run; not to be changed."""
    folder = tmp_path_factory.mktemp("workshop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return finished_workshop(folder)


@pytest.fixture
def copied(workshop: Path, tmp_path: Path) -> Path:
    """The same folder, to be spoilt."""
    return shutil.copytree(workshop, tmp_path / "copy")
