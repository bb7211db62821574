"""Packing of anchors: its bound, what a pack holds, and that the n-th pack is a function of seed and n."""

from __future__ import annotations

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.training.anchors import PackStream, draw_anchors, load_pack, pack_epoch, split_pack
from outrider.training.features import Featured

SIZES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda s: (s[0] + s[1], s[0])), max_size=30)


@settings(max_examples=200, deadline=None)
@given(SIZES, st.integers(1, 50), st.integers(1, 60), st.integers(0, 9))
def test_no_pack_exceeds_its_bound_and_every_usable_conversation_comes_once(
    sizes: list[tuple[int, int]], per_conversation: int, per_pack: int, seed: int
) -> None:
    packs = pack_epoch(sizes, per_conversation, per_pack, random.Random(seed))
    for pack in packs:
        anchors = sum(min(per_conversation, per_pack, sizes[n][0] - sizes[n][1] - 1) for n in pack)
        assert 0 < anchors <= per_pack
    assert sorted(n for pack in packs for n in pack) == [n for n, (t, p) in enumerate(sizes) if t - p >= 2]


@settings(max_examples=100, deadline=None)
@given(SIZES.filter(lambda s: any(t - p >= 2 for t, p in s)), st.integers(1, 20), st.integers(1, 40), st.data())
def test_the_stream_is_a_function_of_its_place(
    sizes: list[tuple[int, int]], per_conversation: int, per_pack: int, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, 40))
    straight, fresh = (PackStream(sizes, per_conversation, per_pack, 5) for _ in range(2))
    for each in range(number):
        straight.pack(each)
    one, other = straight.pack(number), fresh.pack(number)
    assert [n for n, _ in one] == [n for n, _ in other]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))
    assert 0 < sum(len(a) for _, a in one) <= per_pack
    for n, anchors in one:
        tokens, prompt = sizes[n]
        assert prompt <= int(anchors[0])
        assert int(anchors[-1]) <= tokens - 2
        assert len(set(anchors.tolist())) == len(anchors)
    groups = split_pack(one, 2)
    assert [n for group in groups for n, _ in group] == [n for n, _ in one]


def _conversation(tokens: int, prompt: int) -> Featured:
    states = torch.arange(tokens)[:, None].repeat(1, 2).to(torch.bfloat16)
    return Featured("a", torch.arange(tokens) + 100, prompt, states, states + 0.5)


def test_a_pack_holds_context_before_the_anchors_and_the_slots_own_states() -> None:
    conversations = [_conversation(20, 5), _conversation(9, 4)]
    blocks = [(1, torch.tensor([4, 7])), (0, torch.tensor([11]))]
    pack = load_pack(conversations, blocks, 3, mask_token_id=7)
    assert pack.features.shape == (2, 11, 2)
    assert pack.features[0, 6, 0] == 6
    assert pack.features[0, 7, 0] == 0
    assert pack.keep.tolist() == [[True, True], [True, False]]
    assert pack.block[0].tolist() == [[104, 7, 7], [107, 7, 7]]
    assert pack.previous.tolist() == [[104, 105, 106], [107, 108, 108], [111, 112, 113]]
    assert pack.following[0].tolist() == [105, 106, 107]
    assert pack.supervised.tolist() == [[True, True, True], [True, False, False], [True, True, True]]
    assert pack.last[2, :, 0].tolist() == [11.5, 12.5, 13.5]
    assert pack.positions[1, 0].tolist() == [11, 12, 13]


def test_anchors_are_spread_over_the_response() -> None:
    counts = torch.zeros(20)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2000):
        counts[draw_anchors(20, 10, 3, generator)] += 1
    assert counts[:10].sum() == 0
    assert counts[19] == 0
    assert float(counts[10:19].std() / counts[10:19].mean()) < 0.1
