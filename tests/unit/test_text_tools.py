"""Tool calls in each family's format, cut at every place a stream may cut them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.text import CallDelta, CallParser
from outrider.text.tools import FORMATS, ToolFormat, detect

NAMES = ("add", "look_up")
ADD = '{"name": "add", "arguments": {"a": [1, {"b": "}]\\"{"}], "c": "</tool_call> ü"}}'
ADD_ARGUMENTS = '{"a": [1, {"b": "}]\\"{"}], "c": "</tool_call> ü"}'
LOOK = '{"arguments": {}, "name": "look_up"}'
PARAMETERS = '{"name": "add", "parameters": {"a": 1}}'

Read = tuple[str, list[tuple[str, str]]]
"""(text, calls as (name, arguments))."""


def form(name: str) -> ToolFormat:
    return next(each for each in FORMATS if each.name == name)


def read(parser: CallParser, pieces: list[str]) -> Read:
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.flush()
    text = "".join(part for part in parts if isinstance(part, str))
    calls: dict[int, list[str]] = {}
    for part in parts:
        if isinstance(part, CallDelta):
            if part.name is not None:
                assert part.index == len(calls)
                calls[part.index] = [part.name, ""]
            calls[part.index][1] += part.arguments
    return text, [(name, arguments) for name, arguments in calls.values()]


CASES: list[tuple[str, str, Read]] = [
    ("hermes", "just text", ("just text", [])),
    ("hermes", f"<tool_call>\n{ADD}\n</tool_call>", ("", [("add", ADD_ARGUMENTS)])),
    ("hermes", f"Let me see.\n<tool_call>\n{LOOK}\n</tool_call>\n", ("Let me see.\n", [("look_up", "{}")])),
    (
        "hermes",
        f"<tool_call>\n{LOOK}\n</tool_call>\n<tool_call>\n{ADD}\n</tool_call>",
        ("", [("look_up", "{}"), ("add", ADD_ARGUMENTS)]),
    ),
    ("hermes", f"<tool_call>{LOOK}</tool_call> Done. <", (" Done. <", [("look_up", "{}")])),
    ("hermes", f"<tool_call>{LOOK}</tool_call> and <tool_call>{LOOK}", (" and ", [("look_up", "{}")] * 2)),
    ("hermes", f"<tool_call>{LOOK}", ("", [("look_up", "{}")])),
    ("hermes", '<tool_call>\n{"name": "add", "argu', ('<tool_call>\n{"name": "add", "argu', [])),
    ("hermes", "<tool_call>\nadd(1)\n</tool_call>", ("<tool_call>\nadd(1)\n</tool_call>", [])),
    ("hermes", '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
     ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', [])),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{}"}</tool_call>',
     ('<tool_call>{"name": "add", "arguments": "{}"}</tool_call>', [])),
    ("hermes", f"<tool_call>{{a}}</tool_call><tool_call>{LOOK}</tool_call>",
     ("<tool_call>{a}</tool_call>", [("look_up", "{}")])),
    ("hermes", "a < b and <tool", ("a < b and <tool", [])),
    ("mistral", f"[TOOL_CALLS] [{ADD}]", ("", [("add", ADD_ARGUMENTS)])),
    ("mistral", f"[TOOL_CALLS][{LOOK}, {ADD}]", ("", [("look_up", "{}"), ("add", ADD_ARGUMENTS)])),
    ("mistral", f"Sure.[TOOL_CALLS] [{LOOK}] bye", ("Sure. bye", [("look_up", "{}")])),
    ("mistral", "[TOOL_CALLS] nothing", ("[TOOL_CALLS] nothing", [])),
    ("llama", PARAMETERS, ("", [("add", '{"a": 1}')])),
    ("llama", f"<|python_tag|>{PARAMETERS}; {PARAMETERS}", ("", [("add", '{"a": 1}')] * 2)),
    ("llama", f"I call {PARAMETERS}", (f"I call {PARAMETERS}", [])),
    ("llama", '{"name": "Ada", "born": 1815}', ('{"name": "Ada", "born": 1815}', [])),
    ("llama", f"{PARAMETERS} as you see", (" as you see", [("add", '{"a": 1}')])),
    ("llama", "<|python_tag|>print(1)", ("<|python_tag|>print(1)", [])),
    ("llama", "", ("", [])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "written", "expected"), CASES, ids=lambda value: str(value)[:40])
def test_calls_and_text_come_apart_however_they_are_cut(name: str, written: str, expected: Read) -> None:
    assert read(CallParser(form(name), NAMES), [written]) == expected
    assert read(CallParser(form(name), NAMES), list(written)) == expected
    for cut in range(len(written)):
        assert read(CallParser(form(name), NAMES), [written[:cut], written[cut:]]) == expected


@given(
    name=st.sampled_from([each.name for each in FORMATS]),
    pieces=st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "{", "}", '"', "\\", "x", " ", "["])
    ),
)
def test_text_without_a_call_comes_out_as_it_is(name: str, pieces: list[str]) -> None:
    assert read(CallParser(form(name), NAMES), pieces) == ("".join(pieces), [])


@pytest.mark.parametrize(
    ("name", "written", "calls"),
    [
        ("hermes", ADD, [("add", ADD_ARGUMENTS)]),
        ("llama", f" {PARAMETERS}", [("add", '{"a": 1}')]),
        ("mistral", f"[{ADD}, {ADD}]", [("add", ADD_ARGUMENTS)] * 2),
    ],
)
def test_arguments_of_a_forced_call_are_passed_on_as_they_grow(name: str, written: str, calls: Any) -> None:
    assert read(CallParser(form(name), NAMES, forced=True), list(written)) == ("", calls)
    parser = CallParser(form(name), NAMES, forced=True)
    half = written.index("{", written.index("{") + 1) + 4
    before = [part for part in parser.push(written[:half]) if isinstance(part, CallDelta)]
    assert before[0].name == "add"
    assert "".join(part.arguments for part in before) == calls[0][1][:4]


def test_a_forced_call_that_was_cut_short_keeps_its_arguments() -> None:
    cut = ADD[:-5]
    assert read(CallParser(form("hermes"), NAMES, forced=True), [cut]) == ("", [("add", ADD_ARGUMENTS[:-4])])


QWEN = '{% if tools %}<tools>…</tools> <tool_call>\n{"name": <name>, "arguments": <json>}\n</tool_call>{% endif %}'


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (QWEN, "hermes"),
        ("{% if tools %}<tool_call><function=name><parameter=a>{% endif %} \"arguments\"", None),
        ("{% if tools %}<tool_call>name<arg_key> \"arguments\"{% endif %}", None),
        ("[AVAILABLE_TOOLS]{{ tools }} [TOOL_CALLS]", "mistral"),
        ("[AVAILABLE_TOOLS]{{ tools }} [TOOL_CALLS]name[ARGS]{}", None),
        ("<|start_header_id|> {{ tools }} {\"name\": function name, \"parameters\": dictionary}", "llama"),
        ("<|start_header_id|> {{ tools }} respond with a python list of calls [f(a=1)]", None),
        ("<|start_header_id|> {{ tools }} [{\"name\": \"f\", \"arguments\": {}}]", None),
        ("<|im_start|> {{ tools }} <tools>{\"name\": \"f\", \"arguments\": {}}</tools>", None),
        ("{{ messages }}", None),
        ("{{ tools }}", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_format_is_known_by_what_the_template_teaches(template: str, expected: str | None) -> None:
    found = detect(template)
    assert (found.name if found else None) == expected


def test_the_schema_of_a_forced_call_keeps_references_whole() -> None:
    point = {"$defs": {"n": {"type": "number"}}, "type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}}
    tools = [{"name": "plot", "parameters": point}, {"name": "clear"}]
    schema = form("hermes").schema(tools, parallel=True)
    plot, clear = schema["anyOf"]
    assert plot["properties"] == {"name": {"const": "plot"}, "arguments": {"$ref": "#/$defs/tool0"}}
    assert clear["properties"]["arguments"] == {"type": "object"}
    assert schema["$defs"]["tool0"]["properties"]["x"] == {"$ref": "#/$defs/tool0/$defs/n"}
    assert list(plot["properties"]) == plot["required"]


@pytest.mark.parametrize("parallel", [True, False])
def test_mistral_s_calls_are_a_list(parallel: bool) -> None:
    schema = form("mistral").schema([{"name": "f"}], parallel=parallel)
    assert (schema["type"], schema["minItems"], schema.get("maxItems")) == ("array", 1, None if parallel else 1)


def test_ids_are_what_templates_take() -> None:
    assert len(form("mistral").new_id()) == 9
    assert form("mistral").new_id().isalnum()
    assert form("hermes").new_id() != form("hermes").new_id()
    assert json.dumps(form("hermes").new_id()).startswith('"call_')
