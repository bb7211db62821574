"""Whatever the text, its stop string and the rounds it comes in: log-probabilities spell what was released."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider import demo_models
from outrider.gateway.logprobs import LogprobTrack, prompt_places
from outrider.text import StopMatcher, TextModel
from outrider.types import TokenLogprob


@pytest.fixture(scope="module")
def text() -> TextModel:
    return TextModel.load(Path(demo_models.path("flash")))


written = st.text(alphabet="ab \n🐟é{}", max_size=30)


@given(answer=written, stop=st.none() | st.text(alphabet="ab \n🐟é", min_size=1, max_size=3), data=st.data())
def test_entries_spell_the_released_text(text: TextModel, answer: str, stop: str | None, data: st.DataObject) -> None:
    ids = text.encode(answer, add_special_tokens=False)
    entries = [TokenLogprob(token, -float(place)) for place, token in enumerate(ids)]
    track, matcher = LogprobTrack(text.detokenizer()), StopMatcher([stop] if stop else [])
    released, told, at = "", [], 0
    while at < len(ids) and matcher.matched is None:
        upto = data.draw(st.integers(at + 1, len(ids)))
        released += matcher.push(track.push(ids[at:upto], entries[at:upto]))
        told += track.released(len(released))
        at = upto
    if matcher.matched is None:
        released += matcher.push(track.flush()) + matcher.flush()
        told += track.released(len(released))
    spelled = b"".join(text.token_text(place.token) for place in told)
    assert [place.entry for place in told] == entries[: len(told)]
    if matcher.matched is None:
        assert released == answer
        assert spelled == answer.encode()
    else:
        assert released == answer[: answer.index(matcher.matched)]
        assert released.encode().startswith(spelled)
        assert not released.encode().startswith(spelled + text.token_text(ids[len(told)]))
    for index, place in enumerate(told):
        before = b"".join(text.token_text(token) for token in ids[:index])
        assert place.offset == len(before.decode("utf-8", "ignore"))


@given(prompt=written)
def test_a_prompt_s_places_are_where_its_tokens_stand(text: TextModel, prompt: str) -> None:
    ids = text.encode(prompt, add_special_tokens=False)
    places = prompt_places(text, ids, [None, *(TokenLogprob(token, -1.0) for token in ids[1:])][: len(ids)])
    for place in places:
        spelled = text.token_text(place.token)
        try:
            assert prompt[place.offset :].startswith(spelled.decode())
        except UnicodeDecodeError:
            assert place.offset <= len(prompt)
