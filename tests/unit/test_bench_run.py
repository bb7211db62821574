"""Every benchmark that needs no server, end to end, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from outrider.bench.decode import PEER
from outrider.bench.reference import Reference
from outrider.cli.bench import app
from outrider.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("given_curve")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("held") / "out.jsonl"
    words = ("hello there", "user", "1 + 2", "def f(x):", "system")
    items = [
        {"domain": domain, "messages": [{"role": "user", "content": f"{domain} {word}"}]}
        for domain in ("code", "maths")
        for word in words
    ]
    file.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return file


@pytest.fixture
def bench(worded: Path, worded_drafter: Path, held_out: Path) -> Any:
    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        models = ["--target", str(worded), "--drafter", str(worded_drafter), "--held-out", str(held_out)]
        result = CliRunner().invoke(app, [*arguments, *models, "--threads", "1", "--json"], catch_exceptions=False)
        assert result.exit_code == status, result.output
        read: dict[str, Any] = json.loads(result.stdout)
        assert read["configuration"]["torch_threads"] == 1
        assert {"torch", "transformers"} <= read["configuration"]["versions"].keys()
        return read

    return run


def test_exact_holds_for_every_link_and_depth(bench: Any) -> None:
    read = bench("exact", "--prompts", "6", "--max-tokens", "10", "--streams", "3")
    rows = read["tables"][0]["rows"]
    assert len(rows) == 6
    assert {row["arm"].split(",")[0] for row in rows} == {"in-process", "process"}
    assert all(row["prompts"] == 6 and row["mismatches"] == 0 for row in rows)
    depths = {row["arm"]: row["drafts verified per round"] for row in rows}
    assert depths["in-process, depth 0"] == depths["process, depth 0"] == 0
    assert depths["in-process, full depth"] == depths["process, full depth"] > 3
    assert read["parameters"]["tokens"] > 6


def test_exact_fails_on_a_mismatch(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that says something else must turn into mismatches and exit status 1."""
    honest = Reference.greedy

    def other(self: Reference, *args: Any, **kwargs: Any) -> Any:
        done = honest(self, *args, **kwargs)
        for tokens in done.tokens:
            tokens[-1] = (tokens[-1] + 1) % 97
        return done

    monkeypatch.setattr(Reference, "greedy", other)
    monkeypatch.setattr("outrider.bench.exact._arms", _only_in_process)
    read = bench("exact", "--prompts", "2", "--max-tokens", "4", status=1)
    assert read["passed"] is False
    assert read["tables"][0]["rows"][0]["mismatches"] == 2
    assert any("mismatch at token" in note for note in read["notes"])


def _only_in_process(setup: Any, inputs: Any, max_tokens: int, streams: int, say: Any) -> Any:
    from outrider.bench.setup import UNTRIMMED, requests_for
    from outrider.local import LinkKind

    with setup.open(LinkKind.IN_PROCESS, streams=streams, curve=UNTRIMMED) as local:
        yield "in-process", local.generate(requests_for(inputs, max_tokens))


def test_seeds_hold_in_any_company_and_through_a_restart(bench: Any) -> None:
    read = bench("seeds", "--prompts", "3", "--max-tokens", "12", "--in-process")
    rows = read["tables"][0]["rows"]
    assert [row["arm"] for row in rows] == [
        "full depth, alone",
        "depth 0, among 7 others",
        "full depth, among 7 others",
        "drafter restarted while answering",
        "after the restart, alone",
    ]
    assert all(row["mismatches"] == 0 for row in rows)


def test_acceptance_by_domain(bench: Any) -> None:
    read = bench("acceptance", "--max-tokens", "24", "--repetitions", "2", "--streams", "4")
    rows = read["tables"][0]["rows"]
    assert [row["temperature"] for row in rows] == [0.0, 1.0, 0.0, 1.0]
    assert all(1 <= row[name]["median"] <= 8 for row in rows for name in ("macro", "code", "maths"))
    assert [row["macro"]["count"] for row in rows] == [1, 2, 2, 2]
    everything = rows[0]
    assert everything["macro"]["median"] == pytest.approx(
        (everything["code"]["median"] + everything["maths"]["median"]) / 2
    )


def test_memory_is_reused_and_shared(bench: Any) -> None:
    options = ("--conversations", "2", "--new-tokens", "20", "--max-tokens", "20", "--requests", "8")
    read = bench("memory", *options, "--repetitions", "1")
    turns, pressure = (table["rows"] for table in read["tables"])
    assert {row["arm"]: row["tokens taken over"]["median"] for row in turns} == {"prefix cache": 32, "without": 0}
    assert [row["equal answers"] for row in pressure] == [8, 8, 8]
    assert [row["completed"] for row in pressure] == [8, 8, 8]
    preempted = {row["arm"]: row["preemptions"]["median"] for row in pressure}
    assert preempted["enough memory"] == 0
    assert preempted["a quarter"] > 0


def test_decode_compares_every_arm_with_the_peer(bench: Any) -> None:
    read = bench(
        "decode", "--streams", "1", "--streams", "3", "--prompts", "2", "--max-tokens", "6", "--repetitions", "2"
    )
    titles = [table["title"] for table in read["tables"]]
    assert titles == ["speed, 1 stream", "a mean round, 1 stream", "speed, 3 streams", "a mean round, 3 streams"]
    for table in read["tables"][::2]:
        rows = {row["arm"]: row for row in table["rows"]}
        assert list(rows) == ["separated", "colocated", "no drafter", PEER]
        assert rows[PEER][f"÷ {PEER}"] == {"median": 1.0, "low": 1.0, "high": 1.0, "count": 2}
        assert rows["no drafter"]["tokens per round"]["median"] == 1.0
        assert rows["separated"]["tokens per round"] == rows["colocated"]["tokens per round"]
    rounds = {row["arm"]: row for row in read["tables"][3]["rows"]}
    assert rounds["no drafter"]["draft ms"]["median"] == 0
    assert rounds["separated"]["draft ms"]["median"] > 0
    assert rounds["no drafter"]["requests"]["median"] <= 3


def test_classes_with_their_like_and_mixed(bench: Any) -> None:
    read = bench("classes", "--streams", "3", "--max-tokens", "5", "--repetitions", "2",
                 "--batch-class", "interactive", "--batch-class", "throughput")  # fmt: skip
    alone, mixed = (table["rows"] for table in read["tables"])
    assert [row["class"] for row in alone] == ["interactive", "throughput"]
    assert [row["class"] for row in mixed] == ["interactive", "throughput", "all"]
    assert all(row["TPOT p50 ms"]["count"] == 2 and row["tok/s"]["low"] > 0 for row in alone)
    assert read["parameters"]["requests"] == 9
    assert read["parameters"]["classes"][0]["co_batch_tokens"] < read["parameters"]["classes"][1]["co_batch_tokens"]


def test_a_class_that_the_policy_lacks_is_said() -> None:
    with pytest.raises(ConfigurationError, match="no batch class fast; there are interactive, balanced"):
        CliRunner().invoke(app, ["classes", "--batch-class", "fast"], catch_exceptions=False)


def test_a_round_is_the_sum_of_its_parts(bench: Any, tmp_path: Path) -> None:
    flame = tmp_path / "flame.svg"
    options = ("--streams", "1", "--streams", "3", "--max-tokens", "12", "--repetitions", "1", "--flame", str(flame))
    tables = bench("round", *options)["tables"]
    assert [table["title"] for table in tables] == ["own ms of a round, 1 stream", "own ms of a round, 3 streams"]
    for row in (row for table in tables for row in table["rows"]):
        value = {name: cell["median"] for name, cell in row.items() if name != "arm"}
        assert 0 < value["share beside forwards"] < 1
        assert all(value[part] > 0 for part in ("target forward", "schedule", "commit", "detokenising"))
        if row["arm"] == "depth 0":
            assert value["rounds drafted"] == value["drafter forward"] == value["link"] == 0
        if row["arm"] == "colocated, all verified":
            assert value["rounds drafted"] > 0.5
            assert all(value[part] > 0 for part in ("drafter forward", "drafter's server", "link"))
    titles = [title.text or "" for title in ElementTree.parse(flame).iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith(("1 stream, ", "3 streams, ")) for title in titles)


def test_a_step_on_every_path(worded: Path) -> None:
    options = ("--target", str(worded), "--requests", "2", "--depth", "3", "--repetitions", "2", "--context", "20")
    result = CliRunner().invoke(app, ["step", *options, "--json"], catch_exceptions=False)
    (table,) = json.loads(result.stdout)["tables"]
    assert table["title"] == "a step, 2 requests, depth 3"
    rows = {row["arm"]: row for row in table["rows"]}
    assert {"stock", "flat, eager"} <= rows.keys() <= {"stock", "flat, eager", "compiled"}
    assert rows["stock"]["speed ÷ stock"]["median"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "x"], "together"),
        (["--dtype", "float8"], "float32 or bfloat16"),
        (["--model", "x"], "no demo model"),
    ],
)
def test_wrong_options_are_said(options: list[str], message: str) -> None:
    from outrider.errors import OutriderError

    with pytest.raises(OutriderError, match=message):
        CliRunner().invoke(app, ["decode", *options], catch_exceptions=False)


def test_the_peer_stops_at_end_tokens_only_when_asked(worded: Path) -> None:
    import torch

    reference = Reference(worded, dtype=torch.float32, device="cpu")
    free = reference.greedy([[5, 6, 7]], 12, ignore_eos=True).tokens[0]
    assert len(free) == 12
    reference.ends = (free[4],)
    assert reference.greedy([[5, 6, 7]], 12).tokens[0] == free[: free.index(free[4]) + 1]
    assert reference.greedy([[5, 6, 7]], 12, ignore_eos=True).tokens[0] == free


def test_the_peer_s_padding_changes_nothing(worded: Path) -> None:
    import torch

    reference = Reference(worded, dtype=torch.float32, device="cpu")
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12]]
    together = reference.greedy(prompts, 8, ignore_eos=True)
    assert together.tokens == [reference.greedy([prompt], 8, ignore_eos=True).tokens[0] for prompt in prompts]
    assert 0 < together.first_s < together.wall_s


def test_speculation_goes_on_where_it_ended_and_shows_itself(bench: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "page" / "tiny.json"
    arms = ("none", "fixed:1", "fixed:3", "lookup", "constrained")
    options = ["speculation", "--concurrency", "1", "--concurrency", "3", "--temperature", "0", "--max-tokens", "12",
               "--domain-concurrency", "2", "--least-requests", "4", "--requests-per-stream", "1", "--out", str(out),
               *(part for arm in arms for part in ("--arm", arm))]  # fmt: skip
    first = bench(*options, "--repetitions", "1")
    assert len(first["runs"]) == 4
    assert all(tuple(run["arms"]) == arms for run in first["runs"])
    read = bench(*options, "--repetitions", "2", "--page")
    assert read["runs"][:4] == first["runs"]
    assert len(read["runs"]) == 8
    assert read["notes"][0].startswith("160 of 160 requests were answered")
    rows = {table["title"]: table["rows"] for table in read["tables"]}
    verified = {row["arm"]: row["3"]["median"] for row in rows["verified rows per request and round, T = 0"]}
    # One round in a hundred is verified whole, at any depth, to keep calibration measured: that adds a few rows.
    assert verified["no speculation"] == 1 < verified["fixed 1"] <= 2.5 < verified["fixed 3"] <= 4.5
    assert [row["domain"] for row in rows["adaptive ÷ others by domain, T = 0"]] == ["code", "maths"]
    page = (out.parent / "README.md").read_text("utf-8")
    for picture in ("tiny-frontier-t0.svg", "tiny-budget-t0.svg"):
        assert f"({picture})" in page
        texts = [each.text for each in ElementTree.parse(out.parent / picture).iter() if each.tag.endswith("text")]
        assert {"constrained", "fixed 1", "no speculation"} <= set(texts)
    assert "## target, closed loop" in page
    with pytest.raises(ConfigurationError, match="max_tokens is 12 there, 9 here"):
        bench(*options, "--max-tokens", "9")


def test_tiers_keep_what_was_frozen(bench: Any, tmp_path: Path) -> None:
    out = tmp_path / "open.json"
    options = ["speculation-open", "--rate", "30", "--duration-s", "0.6", "--warm-up-s", "0.1", "--tight", "0.5",
               "--cv", "1", "--max-tokens", "6", "--streams", "4", "--out", str(out)]  # fmt: skip
    first = bench(*options, "--repetitions", "1")
    read = bench(*options, "--repetitions", "2")
    assert read["parameters"]["frozen"] == first["parameters"]["frozen"]
    assert read["runs"][0] == first["runs"][0]
    rows = {row["arm"]: row for row in read["tables"][0]["rows"]}
    assert set(rows) == {"no speculation", "fixed 1", "asynchronous", "constrained", "constrained, untold"}
    assert rows["asynchronous"]["tok/s ÷ asynchronous"]["median"] == 1
    assert len({row["answered"] for row in rows.values()}) == 1
