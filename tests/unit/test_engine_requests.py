"""What one request meets inside the engine: refusals, limits, ends, cancellation."""

from __future__ import annotations

import pytest

from outrider.engine import Engine
from outrider.errors import ContextLengthExceeded, InvalidRequest, Overloaded, RequestError
from outrider.types import Constraint, FinishReason, GenerationRequest, TokenChunk
from support.engines import make_engine, prompts, request, run
from support.tiny import TinyPair, make_drafter, make_target

VOCAB, CONTEXT = 97, 256
PROMPTS = prompts(8, VOCAB, (3, 20, 33))


@pytest.fixture
def engine(pair: TinyPair) -> Engine:
    return make_engine(pair.target, pair.drafter)


def tokens(chunks: list[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.tokens]


@pytest.mark.parametrize(
    ("bad", "error", "param"),
    [
        (request("x", []), InvalidRequest, "prompt"),
        (request("x", [1, VOCAB]), InvalidRequest, "prompt"),
        (request("x", [-1]), InvalidRequest, "prompt"),
        (request("x", [1], 0), InvalidRequest, "max_tokens"),
        (request("x", [1], -3), InvalidRequest, "max_tokens"),
        (request("x", [1], temperature=-0.1), InvalidRequest, "temperature"),
        (request("x", [1], temperature=float("nan")), InvalidRequest, "temperature"),
        (request("x", [1], temperature=float("inf")), InvalidRequest, "temperature"),
        (request("x", [1], top_p=1.1), InvalidRequest, "top_p"),
        (request("x", [1], top_p=float("nan")), InvalidRequest, "top_p"),
        (request("x", [1], top_k=-1), InvalidRequest, "top_k"),
        (request("x", [1], top_k=2**63), InvalidRequest, "top_k"),
        (request("x", [1], min_p=-0.1), InvalidRequest, "min_p"),
        (request("x", [1], min_p=float("nan")), InvalidRequest, "min_p"),
        (request("x", [1], repetition_penalty=0.0), InvalidRequest, "repetition_penalty"),
        (request("x", [1], repetition_penalty=float("inf")), InvalidRequest, "repetition_penalty"),
        (request("x", [1], repetition_penalty=float("nan")), InvalidRequest, "repetition_penalty"),
        (request("x", [1], presence_penalty=2.1), InvalidRequest, "presence_penalty"),
        (request("x", [1], frequency_penalty=float("nan")), InvalidRequest, "frequency_penalty"),
        (request("x", [1], logit_bias=((VOCAB, 1.0),)), InvalidRequest, "logit_bias"),
        (request("x", [1], logit_bias=((1, float("inf")),)), InvalidRequest, "logit_bias"),
        (request("x", [1], logit_bias=((1, float("nan")),)), InvalidRequest, "logit_bias"),
        (request("x", [1], logit_bias=((1, 2.0), (1, 3.0))), InvalidRequest, "logit_bias"),
        (request("x", [1], stop_token_ids=(VOCAB,)), InvalidRequest, "stop_token_ids"),
        (request("x", [1], stop_token_ids=(-1,)), InvalidRequest, "stop_token_ids"),
        (request("x", [1], 4, min_tokens=5), InvalidRequest, "min_tokens"),
        (request("x", [1], min_tokens=-1), InvalidRequest, "min_tokens"),
        (request("x", [1], logprobs=21), InvalidRequest, "logprobs"),
        (request("x", [1], prompt_logprobs=-1), InvalidRequest, "prompt_logprobs"),
        (request("x", [1], constraint=Constraint("regex", "a"), ignore_eos=True), InvalidRequest, "ignore_eos"),
        (request("x", [1] * CONTEXT, 1), ContextLengthExceeded, "max_tokens"),
        (request("x", [1], CONTEXT), ContextLengthExceeded, "max_tokens"),
    ],
)
def test_a_bad_request_is_refused_and_disturbs_nobody(
    engine: Engine, bad: GenerationRequest, error: type[RequestError], param: str
) -> None:
    engine.submit(request("good", PROMPTS[0]))
    with pytest.raises(error) as caught:
        engine.submit(bad)
    assert caught.value.param == param
    done = run(engine, [request("other", PROMPTS[1])])
    assert {name: len(tokens(chunks)) for name, chunks in done.items()} == {"good": 8, "other": 8}
    assert engine.drafting.lost == 0


def test_the_whole_context_can_be_used(engine: Engine) -> None:
    full = run(engine, [request("full", [5] * 200, CONTEXT - 200)])["full"]
    assert len(tokens(full)) == CONTEXT - 200
    assert full[-1].finish is FinishReason.LENGTH


def test_memory_limits_what_is_accepted(pair: TinyPair) -> None:
    engine = make_engine(pair.target, kv_blocks=2)
    with pytest.raises(ContextLengthExceeded):
        engine.submit(request("x", [1] * 20, 13))
    engine.submit(request("x", [1] * 20, 12))


def test_a_full_queue_refuses_with_a_retry_time(pair: TinyPair) -> None:
    engine = make_engine(pair.target, max_queued_requests=3)
    for i in range(3):
        engine.submit(request(i, PROMPTS[0]))
    with pytest.raises(Overloaded) as caught:
        engine.submit(request(3, PROMPTS[0]))
    assert caught.value.retry_after_s
    engine.step()
    engine.submit(request(3, PROMPTS[0]))


@pytest.mark.parametrize("depth", [0, 1, 3, 7, None])
@pytest.mark.parametrize("wanted", [1, 2, 9])
def test_max_tokens_is_exact(engine: Engine, depth: int | None, wanted: int) -> None:
    done = run(engine, [request(i, prompt, wanted, depth_cap=depth) for i, prompt in enumerate(PROMPTS)])
    for chunks in done.values():
        assert len(tokens(chunks)) == wanted
        assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish is FinishReason.LENGTH


@pytest.mark.parametrize("cap", [0, 1, 3])
def test_the_depth_cap_is_kept_in_every_round(engine: Engine, cap: int) -> None:
    done = run(engine, [request(i, prompt, 20, depth_cap=cap) for i, prompt in enumerate(PROMPTS)])
    summaries = [chunks[-1].summary for chunks in done.values()]
    records = [record for summary in summaries if summary for record in summary.round_records]
    assert max(admitted for admitted, _ in records) == cap
    assert all(accepted <= admitted for admitted, accepted in records)


def test_the_summary_adds_up(engine: Engine) -> None:
    done = run(engine, [request(i, prompt, 20) for i, prompt in enumerate(PROMPTS)])
    for name, chunks in done.items():
        summary = chunks[-1].summary
        assert summary is not None
        assert summary.prompt_tokens == len(PROMPTS[int(name)])
        assert summary.completion_tokens == 20 == 1 + summary.rounds + summary.accepted_tokens
        assert summary.rounds == len(summary.round_records) == len(chunks) - 1
        assert summary.admitted_tokens == sum(admitted for admitted, _ in summary.round_records)
        assert summary.accepted_tokens == sum(accepted for _, accepted in summary.round_records)
        assert [len(chunk.tokens) for chunk in chunks[1:]] == [a + 1 for _, a in summary.round_records]
        assert summary.drafted_tokens % 7 == 0
        assert min(summary.queue_s, summary.prefill_s, summary.decode_s) >= 0


# ends


def test_a_stop_token_inside_an_accepted_run_cuts_there(engine: Engine) -> None:
    """The run's later tokens and its bonus are dropped, and later slots stay out of the record."""
    plain = run(engine, [request(i, prompt, 24) for i, prompt in enumerate(PROMPTS)])
    cut = 0
    for name, chunks in plain.items():
        round_ = next((c for c in chunks[1:] if len(c.tokens) >= 3), None)
        if round_ is None:
            continue
        stop = round_.tokens[1]
        whole = tokens(chunks)
        again = run(engine, [request("x", PROMPTS[int(name)], 24, stop_token_ids=(stop,))])["x"]
        assert tokens(again) == whole[: whole.index(stop) + 1]
        assert again[-1].finish is FinishReason.STOP
        summary = again[-1].summary
        assert summary is not None
        assert summary.completion_tokens == len(tokens(again))
        if len(again) > 1 and whole.index(stop) == sum(len(c.tokens) for c in chunks[: chunks.index(round_)]) + 1:
            assert again[-1].tokens == round_.tokens[:2]
            assert summary.round_records[-1] == (2, 2)
            cut += 1
    assert cut > 0


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """A target for which half of the vocabulary ends a stream."""
    folder = tmp_path_factory.mktemp("ending")
    target = make_target(folder / "target", eos=list(range(0, VOCAB, 2)))
    return TinyPair(target, make_drafter(folder / "drafter", target))


def test_the_models_end_tokens_end_a_stream_unless_ignored(ending: TinyPair) -> None:
    engine = make_engine(ending.target, ending.drafter)
    assert engine.target.eos_token_ids == tuple(range(0, VOCAB, 2))
    free = run(engine, [request(i, prompt, 20) for i, prompt in enumerate(PROMPTS)])
    kept = run(engine, [request(i, prompt, 20, ignore_eos=False) for i, prompt in enumerate(PROMPTS)])
    for name, chunks in kept.items():
        whole = tokens(free[name])
        assert len(whole) == 20
        end = next((i for i, token in enumerate(whole) if token % 2 == 0), None)
        assert tokens(chunks) == (whole if end is None else whole[: end + 1])
        assert chunks[-1].finish is (FinishReason.LENGTH if end is None else FinishReason.STOP)
    assert sum(chunks[-1].finish is FinishReason.STOP for chunks in kept.values()) > 4


# cancellation


def test_a_queued_request_is_cancelled_at_once(pair: TinyPair) -> None:
    engine = make_engine(pair.target, max_running_requests=1)
    engine.submit(request("running", PROMPTS[0]))
    engine.submit(request("queued", PROMPTS[1]))
    engine.step()
    [(name, chunk)] = engine.cancel("queued")
    assert (name, chunk.finish, chunk.tokens) == ("queued", FinishReason.CANCELLED, ())
    assert not engine.queue
    assert engine.cancel("queued") == []


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_running_request_is_cancelled_and_its_memory_freed(engine: Engine, pair: TinyPair, steps: int) -> None:
    alone = run(make_engine(pair.target), [request("stays", PROMPTS[1], 24)])["stays"]
    seen: list[int] = []
    for name in ("goes", "stays"):
        engine.submit(request(name, PROMPTS[1], 24, salt=name))
    for _ in range(steps):
        seen += [t for name, chunk in engine.step() if name == "stays" for t in chunk.tokens]
    used = engine.memory.pool.used
    [(name, chunk)] = engine.cancel("goes")
    assert name == "goes"
    assert chunk.finish is FinishReason.CANCELLED
    assert chunk.summary is not None
    assert engine.memory.pool.used == used // 2
    while not engine.idle:
        for name, chunk in engine.step():
            assert name == "stays"
            seen += chunk.tokens
    assert seen == tokens(alone)
    assert engine.memory.pool.used == 0


def test_cancelling_during_a_chunked_prefill(pair: TinyPair) -> None:
    engine = make_engine(pair.target, pair.drafter, max_step_tokens=16)
    engine.submit(request("x", [7] * 60, 4))
    assert engine.step() == []
    [(_, chunk)] = engine.cancel("x")
    assert chunk.finish is FinishReason.CANCELLED
    assert engine.idle
    assert engine.memory.pool.used == 0
    assert engine.step() == []
