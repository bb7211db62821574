"""Building step.cpp and its headers with the host's own compiler, once per host and source: the result is kept on disk.

The file's name holds a digest of the source, the flags, the compiler and the processor's features, so a shared home
directory never hands one machine the code of another.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "BuildError", "built", "library", "loaded"]

CACHE_VARIABLE = "OUTRIDER_KERNEL_CACHE"
"""Environment variable: where built libraries are kept, instead of the user's cache directory."""

_SOURCE = Path(__file__).with_name("step.cpp")
_HEADERS = tuple(sorted(_SOURCE.parent.glob("*.h")))
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp")
_FUNCTIONS = ("outrider_step", "outrider_context", "outrider_propose", "outrider_choose", "outrider_noise")
_COMPILE_LIMIT_S = 300.0


class BuildError(RuntimeError):
    """The step cannot be built or loaded on this machine; the message says why."""


def built() -> bool:
    """Whether a library for this source and this host is on disk, so that `library` will not compile."""
    compiler = _compiler()
    return compiler is not None and _place(compiler).is_file()


@cache
def library() -> ctypes.CDLL:
    """The loaded library, compiled first where there is none: seconds, and once, whichever process comes first.

    Raises BuildError without a compiler, when it fails, or when the result does not load.
    """
    compiler = _compiler()
    if compiler is None:
        raise BuildError("no C++ compiler: neither $CXX nor g++ nor c++ is there")
    place = _place(compiler)
    try:
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not place.is_file():
                    _compile(compiler, place)
        loaded = ctypes.CDLL(str(place))
    except OSError as error:
        raise BuildError(str(error)) from error
    for name in _FUNCTIONS:
        getattr(loaded, name).restype = None
    return loaded


def loaded() -> ctypes.CDLL | None:
    """The library where something in this process has loaded it already: never compiles."""
    return library() if library.cache_info().currsize else None


def _compile(compiler: str, place: Path) -> None:
    """Compile beside `place` and move there; linked without OpenMP's library, so that torch's own threads serve."""
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        unit, result = Path(folder, "step.o"), Path(folder, "step.so")
        for command in ([*_FLAGS, "-c", str(_SOURCE), "-o", str(unit)], ["-shared", str(unit), "-o", str(result)]):
            try:
                subprocess.run(
                    [*_nicely(), compiler, *command],
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=_COMPILE_LIMIT_S,
                )
            except subprocess.CalledProcessError as error:
                lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
                raise BuildError(
                    f"{compiler}: {next((line for line in lines if 'error' in line), lines[0])}"
                ) from error
            except subprocess.TimeoutExpired as error:
                raise BuildError(f"{compiler} took longer than {_COMPILE_LIMIT_S:g} s") from error
        os.replace(result, place)


def _nicely() -> list[str]:
    nice = shutil.which("nice")
    return [nice, "-n", "10"] if nice else []


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return shutil.which(named) if named else shutil.which("g++") or shutil.which("c++")


@cache
def _digest(compiler: str) -> str:
    """Of everything that decides what the compiler would make."""
    facts = [
        *(file.read_bytes() for file in (_SOURCE, *_HEADERS)),
        " ".join(_FLAGS).encode(),
        platform.machine().encode(),
    ]
    resolved = Path(compiler).resolve()
    facts.append(f"{resolved} {resolved.stat().st_size} {resolved.stat().st_mtime_ns}".encode())
    try:
        cpu = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        cpu = []
    facts += [
        line.encode()
        for line in sorted({line for line in cpu if line.lower().startswith(("flags", "features", "model name"))})
    ]
    return hashlib.sha256(b"\0".join(facts)).hexdigest()[:20]


def _place(compiler: str) -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(named) if named else base / "outrider" / "kernels") / f"decoder_step-{_digest(compiler)}.so"
