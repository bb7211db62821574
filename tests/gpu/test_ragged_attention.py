"""Ragged paged attention: the reference is the engine's eager attention, and the kernel is the reference.

Tolerances: weights and outputs are rounded to the dtype, and a softmax's weights sum to one, so that an output of
values of magnitude v is off by v · (rounding of the weights + rounding of the result); `bound` has the latter and the
sums' own. Values are standard normal, below 5 in magnitude. Logits' own errors, as many 2⁻²⁴ as they are large, weigh
less than what `bound` leaves room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outrider.engine.attention import PagedBatch, attend
from outrider_kernels.dispatch import UnsupportedArgument
from outrider_kernels.ragged_attention import RaggedRows, ragged_attention
from outrider_kernels.ragged_attention import reference as plain
from outrider_kernels.ragged_attention.plan import Plan, plan_of
from outrider_kernels.ragged_attention.triton import ragged_attention as kernel
from support.kernels import DEVICE, DTYPES, bound
from support.ragged import RaggedStep, ragged_step

VARIANTS: list[dict[str, Any]] = [
    {},
    {"window": 5},
    {"softcap": 1.5},
    {"sinks": True},
    {"window": 3, "softcap": 2.0, "sinks": True},
]
SCALING = 0.3


def options(variant: dict[str, Any], heads: int = 4) -> dict[str, Any]:
    return {**variant, "sinks": torch.linspace(-2, 2, heads, device=DEVICE)} if "sinks" in variant else variant


def plan(step: RaggedStep, **changes: int) -> Plan:
    tokens, heads, head_dim = step.query.shape
    kv_heads, dtype = step.kv.shape[2], step.kv.dtype
    made = plan_of(step.rows, tokens=tokens, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype)
    return replace(made, **changes)  # type: ignore[arg-type]


def agree(step: RaggedStep, division: Plan | None = None, **given: Any) -> Tensor:
    wanted = plain.ragged_attention(step.query, step.kv, step.rows, scaling=SCALING, **given)
    found = kernel(step.query, step.kv, step.rows, scaling=SCALING, plan=division, **given)
    assert found.dtype == wanted.dtype
    tolerance = 2 * bound(found.dtype, step.rows.longest_context, 5.0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
    assert not found[int(step.rows.query_start[-1]) :].any()
    return found


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(
    ("lengths", "contexts"), [([1], [0]), ([1, 8, 3], [62, 0, 17]), ([40, 1, 0, 2], [9, 30, 11, 0])], ids=str
)
def test_the_reference_agrees_with_the_engine(lengths: list[int], contexts: list[int], variant: dict[str, Any]) -> None:
    step = ragged_step(lengths, contexts, padding=3)
    given = options(variant)
    paged = PagedBatch.of([span for span in step.spans if span.length], [step.kv], query_groups=2)
    real = sum(lengths)
    wanted = attend(step.query[:real], step.kv[paged.write], step.kv, paged, SCALING, **given)
    found = ragged_attention(step.query, step.kv, step.rows, scaling=SCALING, **given)
    torch.testing.assert_close(found[:real], wanted, rtol=0, atol=bound(torch.float32, 64, 5.0))
    assert not found[real:].any()


def test_a_long_batch_is_attended_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    step = ragged_step([3, 1, 0, 5], [2, 40, 0, 7])
    whole = plain.ragged_attention(step.query, step.kv, step.rows, scaling=SCALING)
    monkeypatch.setattr(plain, "_LOGITS_AT_ONCE", 1)
    parts = plain.ragged_attention(step.query, step.kv, step.rows, scaling=SCALING)
    torch.testing.assert_close(parts, whole, rtol=0, atol=bound(torch.float32, 64, 5.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_decoding_verification_and_prefill_in_one_call(variant: dict[str, Any], dtype: torch.dtype) -> None:
    agree(ragged_step([1, 8, 0, 3, 40], [62, 0, 3, 17, 0], padding=3, dtype=dtype), **options(variant))


@pytest.mark.parametrize("context", [0, 62, 999])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_token_and_a_largest_block(dtype: torch.dtype, context: int) -> None:
    agree(ragged_step([1, 0, 9], [context, 5, context], padding=1, dtype=dtype, block_size=16))


@pytest.mark.parametrize("splits", [2, 3, 8])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_split_contexts_join(variant: dict[str, Any], splits: int) -> None:
    """Requests shorter than a split leave the others without work."""
    step = ragged_step([1, 3, 0, 2], [1000, 63, 9, 0], padding=2, block_size=8)
    agree(step, plan(step, splits=splits, least_tiles=1), **options(variant))


def test_a_step_of_few_requests_is_split() -> None:
    step = ragged_step([1, 2], [999, 700], block_size=8)
    assert plan(step).splits > 1
    agree(step)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(8, 8, 32), (6, 2, 16), (5, 1, 24), (32, 1, 8), (4, 2, 1), (2, 1, 80)]
)
def test_head_counts_and_sizes(heads: int, kv_heads: int, head_dim: int) -> None:
    step = ragged_step([1, 4, 9], [20, 33, 0], heads=heads, kv_heads=kv_heads, head_dim=head_dim, padding=2)
    agree(step)
    agree(step, plan(step, splits=2, least_tiles=1), sinks=torch.zeros(heads, device=DEVICE))


@pytest.mark.parametrize("block_size", [1, 2, 64])
def test_block_sizes(block_size: int) -> None:
    agree(ragged_step([2, 1, 5], [60, 3, 70], block_size=block_size), window=40)


def test_what_a_window_has_left_behind_is_not_read() -> None:
    step = ragged_step([1, 3], [70, 65], forgotten=60)
    assert agree(step, window=6).isfinite().all()
    assert agree(step, plan(step, splits=4, least_tiles=1), window=6).isfinite().all()


def test_the_host_may_be_generous() -> None:
    step = ragged_step([1, 3, 0], [70, 2, 0], padding=5)
    tight = kernel(step.query, step.kv, step.rows, scaling=SCALING)
    roomy = replace(step.rows, longest_query=8, longest_context=4096)
    torch.testing.assert_close(kernel(step.query, step.kv, roomy, scaling=SCALING), tight, rtol=0, atol=1e-5)
    assert torch.equal(plain.ragged_attention(step.query, step.kv, roomy, scaling=SCALING)[4:], tight[4:])


def test_queries_need_not_lie_side_by_side() -> None:
    step = ragged_step([1, 3], [7, 2], heads=4, kv_heads=2, head_dim=16)
    wide = torch.zeros(4, 8, 16, device=DEVICE)
    wide[:, :4] = step.query
    found = kernel(wide[:, :4], step.kv, step.rows, scaling=SCALING)
    assert torch.equal(found, kernel(step.query, step.kv, step.rows, scaling=SCALING))


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]], ids=str)
def test_nothing_to_attend(lengths: list[int]) -> None:
    agree(ragged_step(lengths, [3] * len(lengths), padding=2))


def test_a_wrong_window_would_be_noticed() -> None:
    step = ragged_step([1, 8], [62, 30])
    wrong = plain.ragged_attention(step.query, step.kv, step.rows, scaling=SCALING, window=6)
    found = kernel(step.query, step.kv, step.rows, scaling=SCALING, window=5)
    assert (found - wrong).abs().max() > 100 * bound(torch.float32, 64, 5.0)


REQUESTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 90)), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(REQUESTS, st.integers(0, 4), st.sampled_from([1, 4, 16]), st.sampled_from([None, 1, 9]), st.integers(1, 3))
def test_any_ragged_step(
    requests: Sequence[tuple[int, int]], padding: int, block_size: int, window: int | None, splits: int
) -> None:
    lengths, contexts = zip(*requests, strict=True)
    step = ragged_step(lengths, contexts, padding=padding, block_size=block_size, seed=splits)
    agree(step, plan(step, splits=splits, least_tiles=1), window=window)


def test_long_prompts_are_tiled_and_few_requests_are_split() -> None:
    def divided(requests: int, longest_query: int, tokens: int, longest_context: int) -> Plan:
        start = torch.zeros(requests + 1, dtype=torch.int32)
        rows = RaggedRows(start, start[1:], start[1:, None], 16, longest_query, longest_context)
        return plan_of(rows, tokens=tokens, heads=32, kv_heads=8, head_dim=128, dtype=torch.bfloat16)

    decode, verify, prefill = divided(8, 1, 8, 1 << 15), divided(32, 8, 256, 4096), divided(8, 512, 519, 4096)
    assert (decode.rows, decode.tiles, decode.splits, decode.one_tile) == (16, 8, 16, True)
    assert (verify.rows, verify.tiles, verify.tokens, verify.one_tile) == (32, 32, 8, True)
    assert (prefill.tokens, prefill.tiles, prefill.one_tile) == (32, 24, False)
    assert divided(256, 1, 256, 1 << 15).splits == 1


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("query", {"query": torch.zeros(4, 4, 16, dtype=torch.float64)}),
        ("query", {"query": torch.zeros(4, 4, 300)}),
        ("query", {"query": torch.zeros(4, 16, 4).transpose(1, 2)}),
        ("kv", {"kv": torch.zeros(12, 2, 3, 16)}),
        ("kv", {"kv": torch.zeros(12, 2, 2, 16, dtype=torch.bfloat16)}),
        ("kv", {"kv": torch.zeros(24, 2, 2, 16)[::2]}),
        ("rows.query_start", {"query_start": torch.zeros(3, dtype=torch.int64)}),
        ("rows.context", {"context": torch.zeros(2)}),
        ("rows.blocks", {"blocks": torch.zeros(3, 4, dtype=torch.int32)}),
        ("rows.block_size", {"block_size": 12}),
        ("window", {"window": 0}),
        ("softcap", {"softcap": -1.0}),
        ("sinks", {"sinks": torch.zeros(2)}),
    ],
    ids=str,
)
def test_what_it_does_not_take(argument: str, change: dict[str, Any]) -> None:
    start, context, table = torch.zeros(3), torch.zeros(2), torch.zeros(2, 4)
    fields = {"query_start": start.int(), "context": context.int(), "blocks": table.int(), "block_size": 4}
    rows = RaggedRows(
        **{**fields, **{n: v for n, v in change.items() if n in fields}}, longest_query=2, longest_context=9
    )  # type: ignore[arg-type]
    given = {"query": torch.zeros(4, 4, 16), "kv": torch.zeros(12, 2, 2, 16), "scaling": 1.0}
    given.update({name: value for name, value in change.items() if name not in fields})
    with pytest.raises(UnsupportedArgument) as refusal:
        ragged_attention(rows=rows, **given)  # type: ignore[arg-type]
    assert refusal.value.argument == argument
