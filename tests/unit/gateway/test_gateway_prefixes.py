"""What a replica should hold of a prompt: for the tenant, on that replica, as far as it was sent there."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from outrider.gateway.prefixes import GRAIN_TOKENS, MOST_GRAINS, Prefixes
from outrider.types import LoadSnapshot

LOADS = {"flash": [LoadSnapshot("flash", name, 1, 0.0) for name in ("f-0", "f-1")]}
PROMPT = tuple(range(100))


def expected(prefixes: Prefixes, tokens: tuple[int, ...] = PROMPT, tenant: str = "acme") -> dict[str, int]:
    return prefixes.expected(tenant, {"flash": [tokens]}, LOADS)


def test_a_prompt_sent_before_is_expected_there_in_whole_grains() -> None:
    prefixes = Prefixes()
    assert expected(prefixes) == {}
    prefixes.sent("f-1", "acme", PROMPT)
    assert expected(prefixes) == {"f-1": 96}
    assert expected(prefixes, (*PROMPT, 7, 8)) == {"f-1": 96}
    assert expected(prefixes, (*PROMPT[:40], 7, *PROMPT[41:])) == {"f-1": 32}
    assert expected(prefixes, PROMPT[1:]) == {}, "the same tokens behind another beginning are another prefix"
    assert expected(prefixes, tenant="rival") == {}, "prefixes are reused within a tenant only"


def test_what_a_lost_replica_held_is_forgotten() -> None:
    prefixes = Prefixes()
    prefixes.sent("f-1", "acme", PROMPT)
    assert prefixes.expected("acme", {"flash": [PROMPT]}, {"flash": LOADS["flash"][:1]}) == {}
    assert expected(prefixes) == {}


def test_the_oldest_is_forgotten_first() -> None:
    prefixes = Prefixes()
    prefixes.sent("f-0", "acme", PROMPT)
    prefixes.sent("f-0", "acme", tuple(range(1000, 1000 + GRAIN_TOKENS * (MOST_GRAINS - 3))))
    assert expected(prefixes) == {}, "its first grain went, so the rest says nothing"
    assert sum(len(each.grains) for each in prefixes._replicas.values()) == MOST_GRAINS


def test_expectations_shrink_where_they_are_not_met_and_grow_again() -> None:
    prefixes = Prefixes()
    prefixes.sent("f-0", "acme", PROMPT)
    for _ in range(60):
        prefixes.happened("f-0", expected(prefixes)["f-0"], 0)
    assert expected(prefixes) == {"f-0": 9}
    for _ in range(60):
        prefixes.happened("f-0", expected(prefixes)["f-0"], 96)
    assert expected(prefixes)["f-0"] > 90


@given(
    st.lists(st.tuples(st.sampled_from(["f-0", "f-1"]), st.sampled_from(["a", "b"]), st.integers(0, 3)), max_size=12)
)
def test_never_more_than_the_longest_common_prefix(sent: list[tuple[str, str, int]]) -> None:
    """Four prompts that part ways after 0, 20, 40 and 60 tokens, against the definition."""
    prompts = [(*range(20 * at), *range(1000 * (at + 1), 1000 * (at + 1) + 80 - 20 * at)) for at in range(4)]
    prefixes, model = Prefixes(), defaultdict[Any, list[tuple[int, ...]]](list)
    for replica, tenant, which in sent:
        prefixes.sent(replica, tenant, prompts[which])
        model[replica, tenant].append(prompts[which])
    for tenant in "ab":
        for prompt in prompts:
            wanted = {
                replica: max(
                    (_common(prompt, each) // GRAIN_TOKENS * GRAIN_TOKENS for each in model[replica, tenant]), default=0
                )
                for replica in ("f-0", "f-1")
            }
            assert expected(prefixes, prompt, tenant) == {name: tokens for name, tokens in wanted.items() if tokens}


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


async def test_a_conversation_expects_its_earlier_turns(site: Any) -> None:
    """Prompt and answer of a turn are the beginning of the next one's prompt."""
    site.says("hello " * 30)
    turn = [{"role": "user", "content": "tell me about the weather in the mountains, please, at some length"}]
    first = await site.chat(messages=turn)
    answer = first.json()["choices"][0]["message"]
    again = [*turn, {"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "go on"}]
    await site.chat(messages=again)
    (before, one), (after, two) = site.flash.requests
    assert one.basis.cached_tokens == 0
    whole = len(before.prompt_token_ids) + first.json()["usage"]["completion_tokens"]
    assert len(before.prompt_token_ids) < two.basis.cached_tokens <= whole
    assert two.basis.prompt_tokens == len(after.prompt_token_ids) - two.basis.cached_tokens
    assert two.predicted_cost_usd < one.predicted_cost_usd + len(after.prompt_token_ids) * 1e-6


async def test_another_tenant_s_prompt_is_not_expected(site: Any) -> None:
    for key in ("sk-outrider-acme", "sk-outrider-rival"):
        await site.chat(messages=[{"role": "user", "content": "the same long prompt " * 5}], key=key)
    assert [decision.basis.cached_tokens for _, decision in site.flash.requests] == [0, 0]
