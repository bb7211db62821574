"""The peers answer what the stock model answers, and a llama-server's answer is read and timed as it tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from outrider.bench.deepspec import DeepSpecLoop
from outrider.bench.llama import LlamaServer
from outrider.bench.reference import Reference
from outrider.bench.setup import UNTRIMMED, requests_for
from outrider.cli.bench import app
from outrider.errors import ConfigurationError
from outrider.local import open_engine
from support.texts import VOCAB, save_tokenizer
from support.tiny import TinyPair, make_target

PROMPTS = ([5, 9, 11], [40, 3, 3, 8, 61], [7])


@pytest.fixture(scope="module")
def stock_loop(pair: TinyPair) -> tuple[Reference, DeepSpecLoop]:
    reference = Reference(pair.target, dtype=torch.float32, device="cpu")
    return reference, DeepSpecLoop(reference, pair.drafter, dtype=torch.float32)


def test_the_loop_says_what_the_stock_model_says(stock_loop: tuple[Reference, DeepSpecLoop]) -> None:
    reference, loop = stock_loop
    for prompt in PROMPTS:
        done = loop.greedy(prompt, 40)
        assert done.tokens == reference.greedy([prompt], 40).tokens
        assert 0 < done.rounds < 39
        assert done.first_tokens == 1


def test_the_loop_drafts_and_accepts_as_the_engine_does(
    pair: TinyPair, stock_loop: tuple[Reference, DeepSpecLoop]
) -> None:
    """Same blocks, same acceptance: the loop's context is the drafter's, not a neighbour of it."""
    with open_engine(pair.target, pair.drafter, curve=UNTRIMMED) as local:
        done = local.generate(requests_for([tuple(prompt) for prompt in PROMPTS], 40))
    for prompt, completion in zip(PROMPTS, done, strict=True):
        assert completion.summary is not None
        assert stock_loop[1].greedy(prompt, 40).rounds == completion.summary.rounds


def test_the_loop_stops_at_an_end_token(stock_loop: tuple[Reference, DeepSpecLoop]) -> None:
    reference, loop = stock_loop
    whole = loop.greedy(PROMPTS[0], 30).tokens[0]
    kept = reference.ends
    try:
        for place in (0, 1, 4, 9):
            reference.ends = (whole[place],)
            (found,) = loop.greedy(PROMPTS[0], 30).tokens
            assert found == whole[: whole.index(whole[place]) + 1]
    finally:
        reference.ends = kept


class _Llama(BaseHTTPRequestHandler):
    """Answers as llama-server b1-0c1e570 does, in what is read of it."""

    reference: Reference
    drafted = 0

    def do_GET(self) -> None:
        self._send({"total_slots": 4, "build_info": "b1-test"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if len(asked["prompt"]) == 1:
            return self.send_error(400)
        (tokens,) = self.reference.greedy([asked["prompt"]], asked["n_predict"]).tokens
        timings = {"prompt_ms": 2.0 * len(asked["prompt"]), "predicted_ms": 10.0, "predicted_n": len(tokens)}
        return self._send({"tokens": tokens, "timings": timings | {"draft_n": 7, "draft_n_accepted": 4}})

    def _send(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _served(target: Path) -> Iterator[str]:
    handler = type("Handler", (_Llama,), {"reference": Reference(target, dtype=torch.float32, device="cpu")})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def llama(pair: TinyPair) -> Iterator[str]:
    yield from _served(pair.target)


@pytest.fixture
def worded_llama(worded: Path) -> Iterator[str]:
    yield from _served(worded)


def test_a_server_is_timed_by_its_slowest_stream(llama: str) -> None:
    done = LlamaServer("peer", llama).greedy(PROMPTS[:2], 12)
    assert [len(tokens) for tokens in done.tokens] == [12, 12]
    assert (done.first_s, done.wall_s) == (pytest.approx(0.010), pytest.approx(0.020))
    assert done.rounds == 2 * (12 - 1 - 4)


def test_a_server_that_cannot_is_named(llama: str) -> None:
    server = LlamaServer("peer", llama)
    with pytest.raises(ConfigurationError, match="-np 5"):
        server.greedy([[1, 2]] * 5, 2)
    with pytest.raises(ConfigurationError, match="peer does not answer"):
        server.greedy([[1]], 2)
    with pytest.raises(ConfigurationError, match="no llama-server answers"):
        LlamaServer("gone", "http://127.0.0.1:9")


@pytest.mark.usefixtures("given_curve")
def test_all_arms_in_one_run(worded: Path, worded_drafter: Path, worded_llama: str, tmp_path: Path) -> None:
    held_out = tmp_path / "held.jsonl"
    held_out.write_text('{"domain": "code", "messages": [{"role": "user", "content": "hello there"}]}\n')
    small = save_tokenizer(make_target(tmp_path / "small", vocab=VOCAB, layers=1, eos=1))
    options = ["--target", str(worded), "--drafter", str(worded_drafter), "--assistant", str(small)]
    options += ["--held-out", str(held_out), "--llama", f"llama={worded_llama}", "--streams", "1", "--streams", "3"]
    options += ["--repetitions", "1", "--max-tokens", "24", "--threads", "1", "--json"]
    result = CliRunner().invoke(app, ["peers", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    alone, alone_answers, many, many_answers = (table["rows"] for table in json.loads(result.stdout)["tables"])
    both = ["colocated", "colocated, all verified", "no drafter", "transformers.generate"]
    one = [*both, "DeepSpec's evaluator loop", "transformers, assisted", "llama"]
    assert [row["arm"] for row in alone] == one
    assert [row["arm"] for row in many] == [*both, "llama"]
    assert [row["equal"] for row in alone_answers] == [1] * 7
    assert [row["equal"] for row in many_answers] == [3] * 5
    assert alone[0]["colocated ÷ it, decode"]["median"] == 1.0


@pytest.mark.parametrize("pair_of", ["llama", "=http://x", "a=ftp://x"])
def test_a_server_without_name_or_url_is_refused(pair_of: str) -> None:
    with pytest.raises(ConfigurationError, match="NAME=http"):
        CliRunner().invoke(app, ["peers", "--llama", pair_of], catch_exceptions=False)
