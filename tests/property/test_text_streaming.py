"""However a stream is cut into chunks, the text that leaves is the text of the whole."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from outrider.text import StopMatcher
from outrider.text.detokenize import ByteLevelDetokenizer, Detokenizer, WindowDetokenizer, token_bytes

CORPUS = ["the cat naïvely — ate 42 fish 🐟🐟 in 東京 日本語 👩‍👩‍👧", "def f(x):\n    return x ** 2\n"] * 3
SPECIALS = ["<|endoftext|>", "<|im_end|>"]


@cache
def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<think>", "two words"])
    return tokenizer


@cache
def pieces() -> tuple[bytes, ...]:
    tokenizer = byte_level()
    names = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    return tuple(b"" if name in SPECIALS else token_bytes(name) for name in names)


@cache
def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(["the cat ate fish in tokyo"] * 3, trainer)
    tokenizer.add_tokens(bytes_)
    return tokenizer


def cut(sequence: Any, points: list[int]) -> list[Any]:
    edges = sorted({0, len(sequence), *(min(point, len(sequence)) for point in points)})
    return [sequence[start:end] for start, end in pairwise(edges)]


def stream(detokenizer: Detokenizer, chunks: list[list[int]]) -> list[str]:
    return [*(detokenizer.push(chunk) for chunk in chunks), detokenizer.flush()]


cuts = st.lists(st.integers(0, 60), max_size=8)


@given(ids=st.lists(st.integers(0, 331), max_size=40), points=cuts)
def test_any_ids_in_any_chunks_give_what_the_tokenizer_gives_at_once(ids: list[int], points: list[int]) -> None:
    streamed = "".join(stream(ByteLevelDetokenizer(pieces()), cut(ids, points)))
    assert streamed == byte_level().decode(ids, skip_special_tokens=True)


@given(text=st.text(max_size=30), points=cuts)
def test_text_survives_encoding_and_streaming_without_a_replacement_character(text: str, points: list[int]) -> None:
    ids = byte_level().encode(text, add_special_tokens=False).ids
    parts = stream(ByteLevelDetokenizer(pieces()), cut(ids, points))
    assert "".join(parts) == text
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


@given(words=st.lists(st.sampled_from(["the", "cat", "fish", "é", "東京", "🐟", "  "]), max_size=8), points=cuts)
def test_window_decoding_matches_a_sentencepiece_like_decoder(words: list[str], points: list[int]) -> None:
    tokenizer = metaspace()
    ids = tokenizer.encode(" ".join(words)).ids
    window = WindowDetokenizer(lambda part: tokenizer.decode(list(part), skip_special_tokens=True))
    assert "".join(stream(window, cut(ids, points))) == tokenizer.decode(ids, skip_special_tokens=True)


letters = st.text(alphabet="ab\n", max_size=24)
stop_strings = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), min_size=1, max_size=4)


def cut_at_once(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The rule in one line: the stop string with the smallest end, then the longest."""
    found = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in stops if stop in text]
    return (text, None) if not found else (text[: min(found)[1]], min(found)[2])


@given(text=letters, stops=stop_strings, points=cuts)
def test_stop_strings_cut_the_same_text_in_any_chunks(text: str, stops: list[str], points: list[int]) -> None:
    matcher = StopMatcher(stops)
    released = "".join([matcher.push(chunk) for chunk in cut(text, points)])
    released += "" if matcher.matched else matcher.flush()
    assert (released, matcher.matched) == cut_at_once(text, stops)


@given(text=letters, stops=stop_strings)
def test_everything_that_cannot_begin_a_stop_string_is_released_at_once(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    released = ""
    for end in range(1, len(text) + 1):
        released += matcher.push(text[end - 1])
        if matcher.matched:
            return
        held = text[len(released) : end]
        assert not held or any(stop.startswith(held) for stop in stops)
