"""Negative controls of state machines: a part that is broken on purpose must be caught, the same way every time."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

__all__ = ["assert_caught"]


def assert_caught(
    machine: type[RuleBasedStateMachine], usual: settings, words: str, *, examples: int, **broken: type
) -> None:
    """broken: the machine's attributes with the broken parts; words: of the invariant that must be the one to fail."""
    found = settings(usual, max_examples=examples, database=None, derandomize=True, phases=[Phase.generate])
    with pytest.raises(AssertionError, match=words):
        run_state_machine_as_test(type("Broken", (machine,), dict(broken)), settings=found)
