"""The JSON Schema that editors use agrees with what `check` says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from outrider.documents import read_document
from outrider.policy import json_schema
from support.policies import platform, report, team

DEFAULT = Path(__file__).resolve().parents[2] / "policies/default.yaml"
PLATFORM = jsonschema.Draft202012Validator(json_schema())
TEAM = jsonschema.Draft202012Validator(json_schema(team=True))


def test_the_schemas_are_schemas() -> None:
    for validator in (PLATFORM, TEAM):
        jsonschema.Draft202012Validator.check_schema(validator.schema)
        json.dumps(validator.schema, allow_nan=False)


def test_good_documents_pass() -> None:
    PLATFORM.validate(read_document(DEFAULT.read_text(), "default.yaml").data)
    PLATFORM.validate(platform())
    TEAM.validate(team())


def test_every_field_is_explained() -> None:
    for schema in (PLATFORM.schema, TEAM.schema):
        for name, part in {**schema["$defs"], "document": schema}.items():
            for field, about in part.get("properties", {}).items():
                referred = schema["$defs"].get(str(about.get("$ref")).rpartition("/")[2], {})
                assert about.get("description") or referred.get("description"), f"{name}.{field}"


BROKEN: list[tuple[tuple[str | int, ...], Any]] = [
    (("version",), 2),
    (("colour",), "blue"),
    (("models", "flash", "price_usd_per_million", "input"), "$1"),
    (("models", "flash", "price_usd_per_million", "input"), -1),
    (("models", "flash", "price_usd_per_million", "input"), True),
    (("models", "flash", "quality"), {}),
    (("models", "Flash 2"), {"price_usd_per_million": {"input": 1, "output": 1}, "quality": {"default": 1}}),
    (("models", "flash", "quality", "code"), 80),
    (("tiers", "fast", "ttft_ms"), 0),
    (("tiers", "fast", "max_depth"), 2.5),
    (("tiers", "fast", "objective"), "quickest"),
    (("tiers", "fast", "degrade"), ["ttft", "price"]),
    (("tenants", "acme", "budgets"), 5),
    (("tenants", "acme", "budgets", 0, "per"), "year"),
    (("tenants", "acme", "keys", 0, "sha256"), "sk-outrider-x"),
    (("tenants", "acme", "models"), []),
    (("tenants", "acme", "concurrency"), 0),
    (("tenants", "acme", "cache"), "everybody"),
    (("routes", 0, "match", "tags"), []),
    (("routes", 0, "quality"), 1.5),
    (("routing", "depth_caps"), []),
]


@pytest.mark.parametrize(("path", "value"), BROKEN, ids=[".".join(map(str, path)) for path, _ in BROKEN])
def test_what_an_editor_can_see_is_what_check_refuses(path: tuple[str | int, ...], value: Any) -> None:
    document = copy.deepcopy(platform())
    parent: Any = document
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    assert not PLATFORM.is_valid(document)
    assert report(document, team()).policy is None


def test_a_teams_document_holds_nothing_of_the_platforms() -> None:
    for field in ("models", "tiers", "batch_classes", "teams", "operators", "routing", "cache", "admission"):
        assert not TEAM.is_valid({**team(), field: platform()[field]})
