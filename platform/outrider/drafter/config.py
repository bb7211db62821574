"""Configurations of decoders that draft: a DSpark drafter's in DeepSpec's `config.json`, and any small Qwen3's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from outrider.drafter.geometry import Geometry
from outrider.errors import DrafterMismatch, ModelDirectoryError

__all__ = ["DSparkConfig", "DecoderConfig"]

FILE = "config.json"
# what transformers puts into every config and a drafter has no use for
_NOT_ARCHITECTURE = frozenset(
    ("return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "is_encoder_decoder",
     "id2label", "label2id")
)  # fmt: skip


class DecoderConfig(BaseModel):
    """The fields that shape a Qwen3 decoder; all others of its `config.json` pass through."""

    model_config = ConfigDict(frozen=True, extra="allow")

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    max_position_embeddings: PositiveInt
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    rope_theta: float = Field(default=10_000.0, gt=0)
    hidden_act: Literal["silu"] = "silu"
    attention_bias: Literal[False] = False

    @property
    def geometry(self) -> Geometry:
        """What the layers compute, in the family's own way."""
        return Geometry(
            heads=self.num_attention_heads,
            groups=self.num_key_value_heads,
            width=self.head_dim,
            rope_theta=self.rope_theta,
        )

    @model_validator(mode="before")
    @classmethod
    def _flatten_rope(cls, values: Any) -> Any:
        """transformers 5 nests theta in `rope_parameters`; older files have `rope_theta` at the top."""
        if not isinstance(values, Mapping):
            return values
        nested = values.get("rope_parameters")
        if not isinstance(nested, Mapping):
            return dict(values)
        if nested.get("rope_type", "default") != "default":
            raise ValueError(f"rope_parameters.rope_type {nested['rope_type']!r} is not supported; use 'default'")
        return {"rope_theta": nested.get("rope_theta", 10_000.0), **values}

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        geometry = self.geometry
        if geometry.heads % geometry.groups:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        return self

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read `directory`/config.json.

        Raises ModelDirectoryError for a missing or unreadable file, DrafterMismatch for a field that does not fit.
        """
        path = directory / FILE
        if not directory.is_dir():
            raise ModelDirectoryError(f"drafter directory {directory.name} does not exist", param="drafter")
        try:
            values = json.loads(path.read_text("utf-8"))
        except OSError:
            raise ModelDirectoryError(f"drafter {directory.name} has no readable {FILE}", param=FILE) from None
        except ValueError as error:
            raise ModelDirectoryError(f"drafter {directory.name}: {FILE} is not JSON: {error}", param=FILE) from None
        if not isinstance(values, dict):
            raise ModelDirectoryError(f"drafter {directory.name}: {FILE} is not a JSON object", param=FILE)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "config"
            message = f"drafter {directory.name}: {FILE}, field {field}: {first['msg']}"
            raise DrafterMismatch(message, param=field) from None


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
    def for_target(cls, target: Mapping[str, Any], **drafter: Any) -> Self:
        """The target's config as a dict (`config.to_dict()`), overridden by the drafter's own fields."""
        kept = {key: value for key, value in target.items() if value is not None and key not in _NOT_ARCHITECTURE}
        values = {key: value for key, value in kept.items() if not key.startswith("_")}
        layers = int(drafter["num_hidden_layers"])
        values |= {
            "architectures": [cls.architecture],
            "num_target_layers": values["num_hidden_layers"],
            "layer_types": ["full_attention"] * layers,
            "tie_word_embeddings": False,
            **drafter,
        }
        return cls.model_validate(values)

    def save(self, directory: Path) -> None:
        """Write config.json as DeepSpec does."""
        values = self.model_dump(mode="json")
        (directory / FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
