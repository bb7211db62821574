"""Any document: a policy or readable problems, never another exception; any valid one survives a round trip."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider.policy import PolicyReport, hash_key, parse_policy

DEFAULT = (Path(__file__).resolve().parents[2] / "policies/default.yaml").read_text()

names = st.from_regex(r"(?![0-9]+e[0-9]+$)[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)  # pyyaml leaves 0e0 unquoted
objectives = st.sampled_from(["cheapest", "fastest", "best_quality", "balanced"])
prices = st.floats(0, 1e6)
waits_ms = st.floats(0, 50)
milliseconds = st.floats(50, 1e6)  # no less than a class may hold a request back


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid policy document as plain values."""
    models = draw(st.lists(names.filter(lambda name: name != "auto"), min_size=1, max_size=3, unique=True))
    classes = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    tiers = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    tenants = draw(st.lists(names, max_size=4, unique=True))
    price = st.fixed_dictionaries({"input": prices, "output": prices})
    model = st.fixed_dictionaries(
        {"price_usd_per_million": price, "quality": st.fixed_dictionaries({"default": st.floats(0, 1)})}
    )
    batch_class = st.fixed_dictionaries({}, optional={"weight": st.floats(0.1, 10), "admission_wait_ms": waits_ms})
    tier = st.fixed_dictionaries(
        {"batch_class": st.sampled_from(classes)},
        optional={
            "ttft_ms": milliseconds,
            "tpot_ms": milliseconds,
            "max_depth": st.integers(0, 64),
            "objective": objectives,
            "also_batch_classes": st.lists(st.sampled_from(classes), unique=True),
        },
    )
    tenant = st.fixed_dictionaries(
        {
            "tier": st.sampled_from(tiers),
            "models": st.lists(st.sampled_from(models), min_size=1, unique=True),
        },
        optional={"max_depth": st.integers(0, 64), "objective": objectives},
    )
    found = {
        "version": 1,
        "models": {name: draw(model) for name in models},
        "batch_classes": {name: draw(batch_class) for name in classes},
        "tiers": {name: draw(tier) for name in tiers},
        "tenants": {name: draw(tenant) for name in tenants},
    }
    for name in tenants:
        count = draw(st.integers(0, 2))
        keys = [{"name": str(index), "sha256": hash_key(f"{name}/{index}")} for index in range(count)]
        found["tenants"][name]["keys"] = keys
    return found


def checked(text: str) -> PolicyReport:
    """Parse, and hold what every report promises."""
    report = parse_policy(text, "p.yaml")
    assert (report.policy is None) == bool(report.problems)
    for problem in (*report.problems, *report.warnings):
        assert len(str(problem).splitlines()) == 1
        assert str(problem).startswith("p.yaml:")
        assert 1 <= problem.line <= text.count("\n") + 2
        assert problem.column >= 1
    return report


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_valid_documents_load_and_survive_a_round_trip(document: dict[str, Any]) -> None:
    policy = checked(json.dumps(document)).policy
    assert policy is not None
    again = checked(yaml.safe_dump(document, sort_keys=True)).policy
    assert again is not None
    assert again.version == policy.version
    assert again == policy
    for name, tenant in document["tenants"].items():
        for index in range(len(tenant["keys"])):
            assert policy.tenant_for_key(f"{name}/{index}", 0.0).name == name


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path of a document but the root."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in children for place in ((*path, key), *places(child, (*path, key)))]


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | objectives,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_documents_give_a_policy_or_problems(data: st.DataObject) -> None:
    document = copy.deepcopy(yaml.safe_load(DEFAULT))
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(document) or [("version",)]))
        parent = document
        for step in way:
            parent = parent[step]
        action = data.draw(st.sampled_from(["replace", "delete", "add"]))
        if action == "delete" and last in (parent if isinstance(parent, dict) else range(len(parent))):
            del parent[last]
        elif action == "replace" or isinstance(parent, list):
            parent[last] = data.draw(junk)
        else:
            parent[data.draw(st.text(max_size=6))] = data.draw(junk)
    checked(yaml.safe_dump(document, allow_unicode=data.draw(st.booleans())))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_text_gives_a_policy_or_problems(data: st.DataObject) -> None:
    text = DEFAULT
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 5))
        inserted = data.draw(
            st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("{}[]:&*!\t\n#'\"-|>%@"), max_size=4)
        )
        text = text[:at] + inserted + text[at + cut :]
    checked(text)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_gives_a_policy_or_problems(text: str) -> None:
    assert checked(text).policy is None
