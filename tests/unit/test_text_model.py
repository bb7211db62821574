"""A model directory's text side: what loads, what is refused, what a conversation becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from outrider.errors import InvalidRequest, ModelDirectoryError
from outrider.text import StopMatcher, TextModel

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.content == 'refuse me' %}{{ raise_exception('not like this') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(root: Path, *, template: str | None = TEMPLATE, **config: Any) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user assistant system hello hello there"] * 4, trainer)
    saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    saved.chat_template = template
    saved.save_pretrained(root)
    (root / "config.json").write_text(json.dumps({"vocab_size": 304, "max_position_embeddings": 128} | config))
    return root


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def test_a_conversation_ends_where_the_answer_begins(directory: Path) -> None:
    text = TextModel.load(directory)
    ids = text.encode_chat([{"role": "user", "content": "hé 🐟"}])
    plain = text.decode(ids)
    assert plain == "user\nhé 🐟\nassistant\n"
    assert 1 in ids
    assert text.encode_chat([{"role": "user", "content": "hé"}]) != text.encode("hé")


def test_a_character_split_over_tokens_waits_for_its_last_byte(directory: Path) -> None:
    text = TextModel.load(directory)
    ids = text.encode("🐟")
    assert len(ids) == 4
    detokenizer = text.detokenizer()
    assert [detokenizer.push([i]) for i in ids] == ["", "", "", "🐟"]
    assert detokenizer.push(ids[:2]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_ids_beyond_the_tokenizer_are_no_text(directory: Path) -> None:
    text = TextModel.load(directory)
    assert text.decode([*text.encode("ok"), 303, 5000, -1]) == "ok"


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [2, 0]}, {}, (2, 0)),
        ({"eos_token_id": 0}, {"eos_token_id": 2}, (0,)),
        ({}, {"eos_token_id": 0}, (0,)),
        (None, {}, (2,)),
    ],
)
def test_end_tokens_come_from_the_most_specific_file(
    tmp_path: Path, generation: dict[str, Any] | None, config: dict[str, Any], expected: tuple[int, ...]
) -> None:
    write_model(tmp_path, **config)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    text = TextModel.load(tmp_path)
    assert (text.eos_token_ids, text.context_tokens, text.vocab_size) == (expected, 128, 304)


def test_equal_tokenizers_share_a_fingerprint_and_others_do_not(tmp_path: Path) -> None:
    first = TextModel.load(write_model(tmp_path / "a"))
    second = TextModel.load(write_model(tmp_path / "b", max_position_embeddings=64))
    third = TextModel.load(write_model(tmp_path / "c", template=TEMPLATE + " "))
    assert first.fingerprint == second.fingerprint != third.fingerprint


def test_a_template_that_refuses_is_the_request_s_fault(directory: Path) -> None:
    with pytest.raises(InvalidRequest, match="not like this") as caught:
        TextModel.load(directory).encode_chat([{"role": "user", "content": "refuse me"}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: (root / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda root: (root / "chat_template.jinja").unlink(), "no chat template"),
        (lambda root: (root / "config.json").unlink(), "no config.json"),
        (lambda root: (root / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda root: (root / "config.json").write_text("[]"), "JSON object"),
        (lambda root: (root / "config.json").write_text('{"vocab_size": 304}'), "max_position_embeddings"),
        (lambda root: (root / "tokenizer.json").write_text("{}"), "no tokenizer"),
    ],
)
def test_an_incomplete_directory_is_refused_by_name(directory: Path, spoil: Any, says: str) -> None:
    spoil(directory)
    with pytest.raises(ModelDirectoryError, match=says) as caught:
        TextModel.load(directory)
    assert str(directory) in str(caught.value)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="does not exist"):
        TextModel.load(tmp_path / "absent")


def test_nothing_is_released_after_a_stop_string() -> None:
    matcher = StopMatcher(["END", "\n\n"])
    assert [matcher.push(part) for part in ("one E", "N", "two EN", "D three", "four")] == [
        "one ",
        "",
        "ENtwo ",
        "",
        "",
    ]
    assert matcher.matched == "END"


def test_held_text_comes_out_at_the_end() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("the EN") == "the "
    assert (matcher.flush(), matcher.flush(), matcher.matched) == ("EN", "", None)
