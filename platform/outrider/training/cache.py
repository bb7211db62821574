"""`outrider draft cache`: the target's states over its own answers, in checksummed shards for training to map.

A shard is a safetensors file of consecutive conversations, their rows one after the other: features [N, m·d] and
last [N, d] in bf16, tokens int32 [N], and lengths and prompt_lengths int32 [C] of its C conversations.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from outrider.errors import ArtifactBroken, NotEnoughDisk
from outrider.training.answers import Answer, read_answers
from outrider.training.artifacts import Artifact, Manifest, file_sha256
from outrider.training.features import Conversation, Extractor, Featured, Features, check_finite
from outrider.training.progress import Progress
from outrider.training.recipe import Recipe
from outrider.training.storage import sync_directory, write_json
from outrider.training.subject import Subject, open_subject

__all__ = ["FeatureCache", "OnTheFlyFeatures", "cache", "check_features", "conversations_of", "open_features"]

_INDEX = "shards.json"
_MARGIN_BYTES = 64 << 20
_STATE_BYTES = 2
_TOKEN_BYTES = 4


def cache(recipe: Recipe, *, restart: bool = False, log: Callable[[str], None] | None = None) -> Manifest:
    """Make `features/`, shard by shard; returns the manifest, at once when it is up to date and every checksum holds.

    Damaged shards of a finished cache are made again. In on-the-fly mode nothing is stored but the manifest.
    Raises ArtifactMissing without answers, ArtifactMismatch when answers, target, tokenizer or tapped layers changed,
    NotEnoughDisk with the numbers before anything is written, or midway with all finished shards kept,
    ModelDirectoryError for a target whose states are not finite.
    """
    say = log or (lambda line: print(line, file=sys.stderr, flush=True))
    subject = open_subject(recipe)
    artifact = Artifact(recipe.output, "features")
    inputs, settings = _origin(recipe, subject)
    if not restart and not _is_sound(artifact):
        artifact.reopen()
    if not artifact.begin(inputs, settings, restart=restart):
        return artifact.require()
    conversations = conversations_of(_answers(recipe))
    row_bytes = (len(recipe.drafter.target_layer_ids) + 1) * subject.hidden_size * _STATE_BYTES + _TOKEN_BYTES
    total_bytes = row_bytes * sum(len(prompt) + len(response) for _, prompt, response in conversations)
    figures = {"conversations": len(conversations), "mode": recipe.cache.mode, "bytes": total_bytes}
    if recipe.cache.mode == "on-the-fly":
        say(f"on-the-fly: {_megabytes(total_bytes)} of states are computed as training needs them, nothing is stored")
        return artifact.finish(figures)
    plan = _plan(conversations, recipe.cache.shard_bytes, row_bytes)
    writer = _Writer(artifact.directory, [sum(len(p) + len(r) for _, p, r in part) * row_bytes for part in plan])
    say(writer.announcement())
    writer.check_room()
    if writer.missing():
        extractor = Extractor.load(recipe.target, recipe.drafter.target_layer_ids)
        with Progress("cache") as progress:
            starts = [*accumulate(map(len, plan), initial=0)]
            for number in writer.missing():
                place = f"{number + 1}/{len(plan)}"
                rows = extractor.run(plan[number], partial(_tell, progress, len(conversations), starts[number], place))
                check_finite(rows, recipe.target)
                writer.write(number, rows)
    return artifact.finish(figures | {"shards": len(plan)})


def _tell(progress: Progress, conversations: int, before: int, shard: str, done: int) -> None:
    progress.update((before + done) / conversations, shards=shard)


def check_features(recipe: Recipe, subject: Subject) -> Manifest:
    """The manifest of a recipe's features, without reading them.

    Raises ArtifactMissing before `outrider draft cache`, ArtifactMismatch when it was made from another target,
    tokenizer, answers or other tapped layers, ArtifactBroken naming a file that is truncated.
    """
    return Artifact(recipe.output, "features").require(*_origin(recipe, subject))


def open_features(recipe: Recipe) -> Features:
    """The training features of a recipe, from disk or computed as needed.

    Raises what `check_features` does, and ArtifactBroken naming a shard whose bytes are not those that were written.
    """
    artifact = Artifact(recipe.output, "features")
    check_features(recipe, open_subject(recipe))
    if recipe.cache.mode == "disk":
        return FeatureCache(artifact)
    extractor = Extractor.load(recipe.target, recipe.drafter.target_layer_ids)
    return OnTheFlyFeatures(extractor, conversations_of(_answers(recipe)), recipe.target)


def conversations_of(answers: Sequence[Answer]) -> list[Conversation]:
    """Answers as the extractor takes them."""
    return [(answer.domain, answer.prompt_tokens, answer.response_tokens) for answer in answers]


class FeatureCache(Sequence[Featured]):
    """A finished cache; states are read from the mapped shards when a conversation is asked for."""

    def __init__(self, artifact: Artifact) -> None:
        """Check every shard against its checksum. Raises ArtifactMissing, ArtifactBroken."""
        names = sorted(name for name in artifact.require().files if name.endswith(".safetensors"))
        self._shards: list[Any] = []
        with Progress("checking shards") as progress:
            for done, name in enumerate(names, start=1):
                self._shards.append(safetensors.safe_open(artifact.check_content(name), framework="pt"))
                progress.update(done / len(names), shards=f"{done}/{len(names)}")
        self._counts = [0]
        self._starts: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.domains: list[str] = []
        for shard in self._shards:
            lengths = shard.get_tensor("lengths").tolist()
            self._starts += list(accumulate(lengths, initial=0))[:-1]
            self.sizes += zip(lengths, shard.get_tensor("prompt_lengths").tolist(), strict=True)
            self.domains += json.loads(shard.metadata()["domains"])
            self._counts.append(len(self.sizes))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.rows(range(*index.indices(len(self))))
        index = range(len(self))[index]
        shard = self._shards[bisect_right(self._counts, index) - 1]
        start = self._starts[index]
        tokens, prompt_tokens = self.sizes[index]
        part = slice(start, start + tokens)
        return Featured(
            domain=self.domains[index],
            tokens=shard.get_slice("tokens")[part].long(),
            prompt_tokens=prompt_tokens,
            features=shard.get_slice("features")[part],
            last=shard.get_slice("last")[part],
        )

    def rows(self, indices: Sequence[int]) -> list[Featured]:
        """Several conversations, in the order asked for."""
        return [self[index] for index in indices]


class OnTheFlyFeatures(Sequence[Featured]):
    """The same rows computed when they are asked for; on a CPU equal to the cache's bit for bit."""

    def __init__(self, extractor: Extractor, conversations: Sequence[Conversation], target: Path) -> None:
        """`target` is the model's directory, for errors."""
        self._target = target
        self._extractor = extractor
        self._conversations = conversations
        self.sizes = [(len(prompt) + len(response), len(prompt)) for _, prompt, response in conversations]
        self.domains = [domain for domain, _, _ in conversations]

    def __len__(self) -> int:
        return len(self._conversations)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.rows(range(*index.indices(len(self))))
        return self.rows([range(len(self))[index]])[0]

    def rows(self, indices: Sequence[int]) -> list[Featured]:
        """Several conversations, in the order asked for, in as few forwards as the device likes.

        Raises ModelDirectoryError for states that are not finite.
        """
        found = self._extractor.run([self._conversations[index] for index in indices])
        check_finite(found, self._target)
        return found


class _Writer:
    """Writes shards one by one; `shards.json` lists those that are whole, with their checksums."""

    def __init__(self, directory: Path, sizes: Sequence[int]) -> None:
        self._directory = directory
        self._sizes = sizes
        self._done: dict[str, str] = {}
        with suppress(OSError, ValueError):
            self._done = json.loads((directory / _INDEX).read_text("utf-8"))
        self._missing = [number for number in range(len(sizes)) if not self._whole(_shard_name(number))]

    def _whole(self, name: str) -> bool:
        path = self._directory / name
        return name in self._done and path.is_file() and file_sha256(path) == self._done[name]

    def missing(self) -> list[int]:
        """Numbers of the shards still to be written."""
        return list(self._missing)

    def announcement(self) -> str:
        """What is going to be written, and where there is how much room."""
        needed = sum(self._sizes[number] for number in self._missing)
        kept = len(self._sizes) - len(self._missing)
        return (
            f"cache: {_megabytes(sum(self._sizes))} in {len(self._sizes)} shards, {kept} of them done; needs "
            f"{_megabytes(needed)}, free are {_megabytes(self._free_bytes())} at {self._directory}"
        )

    def check_room(self) -> None:
        """Raises NotEnoughDisk with the numbers when what is missing does not fit."""
        needed = sum(self._sizes[number] for number in self._missing)
        free = self._free_bytes()
        if needed and needed + _MARGIN_BYTES > free:
            raise NotEnoughDisk(
                f"{self._directory}: the cache needs {_megabytes(needed)} and {_megabytes(_MARGIN_BYTES)} to spare, "
                f"{_megabytes(free)} are free; free some, or set `cache: {{mode: on-the-fly}}`, or lower answers.limit"
            )

    def write(self, number: int, rows: Sequence[Featured]) -> None:
        """Write one shard and note it as whole. Raises NotEnoughDisk when the disk fills up meanwhile."""
        name = _shard_name(number)
        partial = self._directory / f"{name}.partial"
        try:
            with partial.open("wb") as stream:
                stream.write(_serialised(rows))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, self._directory / name)
            sync_directory(self._directory)
            self._done[name] = file_sha256(self._directory / name)
            write_json(self._directory / _INDEX, self._done)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            with suppress(OSError):
                partial.unlink()
            left = sum(self._sizes[each] for each in self._missing if each >= number)
            raise NotEnoughDisk(
                f"{self._directory / name}: the disk is full; {_megabytes(left)} are still to be written. Finished "
                "shards are kept: free some space, then `outrider draft cache` goes on"
            ) from error

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._directory).free


def _serialised(rows: Sequence[Featured]) -> bytes:
    tensors = {
        "features": torch.cat([row.features for row in rows]),
        "last": torch.cat([row.last for row in rows]),
        "tokens": torch.cat([row.tokens for row in rows]).int(),
        "lengths": torch.tensor([len(row.tokens) for row in rows], dtype=torch.int32),
        "prompt_lengths": torch.tensor([row.prompt_tokens for row in rows], dtype=torch.int32),
    }
    content: bytes = safetensors.torch.save(tensors, {"domains": json.dumps([row.domain for row in rows])})
    return content


def _origin(recipe: Recipe, subject: Subject) -> tuple[dict[str, str], dict[str, Any]]:
    """Inputs and settings of a recipe's features. Raises ArtifactMismatch for the answers of another target."""
    answers = Artifact(recipe.output, "answers").require_from(subject.inputs)
    settings = recipe.cache.model_dump(mode="json") | {"target_layer_ids": list(recipe.drafter.target_layer_ids)}
    return {"answers": answers.hash, **subject.inputs}, settings


def _answers(recipe: Recipe) -> list[Answer]:
    """The training answers, checked against their checksums."""
    artifact = Artifact(recipe.output, "answers")
    for name in artifact.require().files:
        artifact.check_content(name)
    return read_answers(artifact.directory, "train")


def _is_sound(artifact: Artifact) -> bool:
    """Whether every file of a finished artifact has its bytes; an unfinished one has nothing to be unsound."""
    manifest = artifact.manifest()
    try:
        for name in manifest.files if manifest else ():
            artifact.check_content(name)
    except ArtifactBroken:
        return False
    return True


def _plan(conversations: Sequence[Conversation], shard_bytes: int, row_bytes: int) -> list[list[Conversation]]:
    """Consecutive conversations per shard: as many as fit `shard_bytes`, one at least."""
    plan: list[list[Conversation]] = []
    size = 0
    for conversation in conversations:
        added = (len(conversation[1]) + len(conversation[2])) * row_bytes
        if not plan or size + added > shard_bytes:
            plan.append([])
            size = 0
        plan[-1].append(conversation)
        size += added
    return plan


def _shard_name(number: int) -> str:
    return f"shard-{number:05}.safetensors"


def _megabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
