"""`outrider draft prepare`: what comes out of good files, and what is said about bad ones."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.errors import ArtifactMismatch, DataError, RecipeError
from outrider.training.data.document import split_of
from outrider.training.prepare import length_statistics, prepare
from outrider.training.prompts import BadRecord, parse_record, read_prompts
from outrider.training.recipe import load_recipe
from outrider.training.similarity import DuplicateIndex
from outrider.training.subject import open_subject
from support.workshop import make_prompts, make_workshop, write_recipe


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    make_workshop(folder)
    return folder


def written(folder: Path, shop: Path, records: list[Any], name: str = "prompts.jsonl", **changes: Any) -> Path:
    """A recipe in `folder` about the shop's target, with `records` (text as it is, all else as JSON) as its prompts."""
    lines = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return write_recipe(folder, target=str(shop / "target"), **changes)


def test_every_record_lands_on_the_side_of_its_source(shop: Path, tmp_path: Path) -> None:
    records = make_prompts(40)
    for number, record in enumerate(records):
        record |= {"source": f"document {number // 4}", "license": "MIT" if number % 2 else "CC0-1.0"}
        record["messages"] = [*record["messages"], {"role": "assistant", "content": "an answer to drop"}]
    recipe = load_recipe(written(tmp_path, shop, records))
    figures = prepare(recipe).figures
    found = {split: read_prompts(tmp_path / f"run/prompts/{split}.jsonl") for split in ("train", "heldout")}
    assert sum(map(len, found.values())) == 40
    assert all(split_of(record.source, 20) == split for split, each in found.items() for record in each)
    assert all(record.messages[-1][0] == "user" for each in found.values() for record in each)
    assert figures["licenses"] == {"CC0-1.0": 20, "MIT": 20}
    assert figures["train"] == len(found["train"])
    assert figures["sources"] == 10
    lengths = [json.loads(line)["tokens"] for line in (tmp_path / "run/prompts/train.jsonl").read_text().splitlines()]
    assert figures["prompt_tokens"]["min"] <= min(lengths) <= max(lengths) <= figures["prompt_tokens"]["max"]


def test_a_second_run_is_up_to_date_and_changes_are_refused(shop: Path, tmp_path: Path) -> None:
    path = written(tmp_path, shop, make_prompts(30))
    first = prepare(load_recipe(path))
    assert prepare(load_recipe(path)) == first
    written(tmp_path, shop, make_prompts(31))
    with pytest.raises(ArtifactMismatch, match=r"input file 0 \(prompts.jsonl\) changed"):
        prepare(load_recipe(path))
    changed = written(tmp_path, shop, make_prompts(30), prompts={"dedupe_overlap": 0.5})
    with pytest.raises(ArtifactMismatch, match=r"dedupe_overlap was 0\.8, now 0\.5"):
        prepare(load_recipe(changed))
    assert prepare(load_recipe(changed), restart=True).hash != first.hash
    assert (tmp_path / "run/prompts.old/manifest.json").exists()


def test_plain_text_and_parquet_are_read_alike(shop: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table.from_pylist(
        [{"id": f"q{i}", "prompt": f"plain text number {i}", "messages": None} for i in range(30)]
        + [{"id": "chat", "messages": [{"role": "user", "content": "a question"}]}]
    )
    parquet.write_table(table, tmp_path / "more.parquet")
    path = written(tmp_path, shop, make_prompts(10), prompts={"files": ["prompts.jsonl", "more.parquet"]})
    figures = prepare(load_recipe(path)).figures
    assert figures["records"] == figures["train"] + figures["heldout"] == 41


def test_bad_lines_are_all_counted_and_nothing_is_written(shop: Path, tmp_path: Path) -> None:
    bad: list[Any] = [
        '{"prompt": "torn',
        [1],
        {"text": "x"},
        {"prompt": ""},
        {"prompt": "a", "messages": []},
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"prompt": "once", "id": "p1"},
        {"prompt": "x", "source": 1.5},
    ]
    with pytest.raises(DataError) as refusal:
        prepare(load_recipe(written(tmp_path, shop, [*make_prompts(5), *bad])))
    lines = refusal.value.message.splitlines()
    assert lines[0] == f"{len(bad)} of {len(bad) + 5} records cannot be used; nothing was written"
    for number, message in enumerate(
        (
            "not JSON",
            "a record is a JSON object, not list",
            "has neither `messages` nor `prompt`; give",
            "`prompt` is empty",
            "has both",
            "`messages` is empty",
            "messages[0].role is 'robot'; roles are system, user, assistant",
            "messages[0].content is no text",
            "no user turn",
            "id 'p1' was already used at",
            "`source` is empty or no text",
        )
    ):
        assert f"prompts.jsonl:{6 + number}: " in lines[1 + number]
        assert message in lines[1 + number]
    assert not (tmp_path / "run/prompts").exists()


def test_many_bad_lines_are_counted_not_listed(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        prepare(load_recipe(written(tmp_path, shop, ["{"] * 500)))
    assert refusal.value.message.startswith("500 of 500 records")
    assert "… and 480 more" in refusal.value.message


@pytest.mark.parametrize(("records", "message"), [([], "no prompts"), (make_prompts(1), "1 prompt;")])
def test_empty_and_one_line_data_are_refused(shop: Path, tmp_path: Path, records: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(load_recipe(written(tmp_path, shop, records)))
    assert not (tmp_path / "run/prompts").exists()


def test_a_missing_file_is_refused(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        prepare(load_recipe(written(tmp_path, shop, [], prompts={"files": ["none.jsonl"]})))


def test_long_prompts_are_counted_out_and_refused_when_all_are(shop: Path, tmp_path: Path) -> None:
    long = [{"prompt": f"{number} " + "word " * 300} for number in range(3)]
    figures = prepare(load_recipe(written(tmp_path, shop, [*make_prompts(30), *long]))).figures
    assert figures["too_long"] == 3
    with pytest.raises(DataError, match="all 3 prompts are longer than 254 tokens"):
        prepare(load_recipe(written(tmp_path, shop, long, output="other")))


def test_an_empty_side_of_the_split_is_refused(shop: Path, tmp_path: Path) -> None:
    records = [{**record, "source": "one book"} for record in make_prompts(20)]
    with pytest.raises(DataError, match="or raise prompts"):
        prepare(load_recipe(written(tmp_path, shop, records, prompts={"heldout_percent": 1})))


def test_a_limit_draws_a_sample_that_stays_the_same(shop: Path, tmp_path: Path) -> None:
    path = written(tmp_path, shop, make_prompts(60), prompts={"limit": 30})
    assert prepare(load_recipe(path)).figures["beyond_limit"] == 30
    before = (tmp_path / "run/prompts/train.jsonl").read_text()
    prepare(load_recipe(path), restart=True)
    assert (tmp_path / "run/prompts/train.jsonl").read_text() == before
    numbers = [int(json.loads(line)["id"][1:]) for line in before.splitlines()]
    assert numbers == sorted(numbers)
    assert max(numbers) >= 30


def test_layers_and_mask_tokens_that_the_target_lacks_are_refused(shop: Path, tmp_path: Path) -> None:
    for layers, token, message in (([0, 2], None, "−1 to 1 can"), ([0], "<|no|>", "has no token '<|no|>'")):
        path = written(tmp_path, shop, [], drafter={"target_layer_ids": layers, "mask_token": token})
        with pytest.raises(RecipeError, match=message.replace("|", r"\|")):
            open_subject(load_recipe(path))
    named = written(tmp_path, shop, [], drafter={"mask_token": "<|mask|>"})
    free = written(tmp_path, shop, [], drafter={"mask_token": None}, output="o")
    assert open_subject(load_recipe(free)).mask_token_id >= open_subject(load_recipe(named)).text.used_tokens


TEXT = "the quick brown fox jumps over the lazy dog while seven old iron engines cross the northern river at noon today"


@pytest.mark.parametrize(
    ("text", "new"),
    [
        (TEXT, False),
        (TEXT.upper() + "!", False),
        ("and " + TEXT, False),
        (TEXT.replace("seven", "eight"), True),
        ("short", True),
    ],
)
def test_near_duplicates(text: str, new: bool) -> None:
    index = DuplicateIndex(ngram=13, overlap=0.8)
    assert index.add(TEXT)
    assert index.add(text) is new


words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(words, max_size=12), ngram=st.integers(1, 4), overlap=st.sampled_from([0.3, 0.5, 1.0]))
def test_duplicates_are_what_comparing_every_pair_says(texts: list[list[str]], ngram: int, overlap: float) -> None:
    def shingles(text: list[str]) -> set[tuple[str, ...]]:
        return {tuple(text[i : i + ngram]) for i in range(max(1, len(text) - ngram + 1))}

    index, kept = DuplicateIndex(ngram, overlap), []
    for text in texts:
        own = shingles(text)
        new = all(len(own & other) < overlap * len(own) for other in kept)
        assert index.add(" ".join(text)) is new
        if new:
            kept.append(own)


def test_length_statistics() -> None:
    found = length_statistics([1, 2, 3, 4, 5, 64, 65])
    assert found["histogram"] == {"1-1": 1, "2-2": 1, "3-4": 2, "5-8": 1, "33-64": 1, "65-128": 1}
    assert (found["min"], found["median"], found["max"], found["sum"]) == (1, 4, 65, 144)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["messages", "prompt", "role", "content", "id", "source"]), x)))  # fmt: skip
def test_any_json_is_a_record_or_a_bad_one(value: Any) -> None:
    with suppress(BadRecord):
        record = parse_record(value)
        assert parse_record(json.loads(record.to_json(1))) == record
