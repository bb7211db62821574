"""Policy files: the shipped one, the broken ones, and what comes out."""

from __future__ import annotations

import pickle
import re
import time
from pathlib import Path

import pytest

from outrider.errors import InvalidKey, PolicyError
from outrider.policy import (
    DEMO_KEY,
    DEMO_OPERATOR_KEY,
    EffectiveRoute,
    check_policy,
    effective_route,
    hash_key,
    load_policy,
    new_key,
    parse_policy,
)

ROOT = Path(__file__).resolve().parents[2]
HASH = hash_key("sk-outrider-test")
GOOD = f"""\
version: 1
models:
  flash: {{price_usd_per_million: {{input: 0.05, output: 0.2}}, quality: {{default: 0.4, code: 0.3}}}}
  pro: {{price_usd_per_million: {{input: 0.25, output: 1}}, quality: {{default: 0.6}}}}
batch_classes:
  balanced: {{admission_wait_ms: 2}}
  interactive: {{weight: 4, prefill_share: 0.25, co_batch_tokens: 128}}
tiers:
  interactive: {{ttft_ms: 500, tpot_ms: 30, batch_class: interactive, max_depth: 5, objective: fastest}}
  standard: {{batch_class: balanced, also_batch_classes: [interactive]}}
tenants:
  demo:
    keys: [{{name: one, sha256: {HASH}}}]
    tier: standard
    models: [flash, pro]
routing:
  objective: balanced
"""


def problems_of(text: str) -> list[str]:
    report = parse_policy(text, "p.yaml")
    assert (report.policy is None) == bool(report.problems)
    return [str(problem) for problem in report.problems]


def test_the_shipped_policy_loads_and_warns_only_of_the_demo_key() -> None:
    report = check_policy(ROOT / "policies/default.yaml")
    assert report.problems == ()
    assert [warning.field for warning in report.warnings] == ["operators[0].sha256", "tenants.demo.keys[0].sha256"]
    assert report.policy is not None
    assert report.policy.accepts_demo_key
    assert report.policy.tenant_for_key(DEMO_KEY, 0.0).name == "demo"
    assert report.policy.accepts_demo_operator_key
    assert report.policy.operator_for_key(DEMO_OPERATOR_KEY, 0.0) == "local"


def test_what_the_shipped_policy_has_in_comments_loads_too() -> None:
    """Sections and settings that are commented out are written so that removing the marks is all there is to do."""
    text = (ROOT / "policies/default.yaml").read_text()
    blocks = re.sub(
        r"^# (?=(teams|routes):$)(.*\n(?:# .*\n)*)", lambda found: found[2].replace("\n# ", "\n"), text, flags=re.M
    )
    lines = re.sub(r"^(    )# (concurrency|budgets): ", r"\1\2: ", blocks, flags=re.M)
    policy = parse_policy(lines).policy
    assert policy is not None
    assert set(policy.teams) == {"search"}
    assert [[route.name for route in layer] for layer in policy.tenants["demo"].routes] == [["reviews", "long-prompts"]]
    assert policy.tenants["demo"].limits.concurrency == 16
    assert [budget.period for budget in policy.tenants["demo"].limits.budgets] == ["day", "month"]


def test_the_example_of_a_company_loads_without_a_warning() -> None:
    report = check_policy(ROOT / "policies/examples", now_s=time.time())
    assert (report.problems, report.warnings) == ((), ())
    policy = report.policy
    assert policy is not None
    assert {name: tenant.team for name, tenant in policy.tenants.items()} == {
        "monitoring": None,
        "search-index": "search",
        "search-answers": "search",
        "support-chat": "support",
    }
    answers = policy.tenants["search-answers"]
    assert effective_route(answers, 9000, ("prose",)) == EffectiveRoute(
        "best_quality", None, ("flash",), 3, ("platform/long-prompts", "search/answers")
    )


def test_units_and_references_are_resolved() -> None:
    policy = parse_policy(GOOD).policy
    assert policy is not None
    demo = policy.tenants["demo"]
    assert demo.tier is policy.tiers["standard"]
    assert [each.name for each in demo.tier.batch_classes] == ["balanced", "interactive"]
    assert demo.tier.batch_classes[0].admission_wait_s == 0.002
    assert (policy.tiers["interactive"].ttft_s, policy.tiers["interactive"].tpot_s) == (0.5, 0.03)
    assert policy.models["pro"].cost_usd(1_000_000, 2_000_000) == pytest.approx(2.25)
    assert policy.models["flash"].quality_for(("unknown", "code")) == 0.3
    assert policy.models["flash"].quality_for(()) == 0.4


@pytest.mark.parametrize(
    ("tier", "own", "depth"),
    [("standard", "", 7), ("interactive", "", 5), ("interactive", "3", 3), ("interactive", "6", 5)],
)
def test_a_tenants_depth_tightens_its_tiers(tier: str, own: str, depth: int) -> None:
    extra = f"tier: {tier}" + (f"\n    max_depth: {own}" if own else "")
    policy = parse_policy(GOOD.replace("tier: standard", extra)).policy
    assert policy is not None
    assert policy.tenants["demo"].max_depth == depth


@pytest.mark.parametrize(
    ("extra", "objective"),
    [
        ("tier: standard", "balanced"),
        ("tier: interactive", "fastest"),
        ("tier: interactive\n    objective: cheapest", "cheapest"),
    ],
)
def test_the_nearest_objective_counts(extra: str, objective: str) -> None:
    policy = parse_policy(GOOD.replace("tier: standard", extra)).policy
    assert policy is not None
    assert policy.tenants["demo"].objective == objective


def test_the_version_is_of_the_content() -> None:
    policy, other = parse_policy(GOOD).policy, parse_policy("# a comment\n" + GOOD.replace("1}}", "1.0}}")).policy
    changed = parse_policy(GOOD.replace("output: 1}", "output: 2}")).policy
    assert policy is not None
    assert other is not None
    assert changed is not None
    assert policy.version == other.version != changed.version
    assert len(policy.version) == 12


def test_a_policy_crosses_process_borders() -> None:
    policy = parse_policy(GOOD).policy
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize("key", [None, "", "nonsense", "Bearer x", "\ud800", "sk-outrider-" + "x" * 10_000, HASH])
def test_wrong_keys_are_refused_without_repeating_them(key: str | None) -> None:
    policy = parse_policy(GOOD).policy
    assert policy is not None
    with pytest.raises(InvalidKey) as refusal:
        policy.tenant_for_key(key, 0.0)
    assert not key or key not in refusal.value.message
    assert refusal.value.status == 401


def test_keys_are_long_fresh_and_hashed() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("sk-outrider-") and len(key) >= len("sk-outrider-") + 43 for key in keys)
    assert all(len(hash_key(key)) == 64 for key in keys)


# Each: text to replace in GOOD, what stands there instead, and the errors that must be the only ones.
BROKEN = [
    (
        "tier: standard",
        "tier: standart",
        ["p.yaml:14:11: tenants.demo.tier: unknown tier 'standart'; did you mean 'standard'?"],
    ),
    (
        "max_depth: 5",
        "max_dpth: 5",
        ["p.yaml:9:70: tiers.interactive.max_dpth: unknown field 'max_dpth'; did you mean 'max_depth'?"],
    ),
    (
        "objective: fastest",
        "objective: fast",
        ["p.yaml:9:95: tiers.interactive.objective: unknown value 'fast'; did you mean 'fastest'?"],
    ),
    (
        "models: [flash, pro]",
        "models: [flash, prо]",
        ["tenants.demo.models[1]: unknown model 'prо'; did you mean 'pro'?"],
    ),
    (
        "models: [flash, pro]",
        "models: [flash, flash]",
        ["p.yaml:15:21: tenants.demo.models[1]: model 'flash' is listed twice"],
    ),
    ("models: [flash, pro]", "models: []", ["tenants.demo.models: must not be empty"]),
    ("models: [flash, pro]", "models: flash", ["tenants.demo.models: expected a list, got text 'flash'"]),
    (
        "models: [flash, pro]",
        "other: 1",
        ["tenants.demo.models: this field is required", "tenants.demo.other: unknown field 'other';"],
    ),
    (
        "batch_class: balanced",
        "batch_class: quick",
        ["tiers.standard.batch_class: unknown batch class 'quick'; known: balanced,"],
    ),
    ("[interactive]}", "[interactiv]}", ["tiers.standard.also_batch_classes[0]: unknown batch class 'interactiv';"]),
    (
        "input: 0.05",
        "input: -0.05",
        ["p.yaml:3:42: models.flash.price_usd_per_million.input: must be at least 0, got -0.05"],
    ),
    ("input: 0.05", "input: $0.05", ["models.flash.price_usd_per_million.input: expected a number, got text '$0.05'"]),
    ("input: 0.05", "input: .nan", ["models.flash.price_usd_per_million.input: expected a finite number, got nan"]),
    ("input: 0.05", "input: .inf", ["models.flash.price_usd_per_million.input: expected a finite number, got inf"]),
    ("input: 0.05", "input: true", ["models.flash.price_usd_per_million.input: expected a number, got true"]),
    ("input: 0.05", "input: ~", ["models.flash.price_usd_per_million.input: expected a number, got nothing"]),
    ("default: 0.4, ", "", ["models.flash.quality: 'default' is required"]),
    ("default: 0.6", "default: 60", ["models.pro.quality.default: must be at most 1, got 60"]),
    ("quality: {default: 0.6}", "quality: {}", ["models.pro.quality: must not be empty"]),
    ("ttft_ms: 500", "ttft_ms: 0", ["tiers.interactive.ttft_ms: must be greater than 0, got 0"]),
    ("ttft_ms: 500", "ttft_ms: 500ms", ["tiers.interactive.ttft_ms: expected a number, got text '500ms'"]),
    ("ttft_ms: 500", "ttft_ms: 1e12", ["tiers.interactive.ttft_ms: must be at most 8.64e+07"]),
    ("max_depth: 5", "max_depth: -1", ["tiers.interactive.max_depth: must be at least 0, got -1"]),
    ("max_depth: 5", "max_depth: 2.5", ["tiers.interactive.max_depth: expected a whole number, got 2.5"]),
    (
        "prefill_share: 0.25",
        "prefill_share: 0",
        ["batch_classes.interactive.prefill_share: must be greater than 0, got 0"],
    ),
    (
        "prefill_share: 0.25",
        "prefill_share: 1.5",
        ["batch_classes.interactive.prefill_share: must be at most 1, got 1.5"],
    ),
    (HASH, "abc", ["tenants.demo.keys[0].sha256: a key's hash is 64 lower-case hex digits"]),
    (HASH, HASH.upper(), ["tenants.demo.keys[0].sha256: a key's hash is 64 lower-case hex digits"]),
    (HASH, "sk-outrider-secret", ["tenants.demo.keys[0].sha256: this is a key, not its hash"]),
    ("name: one, ", "", ["p.yaml:13:12: tenants.demo.keys[0].name: this field is required"]),
    (
        "name: one, ",
        f"name: a, sha256: {HASH}}}, {{name: b, ",
        ["tenants.demo.keys[1].sha256: this key already belongs to tenant 'demo'"],
    ),
    ("routing:\n", "routing:\n  depth_caps: [1, 3]\n", ["routing.depth_caps: must contain 0"]),
    ("routing:\n", "routing:\n  depth_caps: [0, 3, 1]\n", ["routing.depth_caps: must ascend"]),
    (
        "routing:\n",
        "routing:\n  depth_caps: []\n",
        ["routing.depth_caps: must not be empty", "routing.depth_caps: must contain 0"],
    ),
    ("  demo:", "  De mo:", ["p.yaml:12:3: tenants.De mo: a name is 1 to 64 of"]),
    (
        "  flash: {",
        "  auto: {",
        ["models.auto: 'auto' is how tenants leave the choice open", "tenants.demo.models[0]: unknown model 'flash'"],
    ),
    (
        "  objective: balanced\n",
        "  verification: rejecting\n",
        ["routing.verification: unknown value 'rejecting'; did you mean 'rejection'?"],
    ),
    ("version: 1\n", "", ["p.yaml:1:1: version: this field is required"]),
    ("version: 1", "version: 2", ["p.yaml:1:10: version: expected 1, got 2"]),
    ("version: 1", "version: '1'", ["p.yaml:1:10: version: expected 1, got text '1'"]),
    ("routing:", "routng:", ["routng: unknown field 'routng'; did you mean 'routing'?"]),
    ("  objective: balanced\n", "  - balanced\n", ["routing: expected a mapping, got a list"]),
    (
        "tier: standard",
        "tier: standard\n    tier: interactive",
        ["p.yaml:15:5: tenants.demo.tier: duplicate key; it was first set on line 14"],
    ),
    ("tier: standard", 'tier: "a\\nb"', ["tenants.demo.tier: unknown tier 'a\N{REPLACEMENT CHARACTER}b'; known:"]),
]


@pytest.mark.parametrize(("old", "new", "expected"), BROKEN, ids=[new.strip()[:30] for _, new, _ in BROKEN])
def test_each_mistake_is_named_with_place_and_fix(old: str, new: str, expected: list[str]) -> None:
    assert old in GOOD
    problems = problems_of(GOOD.replace(old, new, 1))
    assert len(problems) == len(expected), problems
    for problem, part in zip(problems, expected, strict=True):
        assert part in problem
        assert "\n" not in problem


def test_all_errors_come_together_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace("input: 0.05", "input: x")
        .replace("max_depth: 5", "max_depht: 5")
        .replace("tier: standard", "tier: gold")
    )
    text = text.replace("  objective: balanced", "  objectiv: balanced")
    assert [int(problem.split(":")[1]) for problem in problems_of(text)] == [3, 9, 14, 17]


def test_a_key_typed_for_its_hash_is_never_shown() -> None:
    assert "secret" not in "".join(problems_of(GOOD.replace(HASH, "sk-outrider-secret")))
    assert "topsecret" not in "".join(problems_of(GOOD.replace(HASH, "topsecret")))


def test_one_key_for_two_tenants_is_refused() -> None:
    other = f"  other: {{keys: [{{name: x, sha256: {HASH}}}], tier: standard, models: [pro]}}\n"
    problems = problems_of(GOOD.replace("routing:", other + "routing:"))
    assert len(problems) == 1
    assert "tenants.other.keys[0].sha256: this key already belongs to tenant 'demo'" in problems[0]


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        (f"[{{name: one, sha256: {HASH}}}]", "[]", "tenants.demo.keys: no key: nobody can call as this tenant"),
        (HASH, hash_key(DEMO_KEY), "tenants.demo.keys[0].sha256: this is the documented demo key"),
        ("models: [flash, pro]", "models: [pro]", "models.flash: no tenant may use it"),
        ("tier: standard", "tier: interactive\n    max_depth: 6", "has no effect: tier 'interactive' allows 5 at most"),
    ],
)
def test_legal_but_surprising(old: str, new: str, warning: str) -> None:
    report = parse_policy(GOOD.replace(old, new, 1))
    assert report.policy is not None
    assert [warning in str(each) for each in report.warnings] == [True]
    assert parse_policy(GOOD).warnings == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1:1: the file is empty"),
        (b"# only a comment\n", ":1:1: the file is empty"),
        (b"- 1\n", ":1:1: a policy is a mapping"),
        (b"hello\n", ":1:1: a policy is a mapping"),
        (b"version: 1\nmodels: \xff\n", ":2:9: byte 0xff is not UTF-8"),
        (GOOD.encode("utf-16"), ":1:1: byte 0xff is not UTF-8"),
        (b"#" * (16 * 2**20 + 1), ":1:1: larger than 16 MiB"),
    ],
    ids=["empty", "comment", "list", "text", "latin", "utf-16", "huge"],
)
def test_files_that_are_no_policies(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(content)
    with pytest.raises(PolicyError) as refusal:
        load_policy(file)
    assert f"{file}{message}" in refusal.value.message
    assert len(refusal.value.message.splitlines()) == 1


def test_missing_files_and_directories(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "no.yaml", "no such file"),
        (tmp_path, "no platform.yaml or default.yaml in this directory"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(PolicyError, match=message):
            load_policy(path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_policy(file) == parse_policy(GOOD).policy


def test_load_policy_raises_all_problems_at_once(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(GOOD.replace("tier: standard", "tier: x").replace("version: 1", "version: 3"))
    with pytest.raises(PolicyError) as refusal:
        load_policy(file)
    assert [line.split(" ")[1] for line in refusal.value.message.splitlines()] == ["version:", "tenants.demo.tier:"]


def test_digits_behind_a_zero_are_a_name() -> None:
    text = (
        "version: 1\nmodels:\n  m: {price_usd_per_million: {input: 0, output: 0}, quality: {default: 0}}\n"
        "batch_classes:\n  08: {}\ntiers:\n  t: {batch_class: 08}\ntenants: {}\n"
    )
    assert parse_policy(text).problems == ()


def test_a_known_name_with_a_line_break_stays_on_one_line() -> None:
    report = parse_policy(GOOD.replace("  flash:", '  "\\Nx":', 1))
    assert any("unknown model 'flash'" in str(problem) for problem in report.problems)
    assert all(len(str(problem).splitlines()) == 1 for problem in report.problems)
