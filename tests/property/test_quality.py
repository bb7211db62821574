"""Assessing any text there is: probabilities stay probabilities, and the same text is assessed alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.quality import OTHER, Assessor, fit_assessor
from outrider.quality.features import SHAPES, features
from support.quality import FRUIT, make_pairs

PIECES = st.sampled_from(
    [*FRUIT, "How many", "times", "plus", "`f_3(items)`", "12", "9" * 5000, "\x00", "\ud800", "🙂", "é", "ſ", "İ", "\n"]
)
TEXTS = st.text() | st.lists(PIECES | st.text(max_size=6), max_size=30).map(" ".join)
TAGS = st.lists(st.sampled_from(["sums", "functions", "law", "x"]), max_size=3)


@pytest.fixture(scope="module")
def assessor() -> Assessor:
    return fit_assessor(make_pairs(300), {})


@given(text=TEXTS, tags=TAGS, known=st.sets(st.sampled_from(["law", "sums"])))
@settings(max_examples=400, deadline=None)
def test_any_text_is_assessed_within_bounds(assessor: Assessor, text: str, tags: list[str], known: set[str]) -> None:
    found = assessor.assess(text, tags, known)
    assert 0 <= found.domain_probability <= 1
    assert all(0 <= value <= 1 for value in found.success.values())
    assert set(found.success) in (set(), {"small", "large"})
    named = [tag for tag in tags if tag in {"sums", "functions"} | known]
    assert found.domain == named[0] if named else found.domain in ("sums", "functions", OTHER)
    if found.domain in (OTHER, "law"):
        assert not found.success
    assert assessor.assess(text, tags, known) == found


@given(text=TEXTS)
@settings(max_examples=400, deadline=None)
def test_features_are_distinct_words_and_a_fixed_number_of_shapes(text: str) -> None:
    found = features(text).tolist()
    words = found[:-SHAPES]
    assert len(words) == len(set(words)) == len(found) - SHAPES
    assert features(text).tolist() == found
    assert set(features(text.upper() if text.isascii() else text)[:-SHAPES].tolist()) == set(words)


@given(piece=PIECES | st.text(min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_a_megabyte_costs_no_more_features_than_what_is_read_of_it(assessor: Assessor, piece: str) -> None:
    text = (piece * (1_000_000 // len(piece) + 1))[:1_000_000]
    assert len(features(text)) <= 3 * 4_001 + SHAPES
    assert 0 <= assessor.assess(text).domain_probability <= 1
