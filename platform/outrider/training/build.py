"""`outrider models build`: text → tokenizer → targets → drafters through the workshop → evals → model card.

Data and targets leave a stamp with a fingerprint of everything they depend on and the figures they produced; a stage
whose stamp still fits is skipped, an interrupted one goes on from its own checkpoint. Drafters are made by the stages
of `outrider draft` from a recipe that the build writes, and can be made again with those commands.
"""

from __future__ import annotations

import json
import platform
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import yaml

from outrider.errors import ArtifactMismatch
from outrider.training.artifacts import Manifest
from outrider.training.cache import cache
from outrider.training.calibrate import calibrate_stage
from outrider.training.card import model_card
from outrider.training.data import Corpus, build_corpus, held_out_prompts
from outrider.training.data.prompts import calibration_records, prompt_records
from outrider.training.drafter_eval import eval_stage
from outrider.training.export import export_stage
from outrider.training.loss import domain_loss
from outrider.training.prepare import prepare
from outrider.training.pretrain import load_target, new_target, pretrain
from outrider.training.recipe import load_recipe
from outrider.training.regenerate import regenerate
from outrider.training.shapes import FLASH, PRO, TargetShape, scaled
from outrider.training.storage import fingerprint, load_checkpoint, replace_directory, save_checkpoint, write_json
from outrider.training.tokenizer import END_OF_TEXT, TURN_END, encode_document, load_tokenizer, train_tokenizer
from outrider.training.train_stage import train_stage

__all__ = ["PARTS", "Builder"]

PARTS = ("flash", "pro", "flash-drafter", "pro-drafter")
SEED = 20260101
PROMPTS_PER_DOMAIN = 80
LOSS_DOCUMENTS = 150
CALIBRATION_PROMPTS = 1040
CALIBRATION_CORPORA = 4
"""One corpus holds back 191 to 657 questions of a domain, so those of other seeds are asked too. In 1,391 prompts the
half to fit on and the half to judge on were 2.5 points apart in how often slot 1 is accepted."""
CALIBRATION = "calibration"
"""The label of the evaluation that calibration learns from: held-out prompts that measure nothing else."""

Examine = Callable[[str, Path, Path, Path], dict[str, Any]]
"""Answers the demo suites: (name, target, drafter, result file) → share of right answers with intervals, per domain."""


@dataclass
class Builder:
    """One build: `out` receives the finished models, `work` holds all else, `scale` shrinks it all.

    `examine` measures what the finished models' answers are worth; without it the card says nothing of it.
    """

    out: Path
    work: Path
    scale: float = 1.0
    log: Callable[[str], None] = print
    examine: Examine | None = None
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, only: str | None = None) -> dict[str, dict[str, Any]]:
        """Every stage, or only what `only` (one of PARTS) needs; returns the figures of all stages known so far."""
        self.work.mkdir(parents=True, exist_ok=True)
        wanted = PARTS if only is None else (only,)
        self._stage("data", self._settings(), self._prepare)
        for shape in self.shapes:
            if not {shape.name, f"{shape.name}-drafter"}.intersection(wanted):
                continue
            self._stage(shape.name, self._upstream("data", shape.target_settings()), partial(self._pretrain, shape))
            if f"{shape.name}-drafter" in wanted:
                self._draft(shape)
                self._stage(f"{shape.name}-worth", self._worth_inputs(shape), partial(self._measure, shape))
        self._publish()
        return self.figures

    @cached_property
    def shapes(self) -> tuple[TargetShape, ...]:
        return tuple(scaled(shape, self.scale) for shape in (FLASH, PRO))

    @cached_property
    def corpus(self) -> Corpus:
        return build_corpus(self.scale, SEED)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.work / "tokenizer")

    @cached_property
    def eos_token_ids(self) -> list[int]:
        return [self.tokenizer.convert_tokens_to_ids(token) for token in (TURN_END, END_OF_TEXT)]

    # -- stages ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> dict[str, Any]:
        documents = self.corpus.train
        tokenizer = train_tokenizer(documents, self.work / "tokenizer", self.shapes[0].vocab_size)
        encoded = [encode_document(tokenizer, document) for document in documents]
        final = [encode_document(tokenizer, document) for document in self.corpus.final]
        save_checkpoint(self.work / "train.pt", {"train": _flatten(encoded), "final": _flatten(final)})
        kinds: dict[str, int] = {}
        for document, tokens in zip(documents, encoded, strict=True):
            kind = f"{document.domain}: {document.kind}{'' if document.messages else ', plain text'}"
            kinds[kind] = kinds.get(kind, 0) + len(tokens)
        return {
            "python": platform.python_version(),
            "documents": len(documents),
            "held_out_documents": len(self.corpus.heldout),
            "tokens": sum(map(len, encoded)),
            "final_documents": len(final),
            "final_tokens": sum(map(len, final)),
            "vocabulary": len(tokenizer),
            "tokens_by_kind": dict(sorted(kinds.items())),
        }

    def _pretrain(self, shape: TargetShape) -> dict[str, Any]:
        packed = load_checkpoint(self.work / "train.pt")
        if packed is None:
            raise FileNotFoundError(self.work / "train.pt")
        documents, final = (_unflatten(packed[part]) for part in ("train", "final"))
        model = new_target(shape, seed=1, eos_token_ids=self.eos_token_ids, pad_token_id=self.eos_token_ids[1])
        figures: dict[str, Any] = pretrain(
            model, self.tokenizer, documents, final, shape, self.work / f"{shape.name}.ckpt", self._export(shape.name)
        )
        return figures | {"parameters": sum(p.numel() for p in model.parameters())}

    def _draft(self, shape: TargetShape) -> None:
        """Write the recipe and run every stage of `outrider draft` over it."""
        recipe = load_recipe(self._write_recipe(shape))
        many = {"limit_per_domain": CALIBRATION_PROMPTS, "baselines": (), "plain_model": None}
        calibrating = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update=many)})
        prompts = [self.work / "calibration.jsonl"]
        stages: dict[str, Callable[..., Manifest]] = {
            "prompts": partial(prepare, recipe),
            "answers": partial(regenerate, recipe),
            "features": partial(cache, recipe),
            "drafter": partial(train_stage, recipe),
            "evaluation": partial(eval_stage, recipe),
            "calibration rounds": partial(eval_stage, calibrating, prompts=prompts, label=CALIBRATION),
            "calibration": partial(calibrate_stage, recipe, label=CALIBRATION),
            "export": partial(export_stage, recipe),
        }
        made = {kind: self._workshop(f"{shape.name} {kind}", stage).figures for kind, stage in stages.items()}
        self.figures[f"{shape.name}-drafter"] = made

    def _workshop(self, label: str, stage: Callable[..., Manifest]) -> Manifest:
        self.log(f"{label}: …")
        try:
            return stage()
        except ArtifactMismatch as stale:
            self.log(f"{label}: inputs changed, starting over ({stale.message.splitlines()[0]})")
            return stage(restart=True)

    def _write_recipe(self, shape: TargetShape) -> Path:
        """The recipe, beside the prompts of both drafters."""
        held_out = self._count(PROMPTS_PER_DOMAIN)
        trained = prompt_records(self.corpus, shape.effort.regenerated, held_out)
        calibrating = calibration_records(self._corpora(), self._count(CALIBRATION_PROMPTS), held_out)
        _write_lines(self.work / "prompts.jsonl", trained)
        _write_lines(self.work / "calibration.jsonl", calibrating)
        plain = None if shape is self.shapes[0] else f"export/{self.shapes[0].name}"
        recipe = shape.recipe(f"export/{shape.name}", "prompts.jsonl", f"drafters/{shape.name}", plain)
        path = self.work / f"{shape.name}.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        return path

    def _corpora(self) -> Iterator[Corpus]:
        """The corpus that is trained on, then others whose held-out questions were held out of it as well."""
        yield self.corpus
        for number in range(1, CALIBRATION_CORPORA):
            yield build_corpus(self.scale, SEED + number)

    def _measure(self, shape: TargetShape) -> dict[str, Any]:
        """Loss and worth, from the exported files, so that the figures are those of the bf16 weights that ship."""
        target, drafter = self._export(shape.name), self._drafter(shape.name)
        loss = domain_loss(load_target(target), self._loss_documents())
        result = self.work / "evals" / f"{shape.name}-{self._worth_inputs(shape)}.json"
        worth = self.examine(shape.name, target, drafter, result) if self.examine else {}
        return {"held_out_loss": loss, "evals": worth}

    def _worth_inputs(self, shape: TargetShape) -> str:
        return fingerprint([self.figures[f"{shape.name}-drafter"]["export"], self.examine is None])

    def _publish(self) -> None:
        """Copy what is finished into `out`, with held-out prompts and the card once everything is."""
        for shape in self.shapes:
            drafter = f"{shape.name}-drafter"
            for name, source in ((shape.name, self._export(shape.name)), (drafter, self._drafter(shape.name))):
                if name in self.figures:
                    replace_directory(self.out / name, partial(_copy_files, source))
            if drafter in self.figures:
                shutil.copyfile(self.work / f"{shape.name}.yaml", self.out / drafter / "recipe.yaml")
        if not all(f"{shape.name}-worth" in self.figures for shape in self.shapes):
            self.log("not every part is built yet: no model card written")
            return
        lines = []
        for document in held_out_prompts(self.corpus, self._count(PROMPTS_PER_DOMAIN)):
            item: dict[str, Any] = {"domain": document.domain, "kind": document.kind, "messages": document.prompt}
            lines.append(
                json.dumps(item | ({"answer": document.answer} if document.answer else {}), ensure_ascii=False)
            )
        (self.out / "heldout.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (self.out / "MODEL_CARD.md").write_text(model_card(self.shapes, self.figures), encoding="utf-8")
        write_json(self.work / "figures.json", self.figures)

    # -- helpers --------------------------------------------------------------------------------------------------

    def _stage(self, name: str, inputs: str, work: Callable[[], dict[str, Any]]) -> None:
        stamp = self.work / "stamps" / f"{name}.json"
        if stamp.exists():
            saved = json.loads(stamp.read_text("utf-8"))
            if saved["inputs"] == inputs:
                self.log(f"{name}: up to date")
                self.figures[name] = saved["figures"]
                return
            self._forget(name)
        self.log(f"{name}: started")
        self.figures[name] = work()
        write_json(stamp, {"inputs": inputs, "figures": self.figures[name]})

    def _forget(self, name: str) -> None:
        """A stage whose inputs changed must not resume from what the old inputs made."""
        self.log(f"{name}: inputs changed, starting over")
        (self.work / f"{name}.ckpt").unlink(missing_ok=True)

    def _upstream(self, stage: str, *more: object) -> str:
        stamp = json.loads((self.work / "stamps" / f"{stage}.json").read_text("utf-8"))
        return fingerprint([stamp, *more])

    def _settings(self) -> str:
        return fingerprint([SEED, self.scale, platform.python_version(), self.shapes[0].vocab_size])

    def _export(self, name: str) -> Path:
        return self.work / "export" / name

    def _drafter(self, name: str) -> Path:
        return self.work / "drafters" / name / "export"

    def _count(self, full: int) -> int:
        return max(4, round(full * min(1.0, 4 * self.scale)))

    def _loss_documents(self) -> list[tuple[str, list[int]]]:
        documents = list(self.corpus.heldout)
        random.Random(SEED).shuffle(documents)
        chosen: list[tuple[str, list[int]]] = []
        for domain in ("code", "maths", "prose", "tasks"):
            of_domain = [d for d in documents if d.domain == domain][: self._count(LOSS_DOCUMENTS)]
            chosen.extend((domain, encode_document(self.tokenizer, d)) for d in of_domain)
        return chosen


def _flatten(documents: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Token ids below 2¹⁵ as one int16 row with the documents' lengths."""
    flat = torch.tensor([token for tokens in documents for token in tokens], dtype=torch.int16)
    return {"flat": flat, "lengths": torch.tensor([len(tokens) for tokens in documents])}


def _unflatten(packed: dict[str, torch.Tensor]) -> list[list[int]]:
    return [tokens.tolist() for tokens in torch.split(packed["flat"].long(), packed["lengths"].tolist())]


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records), encoding="utf-8")


def _copy_files(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
