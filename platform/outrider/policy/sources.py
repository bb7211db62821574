"""Where policy documents lie: a platform's file and its teams', or a directory that holds both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.documents import Problem, read_text

__all__ = ["Source", "read_sources"]

PLATFORM_FILES = ("platform.yaml", "default.yaml")
TEAM_FOLDER = "teams"
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Source:
    """One document as it was typed; `file` names it in problems."""

    file: str
    text: str


def read_sources(
    path: str | os.PathLike[str], teams: Iterable[str | os.PathLike[str]] = ()
) -> tuple[tuple[Source, ...], tuple[Problem, ...]]:
    """The platform's document, then the teams', and why those that are missing cannot be had.

    A directory stands for its `platform.yaml` (or `default.yaml`) and every YAML file in its folder `teams`; as a team,
    for every YAML file in it.
    """
    files: list[str | os.PathLike[str]] = []
    problems: list[Problem] = []
    if os.path.isdir(path):
        platform, found = _in_directory(Path(path))
        files += platform
        problems += found
    else:
        files.append(path)
    for team in teams:
        files += _yaml_files(Path(team)) if os.path.isdir(team) else [team]
    texts = [(os.fspath(file), read_text(file, "policy")) for file in files]
    problems += [text for _, text in texts if isinstance(text, Problem)]
    return tuple(Source(file, text) for file, text in texts if isinstance(text, str)), tuple(problems)


def _in_directory(folder: Path) -> tuple[Sequence[Path], Sequence[Problem]]:
    here = [folder / name for name in PLATFORM_FILES if (folder / name).is_file()]
    if len(here) == 1:
        teams = folder / TEAM_FOLDER
        return [*here, *(_yaml_files(teams) if teams.is_dir() else [])], []
    if here:
        message = f"both {' and '.join(PLATFORM_FILES)} are here; keep the one that is the platform's"
    else:
        message = f"no {' or '.join(PLATFORM_FILES)} in this directory; give the YAML file"
    return [], [Problem(os.fspath(folder), 1, 1, "", message)]


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix in _SUFFIXES)
