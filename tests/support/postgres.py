"""A PostgreSQL server of our own on a Unix socket, as a user who is not root; or the reason why there is none."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PostgresServer", "postgres_server", "why_no_postgres"]


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    if found and shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: int(each.parts[-3]))
    return versions[-1].parent if versions else None


def why_no_postgres() -> str | None:
    """None where a server can be started."""
    if _binaries() is None:
        return "no PostgreSQL server is installed (initdb, pg_ctl)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and setpriv is not here to become somebody else"
    return None


def _as_somebody() -> tuple[list[str], str]:
    """A command's prefix that drops root's rights, and the user's name."""
    if os.geteuid() != 0:
        return [], pwd.getpwuid(os.geteuid()).pw_name
    names = {each.pw_name for each in pwd.getpwall()}
    name = "postgres" if "postgres" in names else "nobody"
    user = pwd.getpwnam(name)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], name


@dataclass
class PostgresServer:
    """folder: data, socket and log. Everybody on the machine who can enter it is trusted."""

    folder: Path
    binaries: Path

    def url(self, database: str = "postgres", user: str = "outrider") -> str:
        return f"postgresql+psycopg://{user}@/{database}?host={self.folder}"

    def control(self, *arguments: str) -> None:
        prefix, _ = _as_somebody()
        command = [*prefix, str(self.binaries / "pg_ctl"), "-D", str(self.folder / "data"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        settings = f"-k {self.folder} -c listen_addresses= -c max_connections=60"
        self.control("-w", "-l", str(self.folder / "log"), "-o", settings, "start")

    def kill(self) -> None:
        """As a power cut would, as far as the processes can tell."""
        self.control("-m", "immediate", "stop")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Runs until the block ends; its folder is removed."""
    binaries = _binaries()
    assert binaries is not None
    prefix, name = _as_somebody()
    folder = Path(tempfile.mkdtemp(prefix="outrider-pg-"))
    if prefix:
        shutil.chown(folder, name)
    server = PostgresServer(folder, binaries)
    try:
        initialise = [*prefix, str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "outrider", "-A", "trust"]
        subprocess.run([*initialise, "-E", "UTF8", "--no-sync"], check=True, capture_output=True, cwd=folder)
        server.start()
        yield server
    finally:
        if (folder / "data/postmaster.pid").exists():
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)
