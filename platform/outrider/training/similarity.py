"""Near-duplicates by shared word n-grams, through an inverted index of their hashes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

__all__ = ["DuplicateIndex"]

_WORD = re.compile(r"\w+")
_LONGEST_LIST = 256


class DuplicateIndex:
    """Finds the earlier text that shares at least `overlap` of a text's distinct n-grams of `ngram` words.

    Case and punctuation do not count; texts shorter than n words are compared as a whole. An n-gram that stands in
    256 texts is boilerplate: later texts are not listed under it, which bounds the work per n-gram.
    """

    def __init__(self, ngram: int, overlap: float) -> None:
        self._ngram = ngram
        self._overlap = overlap
        self._owners: dict[int, list[int]] = {}
        self._texts = 0

    def add(self, text: str) -> bool:
        """Keep a text, unless it repeats one that was kept before: True when it is new."""
        shingles = self._shingles(text)
        shared = Counter(owner for shingle in shingles for owner in self._owners.get(shingle, ()))
        if shared and max(shared.values()) >= self._overlap * len(shingles):
            return False
        for shingle in shingles:
            owners = self._owners.setdefault(shingle, [])
            if len(owners) < _LONGEST_LIST:
                owners.append(self._texts)
        self._texts += 1
        return True

    def _shingles(self, text: str) -> set[int]:
        words = _WORD.findall(text.lower()) or [text.strip()]
        count = max(1, len(words) - self._ngram + 1)
        joined = (" ".join(words[i : i + self._ngram]) for i in range(count))
        return {
            int.from_bytes(hashlib.blake2b(each.encode("utf-8", "replace"), digest_size=8).digest()) for each in joined
        }
