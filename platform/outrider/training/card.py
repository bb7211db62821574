"""The model card: what the demo models are made of and what was measured, from the build's own figures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from outrider.training.shapes import TargetShape

__all__ = ["model_card"]

DRAFTED = ("code", "maths", "prose")
EVALUATED = (*DRAFTED, "tasks")


def model_card(shapes: Sequence[TargetShape], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown; every number comes from `figures`, what the build's stages measured."""
    data = figures["data"]
    parts = [
        _INTRODUCTION,
        _table(["", *(shape.name for shape in shapes)], _sizes(shapes, figures)),
        "## Data\n",
        *(textwrap.fill(paragraph, 116, break_on_hyphens=False) + "\n" for paragraph in _data(data)),
        _table(
            ["kind", "share of tokens"],
            [[k, f"{100 * v / data['tokens']:.1f} %"] for k, v in data["tokens_by_kind"].items()],
        ),
        _RECIPE,
        "## Measured\n",
        "All of it on held-out text with the bf16 weights as shipped, computed in fp32.\n",
        _table(["", *(shape.name for shape in shapes)], _measured(shapes, figures)),
        _MEASURES,
        _LIMITS,
    ]
    return "\n".join(parts)


def _sizes(shapes: Sequence[TargetShape], figures: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    targets = [figures[s.name] for s in shapes]
    made = [figures[f"{s.name}-drafter"] for s in shapes]
    plans = [s.drafter for s in shapes]
    return [
        ["parameters", *(_millions(t["parameters"]) for t in targets)],
        ["layers × hidden", *(f"{s.layers} × {s.hidden_size}" for s in shapes)],
        ["context (trained at most 512)", *(str(s.max_positions) for s in shapes)],
        ["training tokens, in the same order", *(_millions(t["tokens"]) for t in targets)],
        ["training time, min (two shared CPU cores)", *(f"{t['train_s'] / 60:.0f}" for t in targets)],
        ["drafter parameters (frozen embeddings and output)", *(_millions(m["drafter"]["parameters"]) for m in made)],
        ["drafter: layers, γ, tapped layers, Markov rank",
         *(f"{d.layers}, {d.block_size}, {list(d.target_layer_ids)}, {d.markov_rank}" for d in plans)],
        ["answers the drafter learnt from", *(f"{m['answers']['train']['answers']:,}" for m in made)],
        ["drafter steps, min",
         *(f"{m['drafter']['steps']}, {m['drafter']['train_s'] / 60:.0f}" for m in made)],
    ]  # fmt: skip


def _data(data: Mapping[str, Any]) -> tuple[str, str]:
    return (
        f"{data['documents']} documents, {_millions(data['tokens'])} tokens, made on one machine from Python "
        f"{data['python']}: the standard library's sources and docstrings, pydoc's language topics (Python Software "
        "Foundation License), and generators in `outrider.training.data` with answers that are computed, not written. "
        f"{data['held_out_documents']} further documents are held out: the split hashes the source file, the topic, or "
        "the generated question, so nothing from one source is on both sides. Greetings are a few fixed answers and "
        "are all trained on. A plain sum that is held out may occur in training in other words. Nothing was written by "
        "another language model.",
        f"A final part of {_millions(data['final_tokens'])} tokens, conversations with twice the share of sums and "
        "fresh exact tasks, replaces the rest for the last fifth of training. Both targets see the same tokens in the "
        "same order.",
    )


def _measured(shapes: Sequence[TargetShape], figures: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    worth = [figures[f"{s.name}-worth"] for s in shapes]
    made = [figures[f"{s.name}-drafter"] for s in shapes]
    rows = [[f"loss, {d} (nats per token)", *(_figure(w["held_out_loss"], d) for w in worth)] for d in EVALUATED]
    rows += [[f"right answers, {d}", *(_share(w["evals"].get(d)) for w in worth)] for d in EVALUATED]
    for temperature in ("0", "1"):
        found = [m["evaluation"][f"tau at T={temperature}"]["drafter"] for m in made]
        rows += [[f"τ, {d}, T={temperature}", *(_figure(tau, d) for tau in found)] for d in DRAFTED]
        rows.append([f"**τ, macro, T={temperature}**", *(f"**{_figure(tau, 'macro')}**" for tau in found)])
    for kind in ("greedy", "sampled"):
        rows.append([f"calibration error of prefix survival, {kind}", *(_error(m["calibration"], kind) for m in made)])
    return rows


def _error(calibration: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    """ECE as served, before calibration, and how many prompts judged it."""
    found = calibration.get(kind)
    if found is None:
        return "–"
    return (
        f"{100 * found['ece_mapped']:.1f} % (before {100 * found['ece_before']:.1f} %) on {found['prompts']:,} prompts"
    )


def _share(summary: Mapping[str, Any] | None) -> str:
    """Accuracy in percent with its interval, or a dash where nothing was asked."""
    if summary is None:
        return "–"
    share, low, high = (100 * summary[name] for name in ("accuracy", "low", "high"))
    return f"{share:.1f} % ({low:.1f}–{high:.1f}) of {summary['items']}"


def _figure(values: Mapping[str, float], domain: str) -> str:
    """Two decimals, or a dash where a shrunken build had nothing of the domain to measure."""
    return f"{values[domain]:.2f}" if domain in values else "–"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f} M"


_INTRODUCTION = """# The demo models

Flash and Pro are two tiny decoders, each with a DSpark drafter. They exist so that Outrider runs, and its
speculation can be watched and tested, on any machine without a download. They are **a demonstration and a test bed,
not assistants**: they write Python and short texts of the kinds they were trained on, set sums out properly but get
many of them wrong (see below), and know nothing else. `outrider models build` makes all of it again from nothing.

Targets are stock `Qwen3ForCausalLM` with tied embeddings, a byte-level BPE of 2,048 entries in which
every digit is a token of its own, and a ChatML template. `<|mask|>` is reserved for the drafters. Drafters are in
DeepSpec's checkpoint format (`Qwen3DSparkModel`, `vanilla` Markov head, confidence head). Weights are bf16 on disk.
"""

_RECIPE = """## Recipe

*Targets.* Documents are packed into windows of 512 tokens that each begin with the beginning of a document; loss on
every token; batch 8 windows; Muon for matrices (6e-3) and AdamW for the rest (4e-3), 3 % warm-up, then linear decay
to zero over the token budget; bf16 autocast over fp32 weights.

*Drafters.* Made by `outrider draft prepare … export` from the `recipe.yaml` that lies beside each drafter's weights
(`outrider models build` writes it and runs the stages). The target answers training prompts itself (60 % at
temperature 1, 20 % at 0.7, 20 % greedy). Blocks of γ=7 are trained from up to 32 random anchors per answer,
teacher-forced, with 0.1·cross-entropy + 0.9·L1 distance of the two distributions + confidence cross-entropy, weighted
exp(−(k−1)/4) over slots. Embeddings and output matrix are frozen copies of the target's; the layers start from the
target's last ones. The confidence label is the **match probability of coupled verification** (two exponential races
with shared noise), not 1−TV, because coupled is how answers are verified. `calibration.json` beside the weights holds
the temperatures of sequential temperature scaling and, after them, a monotone map of survival per slot (ours: how often
greedy choices agree is no sigmoid of what the head learns), fitted on held-out prompts that measure nothing else; each
drafter's README.md has τ with intervals and the calibration errors.
"""

_MEASURES = """*Right answers* are those of the suites that ship with `outrider eval` (greedy; maths: the last
number; tasks: the exact text; prose: a pattern over a short answer about documentation shown in the question; code:
the function runs and returns the right values), with 95 % bootstrap intervals over items.

*τ* counts emitted tokens per round with the bonus token, pooled over a domain's prompts (80 each), at full depth 7,
from the first response token (which prefill yields) on; T=1 is coupled verification with seeded noise. Answers that
repeat themselves (by compression ratio) are left out.

*Calibration error* is the expected calibration error of prefix survival under coupled verification (15 bins), mean over
slots, with `calibration.json` applied, on held-out prompts that nothing was fitted on.
"""

_LIMITS = """## Limits

- Generated domains (snippets, sums, stories) come from a few dozen templates: held-out items are new combinations,
  not new forms. Loss and τ on them say how well templates were learned and flatter both models.
- About half of the code suite's functions use numbers above 30, which no training function does.
- Answers about Python read like documentation and are often invented. Sums beyond the training ranges (two-digit
  numbers, products up to about 12 × 12) fail. One turn of conversation; English only.
- Prompts and answers beyond 512 tokens were never seen in training.
- No safety training of any kind.
"""
