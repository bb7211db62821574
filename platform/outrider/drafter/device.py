"""Drafting where tensors come from a device and stay there: nothing waits for it, so that a CUDA graph can hold it all.

About ten launches a layer: the norms are joined with the additions before them, and one kernel each rotates, attends
and gates. The rotation is computed in fp32, where the eager one reads tables in the weights' dtype.

Shapes: R requests (some may be padding), γ block size, B = R·γ, d hidden size, L layers, S tokens of a slot, n context
rows, w tokens in a slot's q.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outrider.drafter.blocks import block_inputs
from outrider.drafter.contexts import ContextPool
from outrider.drafter.heads import MarkovHead
from outrider.drafter.layers import rope_frequencies
from outrider.drafter.model import DSparkModel
from outrider.speculation import RowSampling
from outrider.speculation.fused import cut_columns
from outrider_kernels.block_attention import block_attention
from outrider_kernels.draft_sampling import LARGEST_RANK, DrawRows, Sampled, SequentialHead, draw_blocks
from outrider_kernels.paged_append import append_rows, rotate_append
from outrider_kernels.row_ops import add_norm, silu_mul

__all__ = ["DeviceDraft", "draw_rows"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_WIDEST_HEAD = 256
_MOST_ROWS = 256
"""Queries of a block that share a head's keys."""


class DeviceDraft:
    """A model over a pool's contexts. It keeps no address of the pool's tensors; a graph does (`ContextPool.version`).

    The pool's lengths are not read: who calls says how long contexts are, and counts rows in with `ContextPool.grow`.
    """

    def __init__(self, model: DSparkModel, pool: ContextPool) -> None:
        if not self.fits(model):
            raise ValueError("a drafter drafts on its device with Qwen3 layers, a vanilla or no head, and a confidence")
        self._model, self._pool = model, pool
        self._frequencies = rope_frequencies(model.geometry).to(model.fc.weight.device)
        self._scaling = model.geometry.scale or model.geometry.width**-0.5
        self._last_position = model.config.max_position_embeddings - 1
        self._head: SequentialHead | None = None

    @staticmethod
    def fits(model: DSparkModel) -> bool:
        """Whether the layers are Qwen3's and the heads are those that draw in one pass."""
        geometry = model.geometry
        return (
            geometry.plain
            and model.fc.weight.dtype in _DTYPES
            and model.confidence_head is not None
            and model.config.markov_rank <= LARGEST_RANK
            and geometry.width % 2 == 0
            and geometry.width <= _WIDEST_HEAD
            and geometry.heads // geometry.groups * model.config.block_size <= _MOST_ROWS
            and type(model.markov_head) in (MarkovHead, type(None))
        )

    def propose(
        self, slots: Tensor, lengths: Tensor, anchors: Tensor, positions: Tensor, rows: DrawRows, *, width: int = 0
    ) -> Sampled:
        """Blocks for requests in pool slots int64 [R] (−1: padding) that hold lengths int32 [R] rows.

        anchors int64 [R] and their positions int64 [R]; of padding they may be anything, and so may be the answer.
        Raises UnsupportedArgument.
        """
        first = anchors.clamp(0, self._model.config.vocab_size - 1)
        ids, places = block_inputs(self._model, first, positions)
        hidden = self._backbone(ids, places.clamp(0, self._last_position).flatten(), slots, lengths)
        base = self._model.raw_logits(hidden)
        return draw_blocks(hidden, base, first, positions, self._heads(), rows, width=width)

    def append(self, rows: Tensor, positions: Tensor, places: Tensor) -> None:
        """Store projected rows [n, d] of `positions` int64 [n] at `places` int64 [n], slot·S + offset; −1: nowhere."""
        keys, values = self._pool.keys, self._pool.values
        layers, room = keys.shape[0], keys.shape[1] * keys.shape[2]
        found = self._model.context_kv(rows, positions.clamp(0, self._last_position))
        layer_first = torch.arange(layers, device=places.device)[:, None] * room
        everywhere = torch.where(places < 0, -1, places + layer_first).flatten()
        for made, plane in zip(found, (keys, values), strict=True):
            append_rows(made.flatten(0, 1), plane.flatten(0, 2), everywhere)

    def _backbone(self, ids: Tensor, places: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
        """Normed hidden states [R, γ, d] of blocks of tokens [R, γ] at positions [B]."""
        model, geometry, eps = self._model, self._model.geometry, self._model.config.rms_norm_eps
        heads, groups, width = geometry.heads, geometry.groups, geometry.width
        layers = model.joined_layers()
        norms = [layer.input_norm for layer in layers[1:]] + [model.norm.weight]
        hidden = torch.embedding(model.embed_tokens.weight, ids.flatten())
        own = torch.arange(len(hidden), device=hidden.device)
        hidden, rows = add_norm(hidden, None, layers[0].input_norm, eps)
        for index, (layer, next_norm) in enumerate(zip(layers, norms, strict=True)):
            kv = hidden.new_empty((len(hidden), 2, groups, width))
            query = rotate_append(
                layer.qkv(rows),
                places,
                own,
                kv,
                heads=heads,
                kv_heads=groups,
                q_norm=layer.qk_scale[0],
                k_norm=layer.qk_scale[-1],
                eps=eps,
                frequencies=self._frequencies,
            )
            key, value = kv.view(*ids.shape, 2, groups, width).unbind(2)
            context = self._pool.keys[index], self._pool.values[index], slots, lengths
            blocks = query.view(*ids.shape, heads, width)
            mixed = block_attention(blocks, key, value, *context, scaling=self._scaling)
            hidden, rows = add_norm(hidden, layer.output(mixed.view(len(hidden), -1)), layer.mlp_norm, eps)
            hidden, rows = add_norm(hidden, layer.down(silu_mul(layer.gate_up(rows))), next_norm, eps)
        return rows.view(*ids.shape, -1)

    @torch.no_grad()
    def _heads(self) -> SequentialHead:
        """As the kernels read them; made at the first call, which no graph may capture."""
        if self._head is None:
            markov, confidence = self._model.markov_head, self._model.confidence_head
            assert confidence is not None
            self._head = SequentialHead(
                w1=markov.markov_w1.weight if markov else None,
                w2=markov.markov_w2.weight if markov else None,
                confidence=confidence.proj.weight[0],
                confidence_bias=confidence.proj.bias.float().squeeze(0),
            )
        return self._head


def draw_rows(sampling: RowSampling, device: torch.device) -> DrawRows:
    """The same parameters as the kernels read them, on a device."""
    here = sampling.to(device)
    top_k, min_p = cut_columns(here)
    return DrawRows(
        temperature=here.temperature,
        seeds=here.seeds,
        choices=here.choices,
        top_p=here.top_p,
        top_k=top_k,
        min_p=min_p,
        rounds=torch.full_like(here.seeds, -1) if here.rounds is None else here.rounds,
        random=here.random,
        cuts=here.cuts,
        rejects=here.rounds is not None,
    )
