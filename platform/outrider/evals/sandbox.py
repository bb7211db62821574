"""Python written by a model, run in a process of its own: bounded in time, memory and files, without a network.

The child is told the code and the calls, never what they should give: it reports `repr` of every result, and the
parent compares. The limits keep accidents in (endless loops, huge lists, a stray `os.system`). They do not hold a
determined attacker: run evals of a model you do not trust in a container.
"""

from __future__ import annotations

import ast
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CallResult", "SandboxLimits", "run_calls", "same_value"]

_OUTPUT_BYTES = 1 << 20
_REPR_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one run may use: wall clock and CPU seconds, bytes of address space."""

    time_s: float = 3.0
    memory_bytes: int = 512 * 2**20


@dataclass(frozen=True, slots=True)
class CallResult:
    """What one call gave: the `repr` of what it returned, or the name and text of what it raised; what it printed."""

    value: str | None = None
    raised: str | None = None
    message: str = ""
    printed: str = ""


def run_calls(code: str, calls: Sequence[str], limits: SandboxLimits | None = None) -> list[CallResult] | str:
    """Run `code`, then each call as an expression in its namespace; or say in a few words why nothing came back.

    The child is `python -I` with an empty environment and an empty working directory that is removed afterwards.
    """
    limits = limits or SandboxLimits()
    task = {
        "code": code,
        "calls": list(calls),
        "time_s": math.ceil(limits.time_s),
        "memory_bytes": limits.memory_bytes,
        "output_bytes": _OUTPUT_BYTES,
        "repr_characters": _REPR_CHARACTERS,
    }
    with (
        tempfile.TemporaryDirectory(prefix="outrider-eval-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as told,
    ):
        given.write(json.dumps(task).encode())
        given.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            stdin=given,
            stdout=told,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            status = child.wait(limits.time_s + 1.0)
        except subprocess.TimeoutExpired:
            return f"did not end within {limits.time_s:g} s"
        finally:
            _kill(child)
        told.seek(0)
        report = told.read(_OUTPUT_BYTES + 1)
    if status in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
        return f"did not end within {limits.time_s:g} s"
    return _read(report, len(calls), status)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it may have started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    child.wait()


def _read(report: bytes, calls: int, status: int) -> list[CallResult] | str:
    """The child's report; anything malformed is the child's fault and said as such."""
    try:
        told = json.loads(report)
        if isinstance(told, str):
            return told[:300]
        results = [
            CallResult(each["value"], each["raised"], str(each["message"]), str(each["printed"])) for each in told
        ]
    except (ValueError, TypeError, KeyError):
        return f"ended with status {status} and reported nothing"
    return results if len(results) == calls else "reported on other calls than asked"


def same_value(got: str | None, expected: object) -> bool:
    """Whether a `repr` is that of `expected`: floats to 1e-9, 2 equals 2.0, but True is not 1 and (1,) is not [1]."""
    if got is None:
        return False
    try:
        return _same(ast.literal_eval(got), expected)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False


def _same(a: object, b: object) -> bool:
    numbers = (int, float, complex)
    if isinstance(a, numbers) and isinstance(b, numbers):
        if isinstance(a, bool) or isinstance(b, bool) or isinstance(a, complex) or isinstance(b, complex):
            return type(a) is type(b) and a == b
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        try:
            return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
        except OverflowError:
            return a == b
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    return a == b


_CHILD = r"""
import sys, os
def main():
    import json, io, resource, signal
    task = json.loads(sys.stdin.buffer.read())
    seconds = task["time_s"]
    def limit(kind, value):
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            pass
    limit(resource.RLIMIT_CPU, seconds)
    limit(resource.RLIMIT_AS, task["memory_bytes"])
    limit(resource.RLIMIT_FSIZE, task["output_bytes"])
    limit(resource.RLIMIT_NOFILE, 32)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NPROC, 0)
    signal.alarm(seconds)
    try:  # a network namespace of its own, where the kernel lets us: nothing is reachable from it
        import ctypes
        ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)
    except Exception:
        pass
    report = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    here = os.getcwd() + os.sep
    barred = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "os.kill",
              "os.putenv", "os.chdir", "os.chmod", "os.chown", "ctypes.", "signal.", "resource.",
              "syslog.", "webbrowser.")
    changing = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.")
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    abspath, error = os.path.abspath, PermissionError
    def watch(event, arguments):
        if event.startswith(barred):
            raise error("not allowed in an eval: " + event)
        if event == "open":
            path, mode, flags = arguments
            if isinstance(flags, int) and flags & writing:
                if not isinstance(path, str) or not abspath(path).startswith(here):
                    raise error("not allowed in an eval: writing outside the working directory")
        elif event.startswith(changing):
            for path in arguments:
                if isinstance(path, (str, bytes)) and not abspath(os.fsdecode(path)).startswith(here):
                    raise error("not allowed in an eval: " + event)
    class Bounded(io.StringIO):
        def write(self, text):
            if self.tell() + len(text) > task["repr_characters"]:
                raise MemoryError("printed too much")
            return super().write(text)
    def tell(value, dumps=json.dumps, write=os.write, leave=os._exit):
        data = dumps(value).encode()
        while data:
            data = data[write(report, data):]
        leave(0)
    def named(problem):
        return type(problem).__name__
    sys.addaudithook(watch)
    space = {"__name__": "answer", "__builtins__": __builtins__}
    sys.stdout = Bounded()
    try:
        exec(compile(task["code"], "answer", "exec"), space)
    except BaseException as problem:
        tell("the code itself raised " + named(problem) + ": " + str(problem)[:160])
    results = []
    for call in task["calls"]:
        sys.stdout = printed = Bounded()
        try:
            value, raised, message = repr(eval(call, space)), None, ""
            if len(value) > task["repr_characters"]:
                value, raised, message = None, "MemoryError", "the result is too long"
        except BaseException as problem:
            value, raised, message = None, named(problem), str(problem)[:100]
        results.append({"value": value, "raised": raised, "message": message, "printed": printed.getvalue()})
    tell(results)
main()
"""
