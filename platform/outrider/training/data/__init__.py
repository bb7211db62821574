"""Where the demo models' text comes from: this machine's Python library and generators with exact answers."""

from outrider.training.data.corpus import Corpus, build_corpus, held_out_prompts
from outrider.training.data.document import Document, Message

__all__ = ["Corpus", "Document", "Message", "build_corpus", "held_out_prompts"]
