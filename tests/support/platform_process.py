"""The real runner as a child process, and a look at the processes it started. Nothing here imports Ray."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

DEMO_KEY = "sk-outrider-demo-local-only"
START_LIMIT_S = 600.0
UP = "Ctrl-C stops everything."


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], Any], limit_s: float = 120.0) -> Any:
    """The first true value of `condition`; fails the test when there is none in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not true within {limit_s:.0f} s")


class PlatformProcess:
    """`python -m outrider_deployments.serve_local` on a port of its own."""

    def __init__(self, *arguments: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        path = os.pathsep.join(part for part in sys.path if part)
        self.folder = Path(tempfile.mkdtemp(prefix="outrider-state-"))
        self.database = f"sqlite:///{self.folder}/outrider.db"
        command = [sys.executable, "-u", "-m", "outrider_deployments.serve_local", "--port", str(self.port)]
        if "--database" not in arguments:
            command += ["--database", self.database]
        self.process = subprocess.Popen(
            [*command, *arguments],
            env=inherited | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_until_up(self) -> None:
        until(lambda: UP in self.lines or self.process.poll() is not None, START_LIMIT_S)
        assert self.process.poll() is None, self.output

    def wait_for_end(self, limit_s: float = 120.0) -> int:
        status = self.process.wait(limit_s)
        self._reader.join(10)
        return status

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(90)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=10).json()
        return answer

    def state(self, model: str) -> dict[str, Any]:
        """What `/health` says of a model."""
        state: dict[str, Any] = self.health()["models"][model]
        return state

    def descendants(self) -> dict[int, str]:
        """Command lines of everything this runner started, directly or not, by process id."""
        lines, parents = {}, {}
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit():
                continue
            try:
                stat = (directory / "stat").read_text("utf-8")
                lines[int(directory.name)] = (directory / "cmdline").read_text("utf-8").replace("\0", " ").strip()
            except OSError:
                continue  # it ended while we looked
            parents[int(directory.name)] = int(stat.rpartition(")")[2].split()[1])
        ours = {self.process.pid}
        while more := {child for child, parent in parents.items() if parent in ours} - ours:
            ours |= more
        return {pid: lines[pid] for pid in ours - {self.process.pid}}

    def replica(self, deployment: str) -> int | None:
        """The process of a deployment's replica."""
        title = re.compile(rf"ray::ServeReplica:outrider:{re.escape(deployment)}\b")
        return next((pid for pid, line in self.descendants().items() if title.match(line)), None)


@contextmanager
def running(*arguments: str) -> Iterator[PlatformProcess]:
    """A platform that is up; stopped at the end, whatever happened."""
    platform = PlatformProcess(*arguments)
    try:
        platform.wait_until_up()
        yield platform
    finally:
        platform.stop()
