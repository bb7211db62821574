"""Tokenizer, chat template, incremental detokenising, stop strings and tool calls: text at the edge, ids inside."""

from outrider.text.detokenize import Detokenizer
from outrider.text.grammar import Grammar, Matcher, check_constraint, compile_constraint
from outrider.text.model import TextModel
from outrider.text.stop import StopMatcher
from outrider.text.tools import CallDelta, CallParser, ToolFormat

__all__ = [
    "CallDelta",
    "CallParser",
    "Detokenizer",
    "Grammar",
    "Matcher",
    "StopMatcher",
    "TextModel",
    "ToolFormat",
    "check_constraint",
    "compile_constraint",
]
