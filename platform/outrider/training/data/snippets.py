"""Generated programming tasks: a short request and the Python function that answers it, from templates."""

# ruff: noqa: E501 — templates are read side by side, one to a line

from __future__ import annotations

import random
from dataclasses import dataclass

from outrider.training.data.document import Document, chat

__all__ = ["snippet_documents"]


@dataclass(frozen=True, slots=True)
class Snippet:
    """`goal` completes "Write a Python function `name(...)` that ..."; `{x}`, `{y}`, `{n}` are filled in."""

    name: str
    arguments: str
    goal: str
    body: str


LISTS = ("items", "values", "numbers", "data", "elements", "results")
TEXTS = ("text", "word", "line", "name", "message")
PAIRS = (("a", "b"), ("x", "y"), ("left", "right"), ("first", "second"))

SNIPPETS = (
    Snippet("add_{n}", "{x}", "adds {n} to {x}", "return {x} + {n}"),
    Snippet("multiply_by_{n}", "{x}", "multiplies {x} by {n}", "return {x} * {n}"),
    Snippet("is_multiple_of_{n}", "{x}", "tells whether {x} is a multiple of {n}", "return {x} % {n} == 0"),
    Snippet("add", "{x}, {y}", "returns the sum of {x} and {y}", "return {x} + {y}"),
    Snippet("subtract", "{x}, {y}", "returns the difference of {x} and {y}", "return {x} - {y}"),
    Snippet("divide", "{x}, {y}", "divides {x} by {y} and refuses zero",
            'if {y} == 0:\n    raise ValueError("{y} must not be zero")\nreturn {x} / {y}'),
    Snippet("maximum", "{x}, {y}", "returns the larger of {x} and {y}", "if {x} > {y}:\n    return {x}\nreturn {y}"),
    Snippet("minimum", "{x}, {y}", "returns the smaller of {x} and {y}", "if {x} < {y}:\n    return {x}\nreturn {y}"),
    Snippet("swap", "{x}, {y}", "returns {x} and {y} in the opposite order", "return {y}, {x}"),
    Snippet("total", "{l}", "returns the sum of {l}",
            "total = 0\nfor item in {l}:\n    total += item\nreturn total"),
    Snippet("product", "{l}", "returns the product of {l}",
            "result = 1\nfor item in {l}:\n    result *= item\nreturn result"),
    Snippet("count_above_{n}", "{l}", "counts the {l} greater than {n}",
            "count = 0\nfor item in {l}:\n    if item > {n}:\n        count += 1\nreturn count"),
    Snippet("keep_above_{n}", "{l}", "keeps only the {l} greater than {n}", "return [item for item in {l} if item > {n}]"),
    Snippet("keep_below_{n}", "{l}", "keeps only the {l} smaller than {n}", "return [item for item in {l} if item < {n}]"),
    Snippet("scale_by_{n}", "{l}", "multiplies each of the {l} by {n}", "return [item * {n} for item in {l}]"),
    Snippet("shift_by_{n}", "{l}", "adds {n} to each of the {l}", "return [item + {n} for item in {l}]"),
    Snippet("first_{n}", "{l}", "returns the first {n} {l}", "return {l}[:{n}]"),
    Snippet("last_{n}", "{l}", "returns the last {n} {l}", "return {l}[-{n}:]"),
    Snippet("every_{n}", "{l}", "returns every {n}th of the {l}", "return {l}[::{n}]"),
    Snippet("mean", "{l}", "returns the mean of {l}",
            'if not {l}:\n    raise ValueError("{l} must not be empty")\nreturn sum({l}) / len({l})'),
    Snippet("largest", "{l}", "finds the largest of the {l}",
            "best = {l}[0]\nfor item in {l}[1:]:\n    if item > best:\n        best = item\nreturn best"),
    Snippet("smallest", "{l}", "finds the smallest of the {l}",
            "best = {l}[0]\nfor item in {l}[1:]:\n    if item < best:\n        best = item\nreturn best"),
    Snippet("reverse", "{l}", "returns the {l} in reverse order", "return {l}[::-1]"),
    Snippet("unique", "{l}", "removes duplicates from {l} and keeps the order",
            "seen = set()\nresult = []\nfor item in {l}:\n    if item not in seen:\n        seen.add(item)\n"
            "        result.append(item)\nreturn result"),
    Snippet("chunks_of_{n}", "{l}", "splits {l} into chunks of {n}",
            "return [{l}[i : i + {n}] for i in range(0, len({l}), {n})]"),
    Snippet("index_of", "{l}, target", "returns the position of target in {l}, or -1",
            "for index, item in enumerate({l}):\n    if item == target:\n        return index\nreturn -1"),
    Snippet("contains", "{l}, target", "tells whether target is among the {l}",
            "for item in {l}:\n    if item == target:\n        return True\nreturn False"),
    Snippet("count_items", "{l}", "counts how often each of the {l} occurs",
            "counts = {}\nfor item in {l}:\n    counts[item] = counts.get(item, 0) + 1\nreturn counts"),
    Snippet("squares", "{l}", "returns the squares of {l}", "return [item ** 2 for item in {l}]"),
    Snippet("evens", "{l}", "returns the even {l}", "return [item for item in {l} if item % 2 == 0]"),
    Snippet("odds", "{l}", "returns the odd {l}", "return [item for item in {l} if item % 2 == 1]"),
    Snippet("running_total", "{l}", "returns the running totals of {l}",
            "totals = []\ntotal = 0\nfor item in {l}:\n    total += item\n    totals.append(total)\nreturn totals"),
    Snippet("count_vowels", "{t}", "counts the vowels in {t}",
            'count = 0\nfor letter in {t}.lower():\n    if letter in "aeiou":\n        count += 1\nreturn count'),
    Snippet("is_palindrome", "{t}", "tells whether {t} reads the same backwards", "return {t} == {t}[::-1]"),
    Snippet("count_words", "{t}", "counts the words in {t}", "return len({t}.split())"),
    Snippet("capitalize_words", "{t}", "capitalizes every word of {t}",
            'return " ".join(part.capitalize() for part in {t}.split())'),
    Snippet("repeat_{n}", "{t}", "repeats {t} {n} times", "return {t} * {n}"),
    Snippet("shorten_to_{n}", "{t}", "cuts {t} after {n} characters",
            'if len({t}) <= {n}:\n    return {t}\nreturn {t}[:{n}] + "..."'),
    Snippet("remove_spaces", "{t}", "removes the spaces from {t}", 'return {t}.replace(" ", "")'),
    Snippet("factorial", "n", "returns the factorial of n",
            "result = 1\nfor i in range(2, n + 1):\n    result *= i\nreturn result"),
    Snippet("fibonacci", "n", "returns the n-th Fibonacci number",
            "a, b = 0, 1\nfor _ in range(n):\n    a, b = b, a + b\nreturn a"),
    Snippet("is_prime", "n", "tells whether n is a prime number",
            "if n < 2:\n    return False\nfor i in range(2, int(n ** 0.5) + 1):\n    if n % i == 0:\n"
            "        return False\nreturn True"),
    Snippet("gcd", "{x}, {y}", "returns the greatest common divisor of {x} and {y}",
            "while {y}:\n    {x}, {y} = {y}, {x} % {y}\nreturn {x}"),
    Snippet("clamp_to_{n}", "{x}", "limits {x} to the range from 0 to {n}", "return max(0, min({x}, {n}))"),
    Snippet("countdown_from_{n}", "", "prints the numbers from {n} down to 1", "for i in range({n}, 0, -1):\n    print(i)"),
    Snippet("read_lines", "path", "reads the lines of the file at path",
            "with open(path) as file:\n    return [line.rstrip() for line in file]"),
    Snippet("write_{t}", "path, {t}", "writes {t} to the file at path",
            'with open(path, "w") as file:\n    file.write({t})'),
)  # fmt: skip

ASK = (
    "Write a Python function `{}` that {}.",
    "Write `{}`, a function that {}.",
    "I need a Python function `{}` that {}.",
)
ASK_UNNAMED = ("Write a Python function that {}.", "Write a Python function that {}", "Show me a function that {}.")
INTRODUCTIONS = ("", "", "Here is the function:\n\n", "Sure:\n\n")


def _fill(template: str, values: dict[str, str]) -> str:
    for key, value in values.items():
        template = template.replace("{" + key + "}", value)
    return template


def snippet_documents(count: int, rng: random.Random, unnamed_share: float = 0.0) -> list[Document]:
    """`count` conversations; the split key is the function with its numbers and argument names.

    In `unnamed_share` of them the request leaves the function's name to the answer.
    """
    documents: list[Document] = []
    for _ in range(count):
        snippet = rng.choice(SNIPPETS)
        x, y = rng.choice(PAIRS)
        values = {"x": x, "y": y, "n": str(rng.randint(2, 30)), "l": rng.choice(LISTS), "t": rng.choice(TEXTS)}
        signature = _fill(f"{snippet.name}({snippet.arguments})", values)
        goal = _fill(snippet.goal, values)
        body = _fill(snippet.body, values).replace("\n", "\n    ")
        docstring = f'    """{goal[0].upper()}{goal[1:]}."""\n' if rng.random() < 0.3 else ""
        unnamed = unnamed_share > 0 and rng.random() < unnamed_share
        question = rng.choice(ASK_UNNAMED).format(goal) if unnamed else rng.choice(ASK).format(signature, goal)
        code = f"```python\ndef {signature}:\n{docstring}    {body}\n```"
        documents.append(chat("code", "snippet", f"snippet:{signature}", question, rng.choice(INTRODUCTIONS) + code))
    return documents
