"""What makes an answer right: exact text, patterns, or properties. Checks are data; judging raises on no text."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from outrider.evals.sandbox import CallResult, SandboxLimits, run_calls, same_value

__all__ = ["CHECKS", "Check", "Exact", "Pattern", "Property", "PythonCall", "PythonRuns", "Verdict", "find_code"]

MAX_ANSWER_CHARACTERS = 200_000
"""Longer answers are judged by their beginning: a runaway answer must not cost minutes of regular expressions."""

Extract = Literal["none", "last_number", "first_number", "first_line", "last_line", "code"]

_NUMBER = re.compile(r"(?:(?<![\w)\]])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is right; `why` says in a few words why not."""

    correct: bool
    why: str = ""


RIGHT = Verdict(True)


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        message = "not a regular expression: {reason}"
        raise PydanticCustomError("outrider", message, {"reason": str(error)}) from None
    return text


def _literal(text: str) -> str:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        message = 'must be a Python literal as repr() prints it, for example "7", "\'abc\'" or "[1, 2]"'
        raise PydanticCustomError("outrider", message) from None
    return text


def _expression(text: str) -> str:
    try:
        ast.parse(text, mode="eval")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        message = 'must be one Python expression, for example "add(1, 2)"'
        raise PydanticCustomError("outrider", message) from None
    return text


Regex = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_pattern)]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


class Exact(_Spec):
    """The answer equals one of the expected ones, after extraction and normalisation.

    Normalising: NFC, surrounding space and (`strip_punctuation`) a final `.` and quotes or backticks removed, inner
    space collapsed. With a number extracted, numbers are compared as numbers: 7, 7.0 and 1,000 = 1000.
    """

    type: Literal["exact"]
    answer: Text | list[Text] = Field(description="The right answer, or a list of equally right ones.")
    extract: Extract = Field("none", description="Which part of the answer is compared.")
    ignore_case: bool = False
    strip_punctuation: bool = Field(True, description="Drop quotes, backticks and a final full stop around the answer.")

    @model_validator(mode="after")
    def _expects_something(self) -> Exact:
        if isinstance(self.answer, list) and not self.answer:
            raise PydanticCustomError("outrider", "'answer' must not be an empty list")
        return self

    def judge(self, text: str) -> Verdict:
        """Wrong answers are said with what was found instead."""
        found = extracted(text, self.extract)
        if found is None:
            return Verdict(False, f"no {self.extract.replace('_', ' ')} in the answer")
        wanted = self.answer if isinstance(self.answer, list) else [self.answer]
        if any(self._equal(found, each) for each in wanted):
            return RIGHT
        return Verdict(False, f"expected {_brief(wanted[0])}, got {_brief(found)}")

    def _equal(self, found: str, wanted: str) -> bool:
        if self.extract in ("last_number", "first_number"):
            a, b = _decimal(found), _decimal(wanted)
            if a is not None and b is not None:
                return a == b
        return self._normal(found) == self._normal(wanted)

    def _normal(self, text: str) -> str:
        text = " ".join(unicodedata.normalize("NFC", text).split())
        if self.strip_punctuation:
            text = text.strip("`'\"“”").removesuffix(".").strip("`'\"“” ")
        return text.casefold() if self.ignore_case else text


class Pattern(_Spec):
    """Regular expressions (Python's `re`) that must, or must not, occur in the answer.

    `any`: one of them at least; `all`: every one; `none`: not one. `full_match` wants a pattern of `any` and `all` to
    cover the whole answer, surrounding space aside. Patterns come from the suite's author and are run as they are.
    """

    type: Literal["pattern"]
    any: list[Regex] = []
    all: list[Regex] = []
    none: list[Regex] = []
    full_match: bool = False
    ignore_case: bool = False
    extract: Extract = "none"

    @model_validator(mode="after")
    def _expects_something(self) -> Pattern:
        if not (self.any or self.all or self.none):
            raise PydanticCustomError("outrider", "give at least one pattern under 'any', 'all' or 'none'")
        return self

    def judge(self, text: str) -> Verdict:
        """Wrong answers are said with the first pattern that failed."""
        found = extracted(text, self.extract)
        if found is None:
            return Verdict(False, f"no {self.extract.replace('_', ' ')} in the answer")
        found = found.strip()
        if self.any and not any(self._matches(pattern, found) for pattern in self.any):
            return Verdict(False, f"no pattern of 'any' matches {_brief(found)}")
        for pattern in self.all:
            if not self._matches(pattern, found):
                return Verdict(False, f"{_brief(pattern)} does not match {_brief(found)}")
        for pattern in self.none:
            if self._search(pattern, found):
                return Verdict(False, f"{_brief(pattern)} occurs in {_brief(found)}")
        return RIGHT

    def _matches(self, pattern: str, text: str) -> bool:
        flags = re.IGNORECASE if self.ignore_case else 0
        return bool(re.fullmatch(pattern, text, flags)) if self.full_match else self._search(pattern, text)

    def _search(self, pattern: str, text: str) -> bool:
        return bool(re.search(pattern, text, re.IGNORECASE if self.ignore_case else 0))


class PythonCall(_Spec):
    """One call of the answer's code, and the one thing that is expected of it."""

    call: Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(_expression)]
    returns: Annotated[str, AfterValidator(_literal)] | None = Field(None, description="repr() of the result.")
    raises: Annotated[str, Field(min_length=1)] | None = Field(None, description="Name of the exception.")
    prints: str | None = Field(None, description="What it prints, surrounding space aside.")

    @model_validator(mode="after")
    def _expects_one_thing(self) -> PythonCall:
        if sum(each is not None for each in (self.returns, self.raises, self.prints)) != 1:
            raise PydanticCustomError("outrider", "give exactly one of 'returns', 'raises' and 'prints'")
        return self

    def complaint(self, result: CallResult) -> str | None:
        """What is wrong with a result; None if nothing is."""
        got = f"raised {result.raised}: {result.message}" if result.raised else f"gave {_brief(result.value or '')}"
        if self.raises is not None:
            return None if result.raised == self.raises else f"{self.call} should raise {self.raises}, but {got}"
        if self.prints is not None:
            right = result.raised is None and result.printed.split() == self.prints.split()
            got = got if result.raised else f"printed {_brief(result.printed)}"
            return None if right else f"{self.call} should print {_brief(self.prints)}, but {got}"
        right = same_value(result.value, ast.literal_eval(self.returns or "None"))
        return None if right else f"{self.call} should give {_brief(self.returns or '')}, but {got}"


class PythonRuns(_Spec):
    """The answer's code, and calls of it, run apart from this process (see `outrider.evals.sandbox`)."""

    calls: list[PythonCall] = Field(min_length=1, max_length=100)
    time_s: Annotated[float, Field(gt=0, le=60)] = 3.0
    memory_mib: Annotated[int, Field(ge=64, le=8192)] = 512

    def complaint(self, text: str) -> str | None:
        """Why the answer's code does not do what is expected; None when it does."""
        code = find_code(text)
        fault = _syntax_fault(code)
        if fault:
            return fault
        limits = SandboxLimits(self.time_s, self.memory_mib * 2**20)
        results = run_calls(code, [each.call for each in self.calls], limits)
        if isinstance(results, str):
            return results
        complaints = (call.complaint(result) for call, result in zip(self.calls, results, strict=True))
        return next((each for each in complaints if each is not None), None)


class Property(_Spec):
    """Small properties that all hold at once; each field that is given is one."""

    type: Literal["property"]
    python_parses: Literal[True] | None = Field(None, description="The code in the answer is valid Python.")
    python_runs: PythonRuns | None = Field(None, description="The code in the answer gives these results.")
    json_valid: Literal[True] | None = Field(None, description="The answer, or its fenced block, is JSON.")
    json_keys: list[Text] | None = Field(None, description="The answer is a JSON object with at least these keys.")
    contains: list[Text] | None = Field(None, description="Every one of these texts occurs.")
    not_contains: list[Text] | None = Field(None, description="None of these texts occurs.")
    starts_with: Text | None = None
    ends_with: Text | None = None
    matches: Regex | None = Field(None, description="This regular expression occurs.")
    min_words: Count | None = None
    max_words: Count | None = None
    max_characters: Count | None = None
    lines: Count | None = Field(None, description="Exactly so many lines that are not empty.")
    ignore_case: bool = Field(False, description="For contains, not_contains, starts_with, ends_with and matches.")

    @model_validator(mode="after")
    def _expects_something(self) -> Property:
        given = self.model_fields_set - {"type", "ignore_case"}
        if not any(getattr(self, name) is not None for name in given):
            names = ", ".join(sorted(set(type(self).model_fields) - {"type", "ignore_case"}))
            raise PydanticCustomError("outrider", "give at least one property: {names}", {"names": names})
        return self

    def judge(self, text: str) -> Verdict:
        """Wrong answers are said with the first property that failed; code is run last."""
        text = text[:MAX_ANSWER_CHARACTERS]
        complaint = next(self._complaints(text.strip()), None)
        return RIGHT if complaint is None else Verdict(False, complaint)

    def _complaints(self, text: str) -> Iterator[str]:
        yield from self._about_size(text)
        yield from self._about_words(text)
        if self.json_valid or self.json_keys is not None:
            yield from self._about_json(text)
        if self.python_parses and (fault := _syntax_fault(find_code(text))):
            yield fault
        if self.python_runs is not None and (fault := self.python_runs.complaint(text)):
            yield fault

    def _about_size(self, text: str) -> Iterator[str]:
        words, lines = len(text.split()), sum(bool(line.strip()) for line in text.splitlines())
        if self.min_words is not None and words < self.min_words:
            yield f"{words} words, fewer than {self.min_words}"
        if self.max_words is not None and words > self.max_words:
            yield f"{words} words, more than {self.max_words}"
        if self.max_characters is not None and len(text) > self.max_characters:
            yield f"{len(text)} characters, more than {self.max_characters}"
        if self.lines is not None and lines != self.lines:
            yield f"{lines} lines, not {self.lines}"

    def _about_words(self, text: str) -> Iterator[str]:
        def fold(part: str) -> str:
            return part.casefold() if self.ignore_case else part

        whole = fold(text)
        for part in self.contains or ():
            if fold(part) not in whole:
                yield f"{_brief(part)} does not occur"
        for part in self.not_contains or ():
            if fold(part) in whole:
                yield f"{_brief(part)} occurs"
        if self.starts_with is not None and not whole.startswith(fold(self.starts_with)):
            yield f"does not start with {_brief(self.starts_with)}"
        if self.ends_with is not None and not whole.endswith(fold(self.ends_with)):
            yield f"does not end with {_brief(self.ends_with)}"
        if self.matches is not None and not re.search(self.matches, text, re.IGNORECASE if self.ignore_case else 0):
            yield f"{_brief(self.matches)} does not match"

    def _about_json(self, text: str) -> Iterator[str]:
        fenced = _FENCE.search(text)
        try:
            value = json.loads(fenced.group(2) if fenced else text)
        except (ValueError, RecursionError) as error:
            yield f"not JSON: {error}"
            return
        if self.json_keys is None:
            return
        if not isinstance(value, dict):
            yield "not a JSON object"
        else:
            missing = [key for key in self.json_keys if key not in value]
            if missing:
                yield f"the JSON object has no key {_brief(missing[0])}"


Check = Exact | Pattern | Property
"""Judges an answer's text; `judge` never raises, whatever the text."""

CHECKS: dict[str, type[Check]] = {
    "exact": Exact,
    "pattern": Pattern,
    "property": Property,
}
"""The kinds of check by the name that `type` gives."""


def extracted(text: str, part: Extract) -> str | None:
    """The part of an answer that a check compares; None when there is none."""
    text = text[:MAX_ANSWER_CHARACTERS]
    if part in ("last_number", "first_number"):
        numbers = _NUMBER.findall(text)
        return (numbers[-1] if part == "last_number" else numbers[0]) if numbers else None
    if part in ("first_line", "last_line"):
        lines = [line for line in text.splitlines() if line.strip()]
        return (lines[0] if part == "first_line" else lines[-1]) if lines else None
    return find_code(text) if part == "code" else text


def find_code(text: str) -> str:
    """The fenced Python blocks of an answer joined; without any, its first fenced block; without that, all of it."""
    blocks = _FENCE.findall(text)
    python = [code for language, code in blocks if language.lower() in ("python", "py", "python3")]
    if python:
        return "\n".join(python)
    return str(blocks[0][1]) if blocks else text


def _syntax_fault(code: str) -> str | None:
    if not code.strip():
        return "no code in the answer"
    try:
        ast.parse(code)
    except SyntaxError as error:
        return f"not valid Python: {error.msg}, line {error.lineno}"
    except (ValueError, MemoryError, RecursionError) as error:
        return f"not valid Python: {error}"
    return None


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "").strip())
    except InvalidOperation:
        return None


def _brief(text: str) -> str:
    """A text as one short quoted line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else line[:77] + "…")
