"""Where a JSON value ends, found while it still grows."""

from __future__ import annotations

import re

__all__ = ["JsonEnd"]

_IN_TEXT = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')


class JsonEnd:
    """Counts brackets outside strings, from an opening one on; never looks at a character twice."""

    __slots__ = ("_at", "_depth", "_in_text")

    def __init__(self, start: int) -> None:
        """start: where the opening bracket stands in the text that `find` is given."""
        self._at = start
        self._depth = 0
        self._in_text = False

    def find(self, text: str) -> int | None:
        """The index after the closing bracket, None while there is none. text: as before, or longer."""
        while found := (_IN_TEXT if self._in_text else _OUTSIDE).search(text, self._at):
            character, self._at = found[0], found.end()
            if character == "\\":
                if self._at == len(text):
                    self._at -= 1  # what it escapes is still to come
                    return None
                self._at += 1
            elif character == '"':
                self._in_text = not self._in_text
            elif character in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return self._at
        self._at = max(self._at, len(text))
        return None
