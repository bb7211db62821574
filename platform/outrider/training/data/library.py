"""Text found on any machine: the standard library's sources, its docstrings and pydoc's language topics."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from outrider.training.data.document import Document, chat

__all__ = ["functions", "library_documents", "shorten", "source_files"]

SKIPPED_PARTS = frozenset(
    ("test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "lib2to3", "__pycache__",
     "pydoc_data", "turtledemo", "ensurepip", "msilib")
)  # fmt: skip
MAX_FILE_BYTES = 240_000
WINDOW_CHARS = 1400
PLAIN_CODE_SHARE = 0.35  # the rest would drown the conversations: plain sources are 9 of 22 MB
MAX_RESPONSE_CHARS = 620
MIN_RESPONSE_CHARS = 60

COMPLETE = ("Complete this Python function:", "Finish this function:", "Write the body of this Python function:")
EXPLAIN = ("Explain `{}`.", "What does `{}` do?", "Describe `{}`.")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A library module: its dotted name, its text and its parsed tree."""

    module: str
    text: str
    tree: ast.Module


@cache
def source_files(stride: int) -> tuple[SourceFile, ...]:
    """Every `stride`-th of the library's parseable modules, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[SourceFile] = []
    for path in sorted(root.rglob("*.py"))[::stride]:
        relative = path.relative_to(root)
        if SKIPPED_PARTS.intersection(relative.parts) or path.stat().st_size > MAX_FILE_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (UnicodeDecodeError, SyntaxError):
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        found.append(SourceFile(module, text, tree))
    return tuple(found)


def library_documents(domain: str, rng: random.Random, scale: float = 1.0) -> list[Document]:
    """What (a share `scale` of) the library offers for `code` (some of it as plain text) or `prose`, in file order."""
    documents: list[Document] = []
    stride = max(1, round(1 / scale))
    for file in source_files(stride):
        if domain == "code":
            documents.extend(window for window in _code_windows(file) if rng.random() < PLAIN_CODE_SHARE)
            documents.extend(_completions(file, rng))
        else:
            documents.extend(_explanations(file, rng))
    if domain == "prose":
        documents.extend(_topics(rng, stride))
    return documents


def _code_windows(file: SourceFile) -> Iterator[Document]:
    """Plain stretches of source of about `WINDOW_CHARS`, cut at line ends, without licence headers."""
    lines: list[str] = []
    size = 0
    for line in file.text.splitlines(keepends=True):
        lines.append(line)
        size += len(line)
        if size >= WINDOW_CHARS:
            yield Document("code", "library", file.module, text="".join(lines))
            lines, size = [], 0
    if size > 200:
        yield Document("code", "library", file.module, text="".join(lines))


def functions(
    tree: ast.Module,
) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Qualified names and nodes of functions, methods and classes down to one level of nesting."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield node.name, node
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def _completions(file: SourceFile, rng: random.Random) -> Iterator[Document]:
    """A signature (with its docstring's first line, if any) as the question; the whole function as the answer."""
    lines = file.text.splitlines()
    for _, node in functions(file.tree):
        if not isinstance(node, ast.FunctionDef) or node.end_lineno is None:
            continue
        docstring = ast.get_docstring(node)
        body = node.body[1:] if docstring else node.body
        if not body:
            continue
        header = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])).strip()
        code = textwrap.dedent("\n".join(lines[body[0].lineno - 1 : node.end_lineno])).strip("\n")
        if not header.startswith("def ") or not 30 <= len(code) <= 450 or len(header) > 160:
            continue
        summary = docstring.strip().splitlines()[0][:110] if docstring else ""
        shown = f'{header}\n    """{summary}"""' if summary else header
        answer = f"{header}\n{textwrap.indent(code, '    ')}"
        question = f"{rng.choice(COMPLETE)}\n```python\n{shown}\n```"
        yield chat("code", "completion", file.module, question, f"```python\n{answer}\n```")


def _explanations(file: SourceFile, rng: random.Random) -> Iterator[Document]:
    """Docstrings: some as answers to `Explain ...`, long ones as plain text too."""
    module_doc = ast.get_docstring(file.tree)
    if module_doc and len(module_doc) >= MIN_RESPONSE_CHARS:
        question = f"What is the `{file.module}` module for?"
        yield chat("prose", "docstring", file.module, question, shorten(module_doc))
        if len(module_doc) > MAX_RESPONSE_CHARS:
            yield Document("prose", "docstring", file.module, text=module_doc[: 3 * WINDOW_CHARS])
    for name, node in functions(file.tree):
        docstring = ast.get_docstring(node)
        if not docstring or len(docstring) < MIN_RESPONSE_CHARS:
            continue
        question = rng.choice(EXPLAIN).format(f"{file.module}.{name}")
        yield chat("prose", "docstring", file.module, question, shorten(docstring))


def _topics(rng: random.Random, stride: int) -> Iterator[Document]:
    """The language reference as pydoc carries it: first paragraphs as answers, all of it as plain text."""
    from pydoc_data.topics import topics

    for key in sorted(topics)[::stride]:
        text = re.sub(r"[“”]", '"', topics[key]).replace("’", "'").replace("‘", "'").replace("…", "...")
        title, _, body = text.partition("\n")
        body = re.sub(r"^[*=~-]+\n+", "", body)
        source = f"topic:{key}"
        subject = title.strip().strip("*")
        question = rng.choice(("Tell me about: {}.", "Explain this topic of the Python language: {}.")).format(subject)
        yield chat("prose", "topic", source, question, shorten(body))
        paragraphs = [p for p in body.split("\n\n") if p.strip()]
        window: list[str] = []
        for paragraph in paragraphs:
            window.append(paragraph)
            if sum(map(len, window)) > WINDOW_CHARS:
                yield Document("prose", "topic", source, text="\n\n".join(window))
                window = []
        if window:
            yield Document("prose", "topic", source, text="\n\n".join(window))


def shorten(text: str, limit: int = MAX_RESPONSE_CHARS) -> str:
    """Whole paragraphs, or failing that whole sentences, up to `limit` characters; at least one piece."""
    paragraphs = [p.strip("\n") for p in re.split(r"\n\s*\n", text.strip()) if p.strip()]
    kept = paragraphs[0]
    for paragraph in paragraphs[1:]:
        if len(kept) + len(paragraph) + 2 > limit:
            break
        kept = f"{kept}\n\n{paragraph}"
    if len(kept) <= limit:
        return kept
    cut = kept[:limit]
    end = max(cut.rfind(". "), cut.rfind(".\n"), cut.rfind("\n"))
    return cut[: end + 1].rstrip() if end > limit // 3 else cut.rsplit(" ", 1)[0]
