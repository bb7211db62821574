"""`outrider chat`: a conversation in this terminal, without a server."""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider import demo_models
from outrider.errors import ConfigurationError, OutriderError
from outrider.types import GenerationRequest, RequestSummary, SamplingParams, TokenChunk

if TYPE_CHECKING:
    from outrider.local import LocalEngine
    from outrider.text import TextModel

__all__ = ["Conversation", "app"]

app = typer.Typer(help="Talk to a model in this terminal, without a server.")


@app.command()
def chat(
    message: Annotated[str | None, typer.Argument(help="Ask this and end; a conversation begins if absent.")] = None,
    model: Annotated[str, typer.Option(help="Demo model: flash or pro.")] = "pro",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer; drawn if absent.")] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Most draft tokens verified per round.")] = None,
    target: Annotated[Path | None, typer.Option(help="Target directory, instead of a demo model.")] = None,
    drafter: Annotated[Path | None, typer.Option(help="Drafter directory of --target; none if absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per answer.")] = False,
) -> None:
    """Answers stream as they come; below each stand its rounds and its acceptance length τ. An empty line ends."""
    if target is None:
        if drafter is not None:
            raise ConfigurationError("--drafter needs --target: a drafter was made for one target", param="target")
        target, drafter = demo_models.path(model), demo_models.path(f"{model}-drafter")
    from transformers.utils import logging

    from outrider.engine import EngineSettings
    from outrider.local import open_engine
    from outrider.text import TextModel

    logging.disable_progress_bar()
    sampling = SamplingParams(max_tokens, temperature, top_p, secrets.randbits(63) if seed is None else seed)
    # One request runs at a time: a short step curve is soon measured. A curve needs more sizes than one request has.
    settings = EngineSettings(target.name, max_running_requests=2 if drafter else 16)
    with open_engine(target, drafter, settings=settings) as local:
        conversation = Conversation(local, TextModel.load(target), sampling, depth, quiet=as_json)
        if message is not None:
            _print_outcome(conversation.ask(message), as_json)
            return
        while line := _read_line():
            try:
                _print_outcome(conversation.ask(line), as_json)
            except OutriderError as error:
                typer.echo(f"outrider: {error.message}", err=True)


class Conversation:
    """What was said so far and the engine that answers. `quiet` keeps answers off the terminal."""

    def __init__(
        self, local: LocalEngine, text: TextModel, sampling: SamplingParams, depth: int | None, *, quiet: bool
    ) -> None:
        self._local = local
        self._text = text
        self._sampling = sampling
        self._depth = depth
        self._quiet = quiet
        self._messages: list[dict[str, str]] = []

    def ask(self, content: str) -> dict[str, object]:
        """Stream the answer to a further message and return it with its figures.

        Raises what the engine refuses; a refused message is not part of the conversation.
        """
        messages = [*self._messages, {"role": "user", "content": content}]
        prompt = tuple(self._text.encode_chat(messages))
        request = GenerationRequest(f"chat-{len(messages)}", prompt, self._sampling, depth_cap=self._depth)
        detokenizer = self._text.detokenizer()
        pieces: list[str] = []

        def show(text: str) -> None:
            pieces.append(text)
            if not self._quiet:
                typer.echo(text, nl=False)

        def on_chunk(_: str, chunk: TokenChunk) -> None:
            show(detokenizer.push(chunk.tokens))

        started = time.perf_counter()
        completion = self._local.generate([request], on_chunk)[0]
        wall_s = time.perf_counter() - started
        show(detokenizer.flush())
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]
        figures = _figures(completion.summary, wall_s)
        return {"content": "".join(pieces), "finish_reason": str(completion.finish), **figures}


def _figures(summary: RequestSummary | None, wall_s: float) -> dict[str, object]:
    """τ is the mean of emitted tokens per round; the first token comes from the prompt, not from a round."""
    if summary is None:
        return {}
    rounds, emitted = summary.rounds, summary.completion_tokens - 1
    return {
        "completion_tokens": summary.completion_tokens,
        "rounds": rounds,
        "acceptance_tokens": emitted / rounds if rounds else None,
        "tokens_per_s": summary.completion_tokens / wall_s,
    }


def _print_outcome(outcome: dict[str, object], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(outcome, ensure_ascii=False))
        return
    tau = outcome.get("acceptance_tokens")
    drafted = f", τ {tau:.2f}" if isinstance(tau, float) else ""
    rate = outcome.get("tokens_per_s")
    speed = f", {rate:.0f} tok/s" if isinstance(rate, float) else ""
    figures = f"{outcome.get('completion_tokens')} tokens in {outcome.get('rounds')} rounds{drafted}{speed}"
    typer.echo("\n" + typer.style(figures, dim=True))


def _read_line() -> str:
    """The next message; empty at the end of the input."""
    if sys.stdin.isatty():
        typer.echo(typer.style("> ", bold=True), nl=False)
    return sys.stdin.readline().strip()
