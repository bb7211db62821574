"""What a prompt looks like, as hashed words, pairs of words and shapes: cheap, and the same in every process."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEATURES", "SHAPES", "WEIGHTS", "Hashes", "Rows", "features"]

FEATURES = 1
"""Version of what `features` gives; weights fitted on another one mean nothing."""
WEIGHTS = 1 << 14
"""Slots that hashes are folded into where weights are kept."""

SHAPES = 8
"""Of a prompt's features, how many of the last ones tell its shape, whatever its words."""

HEAD_CHARS, TAIL_CHARS = 3_000, 1_000
"""What is read of a long prompt: questions stand at its ends, and the cost stays bounded."""
_TOKEN = re.compile(rb"[0-9]+|[a-z\x80-\xff]+|[^\sa-z0-9\x80-\xff]")
_PAIR, _SHAPE = 0x9E3779B9, 0x85EBCA6B
_LARGEST_LITERAL = 2

Hashes = NDArray[np.uint32]


def features(text: str) -> Hashes:
    """Distinct 32-bit hashes of a prompt's words and neighbouring words as they appear, then SHAPES of its shape.

    Numbers are known by their length, in pairs and alone, and up to two digits by their value too. CRC-32 because it
    does not depend on the process (`hash` does) and costs 0.1 µs.
    """
    read = text if len(text) <= HEAD_CHARS + TAIL_CHARS else f"{text[:HEAD_CHARS]} {text[-TAIL_CHARS:]}"
    crc = zlib.crc32
    found: dict[int, None] = {}
    numbers = longest = 0
    before = _PAIR
    for token in _TOKEN.findall(read.lower().encode("utf-8", "surrogatepass")):
        if token[0] < 58 and token.isdigit():
            digits = len(token)
            numbers, longest = numbers + 1, max(longest, digits)
            if digits <= _LARGEST_LITERAL:
                found[crc(token)] = None
            token = b"#%d" % min(digits, 9)
        here = crc(token)
        found[here] = None
        found[crc(token, before)] = None
        before = here ^ _PAIR
    shapes = (crc(shape, _SHAPE) for shape in _shapes(text, read, len(found), numbers, longest))
    return np.fromiter((*found, *shapes), np.uint32, len(found) + SHAPES)


def _shapes(text: str, read: str, distinct: int, numbers: int, longest: int) -> tuple[bytes, ...]:
    """Sizes in steps of half a power of two, counts up to nine, and whether there is code or another script."""
    return (
        b"chars %d" % _step(len(text)),
        b"features %d" % _step(distinct),
        b"lines %d" % min(read.count("\n"), 9),
        b"numbers %d" % min(numbers, 9),
        b"longest number %d" % min(longest, 9),
        b"commas %d" % min(read.count(","), 9),
        b"code %d" % (("`" in read) + 2 * ("def " in read or "class " in read or "{" in read)),
        b"ascii %d" % read.isascii(),
    )


def _step(count: int) -> int:
    return (count * count).bit_length()


@dataclass(frozen=True, slots=True)
class Rows:
    """Many prompts' features as one sparse matrix: row r holds slots[starts[r]:starts[r + 1]], each worth scale[r].

    A row's length is 1, so that long prompts do not count for more than short ones.
    """

    slots: NDArray[np.int64]
    starts: NDArray[np.int64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, hashed: Sequence[Hashes]) -> Rows:
        """Rows of at least one prompt."""
        lengths = np.array([len(each) for each in hashed], np.int64)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        slots = (np.concatenate(hashed) & np.uint32(WEIGHTS - 1)).astype(np.int64)
        return cls(slots, starts, 1 / np.sqrt(lengths))

    def times(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Matrix product with weights [WEIGHTS, outputs]: [rows, outputs]."""
        return np.add.reduceat(weights[self.slots], self.starts, axis=0) * self.scale[:, None]

    def transposed_times(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Product of the transposed matrix with values [rows, outputs]: [WEIGHTS, outputs]."""
        lengths = np.diff(self.starts, append=len(self.slots))
        spread = np.repeat(values * self.scale[:, None], lengths, axis=0)
        columns = [np.bincount(self.slots, spread[:, c], WEIGHTS) for c in range(values.shape[1])]
        return np.stack(columns, axis=1)
