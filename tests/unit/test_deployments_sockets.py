"""Private endpoints: who may enter, and that nothing is left behind."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from outrider_deployments.sockets import PrivateEndpoint, sweep


@pytest.fixture(autouse=True)
def _own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_only_its_user_may_enter() -> None:
    endpoint = PrivateEndpoint("tokens")
    assert stat.S_IMODE(endpoint.directory.stat().st_mode) == 0o700
    assert endpoint.address == f"ipc://{endpoint.directory}/tokens"
    endpoint.close()


def test_closing_twice_leaves_nothing(tmp_path: Path) -> None:
    endpoint = PrivateEndpoint("tokens")
    endpoint.close()
    endpoint.close()
    assert not list(tmp_path.iterdir())


def test_sweep_spares_the_living_and_removes_the_dead(tmp_path: Path) -> None:
    script = "from outrider_deployments.sockets import PrivateEndpoint as E; import time; e = E('x'); " \
             "print(e.directory, flush=True); time.sleep(60)"  # fmt: skip
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory = Path(owner.stdout.readline().strip())
    living = PrivateEndpoint("y")
    try:
        assert sweep(tmp_path) == 0
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert sweep(tmp_path) == 1
        assert not directory.exists()
        assert living.directory.exists()
    finally:
        owner.kill()
        owner.wait()
        living.close()
