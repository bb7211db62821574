"""The peer in C++: a running `llama-server`, asked for token ids over HTTP and timed by its own clock.

What HTTP and tokenising cost it is left out, since the arms it stands beside have neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from outrider.bench.reference import Generated
from outrider.errors import ConfigurationError

__all__ = ["LlamaServer"]


class LlamaServer:
    """A server at `url`, started by the caller: its precision, drafter and threads are those of its command line."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._client = httpx.Client(base_url=url, timeout=300.0)
        try:
            facts = self._client.get("/props").raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise ConfigurationError(f"{name}: no llama-server answers at {url}: {error}", param="llama") from error
        self.slots = int(facts.get("total_slots", 1))
        self.build = str(facts.get("build_info", "unknown"))

    def greedy(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Generated:
        """Greedy continuations, all prompts at once, up to an end token or `max_tokens`; prompts are computed anew.

        Seconds are those of the slowest stream from its prompt's first token, and to its first new one.
        Raises ConfigurationError when the server has fewer slots than there are prompts or answers with an error.
        """
        if len(prompts) > self.slots:
            raise ConfigurationError(
                f"{self.name} runs {self.slots} streams at a time: start it with -np {len(prompts)}", param="llama"
            )
        with ThreadPoolExecutor(len(prompts)) as pool:
            done = list(pool.map(lambda prompt: self._answer(prompt, max_tokens), prompts))
        times = [each["timings"] for each in done]
        prompt_s = max(each["prompt_ms"] for each in times) / 1e3
        whole_s = max(each["prompt_ms"] + each["predicted_ms"] for each in times) / 1e3
        tokens = [list(each["tokens"]) for each in done]
        drafted = [each for each in times if each.get("draft_n")]
        rounds = sum(each["predicted_n"] - 1 - each.get("draft_n_accepted", 0) for each in drafted)
        return Generated(tokens, prompt_s, whole_s, len(prompts), rounds)

    def _answer(self, prompt: Sequence[int], max_tokens: int) -> dict[str, Any]:
        body = {
            "prompt": list(prompt),
            "n_predict": max_tokens,
            "temperature": 0,
            "samplers": ["top_k"],
            "top_k": 1,
            "return_tokens": True,
            "cache_prompt": False,
        }
        try:
            answer: dict[str, Any] = self._client.post("/completion", json=body).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise ConfigurationError(f"{self.name} does not answer: {error}", param="llama") from error
        return answer
