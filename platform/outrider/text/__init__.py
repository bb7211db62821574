"""Tokenizer, chat template, incremental detokenising and stop strings: text at the edge, token ids inside."""

from outrider.text.detokenize import Detokenizer
from outrider.text.model import TextModel
from outrider.text.stop import StopMatcher

__all__ = ["Detokenizer", "StopMatcher", "TextModel"]
