"""The model card: what the demo models are made of and what was measured, from the build's own figures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from outrider.training.shapes import TargetShape

__all__ = ["model_card"]

DOMAINS = ("code", "maths", "prose")


def model_card(shapes: Sequence[TargetShape], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown; every number comes from `figures`, the stamps of the build's stages."""
    data = figures["data"]
    parts = [
        _INTRODUCTION,
        _table(
            ["", *(shape.name for shape in shapes)],
            [
                ["parameters"] + [_millions(figures[s.name]["parameters"]) for s in shapes],
                ["layers × hidden"] + [f"{s.layers} × {s.hidden_size}" for s in shapes],
                ["context (trained at most 512)"] + [str(s.max_positions) for s in shapes],
                ["training tokens"] + [_millions(figures[s.name]["tokens"]) for s in shapes],
                [
                    "of these on the final part (share of the budget)",
                    *(f"{100 * s.effort.final_share:.0f} %" for s in shapes),
                ],
                ["training time, min (about one CPU core, shared with other work)"]
                + [f"{figures[s.name]['train_s'] / 60:.0f}" for s in shapes],
                ["drafter parameters (with frozen copies of embeddings and output)"]
                + [_millions(figures[f"{s.name}-drafter"]["parameters"]) for s in shapes],
                ["drafter: layers, γ, tapped layers, Markov rank"]
                + [
                    f"{d.layers}, {d.block_size}, {list(d.target_layer_ids)}, {d.markov_rank}"
                    for d in (s.drafter for s in shapes)
                ],
                ["drafter steps, min"]
                + [
                    f"{figures[f'{s.name}-drafter']['steps']}, {figures[f'{s.name}-drafter']['train_s'] / 60:.0f}"
                    for s in shapes
                ],
            ],
        ),
        "## Data\n",
        *(textwrap.fill(paragraph, 116, break_on_hyphens=False) + "\n" for paragraph in _data(data)),
        _table(
            ["kind", "share of tokens"],
            [[k, f"{100 * v / data['tokens']:.1f} %"] for k, v in data["tokens_by_kind"].items()],
        ),
        _RECIPE,
        "## Measured\n",
        "All of it on held-out text with the bf16 weights as shipped, computed in fp32.\n",
        _measured(shapes, figures),
        _LIMITS,
    ]
    return "\n".join(parts)


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
        "fresh exact tasks, replaces the rest for the last stretch of training where the table says so.",
    )


def _measured(shapes: Sequence[TargetShape], figures: Mapping[str, Mapping[str, Any]]) -> str:
    rows: list[list[str]] = []
    found = [figures[f"{s.name}-figures"] for s in shapes]
    for domain in (*DOMAINS, "tasks"):
        rows.append([f"loss, {domain} (nats per token)"] + [_figure(f["held_out_loss"], domain) for f in found])
    for domain, label in (("maths", "sums"), ("tasks", "small instructions")):
        exact = [f[f"exact_{domain}"] for f in found]
        rows.append([f"exact answers, {label}, T=0"] + [f"{100 * e['share']:.0f} % of {e['prompts']}" for e in exact])
    for temperature in (0, 1):
        measured = [f[f"acceptance_t{temperature}"] for f in found]
        for domain in DOMAINS:
            rows.append([f"τ, {domain}, T={temperature}"] + [_figure(m["tau"], domain) for m in measured])
        rows.append([f"**τ, macro, T={temperature}**"] + [f"**{m['macro']:.2f}**" for m in measured])
        rates = [", ".join(f"{100 * r:.0f}" for r in m["slot_rates"]) for m in measured]
        rows.append([f"conditional acceptance by slot, %, T={temperature}", *rates])
    return _table(["", *(shape.name for shape in shapes)], rows)


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

Targets are stock `Qwen3ForCausalLM` with tied embeddings, a byte-level BPE of 2,048 entries behind GPT-2's
pre-tokenizer, and a ChatML template. `<|mask|>` is reserved for the drafters. Drafters are in DeepSpec's checkpoint
format (`Qwen3DSparkModel`, `vanilla` Markov head, confidence head). Weights are bf16 on disk.
"""

_RECIPE = """## Recipe

*Targets.* Documents are packed into windows of 512 tokens that each begin with the beginning of a document; loss on
every token; batch 8 windows; Muon for matrices (6e-3) and AdamW for the rest (4e-3), 3 % warm-up, then linear decay
to zero over a wall-clock budget; bf16 autocast over fp32 weights. What is reached therefore depends on the machine.

*Drafters.* The target answers training prompts itself (60 % at temperature 1, 20 % at 0.7, 20 % greedy). Blocks of
γ=7 are trained from up to 32 random anchors per answer, teacher-forced, with 0.1·cross-entropy + 0.9·L1 distance of
the two distributions + confidence cross-entropy, weighted exp(−(k−1)/4) over slots. Embeddings and output matrix
are frozen copies of the target's. The confidence label is the **match probability of coupled verification** (two
exponential races with shared noise), not 1−TV, because coupled is how answers are verified; it is computed over the
32 likeliest tokens with the rest as one runner. The confidence head sees detached inputs.

*Acceptance length.* τ counts emitted tokens per round with the bonus token, pooled over a domain's prompts, at full
depth 7, from the first response token (which prefill yields) on. T=1 is coupled verification with seeded noise.
Half of the code and prose prompts are library functions and docstrings, half generated; half of the sums are word
problems.
"""

_LIMITS = """## Limits

- Generated domains (snippets, sums, stories) come from a few dozen templates: held-out items are new combinations,
  not new forms. Loss and τ on them say how well templates were learned and flatter both models.
- Answers about Python read like documentation and are often invented. Sums beyond the training ranges (two-digit
  numbers, products up to about 12 × 12) fail. One turn of conversation; English only.
- Prompts and answers beyond 512 tokens were never seen in training.
- No safety training of any kind.
"""
