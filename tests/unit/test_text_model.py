"""A model directory's text side: what loads, what is refused, what a conversation becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
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


def set_type(root: Path, model_type: str) -> None:
    """Name a family of which transformers would make an empty tokenizer out of nothing."""
    path = root / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": model_type}))


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


def test_a_base_model_without_a_template_takes_plain_text_only(tmp_path: Path) -> None:
    text = TextModel.load(write_model(tmp_path / "base", template=None))
    assert text.decode(text.encode("hello there")) == "hello there"
    with pytest.raises(
        InvalidRequest, match=r"model base has no chat template.*/v1/completions.*chat_template\.jinja"
    ) as caught:
        text.encode_chat([{"role": "user", "content": "hi"}])
    assert caught.value.param == "messages"


def test_a_text_begins_with_one_bos_plain_or_in_a_template_that_writes_its_own(tmp_path: Path) -> None:
    """As Llama and Gemma have it: the tokenizer puts <bos> before a text, and the template begins with it, too."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<bos>", "<eos>", "▁"], show_progress=False)
    tokenizer.train_from_iterator(["user hello hello there model"] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
    saved.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.role }} {{ m.content }}{% endfor %}"
    saved.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 120, "max_position_embeddings": 64}))
    text = TextModel.load(tmp_path)
    plain, chat = text.encode("hello there"), text.encode_chat([{"role": "user", "content": "hello"}])
    assert plain == saved("hello there").input_ids
    assert [ids.count(1) for ids in (plain, chat)] == [1, 1]
    assert plain[0] == chat[0] == 1
    assert text.decode(chat) == "user hello"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gpt2", "n_positions": 32}, (304, 32)),
        ({"model_type": "gemma3", "text_config": {"vocab_size": 77, "max_position_embeddings": 48}}, (77, 48)),
        ({"model_type": "llama"}, (304, 2048)),
    ],
)
def test_sizes_are_found_under_a_family_s_own_names(
    tmp_path: Path, config: dict[str, Any], expected: tuple[int, int]
) -> None:
    write_model(tmp_path, **config)
    held = json.loads((tmp_path / "config.json").read_text())
    gone = {"max_position_embeddings"} | ({"vocab_size"} if "text_config" in config else set())
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in held.items() if key not in gone}))
    text = TextModel.load(tmp_path)
    assert (text.vocab_size, text.context_tokens) == expected


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: (root / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda root: ((root / "tokenizer.json").unlink(), set_type(root, "qwen2")), "no tokenizer.json"),
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
