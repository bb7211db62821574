"""Rounds that stay on the device, on the CPU with the ops' references: the same tokens as rounds of the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.engine import TargetModel
from outrider.engine.device.cutting import Calibrations
from outrider.engine.device.layout import Drafts, Members, Sampling, flat_batch, runs, verify_rows
from outrider.engine.device.profile import DeviceStage
from outrider.engine.device.stage import Stage
from outrider.engine.device.tables import BlockTables
from outrider.engine.sequence import Sequence
from outrider.scheduling import Asynchronous, Budget, Requests, RoundCosts, StepCostCurve
from outrider.scheduling.calibration import SurvivalMap, prefix_survival
from outrider_kernels.round_layout.reference import depths, survival
from support.engines import request
from support.tiny import TinyPair

CPU = torch.device("cpu")
COSTS = RoundCosts(StepCostCurve((1, 100), (1.0, 2.0), "any"))


def test_a_stage_carries_every_column_and_keeps_its_addresses() -> None:
    stage = Stage({"a": (torch.int32, (3,)), "b": (torch.float32, (2, 2)), "c": (torch.int64, (1,))}, CPU)
    addresses = {name: column.data_ptr() for name, column in stage.device.items()}
    stage.host["a"][:], stage.host["b"][:], stage.host["c"][:] = [1, 2, 3], [[1, 2], [3, 4]], 1 << 40
    stage.send()
    assert stage.device["a"].tolist() == [1, 2, 3]
    assert stage.device["b"].tolist() == [[1, 2], [3, 4]]
    stage.device["c"] += 1
    stage.fetch()
    assert stage.host["c"].tolist() == [(1 << 40) + 1]
    assert addresses == {name: column.data_ptr() for name, column in stage.device.items()}
    assert all(address % 16 == min(addresses.values()) % 16 for address in addresses.values())


def sequence(key: int, blocks: list[int]) -> Sequence:
    return Sequence(request(key, [1]), key, 0.0, [1], blocks=blocks)


def test_tables_follow_what_sequences_hold() -> None:
    tables = BlockTables(3, 600, CPU)
    first, second = sequence(1, [5, 6]), sequence(2, list(range(550)))
    tables.follow([first, second])
    assert tables.of(torch.tensor([tables.lane(first)]))[0, :2].tolist() == [5, 6]
    assert tables.of(torch.tensor([tables.lane(second)]))[0, :550].tolist() == list(range(550))
    first.blocks.append(9)
    tables.follow([first])
    assert tables.of(torch.tensor([tables.lane(first)]))[0, :3].tolist() == [5, 6, 9]
    first.blocks = [7]  # preempted and back within a round, with other blocks
    third = sequence(3, [8])
    tables.follow([third, first])
    assert tables.of(torch.tensor([tables.lane(each) for each in (first, third)]))[:, 0].tolist() == [7, 8]
    with pytest.raises(KeyError):
        tables.lane(second)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 32))
def test_runs(lengths: list[int], size: int) -> None:
    starts, owner, place, real = runs(torch.tensor(lengths, dtype=torch.int32), size)
    assert starts.tolist() == [0, *np.cumsum(lengths).tolist()]
    expected = [(row, j) for row, length in enumerate(lengths) for j in range(length)][:size]
    found = list(zip(owner.tolist(), place.tolist(), strict=True))
    assert found[: len(expected)] == expected
    assert real.tolist() == [True] * len(expected) + [False] * (size - len(expected))


def members(**columns: list[int]) -> Members:
    kinds = dict.fromkeys(("tokens", "first", "offset", "drafted", "lane"), torch.int64)
    return Members(**{name: torch.tensor(each, dtype=kinds.get(name, torch.int32)) for name, each in columns.items()})


def test_a_flat_batch_by_hand() -> None:
    """Two that decode, the second without a draft, a chunk of a prompt, and nobody: blocks of four positions."""
    who = members(
        tokens=[50, 60, 7, 8, 9, 0], first=[50, 60, 7, 0], context=[6, 3, 2, 0], fixed=[1, 1, 3, 0],
        offset=[0, 1, 2, 0], told=[1, 1, 1, 0], drafted=[0, -1, -1, -1], lane=[0, 1, 2, 2],
    )  # fmt: skip
    tables = torch.tensor([[10, 11, 12], [20, 0, 0], [30, 31, 0], [0, 0, 0]], dtype=torch.int32)
    drafts = Drafts(torch.tensor([[51, 52, 53]]), torch.tensor([2, 0, 0, 0], dtype=torch.int32))
    batch, lengths = flat_batch(who, drafts, tables, tokens=9, block_size=4, longest_query=4)
    assert lengths.tolist() == [3, 1, 3, 0]
    assert batch.token_ids.tolist() == [50, 51, 52, 60, 7, 8, 9, 0, 0]
    assert batch.positions.tolist() == [6, 7, 8, 3, 2, 3, 4, 0, 0]
    assert batch.slots.tolist() == [46, 47, 48, 83, 122, 123, 124, -1, -1]
    assert batch.rows.query_start.tolist() == [0, 3, 4, 7, 7]


def rows_of(draw: Any, requests: int, slots: int) -> np.ndarray:
    chances = [[draw(st.integers(0, 8)) / 8 for _ in range(slots)] for _ in range(requests)]
    return np.cumprod(np.array(chances), axis=1)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_cutting_repeats_the_asynchronous_scheduler(data: st.DataObject) -> None:
    requests, slots = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    live = rows_of(data.draw, requests, slots)
    caps = np.array([data.draw(st.integers(0, slots)) for _ in range(requests)])
    weights = np.array([data.draw(st.sampled_from([0.5, 1.0, 2.0])) for _ in range(requests)])
    tokens = data.draw(st.integers(0, requests * slots))
    budget = Budget(np.ones(requests, dtype=np.bool_), tokens)
    expected = Asynchronous().fill(Requests(caps=caps, weights=weights, expected=live), COSTS, budget, live)
    found = depths(
        torch.from_numpy(live).float(),
        torch.from_numpy(weights).float(),
        torch.from_numpy(caps).int(),
        torch.zeros(requests, dtype=torch.bool),
        torch.tensor([tokens], dtype=torch.int32),
    )
    assert found.tolist() == expected.tolist()


def test_observed_blocks_are_verified_whole() -> None:
    live = torch.tensor([[0.9, 0.8, 0.7], [0.01, 0.0, 0.0]])
    caps, whole = torch.tensor([3, 2], dtype=torch.int32), torch.tensor([False, True])
    found = depths(live, torch.ones(2), caps, whole, torch.tensor([3], dtype=torch.int32))
    assert found.tolist() == [1, 2]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_survival_on_the_device_is_the_host_s(data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, 4))
    temperatures = np.array([[data.draw(st.sampled_from([0.5, 1.0, 1.7])) for _ in range(slots)] for _ in range(2)])
    inputs = np.sort(np.array([data.draw(st.integers(1, 99)) for _ in range(3)])) / 100 + np.arange(3) * 1e-3
    outputs = np.sort(np.array([data.draw(st.integers(0, 100)) for _ in range(3)])) / 100
    mapped = SurvivalMap(inputs, outputs)
    logits = np.array([[data.draw(st.integers(-40, 40)) / 8 for _ in range(slots)] for _ in range(4)], dtype=np.float32)
    logits[0, 0] = -np.inf
    classes = np.array([0, 1, 0, 1])
    tables = [torch.tensor(np.array([[each] * slots] * 2), dtype=torch.float32) for each in (inputs, outputs)]
    known = Calibrations(torch.tensor(temperatures, dtype=torch.float32), *tables)
    found = survival(
        torch.from_numpy(logits), torch.from_numpy(classes), known.temperatures, known.inputs, known.outputs
    )
    plain = survival(torch.from_numpy(logits), torch.from_numpy(classes), known.temperatures, None, None)
    for row, kind in enumerate(classes):
        host = prefix_survival(logits[row : row + 1], temperatures[kind], (mapped,) * slots)[0]
        np.testing.assert_allclose(found[row].numpy(), host, atol=2e-4)
        np.testing.assert_allclose(
            plain[row].numpy(), prefix_survival(logits[row : row + 1], temperatures[kind])[0], atol=1e-5
        )


def test_laying_out_and_cutting_never_wait_for_a_value() -> None:
    """Tensors that have no values: whoever asks for one is found out."""
    with torch.device("meta"):
        columns = {name: torch.zeros(4, dtype=torch.int32) for name in ("context", "fixed", "told")}
        longs = {name: torch.zeros(4, dtype=torch.int64) for name in ("offset", "drafted", "lane", "first")}
        who = Members(tokens=torch.zeros(8, dtype=torch.int64), **columns, **longs)
        known = Calibrations(torch.ones(4, 3), torch.rand(4, 3, 5), torch.rand(4, 3, 5))
        live = survival(torch.zeros(4, 3), longs["lane"], known.temperatures, known.inputs, known.outputs)
        allowed = torch.zeros(1, dtype=torch.int32)
        chosen = depths(live, torch.ones(4), columns["fixed"], columns["told"] > 0, allowed)
        drafts = Drafts(torch.zeros(4, 3, dtype=torch.int64), chosen)
        tables = torch.zeros(4, 16, dtype=torch.int32)
        batch, lengths = flat_batch(who, drafts, tables, tokens=8, block_size=16, longest_query=4)
        floats = {name: torch.zeros(4) for name in ("temperature", "top_p", "min_p")}
        counters = {name: torch.zeros(4, dtype=torch.int64) for name in ("top_k", "seeds", "choices", "rounds")}
        rows, *_ = verify_rows(who, drafts, batch, lengths, Sampling(**floats, **counters), rows=8)
    assert rows.is_meta
    with pytest.raises(RuntimeError):
        rows.sum().item()


def test_a_profiled_step_is_the_step_that_serves(pair: TinyPair) -> None:
    """Every size of the sweep runs over its memory: what is staged must fit what was allocated."""
    target = TargetModel.load(pair.target)
    assert target.paged is not None
    cache = target.new_cache(2 * 9, 16)
    stage = DeviceStage.over(target.paged, cache, verified=8, requests=4, distinct=2, blocks_each=9)
    for size in (1, 2, 8, 13, 32):
        assert stage.timed(64, size) > 0
        stage.step.results.fetch()
        requests = -(-size // 8)
        assert (stage.step.results.host["last"][:requests] >= 0).all()
        assert (stage.step.results.host["accepted"][:requests] <= 7).all()


def test_calibrations_change_in_place_while_their_shape_stays() -> None:
    """A graph reads them where they were when it was captured."""
    kept = Calibrations(torch.ones(4, 3))
    address = kept.temperatures.data_ptr()
    assert kept.take(Calibrations(torch.full((4, 3), 2.0)))
    assert kept.temperatures.data_ptr() == address
    assert kept.temperatures.unique().tolist() == [2.0]
    assert not kept.take(Calibrations(torch.ones(4, 3), torch.ones(4, 3, 2), torch.ones(4, 3, 2)))
    assert not kept.take(Calibrations(torch.ones(4, 5)))
