"""Questions about a passage of documentation whose short answer stands in the passage itself, found by rule."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from outrider.training.data.document import Document, chat
from outrider.training.data.library import functions, shorten, source_files

__all__ = ["reading_documents"]

MAX_PASSAGE_CHARS = 320
MIN_PASSAGE_CHARS = 60
MAX_ANSWER_WORDS = 9

ASK_FIRST = (
    "Read this documentation and answer briefly.",
    "Answer from this documentation.",
    "Use the text to answer.",
)
ORDINALS = ("first", "second", "third", "fourth")
RETURNS = re.compile(r"\b[Rr]eturns?:? ((?:the|a|an|True|False|None|all|whether|whatever)\b[^.;:,()\n]*)")
RAISES = re.compile(
    r"\b[Rr]aises?:?\s+(?:an?\s+|the\s+)?`*([A-Z]\w*(?:Error|Exception|Exit|Stop\w*|Warning|Empty|Full))\b"
)


@dataclass(frozen=True, slots=True)
class _Passage:
    """A documented function: its name, its own arguments with their defaults, and the text shown."""

    name: str
    arguments: tuple[str, ...]
    defaults: dict[str, str]
    doc: str


Question = tuple[str, str]
Asker = Callable[[_Passage, random.Random], Question | None]


def _argument(passage: _Passage, rng: random.Random) -> Question | None:
    if not passage.arguments:
        return None
    index = rng.randrange(min(len(passage.arguments), len(ORDINALS)))
    return f"What is the {ORDINALS[index]} argument of `{passage.name}` called?", f"`{passage.arguments[index]}`"


def _default(passage: _Passage, rng: random.Random) -> Question | None:
    short = sorted(name for name, value in passage.defaults.items() if len(value) <= 16)
    if not short:
        return None
    name = rng.choice(short)
    return f"What is the default of `{name}`?", f"`{passage.defaults[name]}`"


def _count(passage: _Passage, _rng: random.Random) -> Question:
    return f"How many arguments does `{passage.name}` take?", str(len(passage.arguments))


def _returns(passage: _Passage, _rng: random.Random) -> Question | None:
    found = RETURNS.search(passage.doc)
    answer = found.group(1).strip() if found else ""
    if not 2 <= len(answer.split()) <= MAX_ANSWER_WORDS:
        return None
    return f"What does `{passage.name}` return?", answer


def _raises(passage: _Passage, _rng: random.Random) -> Question | None:
    found = RAISES.search(passage.doc)
    return (f"Which exception does `{passage.name}` raise?", f"`{found.group(1)}`") if found else None


def _goes_on(passage: _Passage, rng: random.Random) -> Question | None:
    words = passage.doc.split()
    starts = [i for i in range(len(words) - 5) if passage.doc.count(" ".join(words[i : i + 3])) == 1]
    if not starts:
        return None
    start = rng.choice(starts)
    given, following = " ".join(words[start : start + 3]), " ".join(words[start + 3 : start + 6])
    return f'Which three words come after "{given}"?', following


ASKERS: tuple[Asker, ...] = (_argument, _default, _count, _returns, _raises, _goes_on)


def reading_documents(count: int, rng: random.Random, stride: int = 1) -> list[Document]:
    """At most `count` conversations; the split key is the library module the passage was taken from."""
    documents: list[Document] = []
    for file in source_files(stride):
        for passage in _passages(file.tree):
            asked = [found for ask in ASKERS if (found := ask(passage, rng)) is not None]
            shown = f"def {passage.name}({_signature(passage)}):\n    {passage.doc}"
            for question, answer in asked:
                body = f"{rng.choice(ASK_FIRST)}\n\n{shown}\n\n{question}"
                documents.append(chat("prose", "reading", file.module, body, answer, answer=answer))
    rng.shuffle(documents)
    return documents[:count]


def _passages(tree: ast.Module) -> Iterator[_Passage]:
    for name, node in functions(tree):
        docstring = ast.get_docstring(node)
        if not isinstance(node, ast.FunctionDef) or not docstring:
            continue
        doc = " ".join(shorten(docstring, MAX_PASSAGE_CHARS).split())
        given = node.args
        named = [*given.posonlyargs, *given.args]
        arguments = [a.arg for a in named if a.arg not in ("self", "cls")]
        if len(doc) < MIN_PASSAGE_CHARS or len(arguments) > 6 or given.vararg or given.kwarg or given.kwonlyargs:
            continue
        with_default = named[len(named) - len(given.defaults) :]
        defaults = {a.arg: ast.unparse(value) for a, value in zip(with_default, given.defaults, strict=True)}
        yield _Passage(name.rpartition(".")[2], tuple(arguments), defaults, doc)


def _signature(passage: _Passage) -> str:
    return ", ".join(f"{a}={passage.defaults[a]}" if a in passage.defaults else a for a in passage.arguments)
