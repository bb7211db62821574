"""The API's own description: routes that read their body themselves still document it at `/openapi.json`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

__all__ = ["describe", "request_body"]

REFERENCE = "#/components/schemas/{model}"


def request_body(body: type[BaseModel]) -> dict[str, Any]:
    """The part of an operation that says what it reads."""
    schema = {"$ref": REFERENCE.format(model=body.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Add the schemas that `request_body` refers to, and the key every tenant sends."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, found = models_json_schema([(body, "validation") for body in bodies], ref_template=REFERENCE)
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(found["$defs"])
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = schema | {"security": [{"key": []}]}
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
