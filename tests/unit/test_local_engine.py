"""Opening a target and its drafter: what does not fit is refused by name before anything starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from outrider.drafter.projection import FeatureProjection, projection_fingerprint
from outrider.engine import EngineSettings, TargetModel, cost_subject, measure_steps
from outrider.errors import (
    ConfigurationError,
    ContextLengthExceeded,
    DrafterMismatch,
    LinkError,
    ModelDirectoryError,
    OutriderError,
)
from outrider.local import open_engine
from outrider.types import FinishReason, TokenChunk
from support.directories import Change, config, gone, tensors, text, without
from support.engines import CURVE, open_tiny, request, settings
from support.tiny import TinyPair, make_drafter


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (config(vocab_size=98), DrafterMismatch, "vocab_size"),
        (config(hidden_size=64), DrafterMismatch, "hidden_size"),
        (config(target_layer_ids=[0, 2]), DrafterMismatch, "final layer"),
        (config(target_layer_ids=[0, 5]), DrafterMismatch, "out of range"),
        (config(target_layer_ids=[-2, 0]), DrafterMismatch, "out of range"),
        (config(target_layer_ids=[0]), DrafterMismatch, "target_layer_ids"),
        (config(target_layer_ids=[]), DrafterMismatch, "target_layer_ids"),
        (config(target_layer_ids="0,1"), DrafterMismatch, "target_layer_ids"),
        (config(target_layer_ids=3), DrafterMismatch, "target_layer_ids"),
        (config(block_size="seven"), DrafterMismatch, "block_size"),
        (config(block_size=0), DrafterMismatch, "block_size"),
        (config(block_size=None), DrafterMismatch, "block_size"),
        (config(rms_norm_eps="small"), DrafterMismatch, "rms_norm_eps"),
        (config(max_position_embeddings=128), DrafterMismatch, "max_position_embeddings"),
        (config(num_target_layers=7), DrafterMismatch, "num_target_layers"),
        (config(markov_head_type="lstm"), DrafterMismatch, "markov_head_type"),
        (config(markov_head_type="gated"), DrafterMismatch, "markov_head.gate_proj"),
        (config(num_hidden_layers=3), DrafterMismatch, "layers.2"),
        (tensors(fc__weight=None), DrafterMismatch, "fc.weight"),
        (tensors(hidden_norm__weight=torch.ones(7)), DrafterMismatch, "hidden_norm.weight"),
        (tensors(norm__weight=None), DrafterMismatch, "norm.weight"),
        (without("config.json"), ModelDirectoryError, "config.json"),
        (without("model.safetensors"), ModelDirectoryError, "safetensors"),
        (text("config.json", "{"), ModelDirectoryError, "config.json"),
        (text("config.json", "[1]"), ModelDirectoryError, "config.json"),
        (text("model.safetensors", "not tensors"), ModelDirectoryError, "model.safetensors"),
        (gone, ModelDirectoryError, "does not exist"),
    ],
)
def test_a_drafter_that_does_not_fit_is_refused_by_name(
    pair: TinyPair, tmp_path: Path, change: Change, error: type[OutriderError], says: str
) -> None:
    drafter = tmp_path / "drafter"
    shutil.copytree(pair.drafter, drafter)
    change(drafter)
    with pytest.raises(error) as caught:
        open_tiny(pair.target, drafter)
    assert says in caught.value.message
    assert "drafter" in caught.value.message


def test_a_drafter_of_another_training_is_refused_at_the_handshake(pair: TinyPair, tmp_path: Path) -> None:
    """Same shapes, other projection: its context rows would mean nothing to it."""
    other = make_drafter(tmp_path / "other", pair.target, seed=8)
    with open_tiny(pair.target, pair.drafter) as engine:
        engine._drafter = other
        with pytest.raises(DrafterMismatch, match="fingerprint"):
            engine.attach_drafter()


def test_the_fingerprint_follows_what_projects(pair: TinyPair) -> None:
    shape = {"vocab_size": 97, "hidden_size": 48, "num_layers": 3}
    held = FeatureProjection.load(pair.drafter, **shape)
    assert held.fingerprint == projection_fingerprint(held.fc, held.hidden_norm)
    assert held.fingerprint == FeatureProjection.load(pair.drafter, **shape, dtype=torch.bfloat16).fingerprint
    assert held.fingerprint != projection_fingerprint(held.fc + 1e-6, held.hidden_norm)


def test_an_engine_without_a_drafter(pair: TinyPair) -> None:
    with open_tiny(pair.target, None) as engine:
        [done] = engine.generate([request("x", [1, 2, 3], 9)])
        assert len(done.tokens) == 9
        assert done.finish is FinishReason.LENGTH
        assert done.summary is not None
        assert (done.summary.rounds, done.summary.drafted_tokens, done.summary.accepted_tokens) == (8, 0, 0)
        with pytest.raises(LinkError):
            engine.attach_drafter()


def test_the_caller_hears_every_chunk(pair: TinyPair) -> None:
    heard: dict[str, list[TokenChunk]] = {"a": [], "b": []}
    with open_tiny(pair.target, pair.drafter) as engine:
        done = engine.generate(
            [request(name, [3, 4], 12) for name in heard], lambda name, chunk: heard[name].append(chunk)
        )
        with pytest.raises(ContextLengthExceeded):
            engine.generate([request("long", [1] * 300)])
    for one in done:
        assert one.tokens == [token for chunk in heard[one.request_id] for token in chunk.tokens]
        assert heard[one.request_id][-1].finish is one.finish


def test_opening_measures_the_curve_of_this_machine(pair: TinyPair) -> None:
    engine = open_engine(pair.target, pair.drafter, settings=settings(max_running_requests=4))
    tokens, seconds = engine.engine.curve.tokens, engine.engine.curve.seconds
    engine.close()
    assert tokens == (1, 2, 4, 8, 16, 32)
    assert list(seconds) == sorted(seconds)
    assert seconds[0] > 0
    assert engine.engine.curve.version != CURVE.version


def test_measuring_leaves_the_engines_memory_alone(pair: TinyPair) -> None:
    target = TargetModel.load(pair.target)
    cache = target.new_cache(4, 16)
    measure_steps(target, subject=cost_subject(target), max_tokens=16, passes=1)
    assert all(not layer.any() for layer in cache.kv)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kv_blocks", 0),
        ("block_size", -1),
        ("max_running_requests", 0),
        ("max_queued_requests", 0),
        ("max_step_tokens", 0),
        ("draft_timeout_s", 0.0),
    ],
)
def test_absurd_settings_are_an_operators_error(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=field):
        EngineSettings("tiny", **{field: value})  # type: ignore[arg-type]
