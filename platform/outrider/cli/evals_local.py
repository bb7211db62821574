"""A model directory as something an evaluation can ask: the engine in this process, many questions at a time."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from outrider.errors import ConfigurationError, OutriderError, RequestError
from outrider.evals import Answer, AnswerFailed, Sampling
from outrider.types import FinishReason, GenerationRequest, LoadSnapshot, SamplingParams, TokenChunk

if TYPE_CHECKING:
    from outrider.engine import EngineLoop
    from outrider.local import LocalEngine
    from outrider.text import TextModel

__all__ = ["LocalModel", "weights_digest"]

Chunks = Sequence[tuple[str, TokenChunk]]


class LocalModel:
    """A target and, if given, its drafter on a thread of this process; an async context manager.

    Latency is from the moment a question is handed to the engine, so it contains waiting for others' rounds.
    """

    def __init__(self, target: Path, drafter: Path | None, *, concurrency: int, threads: int, name: str) -> None:
        os.environ.setdefault(
            "OMP_NUM_THREADS", str(threads)
        )  # the engine's thread reads it; torch's setter is ours only
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch
        from transformers.utils import logging

        from outrider.engine import EngineLoop, EngineSettings
        from outrider.local import open_engine
        from outrider.text import TextModel

        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self.name = name
        self._target, self._drafter = target, drafter
        self._text: TextModel = TextModel.load(target)
        settings = EngineSettings(self.name, max_running_requests=max(concurrency, 2 if drafter else 16))
        self._local: LocalEngine = open_engine(target, drafter, settings=settings)
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Queue[TokenChunk]] = {}
        self._events: asyncio.AbstractEventLoop | None = None
        self._loop: EngineLoop = EngineLoop(self._local.engine, self._on_round)

    async def __aenter__(self) -> LocalModel:
        self._events = asyncio.get_running_loop()
        self._loop.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._loop.close)
        self._local.close()

    def about(self) -> dict[str, object]:
        """The directories' names and what is in them; where they lie on this machine is nobody's business."""
        drafter = None if self._drafter is None else self._drafter.resolve().name
        return {
            "model": self.name,
            "target": self._target.resolve().name,
            "drafter": drafter,
            "tokenizer": self._text.fingerprint[:16],
            "weights": weights_digest(self._target),
        }

    async def answer(self, messages: Sequence[Mapping[str, str]], sampling: Sampling, seed: int, domain: str) -> Answer:
        """One answer. Raises AnswerFailed for a prompt that does not fit or a step that failed."""
        if sampling.stop:
            raise ConfigurationError("a suite with stop strings needs an endpoint: serve the model and give --url")
        request_id = f"eval-{next(self._numbers)}"
        chunks: asyncio.Queue[TokenChunk] = asyncio.Queue()
        self._waiting[request_id] = chunks
        started = time.perf_counter()
        try:
            prompt = tuple(self._text.encode_chat([dict(message) for message in messages]))
            chosen = SamplingParams(sampling.max_tokens, sampling.temperature, sampling.top_p, seed)
            await asyncio.to_thread(self._loop.submit, GenerationRequest(request_id, prompt, chosen))
            tokens, finish, first_s = await self._collect(chunks, started)
        except RequestError as refusal:
            raise AnswerFailed(refusal.message) from refusal
        except OutriderError as fault:
            raise AnswerFailed(fault.message, gone=True) from fault
        except asyncio.CancelledError:
            self._loop.cancel(request_id)
            raise
        finally:
            del self._waiting[request_id]
        total_s = time.perf_counter() - started
        return Answer(self._text.decode(tokens), len(prompt), len(tokens), first_s, total_s, finish=str(finish))

    async def _collect(
        self, chunks: asyncio.Queue[TokenChunk], started: float
    ) -> tuple[list[int], FinishReason, float | None]:
        tokens: list[int] = []
        first_s: float | None = None
        while True:
            chunk = await chunks.get()
            tokens += chunk.tokens
            if tokens and first_s is None:
                first_s = time.perf_counter() - started
            if chunk.finish is FinishReason.ERROR:
                raise AnswerFailed(chunk.error or "the engine failed")
            if chunk.finish is not None:
                return tokens, chunk.finish, first_s

    def _on_round(self, chunks: Chunks, _: LoadSnapshot) -> None:
        """On the engine's thread: hand over to the event loop, which may be closing."""
        if self._events is not None and not self._events.is_closed():
            self._events.call_soon_threadsafe(self._deliver, list(chunks))

    def _deliver(self, chunks: Chunks) -> None:
        for request_id, chunk in chunks:
            if request_id in self._waiting:
                self._waiting[request_id].put_nowait(chunk)


def weights_digest(directory: Path) -> str:
    """16 hex digits over a model directory's weight files: a model trained again is another one under the same name."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
