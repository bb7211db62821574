"""A target of the same function and a step that streams more weights, and what that does to the step's cost.

A small model's weights stay in the cache, so verifying eight rows costs nearly eight times one. A large model's step
is bound by reading its weights, whatever it verifies. Decoder layers that add nothing to the residual stream give a
small model such a step without changing a logit, so that its drafter's acceptance is the measured one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from outrider.bench.acceptance import acceptance_by_domain
from outrider.bench.prompts import held_out_prompts
from outrider.bench.report import Report, Table
from outrider.bench.setup import UNTRIMMED, Setup, requests_for
from outrider.bench.spread import Say, Spread, ratios, take_turns
from outrider.bench.step import verify_step
from outrider.engine import TargetModel
from outrider.errors import ConfigurationError, ModelDirectoryError
from outrider.local import LinkKind

__all__ = ["adapted_drafter", "heavier", "layers_for", "measure_heavier"]

_BLOCK = 8


def heavier(target: Path, out: Path, *, layers: int, drafter: Path | None = None, seed: int = 0) -> Path:
    """Write `target` with `layers` more decoder layers that change no state to `out`, which must be new; return it.

    The added layers come after the target's own: their attention and feed-forward products are random and really
    computed, o_proj and down_proj are zero. The drafter goes to `out`-drafter with `num_target_layers` adjusted; its
    `target_layer_ids` name the same layers as before. Raises ConfigurationError when `out` exists or `layers` is not
    positive, ModelDirectoryError when the target is no Qwen3.
    """
    if layers < 1:
        raise ConfigurationError(f"layers is {layers}: a heavier target has at least one more", param="layers")
    companion = out.with_name(f"{out.name}-drafter")
    for place in (out, companion):
        if place.exists():
            raise ConfigurationError(f"{place} exists: give a directory that does not", param="out")
    shutil.copytree(target, out, ignore=shutil.ignore_patterns("*.safetensors*", "config.json"))
    _write_target(target, out, layers, seed)
    if drafter is not None:
        adapted_drafter(drafter, companion, layers)
    return out


def adapted_drafter(drafter: Path, out: Path, layers: int) -> Path:
    """Copy a drafter to `out`, told that its target has `layers` more; return it."""
    shutil.copytree(drafter, out)
    file = out / "config.json"
    config = json.loads(file.read_text("utf-8"))
    config["num_target_layers"] += layers
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return out


def _write_target(target: Path, out: Path, layers: int, seed: int) -> None:
    light = AutoModelForCausalLM.from_pretrained(target, dtype="auto", local_files_only=True)
    config = light.config
    if config.model_type != "qwen3":
        raise ModelDirectoryError(f"model {target.name} is a {config.model_type}; only Qwen3 can be made heavier")
    own = config.num_hidden_layers
    config.num_hidden_layers = own + layers
    config.layer_types = [*config.layer_types, *["full_attention"] * layers]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        heavy = AutoModelForCausalLM.from_config(config, dtype=light.dtype)
        heavy.load_state_dict(light.state_dict(), strict=False)
        for layer in heavy.model.layers[own:]:
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
    heavy.save_pretrained(out)


def layers_for(target: Path, weight_bytes: int) -> int:
    """How many layers bring a Qwen3 target's weights nearest to `weight_bytes` in fp32; 0 when it has them already."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype="auto", local_files_only=True)
    whole: int = sum(weight.numel() for weight in model.parameters())
    layer: int = sum(weight.numel() for weight in model.model.layers[0].parameters())
    return max(0, round((weight_bytes / 4 - whole) / layer))


def measure_heavier(
    setup: Setup,
    *,
    megabytes: tuple[int, ...],
    tokens: tuple[int, ...],
    prompts: int,
    max_tokens: int,
    repetitions: int,
    say: Say,
) -> Report:
    """T(B) of the compiled step at each weight, all B of a weight in turn, and τ with everything verified.

    Requests verify up to eight tokens each after 128 of context. The heavier targets live in a temporary directory.
    Raises ConfigurationError where no step compiles.
    """
    report = Report(
        "heavier",
        setup.configuration(),
        {"prompts": prompts, "max_tokens": max_tokens, "repetitions": repetitions},
        notes=["weights are fp32 in memory, the embedding included; the lightest is the target as it is"],
    )
    columns = ("weights MB", "layers", *(f"T({count}) ms" for count in tokens))
    costs = Table("a step", columns)
    shape = Table("a step ÷ T(1)", ("weights MB", *(f"T({count})" for count in tokens[1:])))
    gained = Table("tokens per round, everything verified, T = 0", ("weights MB", "macro"))
    with tempfile.TemporaryDirectory(prefix="outrider-heavier-") as folder:
        for weight, layers, light in _sizes(setup, megabytes, Path(folder)):
            say(f"{weight} MB: loading")
            target = TargetModel.load(light.target, drafter=light.drafter, dtype=setup.dtype, device=setup.device)
            if target.compiled is None or target.compiled.pending.wait() is None:
                raise ConfigurationError("no step compiles here for this target: its cost would be another's")
            arms = {str(count): verify_step(target, _lengths(count), context=128) for count in tokens}
            runs = take_turns(arms, repetitions, lambda line, weight=weight: say(f"{weight} MB, B = {line}"))  # type: ignore[misc]
            costs.add(weight, layers, *(Spread.of([each * 1e3 for each in runs[str(count)]]) for count in tokens))
            shape.add(weight, *(ratios(runs[str(count)], runs[str(tokens[0])]) for count in tokens[1:]))
            del target, arms
            say(f"{weight} MB: tokens per round")
            gained.add(weight, _macro(light, prompts, max_tokens))
    report.tables += [costs, shape, gained]
    return report


def _sizes(setup: Setup, megabytes: tuple[int, ...], folder: Path) -> list[tuple[int, int, Setup]]:
    """(MB of weights, layers, setup) of the target as it is and of each heavier one."""
    base = AutoModelForCausalLM.from_pretrained(setup.target, dtype="auto", local_files_only=True)
    own: int = base.config.num_hidden_layers
    sizes = [(round(sum(weight.numel() for weight in base.parameters()) * 4 / 1e6), own, setup)]
    for wanted in megabytes:
        more = layers_for(setup.target, round(wanted * 1e6))
        if more == 0:
            raise ConfigurationError(f"{wanted} MB: the target has as much already", param="megabytes")
        made = heavier(setup.target, folder / f"{setup.target.name}-{wanted}", layers=more, drafter=setup.drafter)
        companion = made.with_name(f"{made.name}-drafter")
        sizes.append((wanted, own + more, replace(setup, target=made, drafter=companion)))
    return sizes


def _lengths(tokens: int) -> list[int]:
    """`tokens` as requests of eight and one of the rest."""
    return [_BLOCK] * (tokens // _BLOCK) + ([tokens % _BLOCK] if tokens % _BLOCK else [])


def _macro(setup: Setup, prompts: int, max_tokens: int) -> float:
    chosen = held_out_prompts(setup.target, prompts, max_tokens=max_tokens, file=setup.held_out)
    with setup.open(LinkKind.IN_PROCESS, streams=8, curve=UNTRIMMED) as local:
        done = local.generate(requests_for([prompt.tokens for prompt in chosen], max_tokens))
        block_size = local.engine.drafting.block_size
    answered = [(p.domain, c.summary) for p, c in zip(chosen, done, strict=True) if c.summary is not None]
    by_domain = acceptance_by_domain(answered, max_tokens, block_size)
    return sum(by_domain.values()) / len(by_domain)
