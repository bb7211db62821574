"""What `auto` learns of a prompt, and what an answer says of the model that gave it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from outrider.quality import Assessment


@pytest.fixture
def assessed(make_site: Callable[..., Any]) -> tuple[Any, list[tuple[str, Sequence[str]]]]:
    """A site whose Flash answers nothing right that has the word `hard` in it, and what was asked about."""
    asked: list[tuple[str, Sequence[str]]] = []

    def assess(text: str, tags: Sequence[str], known: Collection[str]) -> Assessment:
        asked.append((text, tags))
        return Assessment("maths", 0.9, {"flash": 0.1 if "hard" in text else 0.95, "pro": 0.96})

    return make_site(assess=assess), asked


@pytest.mark.parametrize(("prompt", "model"), [("an easy one", "flash"), ("a hard one " * 2, "pro")])
async def test_a_floor_sends_auto_to_whom_the_prompt_is_easy_enough_for(
    assessed: tuple[Any, list[tuple[str, Sequence[str]]]], prompt: str, model: str
) -> None:
    site, asked = assessed
    messages = [{"role": "system", "content": "hard"}, {"role": "user", "content": prompt}]
    answer = await site.chat(model="auto", messages=messages, outrider={"quality": 0.9, "tags": ["t"]})
    assert answer.headers["x-outrider-model"] == model
    assert asked == [(prompt, ("t",))]
    (event,) = site.events.read()
    assert event.decision.domain == "maths"
    named = answer.headers["x-outrider-class"]
    assert named == answer.json()["usage"]["outrider"]["class"] == event.decision.answer_class
    assert named in ("distribution-lossless", "model-substituted")


async def test_a_named_model_is_asked_nothing_and_is_itself(
    assessed: tuple[Any, list[tuple[str, Sequence[str]]]],
) -> None:
    site, asked = assessed
    answer = await site.chat(model="flash", messages=[{"role": "user", "content": "hard"}], service_tier="auto")
    assert asked == []
    assert answer.headers["x-outrider-class"] == "distribution-lossless"
    assert answer.json()["service_tier"] == "standard"
