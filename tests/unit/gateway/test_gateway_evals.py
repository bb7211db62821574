"""Evals against the real gateway over a real port: answers, usage, cost, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrider.errors import EndpointError, NoFeasibleRoute
from outrider.evals import Endpoint, Outcome, OutcomeLog, Suite, configuration, evaluate, load_suite
from unit.gateway.conftest import KEY, Site


def greetings(folder: Path, prompts: tuple[str, ...] = ("hi", "hello", "hey")) -> Suite:
    items = [{"id": f"g{n}", "prompt": prompt} for n, prompt in enumerate(prompts)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "suite.yaml").write_text(
        "name: greetings\ndomain: prose\ndescription: Greetings.\nlicense: CC0-1.0\nitems: items.jsonl\n"
        "sampling: {max_tokens: 32}\ncheck: {type: exact, answer: hello there 🐟}\n"
    )
    return load_suite(folder / "suite.yaml")


async def asked(site: Site, suite: Suite, folder: Path, model: str = "flash", key: str = KEY) -> list[Outcome]:
    async with site.served() as url, Endpoint(url, model, key, retries=1, backoff_s=0.01, tags=True) as endpoint:
        with OutcomeLog(folder / "log.jsonl", configuration(endpoint, [suite], None)) as log:
            return await evaluate(endpoint, [suite], log)


async def test_answers_usage_and_cost_come_from_the_gateway(site: Site, tmp_path: Path) -> None:
    outcomes = await asked(site, greetings(tmp_path), tmp_path)
    assert all(each.correct for each in outcomes), outcomes
    first = outcomes[0]
    assert first.completion_tokens == len(site.text.encode("hello there 🐟"))
    assert first.prompt_tokens == len(site.text.encode_chat([{"role": "user", "content": "hi"}]))
    assert first.cost_usd == pytest.approx((first.prompt_tokens * 1.0 + first.completion_tokens * 10.0) / 1e6)
    assert first.finish == "stop"
    assert 0 < (first.first_s or 0) <= (first.total_s or 0)


async def test_who_answered_for_auto_is_kept(site: Site, tmp_path: Path) -> None:
    outcomes = await asked(site, greetings(tmp_path), tmp_path, "auto")
    assert {each.served_by for each in outcomes} == {"flash"}


async def test_a_prompt_that_does_not_fit_is_one_error(site: Site, tmp_path: Path) -> None:
    outcomes = await asked(site, greetings(tmp_path, ("hi", "x" * 4000, "hey")), tmp_path)
    assert [each.outcome for each in outcomes] == ["correct", "error", "correct"]
    assert "400" in outcomes[1].why


async def test_a_model_that_breaks_while_it_answers_is_an_error(site: Site, tmp_path: Path) -> None:
    site.flash.script = [(5,), NoFeasibleRoute("gone")]
    outcomes = await asked(site, greetings(tmp_path), tmp_path)
    assert {each.outcome for each in outcomes} == {"error"}
    assert all("the stream broke" in each.why for each in outcomes)


@pytest.mark.parametrize(("model", "key", "said"), [("flash", "sk-none", "401"), ("flahs", KEY, "404")])
async def test_a_wrong_key_or_model_ends_the_run(site: Site, tmp_path: Path, model: str, key: str, said: str) -> None:
    with pytest.raises(EndpointError, match=said):
        await asked(site, greetings(tmp_path), tmp_path, model, key)
