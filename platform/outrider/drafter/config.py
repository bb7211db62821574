"""A DSpark drafter's configuration, read from and written to DeepSpec's `config.json`: Qwen3's and Gemma4's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from outrider.drafter.decoder_config import FILE, DecoderConfig, read_config
from outrider.drafter.geometry import Geometry
from outrider.errors import DrafterMismatch

__all__ = ["DSparkConfig", "Gemma4DSparkConfig"]

# what transformers puts into every config and a drafter has no use for
_NOT_ARCHITECTURE = frozenset(
    ("return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "is_encoder_decoder",
     "id2label", "label2id")
)  # fmt: skip


class DSparkConfig(DecoderConfig):
    """The fields of a Qwen3 DSpark `config.json` that matter here; the target's other fields pass through.

    `target_layer_ids` name the tapped target layers: −1 is the embedding output, and the final layer is refused
    (its hidden state is post-norm, while the training cache holds raw ones). `markov_rank` 0 means no sequential head:
    with no confidence head either, that is DFlash, and the fields about the missing heads say nothing.
    """

    architecture: ClassVar[str] = "Qwen3DSparkModel"

    architectures: tuple[str, ...] = (architecture,)
    num_target_layers: PositiveInt
    block_size: PositiveInt
    mask_token_id: int = Field(ge=0)
    target_layer_ids: tuple[int, ...] = Field(min_length=1)
    enable_confidence_head: bool = True
    confidence_head_with_markov: bool = True
    markov_rank: int = Field(ge=0)
    markov_head_type: Literal["vanilla", "gated", "rnn"] = "vanilla"
    num_anchors: PositiveInt = 512
    tie_word_embeddings: Literal[False] = False

    @model_validator(mode="after")
    def _cross_check(self) -> Self:
        if self.architectures != (self.architecture,):
            raise ValueError(f"architectures is {list(self.architectures)}; only {self.architecture} is supported")
        if self.mask_token_id >= self.vocab_size:
            raise ValueError(f"mask_token_id {self.mask_token_id} is outside the vocabulary of {self.vocab_size}")
        self._check_taps()
        if self.enable_confidence_head and self.confidence_head_with_markov and not self.markov_rank:
            raise ValueError(
                "confidence_head_with_markov needs a Markov head: set it to false, or markov_rank above 0, or "
                "enable_confidence_head to false"
            )
        return self

    def _check_taps(self) -> None:
        ids, last = self.target_layer_ids, self.num_target_layers - 1
        if list(ids) != sorted(set(ids)):
            raise ValueError(f"target_layer_ids {list(ids)} must be increasing")
        for layer in ids:
            if not -1 <= layer < last:
                what = "the final layer, whose state is post-norm," if layer == last else "out of range"
                raise ValueError(
                    f"target_layer_ids names layer {layer}, which is {what} for a target of {last + 1} layers; "
                    f"legal are -1 to {last - 1}"
                )

    @classmethod
    def load(cls, directory: Path) -> DSparkConfig:
        """Read `directory`/config.json as the family's configuration that its `architectures` names.

        Raises ModelDirectoryError for a missing or unreadable file, DrafterMismatch for a field that does not fit.
        """
        values = read_config(directory)
        named = values.get("architectures")
        family = _FAMILIES.get(named[0], cls) if isinstance(named, list) and named else cls
        return family.checked(directory, values)

    @classmethod
    def for_target(cls, target: Mapping[str, Any], **drafter: Any) -> DSparkConfig:
        """The target's config as a dict (`config.to_dict()`), overridden by the drafter's own fields.

        The family follows the target's `model_type`; one that has no drafters raises DrafterMismatch.
        """
        kind = str(target.get("model_type", "qwen3"))
        family = _TARGETS.get(kind)
        if family is None:
            raise DrafterMismatch(
                f"a target of type {kind!r} has no DSpark drafters; there are: {', '.join(_TARGETS)}",
                param="model_type",
            )
        text = target.get("text_config")
        return family.model_validate(
            family._adapted(text if isinstance(text, Mapping) else target, kind)
            | drafter
            | {"layer_types": ["full_attention"] * int(drafter["num_hidden_layers"])}
        )

    @classmethod
    def _adapted(cls, target: Mapping[str, Any], kind: str) -> dict[str, Any]:
        """What a drafter takes over from its target's (text) configuration."""
        kept = {key: value for key, value in target.items() if value is not None and key not in _NOT_ARCHITECTURE}
        values = {key: value for key, value in kept.items() if not key.startswith("_")}
        return values | {
            "architectures": [cls.architecture],
            "num_target_layers": values["num_hidden_layers"],
            "tie_word_embeddings": False,
        }

    def save(self, directory: Path) -> None:
        """Write config.json as DeepSpec does."""
        values = self.model_dump(mode="json")
        (directory / FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class Gemma4DSparkConfig(DSparkConfig):
    """The same for Gemma4 targets, whose full-attention layers the drafter's are made like.

    transformers 5.23 keeps the full-attention layers' head size and key/value heads in `per_layer_config`; DeepSpec's
    files have them as `global_head_dim` and `num_global_key_value_heads`, and so have ours.
    """

    architecture: ClassVar[str] = "Gemma4DSparkModel"

    architectures: tuple[str, ...] = (architecture,)
    global_head_dim: PositiveInt
    num_global_key_value_heads: PositiveInt | None = None
    hidden_activation: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    attention_k_eq_v: bool = False
    final_logit_softcapping: float | None = Field(default=None, gt=0)
    # read from rope_parameters, or of no meaning here: not written back
    rope_theta: float = Field(default=1_000_000.0, gt=0, exclude=True)
    rotary_share: float = Field(default=1.0, gt=0, le=1, exclude=True)
    hidden_act: Literal["silu"] = Field(default="silu", exclude=True)
    enable_moe_block: Literal[False] = False
    hidden_size_per_layer_input: Literal[0] = 0
    num_kv_shared_layers: Literal[0] = 0

    @property
    def geometry(self) -> Geometry:
        """Full attention as Gemma4 has it: logits unscaled, values normed, norms around both blocks."""
        own = self.num_global_key_value_heads if self.attention_k_eq_v else None
        return Geometry(
            heads=self.num_attention_heads,
            groups=own or self.num_key_value_heads,
            width=self.global_head_dim,
            rope_theta=self.rope_theta,
            rotary_share=self.rotary_share,
            scale=1.0,
            activation="gelu_tanh",
            embedding_scale=self.hidden_size**0.5,
            logit_cap=self.final_logit_softcapping,
            sandwich=True,
            keys_are_values=self.attention_k_eq_v,
        )

    @model_validator(mode="before")
    @classmethod
    def _flatten_rope(cls, values: Any) -> Any:
        """Theta and rotated share of the full-attention layers, and their sizes where they are kept per layer."""
        if not isinstance(values, Mapping):
            return values
        flat = dict(values)
        per_layer = flat.pop("per_layer_config", None)
        for sizes in per_layer.values() if isinstance(per_layer, Mapping) else ():
            if isinstance(sizes, Mapping) and "head_dim" in sizes:
                flat.setdefault("global_head_dim", sizes["head_dim"])
                flat.setdefault("num_global_key_value_heads", sizes.get("num_key_value_heads"))
        rope = flat.get("rope_parameters")
        full = rope.get("full_attention") if isinstance(rope, Mapping) else None
        if not isinstance(full, Mapping):
            raise ValueError("rope_parameters.full_attention is missing")
        kind, share = full.get("rope_type", "default"), full.get("partial_rotary_factor", 1.0)
        if kind not in ("default", "proportional") or full.get("factor", 1.0) != 1.0:
            raise ValueError(f"rope_parameters.full_attention of type {kind!r} is not supported; use 'proportional'")
        return flat | {
            "rope_theta": full.get("rope_theta", 1_000_000.0),
            "rotary_share": share if kind == "proportional" else 1.0,
        }

    @classmethod
    def _adapted(cls, target: Mapping[str, Any], kind: str) -> dict[str, Any]:
        values = super()._adapted(target, kind)
        return values | {"target_model_type": kind, "target_text_model_type": values.get("model_type", kind)}


_FAMILIES: dict[str, type[DSparkConfig]] = {
    family.architecture: family for family in (DSparkConfig, Gemma4DSparkConfig)
}
_TARGETS: dict[str, type[DSparkConfig]] = {
    "qwen3": DSparkConfig,
    "gemma4": Gemma4DSparkConfig,
    "gemma4_unified": Gemma4DSparkConfig,
    "gemma4_text": Gemma4DSparkConfig,
    "gemma4_unified_text": Gemma4DSparkConfig,
}
