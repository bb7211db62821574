"""Suites: what people type in YAML and JSONL, and what an evaluation reads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from outrider.evals.checks import CHECKS, Check

__all__ = ["Item", "ItemSpec", "MessageSpec", "Sampling", "Suite", "SuiteSpec", "json_schemas"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_HASH_DIGITS = 16


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        message = "a name is 1 to 64 of a-z, 0-9, '.', '_', '-' and begins with a letter or digit"
        raise PydanticCustomError("outrider", message)
    return text


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Name = Annotated[str, AfterValidator(_name)]
Line = Annotated[str, Field(min_length=1, max_length=2_000)]


class Sampling(_Spec):
    """How answers are sampled. `seed` counts only above temperature 0: item k is asked with seed + k."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    system: Annotated[str, Field(min_length=1, description="System prompt of every item.")] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)] = []


class SuiteSpec(_Spec):
    """One suite file. `check` holds defaults: an item's own `check` is laid over it, field by field."""

    version: Literal[1] = 1
    name: Name
    domain: Name = Field(description="What the suite measures; the name under which a policy knows the quality.")
    description: Line
    license: Line = Field(description="Licence of the items, so that nobody has to guess what may be done with them.")
    items: Annotated[str, Field(min_length=1)] = Field(description="JSON lines, one item each; beside this file.")
    sampling: Sampling = Sampling()
    check: dict[str, Any] = Field({}, description="Check of every item, or the part of it that all share.")


class MessageSpec(_Spec):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ItemSpec(_Spec):
    """One line of a suite's items."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    prompt: Annotated[str, Field(min_length=1)] | None = Field(None, description="A question, as one user message.")
    messages: Annotated[list[MessageSpec], Field(min_length=1)] | None = None
    check: dict[str, Any] = Field({}, description="What makes the answer right; laid over the suite's check.")
    reference: str | None = Field(None, description="A right answer; `outrider eval check` holds it to the check.")
    group: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="Items that share a source are resampled together, so that intervals stay honest."
    )

    @model_validator(mode="after")
    def _asks_one_thing(self) -> ItemSpec:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("outrider", "give either 'prompt' or 'messages'")
        if self.messages is not None and self.messages[-1].role != "user":
            raise PydanticCustomError("outrider", "the last message must be the user's: the model answers it")
        return self


@dataclass(frozen=True, slots=True)
class Item:
    """One question and what makes its answer right. `digest` covers both and how the answer is sampled."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    check: Check
    reference: str | None
    group: str
    digest: str


@dataclass(frozen=True, slots=True)
class Suite:
    """A loaded suite. Two suites of the same hash ask the same questions in the same way and judge them alike."""

    name: str
    domain: str
    description: str
    license: str
    sampling: Sampling
    items: tuple[Item, ...] = field(repr=False)

    @property
    def hash(self) -> str:
        """16 hex digits over name, domain and every item's digest; order, licence and description do not count."""
        content = [self.name, self.domain, *sorted(f"{item.id}:{item.digest}" for item in self.items)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_HASH_DIGITS]

    def sample(self, limit: int | None) -> tuple[Item, ...]:
        """At most `limit` items in the suite's order, chosen by the hash of their ids: 20 of them are among 50."""
        if limit is None or limit >= len(self.items):
            return self.items
        ranked = sorted(self.items, key=lambda item: hashlib.sha256(item.id.encode()).digest())
        chosen = {item.id for item in ranked[:limit]}
        return tuple(item for item in self.items if item.id in chosen)

    def sampled(self, overrides: Mapping[str, Any]) -> Suite:
        """The same questions under other sampling settings; digests follow, so results do not mix."""
        if not overrides:
            return self
        sampling = self.sampling.model_copy(update=dict(overrides))
        items = (_resampled(item, sampling, self.sampling) for item in self.items)
        return Suite(self.name, self.domain, self.description, self.license, sampling, tuple(items))


def make_item(spec: ItemSpec, check: Check, fields: Mapping[str, Any], sampling: Sampling) -> Item:
    """An item from what was typed; `fields` is its check after laying it over the suite's."""
    given = spec.messages or [MessageSpec(role="user", content=spec.prompt or "")]
    turns: list[dict[str, str]] = [message.model_dump() for message in given]
    if sampling.system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": sampling.system})
    digest = _digest([turns, dict(fields), _settings(sampling)])
    return Item(spec.id, tuple(turns), check, spec.reference, spec.group or spec.id, digest)


def _settings(sampling: Sampling) -> dict[str, Any]:
    return sampling.model_dump(exclude={"system"})  # the system prompt stands in the messages already


def _resampled(item: Item, sampling: Sampling, before: Sampling) -> Item:
    turns = list(item.messages)
    if sampling.system != before.system:
        if turns[0] == {"role": "system", "content": before.system}:
            turns = turns[1:]
        if sampling.system is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": sampling.system})
    digest = _digest([item.digest, turns, _settings(sampling)])
    return Item(item.id, tuple(turns), item.check, item.reference, item.group, digest)


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]


def json_schemas() -> dict[str, Any]:
    """JSON Schemas of a suite file and of an item, for editors: `check` is one of the three kinds."""
    kinds = {name: kind.model_json_schema() for name, kind in CHECKS.items()}
    suite, item = SuiteSpec.model_json_schema(), ItemSpec.model_json_schema()
    item["properties"]["check"] = {
        "description": "What makes the answer right; laid over the suite's check.",
        "anyOf": [{**schema, "required": []} for schema in kinds.values()],
    }
    suite["properties"]["check"] = item["properties"]["check"]
    for schema in kinds.values():
        for where in (suite, item):
            where.setdefault("$defs", {}).update(schema.get("$defs", {}))
    for title, schema in (("Outrider eval suite", suite), ("Outrider eval item", item)):
        schema["$schema"], schema["title"] = "https://json-schema.org/draft/2020-12/schema", title
    return {"suite": suite, "item": item}
