"""A mask allows exactly the tokens by which some text of the grammar goes on."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.text import TextModel, compile_constraint
from outrider.types import Constraint
from support.texts import VOCAB, save_tokenizer
from support.tiny import make_target

WORDS = st.text("abhelo é🐟.", max_size=6)


@cache
def model() -> TextModel:
    """Bytes, merges of "hello" and its like, and three special tokens."""
    return TextModel.load(save_tokenizer(make_target(Path(mkdtemp(prefix="outrider-test-")) / "target", vocab=VOCAB)))


@cache
def pieces() -> tuple[bytes | None, ...]:
    """What each token stands for; None for special tokens and ids without one."""
    text = model()
    return tuple(None if i in text.special_ids else text.token_text(i) or None for i in range(VOCAB))


def expected(language: set[bytes], before: bytes) -> list[bool]:
    """Which tokens keep `before` a prefix of a member, by looking at every member."""
    return [piece is not None and any(each.startswith(before + piece) for each in language) for piece in pieces()]


@settings(max_examples=150, deadline=None)
@given(st.sets(WORDS, min_size=1, max_size=5), st.data())
def test_masks_of_a_finite_language_are_exact_along_any_draft(words: set[str], data: st.DataObject) -> None:
    language = {word.encode() for word in words}
    source = "|".join(re.escape(word) for word in sorted(words))
    matcher = compile_constraint(Constraint("regex", f"({source})"), model()).matcher()
    walked: list[int] = []
    before = b""
    for _ in range(data.draw(st.integers(0, 6))):
        onward = np.flatnonzero(expected(language, before))
        if not len(onward):
            break
        walked.append(int(data.draw(st.sampled_from(onward.tolist()))))
        before += pieces()[walked[-1]] or b""
    committed = data.draw(st.integers(0, len(walked)))
    assert matcher.consume(walked[:committed])
    draft = walked[committed:]
    for _ in range(2):  # looking along a draft leaves no trace
        allowed, may_end = matcher.masks(draft)
        for row in range(len(draft) + 1):
            prefix = b"".join(pieces()[token] or b"" for token in walked[: committed + row])
            assert allowed[row].tolist() == expected(language, prefix)
            assert bool(may_end[row]) == (prefix in language)
    strays = data.draw(st.lists(st.integers(0, VOCAB - 1), max_size=3))
    admissible = matcher.admissible([*draft, *strays])
    tokens = [*walked, *strays][: committed + admissible]
    spelt = b"".join(pieces()[token] or b"" for token in tokens)
    assert any(each.startswith(spelt) for each in language)
    assert admissible >= len(draft)
    left = [*draft, *strays][admissible:]
    assert not left or not expected(language, spelt)[left[0]]
