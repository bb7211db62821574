"""The `outrider` command as a person meets it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from outrider.cli.main import main

__all__ = ["Ran"]


class Ran:
    """What a command left behind: exit code, output, errors."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        self.code = end.value.code or 0
        self.out, self.err = capsys.readouterr()

    def json(self) -> Any:
        """The output as JSON."""
        return json.loads(self.out)

    def lines(self) -> Sequence[str]:
        """The output's lines."""
        return self.out.splitlines()
