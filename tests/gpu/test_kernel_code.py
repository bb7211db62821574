"""Every form of every kernel that serving compiles, compiled for Hopper: nothing spills, and loads are wide."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_what_serving_compiles_is_as_it_should_be() -> None:
    """In a process of its own: this one may interpret kernels, which is decided when they are defined."""
    found = subprocess.run(
        [sys.executable, str(ROOT / "load_tests/kernel_code.py"), "--check"],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert int(found.stdout.split()[0]) >= 27
