"""A heavier target says what the light one says, and its drafter drafts the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from outrider.bench.heavier import heavier, layers_for
from outrider.bench.setup import UNTRIMMED, requests_for
from outrider.errors import ConfigurationError
from outrider.local import open_engine
from support.tiny import TinyPair, reference

MORE = 3


@pytest.fixture(scope="module")
def heavy(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    out = heavier(pair.target, tmp_path_factory.mktemp("heavy") / "tiny", layers=MORE, drafter=pair.drafter)
    return TinyPair(out, out.with_name("tiny-drafter"))


def test_logits_and_tapped_states_are_the_same_to_the_bit(pair: TinyPair, heavy: TinyPair) -> None:
    light, weighty = reference(pair.target), reference(heavy.target)
    own = light.config.num_hidden_layers
    assert weighty.config.num_hidden_layers == own + MORE
    ids = torch.arange(40).remainder(97)[None]
    with torch.inference_mode():
        expected, found = (model(ids, output_hidden_states=True) for model in (light, weighty))
    assert torch.equal(expected.logits, found.logits)
    for layer in range(own):
        assert torch.equal(expected.hidden_states[layer], found.hidden_states[layer])


def test_added_layers_compute(heavy: TinyPair) -> None:
    """Zero products would be skipped by nobody, but a layer of zeros alone could be."""
    for layer in reference(heavy.target).model.layers[-MORE:]:
        assert not layer.self_attn.o_proj.weight.any()
        assert not layer.mlp.down_proj.weight.any()
        for product in (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
            assert (product.weight != 0).float().mean() > 0.9


def test_a_drafter_drafts_the_same_for_it(pair: TinyPair, heavy: TinyPair) -> None:
    """Same answers in the same rounds: the rows it reads come from the layers they came from before."""
    requests = requests_for([(5, 9, 11), (40, 3)], 40)
    records = []
    for each in (pair, heavy):
        with open_engine(each.target, each.drafter, curve=UNTRIMMED) as local:
            records.append([(done.tokens, done.summary) for done in local.generate(requests)])
    for (tokens, summary), (heavy_tokens, heavy_summary) in zip(*records, strict=True):
        assert tokens == heavy_tokens
        assert summary is not None
        assert heavy_summary is not None
        assert summary.round_records == heavy_summary.round_records
        assert sum(accepted for _, accepted in summary.round_records) > 0


def test_layers_follow_from_bytes(pair: TinyPair, heavy: TinyPair) -> None:
    whole = 4 * sum(weight.numel() for weight in reference(heavy.target).parameters())
    assert layers_for(pair.target, whole) == MORE
    assert layers_for(heavy.target, whole) == 0
    assert layers_for(pair.target, 1) == 0


def test_nothing_is_overwritten(pair: TinyPair, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="layers"):
        heavier(pair.target, tmp_path / "none", layers=0)
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigurationError, match="exists"):
        heavier(pair.target, tmp_path / "there", layers=1)
    heavier(pair.target, tmp_path / "alone", layers=1)
    assert not (tmp_path / "alone-drafter").exists()
    assert json.loads((tmp_path / "alone" / "config.json").read_text("utf-8"))["num_hidden_layers"] > 1
