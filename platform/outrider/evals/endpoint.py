"""A client of any OpenAI-compatible endpoint: streams, so that the first text is timed; retries what may pass."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from outrider.errors import ConfigurationError, EndpointError
from outrider.evals.model import Answer, AnswerFailed
from outrider.evals.suite import Sampling

__all__ = ["Endpoint"]

_RETRIED = frozenset((408, 429, 500, 502, 503, 504))
_HOPELESS = frozenset((401, 403, 404, 405))
_LONGEST_WAIT_S = 60.0
_MAX_EVENT_BYTES = 4 * 2**20


class Endpoint:
    """Chat completions over one connection pool; an async context manager.

    url: with or without `/v1`. retries: further tries after 408, 429, 5xx or a broken connection, waiting what
    Retry-After says, else backoff_s doubled each time with jitter. tags: send the suite's domain as Outrider's tag.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        *,
        timeout_s: float = 120.0,
        retries: int = 5,
        backoff_s: float = 0.5,
        tags: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = model
        self._path = _completions(url)
        self._retries = retries
        self._backoff_s = backoff_s
        self._tags = tags
        self._answered = False
        self._http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            limits=httpx.Limits(max_connections=None),
            transport=transport,
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def about(self) -> dict[str, object]:
        """The model's name and where it is asked, without what a URL may carry in secrets."""
        return {"model": self.name, "endpoint": _without_secrets(self._path), "tags": self._tags}

    async def answer(self, messages: Sequence[Mapping[str, str]], sampling: Sampling, seed: int, domain: str) -> Answer:
        """One answer; latency is of the try that succeeded. Raises AnswerFailed, EndpointError."""
        body = self._body(messages, sampling, seed, domain)
        tries = 0
        while True:
            try:
                answer = await self._ask(body)
            except _TryAgain as again:
                if tries >= self._retries:
                    said = f"{again.message}, {tries + 1} times" if tries else again.message
                    raise AnswerFailed(said, gone=again.gone) from None
                await asyncio.sleep(self._wait_s(tries, again.wait_s))
                tries += 1
            else:
                self._answered = True
                return answer

    def _body(
        self, messages: Sequence[Mapping[str, str]], sampling: Sampling, seed: int, domain: str
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [dict(message) for message in messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if sampling.temperature > 0:
            body["seed"] = seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self._tags:
            body["outrider"] = {"tags": [domain]}
        return body

    async def _ask(self, body: Mapping[str, Any]) -> Answer:
        started = time.perf_counter()
        try:
            async with self._http.stream("POST", self._path, json=body) as response:
                if response.status_code != 200:
                    raise await self._refusal(response)
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    return _whole(await response.aread(), time.perf_counter() - started, self.name)
                async with aclosing(_events(response)) as events:
                    return await _streamed(events, started, self.name)
        except httpx.ConnectError as error:
            raise _TryAgain(f"no connection to {_without_secrets(self._path)}: {error}", gone=True) from error
        except httpx.TimeoutException as error:
            raise _TryAgain(f"timed out ({type(error).__name__})") from error
        except httpx.HTTPError as error:
            raise _TryAgain(f"the connection broke ({type(error).__name__}: {error})", gone=True) from error

    async def _refusal(self, response: httpx.Response) -> Exception:
        await response.aread()
        said = f"{response.status_code} {_message(response)}"
        if response.status_code in _HOPELESS:
            return EndpointError(f"{_without_secrets(self._path)} answered {said}{_hint(response.status_code)}")
        if response.status_code in _RETRIED and response.headers.get("x-should-retry") != "false":
            return _TryAgain(f"the endpoint answered {said}", wait_s=_retry_after_s(response.headers))
        return AnswerFailed(f"the endpoint answered {said}")

    def _wait_s(self, tries: int, told_s: float | None) -> float:
        """What the endpoint asked for, else exponential backoff; jitter keeps the others from coming at once."""
        wait_s = self._backoff_s * 2**tries if told_s is None else told_s
        return min(wait_s, _LONGEST_WAIT_S) * random.uniform(1.0, 1.25)


class _TryAgain(Exception):
    def __init__(self, message: str, *, wait_s: float | None = None, gone: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.wait_s = wait_s
        self.gone = gone


def _completions(url: str) -> str:
    """`http://host`, `…/v1` or the whole address → the address of chat completions."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        httpx.URL(urlunsplit(parts))
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        right = False
    if not right:
        raise ConfigurationError(f"--url must be like http://127.0.0.1:8000, not {url!r}", param="url")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds from `retry-after-ms` or `Retry-After` (seconds or an HTTP date); None if absent or unreadable."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1e3)
        told = headers.get("retry-after")
        if told is None:
            return None
        if told.strip().replace(".", "", 1).isdigit():
            return float(told)
        return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return response.text[:300].strip() or response.reason_phrase


def _hint(status: int) -> str:
    if status in (401, 403):
        return "; give a key that may use the model with --key or OUTRIDER_API_KEY"
    return "; check --model and --url (GET /v1/models lists what is served)"


async def _events(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The data of server-sent events, whole; comments and other fields are skipped."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_EVENT_BYTES:
            raise AnswerFailed("the endpoint sent an event longer than 4 MiB")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if rest.startswith(b"data:"):
        yield rest[5:].strip()


async def _streamed(events: AsyncIterator[bytes], started: float, asked: str) -> Answer:
    """Put a stream together. Raises AnswerFailed where it carries an error or ends before the answer does."""
    texts: list[str] = []
    first_s: float | None = None
    usage: dict[str, Any] = {}
    finish: str | None = None
    served: str | None = None
    done = False
    async for event in events:
        if event == b"[DONE]":
            done = True
            break
        chunk = _object(event)
        if chunk.get("error"):
            raise AnswerFailed(f"the stream broke: {_error_text(chunk['error'])}")
        choice = _first_choice(chunk)
        text = (choice.get("delta") or {}).get("content")
        if isinstance(text, str) and text:
            first_s = first_s or time.perf_counter() - started
            texts.append(text)
        finish = choice.get("finish_reason") or finish
        served = chunk.get("model") or served
        usage = chunk.get("usage") or usage
    if not done and finish is None:
        raise AnswerFailed("the stream ended before the answer did")
    return _answer("".join(texts), usage, first_s, time.perf_counter() - started, finish, served, asked)


def _whole(content: bytes, total_s: float, asked: str) -> Answer:
    """An endpoint that does not stream: the first text comes with the last."""
    body = _object(content)
    choice = _first_choice(body)
    text = (choice.get("message") or {}).get("content")
    if not isinstance(text, str):
        raise AnswerFailed("the endpoint's answer holds no choices[0].message.content")
    return _answer(
        text, body.get("usage") or {}, total_s, total_s, choice.get("finish_reason"), body.get("model"), asked
    )


def _answer(
    text: str, usage: dict[str, Any], first_s: float | None, total_s: float, finish: Any, served: Any, asked: str
) -> Answer:
    extra = usage.get("outrider")
    cost = extra.get("cost_usd") if isinstance(extra, dict) else None
    return Answer(
        text=text,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        first_s=first_s,
        total_s=total_s,
        cost_usd=float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None,
        finish=str(finish) if finish else None,
        served_by=str(served) if served and served != asked else None,
    )


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise AnswerFailed(f"the endpoint sent what is not JSON: {data[:80]!r}") from None
    if not isinstance(value, dict):
        raise AnswerFailed(f"the endpoint sent no JSON object: {data[:80]!r}")
    return value


def _first_choice(chunk: Mapping[str, Any]) -> dict[str, Any]:
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _error_text(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:300]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
