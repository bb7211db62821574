"""The kinds of value that policy documents are made of, each with the message that its author gets."""

from __future__ import annotations

import re
import zoneinfo
from datetime import date
from functools import cache
from typing import Annotated, Literal, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from outrider.documents import kind_of, unknown
from outrider.policy.keys import KEY_PREFIX

__all__ = [
    "AUTO",
    "Day",
    "Depth",
    "Milliseconds",
    "Name",
    "Objective",
    "Period",
    "Price",
    "Promise",
    "Sha256",
    "Share",
    "TimeZone",
    "Usd",
    "Weight",
]

Objective = Literal["cheapest", "fastest", "best_quality", "balanced"]

Promise = Literal["quality", "ttft", "tpot", "deadline"]
"""What a tier promises and may give up when not everything can be kept."""

Period = Literal["hour", "day", "week", "month"]
"""How long a money budget lasts: from the full hour, midnight, Monday or the first on, in its time zone."""

AUTO = "auto"
"""The model name by which a tenant leaves the choice to the router; no model of a policy may bear it."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ZONE = re.compile(r"(?!posix|right/|localtime)[A-Za-z][A-Za-z0-9_+/-]*")


def _refuse(text: str) -> NoReturn:
    raise PydanticCustomError("outrider", "{text}", {"text": text})


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        _refuse("a name is 1 to 64 of a-z, 0-9, '.', '_', '-' and begins with a letter or digit")
    return name


def _check_sha256(value: object) -> object:
    """Never repeats the value: it may be a key."""
    if isinstance(value, str) and value.startswith(KEY_PREFIX):
        _refuse("this is a key, not its hash; drop it and paste what `outrider keys new` prints")
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        _refuse("a key's hash is 64 lower-case hex digits; `outrider keys new` prints one")
    return value


def _read_day(value: object) -> object:
    if isinstance(value, date):
        return value
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        _refuse(f"expected a day as YYYY-MM-DD, got {kind_of(value)}")
    try:
        return date.fromisoformat(value)
    except ValueError:
        _refuse(f"the calendar has no day {value}")


def _check_time_zone(name: str) -> str:
    if not _is_time_zone(name):
        said, _, _ = unknown("time zone", name, zoneinfo.available_timezones()).partition(" known:")
        _refuse(f"{said} any IANA name will do, such as UTC or Europe/Berlin")
    return name


@cache
def _is_time_zone(name: str) -> bool:
    if not _ZONE.fullmatch(name):
        return False
    try:
        return zoneinfo.ZoneInfo(name).key == name
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
        return False


Name = Annotated[str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
Sha256 = Annotated[
    str, BeforeValidator(_check_sha256), WithJsonSchema({"type": "string", "pattern": f"^{_SHA256.pattern}$"})
]
Day = Annotated[date, BeforeValidator(_read_day)]
TimeZone = Annotated[str, AfterValidator(_check_time_zone)]
Milliseconds = Annotated[float, Field(gt=0, le=86_400_000)]
Price = Annotated[float, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Depth = Annotated[int, Field(ge=0, le=64)]
Weight = Annotated[float, Field(ge=0, le=1_000)]
Usd = Annotated[float, Field(gt=0, le=1_000_000_000)]
