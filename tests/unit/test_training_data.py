"""The corpus: exact answers, an honest split, and windows that begin where requests do."""

from __future__ import annotations

import ast
import random
import re
from collections import Counter

import pytest

from outrider.training.data import Document, build_corpus, held_out_prompts
from outrider.training.data.document import split_of
from outrider.training.data.library import shorten, source_files
from outrider.training.data.maths import maths_documents
from outrider.training.data.prompts import calibration_records, prompt_records
from outrider.training.data.reading import reading_documents
from outrider.training.data.snippets import snippet_documents
from outrider.training.data.tasks import task_documents
from outrider.training.packing import pack_epoch


@pytest.fixture(scope="module")
def corpus_pair() -> tuple[object, object]:
    return build_corpus(0.004), build_corpus(0.004)


def test_sums_are_right() -> None:
    documents = maths_documents(400, random.Random(1))
    assert len({d.source for d in documents}) == 400
    for document in documents:
        for left, right in re.findall(r"(\d+ [-+*/] \d+(?: [-+*/] \d+)*) = (\d+)", document.response):
            assert eval(left) == int(right)
        assert re.findall(r"\d+", document.response)[-1] == document.answer


def test_snippets_parse_and_stories_of_one_kind_share_a_side() -> None:
    for document in snippet_documents(300, random.Random(2)):
        code = document.response.split("```python\n")[1].removesuffix("```")
        ast.parse(code)


def test_tasks_answer_exactly() -> None:
    for document in task_documents(200, random.Random(3)):
        question = document.prompt[0]["content"]
        if question.startswith("Sort these numbers"):
            numbers = [int(n) for n in re.findall(r"\d+", question)]
            assert document.answer == ", ".join(map(str, sorted(numbers)))
        if question.startswith("Reverse"):
            words = question.split(": ")[1].split(", ")
            assert document.answer == ", ".join(words[::-1])


def test_same_seed_same_corpus(corpus_pair: tuple[object, object]) -> None:
    first, second = corpus_pair
    assert first == second


def test_no_source_is_on_both_sides() -> None:
    corpus = build_corpus(0.02)
    trained = {d.source for d in corpus.train}
    assert not trained & {d.source for d in corpus.heldout}
    assert all(split_of(d.source) == "heldout" for d in corpus.heldout)
    prompts = held_out_prompts(corpus, 5)
    questions = [d.prompt[-1]["content"] for d in prompts]
    assert len(questions) == len(set(questions))
    assert {d.domain for d in prompts} == {"code", "maths", "prose"}
    assert all(len(q) <= 420 for q in questions)


def test_most_documents_are_conversations() -> None:
    train = build_corpus(0.02).train

    def size(document: Document) -> int:
        return len(document.text) + sum(len(m["content"]) for m in document.messages)

    spoken = sum(size(d) for d in train if d.messages)
    assert spoken >= 0.6 * sum(map(size, train))


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("One.\n\nTwo.", 100, "One.\n\nTwo."),
        ("One.\n\nTwo two two.", 8, "One."),
        ("First sentence. Second one is long.", 20, "First sentence."),
    ],
)
def test_shorten_keeps_whole_pieces(text: str, limit: int, expected: str) -> None:
    assert shorten(text, limit) == expected


def test_windows_start_with_documents_and_are_shuffled_by_seed() -> None:
    documents = [[100 * i + j for j in range(7)] for i in range(30)]
    windows = pack_epoch(documents, window=15, seed=1)
    assert windows.shape[1] == 16
    assert all(row[0] % 100 == 0 for row in windows.tolist())
    assert windows.tolist() == pack_epoch(documents, window=15, seed=1).tolist()
    assert windows.tolist() != pack_epoch(documents, window=15, seed=2).tolist()
    assert pack_epoch([[1, 2]], window=5, seed=0).tolist() == [[1, 2, 1, 2, 1, 2]]


def test_reading_answers_stand_in_the_passage() -> None:
    documents = reading_documents(400, random.Random(3), stride=12)
    assert len({d.prompt[-1]["content"].rsplit("\n\n", 1)[1].split()[0] for d in documents}) >= 2
    for document in documents:
        passage, _, question = document.prompt[-1]["content"].rpartition("\n\n")
        assert document.answer is not None
        if question.startswith("How many arguments"):
            header = next(line for line in passage.splitlines() if line.startswith("def "))
            function = ast.parse(f"{header} ...").body[0]
            assert isinstance(function, ast.FunctionDef)
            assert int(document.answer) == len(function.args.args)
        else:
            assert document.answer.strip("`") in passage
    assert {d.source for d in documents} <= {f.module for f in source_files(12)}


def test_prompt_records_are_distinct_and_split_as_the_corpus_is() -> None:
    corpus = build_corpus(0.02)
    records = list(prompt_records(corpus, 60, 5))
    held_out = {d.prompt[-1]["content"] for d in corpus.heldout if d.messages}
    assert {r["domain"] for r in records} == {"code", "maths", "prose", "tasks"}
    assert len({r["id"] for r in records}) == len(records)
    for record in records:
        question = record["messages"][-1]["content"]
        assert (split_of(record["source"]) == "heldout") == (question in held_out) or record["source"] == "greetings"
        assert record["license"] in ("PSF-2.0", "Apache-2.0")


def test_calibration_asks_of_held_out_sources_what_no_figure_uses() -> None:
    corpora = [build_corpus(0.02, seed) for seed in (1, 2)]
    alone = list(calibration_records(corpora[:1], 1000, 5))
    records = list(calibration_records(corpora, 1000, 5))
    assert len(records) > 1.3 * len(alone)
    assert len({record["id"] for record in records}) == len(records)
    questions = [record["messages"][-1]["content"] for record in records]
    assert len(set(questions)) == len(questions)
    trained = {document.source for document in (*corpora[0].train, *corpora[0].final)}
    assert not {record["source"] for record in records} & trained
    assert not {*questions} & {document.prompt[-1]["content"] for document in held_out_prompts(corpora[0], 5)}
    few = list(calibration_records(corpora, 3, 5))
    assert Counter(record["domain"] for record in few) == dict.fromkeys(("code", "maths", "prose", "tasks"), 3)
