"""What a stage leaves behind: a directory that is either vouched for by a manifest or not finished.

A stage writes `begun.json` (what it is being made from), then its files, then `manifest.json` with the size and sha256
of every file. The manifest is written last, after every file is on disk, so a process killed at any point leaves no
manifest or a true one. Interrupted directories are resumed as long as inputs and settings are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import outrider
from outrider.errors import ArtifactBroken, ArtifactMismatch, ArtifactMissing, ConfigurationError
from outrider.training.storage import sync_directory, write_json

__all__ = ["COMMANDS", "FORMAT_VERSION", "Artifact", "FileEntry", "Manifest", "file_sha256"]

FORMAT_VERSION = 1
COMMANDS = {
    "prompts": "prepare",
    "answers": "regenerate",
    "features": "cache",
    "drafter": "train",
    "evaluation": "eval",
    "calibration": "calibrate",
    "export": "export",
    "report": "report",
}
"""The `outrider draft` command that makes each artifact."""

_REPAIRED = ("features",)
"""Kinds whose stage replaces damaged files one by one; the others are made anew."""

_ONLY_LOOKED_AT = ("tensorboard",)
"""Folders that a manifest does not vouch for: their files bear the time of day, and nothing is made from them."""

_MANIFEST = "manifest.json"
_BEGUN = "begun.json"
_CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file as the manifest vouches for it."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact is, what it was made from, and every file of it.

    inputs: hash by name of each artifact, model directory or file that was read. settings: what of the recipe it
    depends on. figures: what was measured on the way; they are no part of the hash, so that a rebuild that gives the
    same files is the same artifact.
    """

    kind: str
    inputs: dict[str, str]
    settings: dict[str, Any]
    files: dict[str, FileEntry]
    figures: dict[str, Any]
    format_version: int = FORMAT_VERSION
    outrider_version: str = outrider.__version__

    @property
    def hash(self) -> str:
        """sha256 hex of what the artifact holds and what it was made from."""
        content = asdict(self)
        del content["figures"], content["outrider_version"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Artifact:
    """One stage's directory below a recipe's output.

    `variant` is for several drafters over one set of features: `drafter-VARIANT` and so on stand beside `drafter`.
    """

    def __init__(self, output: Path, kind: str, variant: str = "", label: str = "") -> None:
        """`label` tells evaluations of one drafter apart. Raises ConfigurationError for what cannot name a folder."""
        for option, name in (("--name", variant), ("--label", label)):
            if not name or _NAME.fullmatch(name):
                continue
            raise ConfigurationError(
                f"{option} '{name}' becomes part of a folder's name: use letters, digits, '.', '_', '-', "
                "beginning with a letter or a digit"
            )
        self.kind = kind
        options = (f" --name {variant}" if variant else "") + (f" --prompts FILE --label {label}" if label else "")
        self.command = f"outrider draft {COMMANDS[kind]}{options}"
        self.directory = output / "-".join(filter(None, (kind, variant, label)))

    def begin(self, inputs: Mapping[str, str], settings: Mapping[str, Any], *, restart: bool = False) -> bool:
        """Get the directory ready for work; False, said on stderr, when it is complete and up to date.

        An interrupted directory made from the same things is kept, for the stage to resume in. `restart` moves
        whatever is there to `<name>.old`, of which the last is kept.
        Raises ArtifactMismatch when what is there was made from other inputs or settings, naming them, and
        ArtifactBroken when a finished one lost a file or changed in size.
        """
        wanted = self._origin(inputs, settings)
        if restart:
            self._put_aside()
        found = self._record(_MANIFEST) or self._record(_BEGUN)
        if found is not None:
            self._check_origin(found, wanted)
        if self.manifest() is not None:
            (self.directory / _BEGUN).unlink(missing_ok=True)
            self.check_sizes()
            print(f"{self.directory.name}: up to date", file=sys.stderr, flush=True)
            return False
        self.directory.mkdir(parents=True, exist_ok=True)
        if found is None:
            write_json(self.directory / _BEGUN, wanted)
        return True

    def finish(self, figures: Mapping[str, Any]) -> Manifest:
        """Vouch for every file of the directory; returns the manifest that now stands there."""
        begun = self._record(_BEGUN)
        if begun is None:
            raise ArtifactMissing(f"{self.directory} was not begun; run `{self.command}`")
        files = {}
        for name in sorted(self._file_names()):
            path = self.directory / name
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            files[name] = FileEntry(path.stat().st_size, file_sha256(path))
        sync_directory(self.directory)
        manifest = Manifest(self.kind, begun["inputs"], begun["settings"], files, json.loads(json.dumps(figures)))
        write_json(self.directory / _MANIFEST, asdict(manifest))
        (self.directory / _BEGUN).unlink()
        return manifest

    def manifest(self) -> Manifest | None:
        """The manifest, or None for what is absent or unfinished. Raises ArtifactBroken if it is no manifest."""
        record = self._record(_MANIFEST)
        if record is None:
            return None
        try:
            files = {name: FileEntry(**entry) for name, entry in record["files"].items()}
            return Manifest(**{**record, "files": files})
        except (TypeError, KeyError, AttributeError) as error:
            raise self._broken(f"{_MANIFEST} is not a manifest ({error})") from error

    def require(self, inputs: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None) -> Manifest:
        """The manifest of a finished artifact whose files are all there in full size.

        Raises ArtifactMissing, naming the command that makes it, ArtifactBroken, or, where `inputs` and `settings` are
        given, ArtifactMismatch when it was made from others.
        """
        manifest = self.manifest()
        if manifest is None:
            state = "is not finished" if (self.directory / _BEGUN).exists() else "does not exist"
            raise ArtifactMissing(f"{self.directory} {state}; run `{self.command}` first")
        if manifest.format_version != FORMAT_VERSION:
            raise ArtifactMismatch(
                f"{self.directory} has format version {manifest.format_version}, this is {FORMAT_VERSION}; "
                f"`{self.command} --restart` makes it anew"
            )
        if inputs is not None and settings is not None:
            self._check_origin(asdict(manifest), self._origin(inputs, settings))
        self.check_sizes()
        return manifest

    def require_from(self, inputs: Mapping[str, str]) -> Manifest:
        """As `require`, of an artifact that was made from these inputs, whatever else it was made from.

        A stage that reads two artifacts asks so whether they belong together. Raises ArtifactMismatch.
        """
        manifest = self.require()
        found = asdict(manifest) | {"inputs": {n: h for n, h in manifest.inputs.items() if n in inputs}, "settings": {}}
        self._check_origin(found, self._origin(inputs, {}))
        return manifest

    def reopen(self) -> None:
        """Turn a finished artifact into an interrupted one, for its stage to replace what is damaged."""
        manifest = self.manifest()
        if manifest is not None:
            write_json(self.directory / _BEGUN, self._origin(manifest.inputs, manifest.settings))
            (self.directory / _MANIFEST).unlink()

    def check_sizes(self) -> None:
        """Every file is there and as long as the manifest says. Raises ArtifactBroken naming the first that is not."""
        manifest = self.manifest()
        for name, entry in (manifest.files if manifest else {}).items():
            path = self.directory / name
            if not path.is_file():
                raise self._broken(f"{name} is missing")
            size = path.stat().st_size
            if size != entry.bytes:
                change = "truncated" if size < entry.bytes else "longer than it was written"
                raise self._broken(f"{name} is {change}: {size} bytes instead of {entry.bytes}")

    def check_content(self, name: str) -> Path:
        """The path of a file whose bytes are those the manifest vouches for. Raises ArtifactBroken."""
        manifest = self.require()
        if name not in manifest.files:
            raise self._broken(f"{name} is not in {_MANIFEST}")
        path = self.directory / name
        if file_sha256(path) != manifest.files[name].sha256:
            raise self._broken(f"{name} has the right size but other bytes than were written")
        return path

    def _origin(self, inputs: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
        """What `begun.json` says, as JSON gives it back."""
        origin = {"kind": self.kind, "format_version": FORMAT_VERSION, "inputs": dict(inputs), "settings": settings}
        back: dict[str, Any] = json.loads(json.dumps(origin))
        return back

    def _check_origin(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        differing = _differences(found, wanted)
        if differing:
            state = "was made" if (self.directory / _MANIFEST).exists() else "was begun"
            raise ArtifactMismatch(
                f"{self.directory} {state} with something else than there is now: {'; '.join(differing)}. "
                f"`{self.command} --restart` starts over and keeps it as {self.directory.name}.old"
            )

    def _broken(self, what: str) -> ArtifactBroken:
        cure = self.command if self.kind in _REPAIRED else f"{self.command} --restart"
        return ArtifactBroken(f"{self.directory}: {what}; `{cure}` rebuilds it")

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads((self.directory / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._broken(f"{name} cannot be read ({error})") from error
        if not isinstance(record, dict):
            raise self._broken(f"{name} is not a JSON object")
        return record

    def _file_names(self) -> list[str]:
        names = (path.relative_to(self.directory) for path in self.directory.rglob("*") if path.is_file())
        return [name.as_posix() for name in names if name.name not in (_MANIFEST, _BEGUN) and not _is_left_out(name)]

    def _put_aside(self) -> None:
        """Move what is there to `<name>.old`; a kill in between never leaves half an old one with its manifest.

        What was begun and holds nothing yet is no reason to give up an older one.
        """
        if not self.directory.exists():
            return
        if not any(path.is_file() and path.name != _BEGUN for path in self.directory.rglob("*")):
            shutil.rmtree(self.directory)
            return
        old = self.directory.with_name(f"{self.directory.name}.old")
        (old / _MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        os.replace(self.directory, old)


def file_sha256(path: Path) -> str:
    """sha256 hex of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _is_left_out(name: Path) -> bool:
    return name.suffix == ".partial" or any(part.startswith(".") or part in _ONLY_LOOKED_AT for part in name.parts)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In words: which inputs and settings are not the same."""
    differing = []
    if found.get("format_version") != wanted["format_version"]:
        differing.append(f"format version {found.get('format_version')}, now {wanted['format_version']}")
    for part, label in (("inputs", "input"), ("settings", "setting")):
        before, now = found.get(part) or {}, wanted[part]
        for name in sorted(before.keys() | now.keys()):
            if name not in before:
                differing.append(f"{label} {name} is new")
            elif name not in now:
                differing.append(f"{label} {name} is gone")
            elif before[name] != now[name] and part == "inputs":
                differing.append(f"{label} {name} changed ({before[name][:12]} → {now[name][:12]})")
            elif before[name] != now[name]:
                differing += _changes(f"{label} {name}", before[name], now[name])
    return differing


def _changes(name: str, before: Any, now: Any) -> list[str]:
    """What differs inside a setting, field by field where it is a section."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [f"{name} was {json.dumps(before)}, now {json.dumps(now)}"]
    fields = [field for field in sorted(before.keys() | now.keys()) if before.get(field) != now.get(field)]
    return [each for field in fields for each in _changes(f"{name}.{field}", before.get(field), now.get(field))]
