"""The DSpark drafter: a small bidirectional block decoder over the target's features, a Markov and a confidence head.

Shapes: n rows, m tapped layers, d hidden size, L drafter layers, R requests, S context rows (padded), γ block size,
H query heads, K key/value heads, D head width, V vocabulary, r Markov rank. As in arXiv 2607.05147 the anchor sits
at absolute position s, context rows are positions 0…s−1 only, slot k (1-based) sits at s+k−1 and predicts s+k.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import LongTensor, Tensor, nn

from outrider.drafter.config import DSparkConfig
from outrider.errors import DrafterMismatch, ModelDirectoryError
from outrider_kernels import Linear, packed_linear, plain_linear

__all__ = ["DSparkModel"]

WEIGHTS = "model.safetensors"


class _Scale(nn.Module):
    """The weight of an RMS norm; the arithmetic is `torch.rms_norm` where it is used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class _Attention(nn.Module):
    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.q_norm = _Scale(config.head_dim)
        self.k_norm = _Scale(config.head_dim)


class _Mlp(nn.Module):
    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)


class _Layer(nn.Module):
    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _Mlp(config)
        self.input_layernorm = _Scale(config.hidden_size)
        self.post_attention_layernorm = _Scale(config.hidden_size)


class _Markov(nn.Module):
    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.vocab_size, bias=False)


class _Confidence(nn.Module):
    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden_size + config.markov_rank, 1)


class LayerWeights(NamedTuple):
    """One layer as its forward pass reads it: joined projections save a third of the calls."""

    qkv: Linear
    context_kv: Linear
    qk_scale: Tensor
    output: Linear
    gate_up: Linear
    down: Linear
    input_norm: Tensor
    mlp_norm: Tensor


class HeadWeights(NamedTuple):
    """The two products over the vocabulary: lm_head and W2."""

    base: Linear
    markov: Linear


class DSparkModel(nn.Module):
    """A Qwen3 DSpark drafter; parameter names are DeepSpec's, unprefixed."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.norm = _Scale(width)
        self.hidden_norm = _Scale(width)
        self.fc = nn.Linear(len(config.target_layer_ids) * width, width, bias=False)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.markov_head = _Markov(config)
        self.confidence_head = _Confidence(config) if config.enable_confidence_head else None
        self._joined: tuple[LayerWeights, ...] | None = None
        self._packed_heads: HeadWeights | None = None
        cos, sin = _rope_tables(config)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)

    @classmethod
    def load(cls, directory: Path | str, dtype: torch.dtype = torch.float32) -> DSparkModel:
        """Read a DeepSpec drafter directory, ready for inference.

        Raises ModelDirectoryError when a file is missing or unreadable, DrafterMismatch when a field or a tensor's
        shape does not fit; both name the file and the field.
        """
        directory = Path(directory)
        config = DSparkConfig.load(directory)
        tensors: dict[str, Tensor] = {}
        for shard in sorted(directory.glob("*.safetensors")):
            try:
                tensors |= load_file(shard)
            except SafetensorError as error:
                raise ModelDirectoryError(f"drafter {directory.name}: {shard.name} is unreadable: {error}") from None
        if not tensors:
            raise ModelDirectoryError(f"drafter {directory.name} has no {WEIGHTS}", param=WEIGHTS)
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in cls(config).state_dict().items()}
        for name, shape in expected.items():
            if name not in tensors:
                raise DrafterMismatch(
                    f"drafter {directory.name}: no tensor {name} in its safetensors files", param=name
                )
            if tuple(tensors[name].shape) != shape:
                found = list(tensors[name].shape)
                raise DrafterMismatch(
                    f"drafter {directory.name}: tensor {name} is {found}, config.json asks for {list(shape)}",
                    param=name,
                )
        unknown = sorted(tensors.keys() - expected.keys())
        if unknown:
            raise DrafterMismatch(f"drafter {directory.name}: unknown tensor {unknown[0]}", param=unknown[0])
        model = cls(config).to(dtype)
        model.load_state_dict(tensors)
        return model.eval().requires_grad_(False)

    def save(self, directory: Path | str, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write config.json and model.safetensors in DeepSpec's layout."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.config.model_copy(update={"dtype": str(dtype).removeprefix("torch.")}).save(directory)
        # clone: joined inference weights may make parameters views of one storage, which safetensors refuses
        tensors = {name: value.detach().to(dtype).clone() for name, value in self.state_dict().items()}
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})

    def train(self, mode: bool = True) -> DSparkModel:
        self._forget_packed()
        super().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> DSparkModel:
        self._forget_packed()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    # -- beside the target ---------------------------------------------------------------------------------------

    def project(self, features: Tensor) -> Tensor:
        """C = hidden_norm(fc(F)): rows [n, d] from concatenated tapped states [n, m·d]."""
        return self._norm(self.fc(features), self.hidden_norm.weight)

    # -- on the drafter ------------------------------------------------------------------------------------------

    def context_kv(self, rows: Tensor, positions: LongTensor | Tensor) -> tuple[Tensor, Tensor]:
        """Context keys (normed, rotated) and values of every layer, each [L, n, K, D].

        `rows` [n, d] are projected features of absolute `positions` [n]; no input norm is applied to them.
        """
        count, config = rows.shape[0], self.config
        groups, width = config.num_key_value_heads, config.head_dim
        cos, sin = self._rope(positions)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer in self._weights():
            pair = layer.context_kv(rows).view(count, 2, groups, width)
            keys.append(self._norm(pair[:, 0], None) * layer.qk_scale[-1])
            values.append(pair[:, 1])
        return _rotate(torch.stack(keys), cos, sin), torch.stack(values)

    def backbone(
        self,
        block_ids: LongTensor | Tensor,
        positions: LongTensor | Tensor,
        ctx_k: Tensor,
        ctx_v: Tensor,
        ctx_len: LongTensor | Tensor,
    ) -> Tensor:
        """Normed hidden states [R, γ, d] of the blocks.

        `block_ids`, `positions` [R, γ]; `ctx_k`, `ctx_v` [L, R, S, K, D] of which the first `ctx_len` [R] rows count
        (padding may hold anything finite). Attention is bidirectional in the block and over all its context.
        """
        _requests, slots = block_ids.shape
        span = ctx_k.shape[2]
        valid = torch.arange(span + slots, device=ctx_len.device)
        seen = (valid < ctx_len[:, None]) | (valid >= span)
        mask = seen[:, None, None, :]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys = torch.cat((ctx_k[layer], key), dim=1).transpose(1, 2)
            values = torch.cat((ctx_v[layer], value), dim=1).transpose(1, 2)
            folded = _fold_groups(query, keys.shape[1])
            return _unfold_groups(F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask), slots)

        return self._decode(block_ids, positions, attend)

    def training_backbone(self, block_ids: Tensor, positions: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """`backbone` for many anchors of each sequence at once: [B, A, γ, d], gradients to the projected rows.

        `block_ids`, `positions` [B, A, γ] with the anchor first; `rows` [B, T, d] are projected features of positions
        0…T−1; `lengths` [B, A] says how many of them each block sees (its anchor's position).
        """
        batch, anchors, slots = block_ids.shape
        span = rows.shape[1]
        times = torch.arange(span, device=rows.device)
        keys, values = self.context_kv(rows.reshape(batch * span, -1), times.repeat(batch))
        hidden = torch.zeros((), dtype=rows.dtype, device=rows.device)
        future = hidden.new_full((), float("-inf"))
        mask = torch.where(times < lengths[..., None], hidden, future)  # [B, A, T]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            groups = key.shape[2]
            fold = query.shape[2] // groups
            rows_q = _fold_groups(query, groups).view(batch, anchors, groups, fold * slots, -1)
            over_context = rows_q.transpose(1, 2).reshape(batch, groups, anchors * fold * slots, -1)
            ctx_k = keys[layer].view(batch, span, groups, -1).permute(0, 2, 3, 1)
            ctx_v = values[layer].view(batch, span, groups, -1).transpose(1, 2)
            scale = query.shape[-1] ** -0.5
            far = (over_context @ ctx_k).view(batch, groups, anchors, fold * slots, span) * scale
            far = far + mask[:, None, :, None, :].to(far.dtype)
            near_k = key.view(batch, anchors, slots, groups, -1).permute(0, 3, 1, 4, 2)
            near = (rows_q.transpose(1, 2) @ near_k) * scale
            weights = torch.softmax(torch.cat((far, near), dim=-1), dim=-1, dtype=far.dtype)
            near_v = value.view(batch, anchors, slots, groups, -1).permute(0, 3, 1, 2, 4)
            mixed = weights[..., span:] @ near_v
            mixed = mixed + (weights[..., :span].reshape(batch, groups, anchors * fold * slots, span) @ ctx_v).view_as(
                mixed
            )
            return _unfold_groups(mixed.transpose(1, 2).reshape(batch * anchors, groups, fold * slots, -1), slots)

        flat = self._decode(block_ids.flatten(0, 1), positions.flatten(0, 1), attend)
        return flat.view(batch, anchors, slots, -1)

    def base_logits(self, hidden: Tensor) -> Tensor:
        """U = lm_head(h), fp32: [..., V]."""
        return self._heads().base(hidden).float()

    def markov_bias(self, prev_ids: LongTensor | Tensor) -> tuple[Tensor, Tensor]:
        """W2·W1[x] [..., V] in fp32, and W1[x] [..., r], for the tokens before the slots."""
        embedded = self.markov_head.markov_w1(prev_ids)
        return self._heads().markov(embedded).float(), embedded

    def confidence_logit(self, hidden_k: Tensor, markov_embed: Tensor) -> Tensor:
        """w·[h_k; W1[x_{k−1}]] + b, fp32: [...]; its sigmoid is the slot's conditional survival."""
        if self.confidence_head is None:
            raise DrafterMismatch("this drafter has no confidence head", param="enable_confidence_head")
        projection = self.confidence_head.proj
        joined = torch.cat((hidden_k, markov_embed), dim=-1)
        return F.linear(joined, projection.weight, projection.bias).squeeze(-1).float()

    # -- shared by inference and training ------------------------------------------------------------------------

    def _decode(self, block_ids: Tensor, positions: Tensor, attend: Any) -> Tensor:
        """The layers over R blocks; `attend(layer, q [R, γ, H, D], k [R, γ, K, D], v)` returns [R, γ, H·D]."""
        config = self.config
        heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        requests, slots = block_ids.shape
        cos, sin = self._rope(positions)
        hidden = F.embedding(block_ids, self.embed_tokens.weight)
        for index, layer in enumerate(self._weights()):
            joined = layer.qkv(self._norm(hidden, layer.input_norm))
            joined = joined.view(requests, slots, heads + 2 * groups, width)
            rotated = _rotate(self._norm(joined[:, :, : heads + groups], None) * layer.qk_scale, cos, sin)
            mixed = attend(index, rotated[:, :, :heads], rotated[:, :, heads:], joined[:, :, heads + groups :])
            hidden = hidden + layer.output(mixed)
            gate, up = layer.gate_up(self._norm(hidden, layer.mlp_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down(F.silu(gate) * up)
        return self._norm(hidden, self.norm.weight)

    def _norm(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        return torch.rms_norm(rows, rows.shape[-1:], weight, self.config.rms_norm_eps)

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos: Tensor = self.rope_cos[positions]  # type: ignore[index]
        sin: Tensor = self.rope_sin[positions]  # type: ignore[index]
        return cos.unsqueeze(-2), sin.unsqueeze(-2)

    def _weights(self) -> tuple[LayerWeights, ...]:
        """Joined weights: rebuilt with gradients in training, built and packed once in inference."""
        if self.training:
            return tuple(self._join(layer, plain_linear) for layer in self.layers)
        if self._joined is None:
            with torch.no_grad():
                self._joined = tuple(self._join(layer, packed_linear) for layer in self.layers)
        return self._joined

    def _heads(self) -> HeadWeights:
        """As `_weights`, of what every slot multiplies by."""
        base, markov = self.lm_head.weight, self.markov_head.markov_w2.weight
        if self.training:
            return HeadWeights(plain_linear(base), plain_linear(markov))
        if self._packed_heads is None:
            with torch.no_grad():
                self._packed_heads = HeadWeights(packed_linear(base), packed_linear(markov))
        return self._packed_heads

    def _forget_packed(self) -> None:
        """Weights are about to change, or to move."""
        self._joined = self._packed_heads = None

    def _join(self, layer: Any, linear: Callable[[Tensor], Linear]) -> LayerWeights:
        attention, mlp, config = layer.self_attn, layer.mlp, self.config
        scales = [attention.q_norm.weight] * config.num_attention_heads
        scales += [attention.k_norm.weight] * config.num_key_value_heads
        context = (attention.k_proj.weight, attention.v_proj.weight)
        return LayerWeights(
            qkv=linear(torch.cat((attention.q_proj.weight, *context))),
            context_kv=linear(torch.cat(context)),
            qk_scale=torch.stack(scales),
            output=linear(attention.o_proj.weight),
            gate_up=linear(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))),
            down=linear(mlp.down_proj.weight),
            input_norm=layer.input_layernorm.weight,
            mlp_norm=layer.post_attention_layernorm.weight,
        )


def _rope_tables(config: DSparkConfig) -> tuple[Tensor, Tensor]:
    """cos and signed sin [P, D]: x·cos + roll(x, D/2)·sin equals Qwen3's x·cos + rotate_half(x)·sin."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(config.max_position_embeddings, dtype=torch.float32), config.rope_theta**-half)
    return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-angles.sin(), angles.sin()), -1)


def _rotate(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(rows * cos, rows.roll(rows.shape[-1] // 2, -1), sin)


def _fold_groups(query: Tensor, groups: int) -> Tensor:
    """[R, γ, H, D] → [R, K, (H/K)·γ, D]: all rows of a block see the same keys, so no key is repeated."""
    requests, slots, heads, width = query.shape
    return (
        query.view(requests, slots, groups, heads // groups, width)
        .permute(0, 2, 3, 1, 4)
        .reshape(requests, groups, heads // groups * slots, width)
    )


def _unfold_groups(mixed: Tensor, slots: int) -> Tensor:
    """[R, K, (H/K)·γ, D] → [R, γ, H·D]."""
    requests, groups, rows, width = mixed.shape
    return (
        mixed.view(requests, groups, rows // slots, slots, width)
        .permute(0, 3, 1, 2, 4)
        .reshape(requests, slots, groups * (rows // slots) * width)
    )
