"""Endpoints: on one host Unix sockets in a directory of mode 0700 that goes away with its owner, however it ends;
between hosts TCP under the cluster's keys.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from outrider.link import CurveKeys

__all__ = ["PrivateEndpoint", "Reach", "sweep"]

PREFIX = "outrider-"
LOCK = "owner.lock"


@dataclass(frozen=True, slots=True)
class Reach:
    """How a replica's sockets are reached from other hosts: at its node's address, by holders of the cluster's keys."""

    host: str
    keys: CurveKeys

    @property
    def address(self) -> str:
        """Where to bind: any free port."""
        return f"tcp://{self.host}:*"

    @classmethod
    def of(cls, sockets: Literal["host", "cluster"]) -> Reach | None:
        """This replica's reach under a configuration, None within one host. Raises ConfigurationError without keys."""
        if sockets == "host":
            return None
        from ray.util import get_node_ip_address

        from outrider.link import CurveKeys

        return cls(get_node_ip_address(), CurveKeys.from_environment())


class PrivateEndpoint:
    """A fresh `ipc://` address. The lock on `owner.lock` lives as long as the process: see `sweep`."""

    def __init__(self, name: str) -> None:
        sweep()
        staging = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))  # mode 0700
        self._lock = os.open(staging / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Under its final name, which `sweep` looks for, the directory is never seen unlocked.
        self.directory = staging.rename(staging.with_name(staging.name.removeprefix(".")))
        self.address = f"ipc://{self.directory}/{name}"
        atexit.register(self.close)

    def close(self) -> None:
        """Remove the directory; a second call does nothing."""
        atexit.unregister(self.close)
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def sweep(root: Path | None = None) -> int:
    """Remove the directories whose owner was killed before it could; returns how many.

    An owner's lock is held by the kernel, so a directory whose lock can be taken has none, in any PID namespace.
    """
    removed = 0
    for directory in (root or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
        try:
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # not ours, of another user, or being created
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
            removed += 1
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
    return removed
