"""A manifest is written last: killing a stage at any line leaves either no manifest or one whose files are all true."""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.training import artifacts, storage
from outrider.training.artifacts import Artifact, Manifest, file_sha256

WATCHED = {artifacts.__file__, storage.__file__, __file__}
INPUTS = {"prompts": "a" * 64}


class Killed(BaseException):
    """Stands for the process's end: nothing in the stage catches it."""


def stage(output: Path, content: list[bytes], restart: bool = False) -> Manifest:
    """A stage that writes one file per item, keeping what an interrupted run wrote."""
    artifact = Artifact(output, "answers")
    if artifact.begin(INPUTS, {"items": len(content)}, restart=restart):
        for number, item in enumerate(content):
            path = artifact.directory / f"{number}.bin"
            if path.exists() and path.read_bytes() == item:
                continue
            with path.open("wb") as stream:
                stream.write(item[: len(item) // 2])
                stream.flush()
                stream.write(item[len(item) // 2 :])
        return artifact.finish({"items": len(content)})
    return artifact.require()


def killed_after(lines: int, output: Path, content: list[bytes], restart: bool) -> bool:
    """Run the stage and kill it at its n-th line; whether it was killed before it ended.

    In a thread of its own: what a trace function raises inside an `except` block leaves CPython 3.11's stack of handled
    exceptions one too deep, and every later error of that thread would be chained to the one handled there.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_killed_after, lines, output, content, restart).result()


def _killed_after(lines: int, output: Path, content: list[bytes], restart: bool) -> bool:
    left = lines

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise Killed
        return watch

    sys.settrace(watch)
    try:
        stage(output, content, restart)
    except Killed:
        return True
    finally:
        sys.settrace(None)
    return False


def vouched(directory: Path) -> bool:
    """Whether there is a manifest; if there is, every file it names must hold what it says."""
    artifact = Artifact(directory.parent, "answers")
    artifact.directory = directory
    manifest = artifact.manifest()
    for name, entry in manifest.files.items() if manifest else ():
        path = directory / name
        assert path.stat().st_size == entry.bytes
        assert file_sha256(path) == entry.sha256
    return manifest is not None


@settings(max_examples=50, deadline=None)
@given(
    content=st.lists(st.binary(min_size=2, max_size=40), min_size=1, max_size=4),
    lines=st.lists(st.integers(0, 260), min_size=1, max_size=4),
    restart=st.booleans(),
)
def test_no_kill_leaves_a_manifest_that_lies(content: list[bytes], lines: list[int], restart: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        if restart:
            stage(output, content)
        for each in lines:
            killed = killed_after(each, output, content, restart)
            assert vouched(output / "answers") or killed
            vouched(output / "answers.old")
        manifest = stage(output, content)
        assert vouched(output / "answers")
        assert sorted(manifest.files) == sorted(f"{number}.bin" for number in range(len(content)))
        assert [(output / f"answers/{number}.bin").read_bytes() for number in range(len(content))] == content
        with tempfile.TemporaryDirectory() as other:
            assert stage(Path(other), content).hash == manifest.hash


def test_the_kill_reaches_every_part_of_a_stage() -> None:
    """Without this the property could pass by never killing."""
    with tempfile.TemporaryDirectory() as folder:
        reached = 0
        while killed_after(reached, Path(folder) / str(reached), [b"abcd", b"efgh"], False):
            reached += 1
        assert 60 < reached < 260


def test_a_kill_leaves_this_thread_without_an_exception_being_handled() -> None:
    """Whoever fails later in this process must not be told that it happened while something else was handled."""
    with tempfile.TemporaryDirectory() as folder:
        lines = 0
        while killed_after(lines, Path(folder) / str(lines), [b"abcd"], False):
            assert sys.exc_info() == (None, None, None)
            lines += 1
