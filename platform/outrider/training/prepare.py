"""`outrider draft prepare`: prompt files to train and held-out prompts, without near-duplicates and misfits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outrider.errors import DataError
from outrider.training.artifacts import Artifact, Manifest, file_sha256
from outrider.training.data.document import split_of
from outrider.training.progress import Progress
from outrider.training.prompts import BadRecord, PromptRecord, encode_prompt, parse_record, read_file
from outrider.training.recipe import Recipe
from outrider.training.similarity import DuplicateIndex
from outrider.training.subject import Subject, open_subject

__all__ = ["length_statistics", "prepare"]

_LISTED_PROBLEMS = 20
_LEAST_PROMPTS = 2
_ROOM_FOR_ANSWER = 2

Encoded = tuple[PromptRecord, int]


def prepare(recipe: Recipe, *, restart: bool = False) -> Manifest:
    """Make `prompts/train.jsonl` and `prompts/heldout.jsonl`; returns the manifest, at once when it is up to date.

    Raises DataError, before anything is written, that lists the bad lines of all files with their places, or says that
    too little is left; ArtifactMismatch when the artifact was made from other files or settings.
    """
    subject = open_subject(recipe)
    section = recipe.prompts
    room = min(section.max_prompt_tokens, subject.text.context_tokens - _ROOM_FOR_ANSWER)
    settings = section.model_dump(mode="json", exclude={"files"}) | {"seed": recipe.seed, "room_tokens": room}
    artifact = Artifact(recipe.output, "prompts")
    inputs = {"tokenizer": subject.tokenizer}
    for number, file in enumerate(section.files):
        if not file.is_file():
            raise DataError(f"{file}: no such file; check prompts.files in the recipe")
        inputs[f"file {number} ({file.name})"] = file_sha256(file)
    if not restart and artifact.manifest() is not None and not artifact.begin(inputs, settings):
        return artifact.require()
    records = _read(section.files)
    kept, figures = _select(records, recipe, subject, room)
    if artifact.begin(inputs, settings, restart=restart):
        for split in ("train", "heldout"):
            lines = [record.to_json(tokens) for record, tokens in kept[split]]
            text = "".join(f"{line}\n" for line in lines)
            (artifact.directory / f"{split}.jsonl").write_text(text, encoding="utf-8")
        return artifact.finish(figures)
    return artifact.require()


def _read(files: Sequence[Path]) -> list[PromptRecord]:
    """Every record of every file. Raises DataError with all bad lines counted and the first ones listed."""
    records: list[PromptRecord] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    bad = 0
    for file in files:
        for number, value in read_file(file):
            place = f"{file}:{number}"
            try:
                record = parse_record(value)
                first = places.setdefault(record.id, place)
                repeated = first != place and "id" in value and value["id"] is not None
                if repeated:
                    raise BadRecord(f"id '{record.id}' was already used at {first}; ids are unique")
                records.append(record)
            except BadRecord as error:
                bad += 1
                if len(problems) < _LISTED_PROBLEMS:
                    problems.append(f"{place}: {error}")
    if bad:
        more = [f"… and {bad - len(problems)} more"] if bad > len(problems) else []
        verdict = f"{bad} of {bad + len(records)} records cannot be used; nothing was written"
        raise DataError("\n".join([verdict, *problems, *more]))
    if len(records) < _LEAST_PROMPTS:
        named = ", ".join(map(str, files))
        holds = "1 prompt" if records else "no prompts"
        raise DataError(f"{named}: {holds}; a drafter is trained on answers to hundreds of prompts at least")
    return records


def _select(
    records: Sequence[PromptRecord], recipe: Recipe, subject: Subject, room: int
) -> tuple[dict[str, list[Encoded]], dict[str, Any]]:
    """What is kept, by split, and the figures of the manifest."""
    section = recipe.prompts
    index = DuplicateIndex(section.dedupe_ngram, section.dedupe_overlap)
    fitting: list[Encoded] = []
    duplicates, too_long, longest = 0, 0, 0
    refused: list[str] = []
    with Progress("prepare") as progress:
        for done, record in enumerate(records):
            progress.update(done / len(records), kept=len(fitting), duplicates=duplicates, too_long=too_long)
            if not index.add(record.text):
                duplicates += 1
                continue
            try:
                tokens = len(encode_prompt(record, subject.text))
            except BadRecord as error:
                refused.append(f"{record.id}: {error}")
                continue
            longest = max(longest, tokens)
            if tokens > room or tokens == 0:
                too_long += 1
            else:
                fitting.append((record, tokens))
        progress.update(1.0, kept=len(fitting), duplicates=duplicates, too_long=too_long)
    if refused:
        raise DataError("\n".join([f"{len(refused)} prompts cannot be encoded", *refused[:_LISTED_PROBLEMS]]))
    if not fitting:
        raise DataError(
            f"all {too_long} prompts are longer than {room} tokens (the longest has {longest}): raise "
            f"prompts.max_prompt_tokens if the target's context of {subject.text.context_tokens} allows, or cut them"
        )
    chosen = _sample(fitting, section.limit, recipe.seed)
    kept: dict[str, list[Encoded]] = {"train": [], "heldout": []}
    for each in chosen:
        kept[split_of(each[0].source, section.heldout_percent)].append(each)
    _check_split(kept, section.heldout_percent)
    figures = {
        "records": len(records),
        "duplicates": duplicates,
        "too_long": too_long,
        "beyond_limit": len(fitting) - len(chosen),
        **{split: len(each) for split, each in kept.items()},
        "sources": len({record.source for record, _ in chosen}),
        "domains": dict(sorted(Counter(record.domain for record, _ in chosen).items())),
        "licenses": dict(sorted(Counter(record.license for record, _ in chosen).items())),
        "prompt_tokens": length_statistics([tokens for _, tokens in chosen]),
    }
    return kept, figures


def _sample(fitting: Sequence[Encoded], limit: int | None, seed: int) -> list[Encoded]:
    """At most `limit` prompts, drawn by a hash of their ids and left in the order of the files."""
    if limit is None or len(fitting) <= limit:
        return list(fitting)
    ranks = [hashlib.sha256(f"{seed}:{record.id}".encode("utf-8", "replace")).digest() for record, _ in fitting]
    drawn = sorted(sorted(range(len(fitting)), key=ranks.__getitem__)[:limit])
    return [fitting[i] for i in drawn]


def _check_split(kept: dict[str, list[Encoded]], heldout_percent: int) -> None:
    counts = {split: len(each) for split, each in kept.items()}
    if counts["train"] < 1:
        raise DataError(
            f"every prompt fell into the held-out part ({counts['heldout']}): give more source documents, or lower "
            "prompts.heldout_percent"
        )
    if heldout_percent > 0 and counts["heldout"] < 1:
        raise DataError(
            f"none of the source documents of {counts['train']} prompts fell into the held-out {heldout_percent} %: "
            "give more documents (each needs its own `source`), or raise prompts.heldout_percent"
        )


def length_statistics(lengths: Sequence[int]) -> dict[str, Any]:
    """min, median, p95, max, sum and a histogram of token counts by power of two ("65-128": count)."""
    if not lengths:
        return {}
    values = np.array(lengths)
    buckets: Counter[int] = Counter(max(0, int(each) - 1).bit_length() for each in lengths)
    histogram = {f"{(1 << power >> 1) + 1 if power else 1}-{1 << power}": buckets[power] for power in sorted(buckets)}
    return {
        "min": int(values.min()),
        "median": int(np.percentile(values, 50, method="lower")),
        "p95": int(np.percentile(values, 95, method="lower")),
        "max": int(values.max()),
        "sum": int(values.sum()),
        "histogram": histogram,
    }
