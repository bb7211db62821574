"""The formats, as data: what opens, separates and closes calls, and what a template that teaches one looks like."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["FORMATS", "ToolFormat", "detect"]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family writes calls: JSON objects of a name and arguments between marks. White space between is free.

    begin: what makes text a call; empty where a call is all there is. openings: what may stand before the first
    object, between: before a further one, end: behind the last. arguments: their key.
    taught_by and foreign: strings of a template that teaches this format, and of ones that mean another.
    forced: what a prompt ends with so that a call must follow; listed: the calls are a JSON array then.
    """

    name: str
    begin: str
    openings: tuple[str, ...]
    between: tuple[str, ...]
    end: str
    arguments: Literal["arguments", "parameters"]
    taught_by: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    forced: str = ""
    listed: bool = False
    id_characters: int = 24

    @property
    def forced_openings(self) -> tuple[str, ...]:
        """What may stand before the first object when `forced` ended the prompt."""
        return ("[",) if self.listed else ("",)

    @property
    def marks(self) -> tuple[str, ...]:
        """Strings that may be special tokens, which are text nowhere else."""
        return tuple(
            mark
            for mark in ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
            if any(mark in each for each in (*self.openings, *self.between, self.end))
        )

    def new_id(self) -> str:
        """A call's id; Mistral's templates take nine letters and digits only."""
        if self.id_characters < 24:
            return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(self.id_characters))
        return f"call_{secrets.token_hex(self.id_characters // 2)}"

    def schema(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> dict[str, Any]:
        """JSON schema of what follows `forced`. tools: OpenAI's function objects (name, parameters)."""
        definitions: dict[str, Any] = {}
        calls: list[dict[str, Any]] = []
        for index, tool in enumerate(tools):
            parameters = tool.get("parameters") or {"type": "object"}
            if _refers(parameters):
                definitions[f"tool{index}"] = _moved(parameters, f"#/$defs/tool{index}")
                parameters = {"$ref": f"#/$defs/tool{index}"}
            calls.append(
                {
                    "type": "object",
                    "properties": {"name": {"const": tool["name"]}, self.arguments: parameters},
                    "required": ["name", self.arguments],
                    "additionalProperties": False,
                }
            )
        call: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
        if self.listed:
            call = {"type": "array", "items": call, "minItems": 1} | ({} if parallel else {"maxItems": 1})
        return call | ({"$defs": definitions} if definitions else {})


FORMATS = (
    ToolFormat(
        name="hermes",  # NousResearch/Hermes-Function-Calling; Qwen 2.5 and 3
        begin="<tool_call>",
        openings=("<tool_call>",),
        between=("</tool_call><tool_call>",),
        end="</tool_call>",
        arguments="arguments",
        taught_by=("<tool_call>", '"arguments"'),
        foreign=("<function=", "<arg_key>"),
        forced="<tool_call>\n",
    ),
    ToolFormat(
        name="mistral",  # mistralai/mistral-common, tokenizers v3; later ones write [ARGS]
        begin="[TOOL_CALLS]",
        openings=("[TOOL_CALLS][",),
        between=(",",),
        end="]",
        arguments="arguments",
        taught_by=("[TOOL_CALLS]",),
        foreign=("[ARGS]", "[CALL_ID]"),
        forced="[TOOL_CALLS]",
        listed=True,
        id_characters=9,
    ),
    ToolFormat(
        name="llama",  # meta-llama/llama-models, prompt format 3.1: JSON based tool calling
        begin="",
        openings=("", "<|python_tag|>"),
        between=(";",),
        end="",
        arguments="parameters",
        taught_by=('"parameters": ', "<|start_header_id|>"),
    ),
)


def detect(template: str) -> ToolFormat | None:
    """The format a chat template teaches, None where it knows no tools or writes calls in a way that is not here."""
    if "tools" not in template:
        return None
    for form in FORMATS:
        if all(sign in template for sign in form.taught_by) and not any(sign in template for sign in form.foreign):
            return form
    return None


def _refers(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return "$ref" in schema or any(map(_refers, schema.values()))
    return isinstance(schema, list) and any(map(_refers, schema))


def _moved(schema: Any, root: str) -> Any:
    """The schema with its own references (#, #/…) pointing to where it stands now."""
    if isinstance(schema, Mapping):
        return {
            key: root + inner[1:]
            if key == "$ref" and isinstance(inner, str) and inner.startswith("#")
            else _moved(inner, root)
            for key, inner in schema.items()
        }
    return [_moved(inner, root) for inner in schema] if isinstance(schema, list) else schema
