"""Constrained output: always of its grammar, the same at every depth, and ended in time, whatever the model says."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider import demo_models
from outrider.engine import Engine, EngineLoop
from outrider.engine.choosing import Choices, Chooser
from outrider.engine.plan import Plan
from outrider.errors import InvalidRequest, NothingAllowed
from outrider.text import TextModel, compile_constraint
from outrider.types import Constraint, FinishReason, GenerationRequest, TokenChunk
from support.engines import make_engine, prompts, request, run
from support.surface import plain_generate
from support.texts import VOCAB, save_tokenizer
from support.tiny import TinyPair, make_drafter, make_target, reference

END = 1
PROMPTS = prompts(6, VOCAB, (3, 17, 30), seed=2)
OBJECT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "n": {"type": "integer", "minimum": -9, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2},
        "s": {"type": "string", "pattern": "^[a-c]{0,3}$"},
    },
    "required": ["ok", "n", "tags"],
    "additionalProperties": False,
}
SCHEMA = Constraint("json_schema", json.dumps(OBJECT))
DATE = Constraint("regex", r"(19|20)[0-9]{2}-(0[1-9]|1[0-2]) [a-z]{2,5}\.")
WAYS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 1.3, "top_k": 20, "min_p": 0.01},
    {"temperature": 0.8, "repetition_penalty": 1.2, "frequency_penalty": 0.5, "logit_bias": ((97, 2.0),)},
)


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """Tokens that are bytes; a drafter that knows the target somewhat."""
    folder = tmp_path_factory.mktemp("constrained")
    target = save_tokenizer(make_target(folder / "target", vocab=VOCAB, eos=END, context=512))
    return TinyPair(target, make_drafter(folder / "drafter", target))


@pytest.fixture(scope="module")
def mute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a token that ends a text."""
    target = make_target(tmp_path_factory.mktemp("mute") / "target", vocab=VOCAB, eos=None, context=512)
    return save_tokenizer(target)


@pytest.fixture(scope="module")
def text(worded: TinyPair) -> TextModel:
    return TextModel.load(worded.target)


@pytest.fixture(scope="module")
def engine(worded: TinyPair) -> Engine:
    return make_engine(worded.target, worded.drafter)


@pytest.fixture(scope="module")
def plain(worded: TinyPair) -> Engine:
    return make_engine(worded.target)


def asked(depth: int | None = None, tokens: int = 150, **changes: Any) -> list[GenerationRequest]:
    """Two constraints in four ways, among requests without any."""
    constrained = [
        request(
            f"{'date' if constraint is DATE else 'json'} {way}", PROMPTS[way], tokens, depth_cap=depth, seed=way,
            constraint=constraint, ignore_eos=False, **{**WAYS[way], **changes},
        )
        for constraint in (SCHEMA, DATE)
        for way in range(len(WAYS))
    ]  # fmt: skip
    return [*constrained, *(request(f"free {i}", PROMPTS[4 + i], 40, temperature=i, depth_cap=depth) for i in range(2))]


def tokens(chunks: list[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.tokens]


def check(name: str, chunks: list[TokenChunk], text: TextModel) -> None:
    """A finished output is of its grammar; one cut off by the limit can still become so."""
    out = tokens(chunks)
    if chunks[-1].finish is FinishReason.STOP:
        answer = text.decode(out)
        if name.startswith("json"):
            jsonschema.validate(json.loads(answer), OBJECT)
        else:
            assert re.fullmatch(DATE.source, answer), answer
    else:
        assert chunks[-1].finish is FinishReason.LENGTH
        matcher = compile_constraint(SCHEMA if name.startswith("json") else DATE, text).matcher()
        assert matcher.consume(out)


def test_outputs_are_of_the_grammar_and_the_same_at_every_depth(engine: Engine, plain: Engine, text: TextModel) -> None:
    expected = run(plain, asked(0))
    stopped = 0
    for name, chunks in expected.items():
        if not name.startswith("free"):
            check(name, chunks, text)
            stopped += chunks[-1].finish is FinishReason.STOP
    assert stopped >= 6
    for depth in (1, None):
        done = run(engine, asked(depth))
        assert {name: tokens(chunks) for name, chunks in done.items()} == {
            name: tokens(chunks) for name, chunks in expected.items()
        }
        summaries = [chunks[-1].summary for name, chunks in done.items() if not name.startswith("free")]
        assert sum(summary.accepted_tokens for summary in summaries if summary) > 0


def test_losing_memory_changes_nothing(worded: TinyPair, plain: Engine) -> None:
    expected = run(plain, asked(0))
    engine = make_engine(worded.target, worded.drafter, kv_blocks=46, block_size=4)
    done = run(engine, asked())
    assert {name: tokens(chunks) for name, chunks in done.items()} == {
        name: tokens(chunks) for name, chunks in expected.items()
    }
    assert sum(chunks[-1].summary.preemptions for chunks in done.values() if chunks[-1].summary) > 2


def test_a_trained_drafter_is_cut_before_verification_and_accepted_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the target is a beginning of some text of the grammar, end token included where it may stand."""
    engine = make_engine(demo_models.path("pro"), demo_models.path("pro-drafter"))
    text, ends = TextModel.load(demo_models.path("pro")), engine.target.eos_token_ids
    prompt = text.encode_chat([{"role": "user", "content": "What is 12 plus 30?"}])
    answer = Constraint("regex", r"[0-9]+ \+ [0-9]+ = [0-9]+\.\n([A-Za-z0-9 +=.\n]{10,60})")
    verified = ended = 0
    choose = Chooser.choose

    def listen(self: Chooser, plan: Plan, *rest: Any) -> Choices:
        nonlocal verified, ended
        for sequence, draft in plan.decoding:
            assert sequence.request.sampling.constraint is not None
            out = [*sequence.tokens[sequence.prompt_tokens :], *draft]
            matcher = compile_constraint(sequence.request.sampling.constraint, text).matcher()
            assert matcher.consume([token for token in out if token not in ends])
            assert not set(out[:-1]) & set(ends)
            assert out[-1] not in ends or matcher.accepting
            verified += len(draft)
            ended += out[-1] in ends
        return choose(self, plan, *rest)

    monkeypatch.setattr(Chooser, "choose", listen)
    wanted = [
        request(
            f"{depth} {way}",
            prompt,
            100,
            constraint=constraint,
            ignore_eos=False,
            depth_cap=depth,
            seed=way,
            **WAYS[way],
        )
        for depth in (0, None)
        for constraint, way in ((SCHEMA, 0), (SCHEMA, 1), (answer, 2), (answer, 3))
    ]
    done = run(engine, wanted)
    for way in range(len(WAYS)):
        assert tokens(done[f"None {way}"]) == tokens(done[f"0 {way}"])
    assert ended > 0
    assert verified > 40
    accepted = [done[f"None {way}"][-1].summary for way in range(len(WAYS))]
    assert sum(summary.accepted_tokens for summary in accepted if summary) > 20


def test_a_finite_grammar_equals_the_plain_loop_with_everything_else_forbidden(
    engine: Engine, text: TextModel, worded: TinyPair
) -> None:
    """The reference looks at every text of the grammar; tokens and log-probabilities are equal."""
    language = [b"hello", b"hello there", b"help!", b"yes"]
    stock = reference(worded.target)
    constraint = Constraint("regex", "hello( there)?|help!|yes")

    def allowed(output: list[int]) -> set[int]:
        before = b"".join(text.token_text(token) for token in output)
        onward = {
            token
            for token in range(VOCAB)
            if token not in text.special_ids
            and (piece := text.token_text(token))
            and any(each.startswith(before + piece) for each in language)
        }
        return onward | ({END} if before in language else set())

    for number in range(24):
        one = request(
            "x", PROMPTS[number % 6], 20, constraint=constraint, ignore_eos=False, seed=number, logprobs=2,
            temperature=0.8 * (number % 3), frequency_penalty=0.7,
        )  # fmt: skip
        expected, rows = plain_generate(stock, one.prompt_token_ids, one.sampling, (END,), allowed)
        chunks = run(engine, [one])["x"]
        assert tokens(chunks) == expected
        told = [each for chunk in chunks for each in chunk.logprobs]
        assert [each.logprob for each in told] == pytest.approx(
            [float(row[token]) for row, token in zip(rows, expected, strict=True)], abs=1e-4
        )
        assert all(len(each.top) == min(2, int((row > -1e30).sum())) for each, row in zip(told, rows, strict=True))


@pytest.mark.parametrize("depth", [0, None])
def test_without_an_end_token_a_complete_text_ends_the_stream(
    mute: Path, worded: TinyPair, text: TextModel, depth: int | None
) -> None:
    engine = make_engine(mute, None if depth == 0 else make_drafter(mute.parent / "drafter", mute))
    assert engine.target.eos_token_ids == ()
    done = run(
        engine,
        [
            request(
                i, PROMPTS[i % 6], 60, constraint=DATE, ignore_eos=False, temperature=i % 2, seed=i, depth_cap=depth
            )
            for i in range(12)
        ],
    )
    for chunks in done.values():
        assert chunks[-1].finish is FinishReason.STOP
        assert re.fullmatch(DATE.source, text.decode(tokens(chunks)))
    two, many = Constraint("regex", "[ab][cd]"), Constraint("regex", "a+")
    exact = run(engine, [request("x", PROMPTS[0], 2, constraint=two, ignore_eos=False)])["x"]
    assert exact[-1].finish is FinishReason.STOP
    open_ended = run(engine, [request("x", PROMPTS[0], 9, constraint=many, ignore_eos=False)])["x"]
    assert open_ended[-1].finish is FinishReason.LENGTH
    assert text.decode(tokens(open_ended)) == "a" * 9


# refusals and dead ends


@pytest.mark.parametrize("depth", [0, None])
def test_when_nothing_is_allowed_the_request_ends_and_others_go_on(
    engine: Engine, text: TextModel, depth: int | None
) -> None:
    """min_tokens withholds the only tokens that the finished grammar allows."""
    yes = Constraint("regex", "yes|no")
    alone = tokens(run(engine, [request("other", PROMPTS[1], 30, temperature=1.0)])["other"])
    done = run(
        engine,
        [
            request(
                "stuck", PROMPTS[0], 30, constraint=yes, min_tokens=20, ignore_eos=False, logprobs=1, depth_cap=depth
            ),
            request("other", PROMPTS[1], 30, temperature=1.0, depth_cap=depth),
        ],
    )
    last = done["stuck"][-1]
    assert last.finish is FinishReason.ERROR
    assert last.error is not None
    assert last.error.startswith(f"{NothingAllowed.code}: ")
    assert text.decode(tokens(done["stuck"])) in ("yes", "no")
    assert len(tokens(done["stuck"])) == sum(len(chunk.logprobs) for chunk in done["stuck"])
    assert tokens(done["other"]) == alone


def test_a_grammar_too_complex_for_the_library_ends_its_own_request_only(engine: Engine) -> None:
    done = run(
        engine,
        [
            request("huge", PROMPTS[0], 30, constraint=Constraint("regex", "(a?){1000}a{1000}"), ignore_eos=False),
            request("other", PROMPTS[1], 30),
        ],
    )
    assert done["huge"][-1].finish in (FinishReason.ERROR, FinishReason.LENGTH)
    assert done["other"][-1].finish is FinishReason.LENGTH
    assert len(tokens(done["other"])) == 30


def test_a_constraint_is_compiled_on_the_callers_thread_and_refused_there(
    worded: TinyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def record(constraint: Constraint, text: TextModel) -> Any:
        threads.append(threading.current_thread().name)
        return compile_constraint(constraint, text)

    monkeypatch.setattr("outrider.engine.constraints.compile_constraint", record)
    ended = threading.Event()
    loop = EngineLoop(make_engine(worded.target), lambda chunks, _: ended.set() if chunks[-1][1].finish else None)
    loop.start()
    with pytest.raises(InvalidRequest) as caught:
        loop.submit(request("bad", PROMPTS[0], constraint=Constraint("regex", "(a"), ignore_eos=False))
    assert caught.value.param == "response_format"
    assert threads == [threading.current_thread().name]
    loop.submit(request("good", PROMPTS[0], constraint=Constraint("regex", "ab"), ignore_eos=False))
    assert threads[1] == threading.current_thread().name
    assert ended.wait(60)
    loop.close()


# whatever the grammar


LEAVES = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": -20, "maximum": 120},
        {"enum": ["hello", 3, None]},
        {"type": "string", "maxLength": 4},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "multipleOf": 0.25},
        {"type": "string", "format": "date"},
    ]
)


def _composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "long name", "é"])
    return st.one_of(
        st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 2)),
        st.builds(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields)[:1],
                "additionalProperties": False,
            },
            st.dictionaries(names, inner, max_size=2),
        ),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    schema=st.recursive(LEAVES, _composed, max_leaves=4),
    seed=st.integers(0, 2**32),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
)
def test_any_schema_is_kept_and_depth_changes_nothing(
    engine: Engine, plain: Engine, text: TextModel, schema: Any, seed: int, temperature: float
) -> None:
    constraint = Constraint("json_schema", json.dumps(schema))
    one = request("x", PROMPTS[2], 120, constraint=constraint, ignore_eos=False, seed=seed, temperature=temperature)
    chunks = run(engine, [one])["x"]
    assert tokens(chunks) == tokens(run(plain, [one])["x"])
    if chunks[-1].finish is FinishReason.STOP:
        jsonschema.validate(json.loads(text.decode(tokens(chunks))), schema)
    else:
        assert chunks[-1].finish is FinishReason.LENGTH
