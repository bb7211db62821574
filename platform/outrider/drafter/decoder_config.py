"""The part of a model directory's config.json that shapes a decoder, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from outrider.drafter.geometry import Geometry
from outrider.errors import DrafterMismatch, ModelDirectoryError

__all__ = ["DecoderConfig", "read_config"]

FILE = "config.json"


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
        return cls.checked(directory, read_config(directory))

    @classmethod
    def checked(cls, directory: Path, values: Mapping[str, Any]) -> Self:
        """The values of `directory`'s config.json; raises DrafterMismatch for a field that does not fit."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "config"
            message = f"drafter {directory.name}: {FILE}, field {field}: {first['msg']}"
            raise DrafterMismatch(message, param=field) from None


def read_config(directory: Path) -> dict[str, Any]:
    """The object in `directory`/config.json; raises ModelDirectoryError when there is none."""
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
    return values
