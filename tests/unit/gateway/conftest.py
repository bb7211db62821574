"""A gateway over scripted models: real policy, router, tokenizer and HTTP; only the tokens are made up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from outrider import demo_models
from outrider.accounting import Accountant
from outrider.gateway import GatewaySettings, create_app
from outrider.gateway.opening import Assess
from outrider.policy import Policy, hash_key, parse_policy
from outrider.quality import by_tags
from outrider.telemetry import EventLog, Metrics
from outrider.text import TextModel
from outrider.types import (
    Decision,
    FinishReason,
    GenerationRequest,
    LoadSnapshot,
    RequestSummary,
    TokenChunk,
    TokenLogprob,
)

KEY, OTHER_KEY = "sk-outrider-acme", "sk-outrider-rival"
CONTEXT_TOKENS = 512

POLICY = f"""
version: 1
models:
  flash: {{price_usd_per_million: {{input: 1.0, output: 10.0}}, quality: {{default: 0.5}}}}
  pro: {{price_usd_per_million: {{input: 10.0, output: 100.0}}, quality: {{default: 0.9}}}}
batch_classes:
  balanced: {{}}
tiers:
  standard: {{batch_class: balanced, max_depth: 7}}
routing: {{staleness_per_s: 0}}
tenants:
  acme: {{keys: [{{name: test, sha256: {hash_key(KEY)}}}], tier: standard, models: [flash, pro], objective: cheapest}}
  rival: {{keys: [{{name: test, sha256: {hash_key(OTHER_KEY)}}}], tier: standard, models: [flash]}}
"""

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class ScriptedUpstream:
    """An `Upstream` that answers `script`: ids of one round each, or an exception to raise at that point."""

    model: str
    load: LoadSnapshot | None
    script: list[tuple[int, ...] | Exception | TokenChunk] = field(default_factory=list)
    round_s: float = 0.0
    requests: list[tuple[GenerationRequest, Decision]] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0
    open: int = 0
    gate: asyncio.Event | None = None
    """Nothing comes before it is set."""

    def snapshots(self) -> list[LoadSnapshot]:
        return [replace(self.load, time_s=time.time(), running_requests=self.open)] if self.load else []

    async def stream(self, request: GenerationRequest, decision: Decision) -> AsyncGenerator[TokenChunk, None]:
        self.requests.append((request, decision))
        self.open += 1
        room = request.sampling.max_tokens
        try:
            if self.gate is not None:
                await self.gate.wait()
            for step in self.script:
                await asyncio.sleep(self.round_s)
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, TokenChunk):
                    yield step
                    continue
                self.sent += 1
                said = with_logprobs(step[:room], request, first=room == request.sampling.max_tokens)
                room -= len(step)
                if room <= 0:
                    yield replace(said, finish=FinishReason.LENGTH, summary=self.summary(request))
                    return
                yield said
            yield TokenChunk((), finish=FinishReason.STOP, summary=self.summary(request))
        finally:
            self.open -= 1
            self.closed.set()

    def summary(self, request: GenerationRequest) -> RequestSummary:
        return RequestSummary(
            len(request.prompt_token_ids), 0, 2, 14, 9, 4, 0.001, 0.002, 0.003, ((7, 3), (2, 1)), cached_tokens=3
        )


def with_logprobs(tokens: tuple[int, ...], request: GenerationRequest, *, first: bool) -> TokenChunk:
    """A chunk as the engine would send it: every token has log-probability -0.5 and ids 5, 6, … as rivals."""
    asked, prompt = request.sampling.logprobs, request.sampling.prompt_logprobs
    if asked is None:
        return TokenChunk(tokens)

    def entry(token: int) -> TokenLogprob:
        rivals = ((5 + rank, -1.0 - rank) for rank in range(asked))
        return TokenLogprob(token, -0.5, ((token, -0.5), *rivals)[:asked])

    before = (None, *map(entry, request.prompt_token_ids[1:])) if first and prompt is not None else ()
    return TokenChunk(tokens, logprobs=tuple(map(entry, tokens)), prompt_logprobs=before)


@dataclass
class Site:
    """Everything behind one test gateway."""

    app: FastAPI
    flash: ScriptedUpstream
    pro: ScriptedUpstream
    text: TextModel
    events: EventLog
    metrics: Metrics
    policy: list[Policy]

    def says(self, text: str, *, tokens_per_round: int = 1) -> None:
        """Both models answer `text`."""
        ids = self.text.encode(text)
        rounds = [tuple(ids[at : at + tokens_per_round]) for at in range(0, len(ids), tokens_per_round)]
        self.flash.script = self.pro.script = list(rounds)

    def client(self, key: str = KEY, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url="http://gateway",
            headers={"authorization": f"Bearer {key}", **headers},
        )

    async def chat(self, key: str = KEY, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """One chat completion with a default message and model."""
        filled = {"model": "flash", "messages": [{"role": "user", "content": "hi"}]} | body
        async with self.client(key) as client:
            return await client.post("/v1/chat/completions", json=filled, headers=headers)

    async def complete(self, **body: Any) -> httpx.Response:
        """One completion with a default prompt and model."""
        async with self.client() as client:
            return await client.post("/v1/completions", json={"model": "flash", "prompt": "hi there"} | body)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """The app behind a real server on this host; gives its base URL."""
        server = uvicorn.Server(uvicorn.Config(self.app, host="127.0.0.1", port=0, log_level="warning"))
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.should_exit = True
            await running


def load_of(model: str) -> LoadSnapshot:
    return LoadSnapshot(
        model,
        f"{model}-0",
        1,
        time.time(),
        step_curve=((1, 0.004), (8, 0.006), (64, 0.02)),
        acceptance_tokens=(1.0, 1.6, 2.0, 2.3, 2.5, 2.6, 2.7, 2.75),
        drafter_ready=True,
        kv_blocks_total=100,
        context_tokens=CONTEXT_TOKENS,
        max_running_requests=16,
    )


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return TextModel.load(written_model(tmp_path_factory.mktemp("model"), TEMPLATE))


@pytest.fixture(scope="session")
def tool_text(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """The same tokenizer with the demo models' template for tools."""
    taught = (demo_models.path("flash") / "additional_chat_templates" / "tool_use.jinja").read_text("utf-8")
    return TextModel.load(written_model(tmp_path_factory.mktemp("tools"), {"default": TEMPLATE, "tool_use": taught}))


@pytest.fixture(scope="session")
def base_text(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """The same tokenizer without a chat template, as base models have it."""
    return TextModel.load(written_model(tmp_path_factory.mktemp("base"), None))


def written_model(root: Path, template: str | dict[str, str] | None) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user assistant system hello hello there"] * 4, trainer)
    saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    saved.chat_template = template
    saved.save_pretrained(root)
    config = {"vocab_size": 300, "max_position_embeddings": CONTEXT_TOKENS}
    (root / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture
def make_site(text_model: TextModel, tmp_path: Path) -> Callable[..., Site]:
    def make(
        policy_text: str = POLICY, accountant: Accountant | None = None, assess: Assess = by_tags, **settings: Any
    ) -> Site:
        report = parse_policy(policy_text)
        assert report.policy is not None, report.problems
        policy = [report.policy]
        flash, pro = (ScriptedUpstream(name, load_of(name)) for name in ("flash", "pro"))
        metrics, events = Metrics(), EventLog(tmp_path / "events.jsonl")
        app = create_app(
            GatewaySettings(facts={"dtype": "float32"}, **settings),
            lambda: policy[0],
            {"flash": flash, "pro": pro},
            {"flash": text_model, "pro": text_model},
            accountant=accountant,
            assess=assess,
            metrics=metrics,
            events=events,
        )
        site = Site(app, flash, pro, text_model, events, metrics, policy)
        site.says("hello there 🐟")
        return site

    return make


@pytest.fixture
def tool_site(make_site: Callable[..., Site], tool_text: TextModel) -> Site:
    """Both models know tools."""
    site = make_site()
    site.app.state.gateway.texts |= {"flash": tool_text, "pro": tool_text}
    site.text = tool_text
    for upstream in (site.flash, site.pro):
        assert upstream.load is not None
        upstream.load = replace(upstream.load, context_tokens=8 * CONTEXT_TOKENS)  # tools are told in many words
    return site


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
