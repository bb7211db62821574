"""What an operator's commands ask of a running platform: over HTTP, with the operator's key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from outrider.errors import ConfigurationError, EndpointError

__all__ = ["KEY_VARIABLE", "ask_operator", "operator_key", "tell_operator"]

KEY_VARIABLE = "OUTRIDER_OPERATOR_KEY"


def operator_key(file: Path | None) -> str:
    """The key in a file, else in the environment. Raises ConfigurationError; keys do not belong on command lines."""
    if file is None:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        where = f"the environment variable {KEY_VARIABLE}"
    else:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file}: the operator's key cannot be read: {error}") from error
        where = str(file)
    if not key or not key.isascii() or any(character.isspace() for character in key):
        raise ConfigurationError(f"{where} holds no operator's key; give --key-file FILE or set {KEY_VARIABLE}")
    return key


def ask_operator(url: str, path: str, params: Mapping[str, str], key_file: Path | None) -> Any:
    """The JSON that a GET of `path` answers. Raises EndpointError with what the platform said, ConfigurationError."""
    return _asked("GET", url, path, key_file, params=dict(params))


def tell_operator(url: str, path: str, body: Mapping[str, object], key_file: Path | None) -> Any:
    """The JSON that a POST of `body` answers. Raises as `ask_operator`."""
    return _asked("POST", url, path, key_file, json=dict(body))


def _asked(method: str, url: str, path: str, key_file: Path | None, **sent: Any) -> Any:
    headers = {"authorization": f"Bearer {operator_key(key_file)}"}
    address = url.rstrip("/").removesuffix("/v1") + path
    try:
        answer = httpx.request(method, address, headers=headers, timeout=60.0, **sent)
        body = answer.json()
    except httpx.ConnectError as error:
        raise EndpointError(f"{url}: nobody listens there; is the platform running? (--url says where)") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EndpointError(f"{url}: cannot be asked: {error or type(error).__name__}") from error
    except ValueError as error:
        raise EndpointError(f"{url}: answered {answer.status_code} without JSON; is it Outrider?") from error
    if answer.is_success:
        return body
    refusal = body.get("error") if isinstance(body, dict) else None
    message = refusal.get("message") if isinstance(refusal, dict) else None
    raise EndpointError(f"{url}: refused with {answer.status_code}: {message or 'no reason given'}")
