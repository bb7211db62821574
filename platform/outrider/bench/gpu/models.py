"""Models of real shapes with random weights, made on the device: nothing is downloaded, written or read.

Times depend on shapes alone. What random weights cannot show is acceptance: no draft of theirs is worth anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from outrider.drafter.config import DSparkConfig
from outrider.drafter.model import DSparkModel
from outrider.drafter.projection import FeatureProjection, projection_fingerprint
from outrider.engine import Engine, EngineSettings, Profile, TargetModel, cost_subject, measure_steps, role
from outrider.engine.attention import ATTENTION_NAME
from outrider.local import LinkKind, LocalEngine
from outrider.scheduling import CostModel, StepCostCurve

__all__ = ["PRESETS", "RandomPair", "Shape", "preset_for", "random_pair"]

_SEED: Final = 7


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen3 target and of the DSpark drafter for it."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    taps: tuple[int, ...]
    draft_layers: int = 5
    markov_rank: int = 256
    gamma: int = 7

    @property
    def kv_bytes(self) -> int:
        """Of one position, in bf16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


PRESETS: Final = {
    "8b": Shape(4096, 36, 32, 8, 128, 12288, 151936, 40960, (1, 9, 17, 25, 33)),
    "4b": Shape(2560, 36, 32, 8, 128, 9728, 151936, 40960, (1, 9, 17, 25, 33)),
    "1.7b": Shape(2048, 28, 16, 8, 128, 6144, 151936, 40960, (1, 7, 13, 19, 25)),
    "tiny": Shape(64, 4, 4, 2, 16, 128, 512, 512, (0, 1, 2), draft_layers=2, markov_rank=16),
}
"""Qwen3's sizes; the drafter of the 8B one is that of the released DSpark drafter. All heads are untied."""

_NEEDS_BYTES: Final = {"8b": 48 << 30, "4b": 30 << 30, "1.7b": 16 << 30}
"""Weights of both models, memory for 64 requests, and what `transformers` wants beside."""
_MASK: Final = 151669


def preset_for(device: torch.device) -> str:
    """The largest preset that fits in a device's free memory."""
    if device.type != "cuda":
        return "tiny"
    free = torch.cuda.mem_get_info(device)[0]
    return next((name for name, needed in _NEEDS_BYTES.items() if free >= needed), "tiny")


@dataclass(slots=True)
class RandomPair:
    """A target, the stock model it was made of, and a drafter, all on one device."""

    name: str
    shape: Shape
    model: Any
    target: TargetModel
    drafter: DSparkModel

    @property
    def step_bytes(self) -> int:
        """Weights that a decode step reads: all but the embedding, of which it reads its rows, and the projection."""
        read = [p for name, p in self.model.named_parameters() if "embed_tokens" not in name]
        projection = self.target.projection
        assert projection is not None
        return int(sum(p.nbytes for p in read)) + projection.fc.nbytes

    def settings(self, requests: int, context: int, **more: Any) -> EngineSettings:
        """An engine for so many requests of so many positions, on the device also where that is the CPU."""
        block = 16
        return EngineSettings(
            model=f"random-{self.name}",
            kv_blocks=requests * (-(-context // block) + 2),
            block_size=block,
            max_running_requests=requests,
            max_step_tokens=max(512, requests * (1 + self.shape.gamma)),
            draft_timeout_s=60.0,
            prefix_cache=False,
            device_rounds=True,
            **more,
        )

    def measure(self, max_tokens: int, max_s: float) -> CostModel:
        """T_verify by tokens and context, as an engine measures it at start."""
        dtype = str(self.target.dtype).removeprefix("torch.")
        subject = replace(
            cost_subject(self.target),
            target=f"random:{self.name}",
            drafter=f"random:{self.name}",
            drafter_role=role(self.target.device.type, dtype, torch.get_num_threads()),
            link=LinkKind.IN_PROCESS.value,
        )
        return measure_steps(self.target, subject=subject, max_tokens=max_tokens, max_s=max_s)

    def open(
        self, settings: EngineSettings, costs: CostModel | StepCostCurve, *, drafted: bool, profiled: bool = False
    ) -> LocalEngine:
        """An engine over the target; with the drafter beside it where `drafted`, measured where `profiled`."""
        profile = None
        if profiled and isinstance(costs, CostModel):
            known = costs
            profile = Profile(lambda: known, settings.max_running_requests)
        local = LocalEngine(Engine(self.target, settings, costs, profile=profile), None, LinkKind.IN_PROCESS)
        if drafted:
            from outrider.drafter.dspark import DSparkProposer

            local.attach_proposer(DSparkProposer(self.drafter), f"random-{self.name}")
        return local


def random_pair(name: str, device: torch.device, dtype: torch.dtype) -> RandomPair:
    """Both models of a preset. Raises what TargetModel does where the engine's forward is not the stock one's."""
    shape = PRESETS[name]
    torch.manual_seed(_SEED)
    config = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION_NAME)
    model = model.eval().requires_grad_(False)
    drafter = _drafter(shape, config, device, dtype)
    projection = FeatureProjection(
        fc=drafter.fc.weight.detach(),
        hidden_norm=drafter.hidden_norm.weight.detach(),
        eps=drafter.config.rms_norm_eps,
        layer_ids=shape.taps,
        block_size=shape.gamma,
        fingerprint=projection_fingerprint(drafter.fc.weight, drafter.hidden_norm.weight),
    )
    target = TargetModel(model, f"random-{name}", (), projection, compiled=False)
    return RandomPair(name, shape, model, target, drafter)


def _drafter(shape: Shape, config: Qwen3Config, device: torch.device, dtype: torch.dtype) -> DSparkModel:
    made = DSparkConfig.for_target(
        config.to_dict(),
        num_hidden_layers=shape.draft_layers,
        block_size=shape.gamma,
        mask_token_id=min(_MASK, shape.vocab - 1),
        target_layer_ids=shape.taps,
        markov_rank=shape.markov_rank,
    )
    with torch.device(device):
        drafter = DSparkModel(made).to(dtype)
    with torch.no_grad():
        for weight in drafter.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.02)
    return drafter.eval().requires_grad_(False)
