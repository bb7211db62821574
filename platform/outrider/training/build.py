"""`outrider models build`: text → tokenizer → targets → regenerated answers → drafters → figures → model card.

Each stage leaves a stamp with a fingerprint of everything it depends on and the figures it produced; a stage whose
stamp still fits is skipped, an interrupted one goes on from its own checkpoint.
"""

from __future__ import annotations

import json
import platform
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from outrider.drafter.model import DSparkModel
from outrider.training import evaluate
from outrider.training.card import model_card
from outrider.training.data import Corpus, Document, build_corpus, held_out_prompts
from outrider.training.features import extract
from outrider.training.pretrain import load_target, new_target, pretrain
from outrider.training.sampled_answers import Sample, regenerate
from outrider.training.shapes import FLASH, PRO, TargetShape, scaled
from outrider.training.storage import fingerprint, load_checkpoint, replace_directory, save_checkpoint, write_json
from outrider.training.tokenizer import (
    END_OF_TEXT,
    TURN_END,
    encode_document,
    load_tokenizer,
    render_prompt,
    train_tokenizer,
)
from outrider.training.train_drafter import new_drafter, train_drafter

__all__ = ["PARTS", "Builder"]

PARTS = ("flash", "pro", "flash-drafter", "pro-drafter")
SEED = 20260101
PROMPTS_PER_DOMAIN = 80
EXACT_PROMPTS = 200
LOSS_DOCUMENTS = 150


@dataclass
class Builder:
    """One build: `out` receives the finished models, `work` holds stamps and checkpoints, `scale` shrinks it all."""

    out: Path
    work: Path
    scale: float = 1.0
    log: Callable[[str], None] = print
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, only: str | None = None) -> dict[str, dict[str, Any]]:
        """Every stage, or only what `only` (one of PARTS) needs; returns the figures of all stages known so far."""
        self.work.mkdir(parents=True, exist_ok=True)
        wanted = PARTS if only is None else (only,)
        self._stage("data", self._settings(), self._prepare)
        for shape in self.shapes:
            targets = {shape.name, f"{shape.name}-drafter"}
            if not targets.intersection(wanted):
                continue
            name, effort = shape.name, shape.effort
            self._stage(name, self._upstream("data", shape.target_settings()), partial(self._pretrain, shape))
            if f"{name}-drafter" not in wanted:
                continue
            answered = self._upstream(name, effort.regenerated, effort.answer_tokens)
            self._stage(f"{name}-answers", answered, partial(self._regenerate, shape))
            drafted = self._upstream(f"{name}-answers", shape.drafter_settings())
            self._stage(f"{name}-drafter", drafted, partial(self._draft, shape))
            self._stage(f"{name}-figures", self._upstream(f"{name}-drafter"), partial(self._measure, shape))
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

    def _regenerate(self, shape: TargetShape) -> dict[str, Any]:
        samples = self._answers(shape)
        return {"answers": len(samples), "response_tokens": sum(len(s.response) for s in samples)}

    def _draft(self, shape: TargetShape) -> dict[str, Any]:
        target = load_target(self._export(shape.name))
        drafter = new_drafter(target, shape, self.tokenizer.mask_token_id)
        triples = [(s.domain, s.prompt, s.response) for s in self._answers(shape)]
        featured = extract(target, triples, shape.drafter.target_layer_ids)
        figures: dict[str, Any] = train_drafter(
            drafter, featured, shape, self.work / f"{shape.name}-drafter.ckpt", self._export(f"{shape.name}-drafter")
        )
        return figures | {"parameters": sum(p.numel() for p in drafter.parameters())}

    def _measure(self, shape: TargetShape) -> dict[str, Any]:
        """Everything from the exported files, so that the figures are those of the bf16 weights that ship."""
        target, tokenizer = load_target(self._export(shape.name)), self.tokenizer
        drafter = DSparkModel.load(self._export(f"{shape.name}-drafter"))
        prompts = self._tokenized(held_out_prompts(self.corpus, self._count(PROMPTS_PER_DOMAIN)))
        longest = shape.effort.answer_tokens
        figures: dict[str, Any] = {"held_out_loss": evaluate.domain_loss(target, self._loss_documents())}
        for temperature in (0.0, 1.0):
            answers = evaluate.generate_answers(target, prompts, temperature, self.eos_token_ids, longest)
            measured = evaluate.acceptance(target, drafter, prompts, answers, temperature)
            figures[f"acceptance_t{temperature:.0f}"] = {
                "tau": measured.tau, "macro": measured.macro, "slot_rates": measured.slot_rates
            }  # fmt: skip
        for domain in ("maths", "tasks"):
            exact = [d for d in self.corpus.heldout if d.domain == domain and d.answer is not None]
            chosen = self._tokenized(exact[: self._count(EXACT_PROMPTS)])
            answers = evaluate.generate_answers(target, chosen, 0.0, self.eos_token_ids, longest)
            figures[f"exact_{domain}"] = {
                "share": evaluate.exact_match(tokenizer, chosen, answers), "prompts": len(chosen)
            }  # fmt: skip
        return figures

    def _publish(self) -> None:
        """Copy what is finished into `out`, with held-out prompts and the card once everything is."""
        for name in PARTS:
            if name in self.figures and self._export(name).is_dir():
                source = self._export(name)
                replace_directory(self.out / name, partial(_copy_files, source))
        if not all(f"{shape.name}-figures" in self.figures for shape in self.shapes):
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

    def _count(self, full: int) -> int:
        return max(4, round(full * min(1.0, 4 * self.scale)))

    def _answers(self, shape: TargetShape) -> list[Sample]:
        target = load_target(self._export(shape.name))
        return regenerate(
            target, self.tokenizer, self.corpus.train, shape.effort.regenerated, shape.effort.answer_tokens,
            self.eos_token_ids, self.work / f"{shape.name}-answers.ckpt",
        )  # fmt: skip

    def _tokenized(self, documents: Iterable[Document]) -> list[evaluate.HeldOutPrompt]:
        return [
            evaluate.HeldOutPrompt(
                d.domain, self.tokenizer.encode(render_prompt(d.prompt), add_special_tokens=False), d.answer
            )
            for d in documents
        ]

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


def _copy_files(source: Path, target: Path) -> None:
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, target / file.name)
