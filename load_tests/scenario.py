"""What people type: one load as YAML. Times of service levels and budgets are in ms, all others in seconds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from outrider.bench.arrivals import Times, on_off_times, renewal_times, with_bursts
from outrider.bench.client import Leave
from outrider.bench.goodput import Slo
from outrider.documents import load_model
from outrider.errors import ConfigurationError
from outrider.gateway.schema import OutriderOptions

__all__ = ["Arrivals", "Cancel", "Scenario", "TrafficClass"]

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Milliseconds = Annotated[float, Field(gt=0, le=86_400_000)]
_ENVIRONMENT = "env:"
_OWN_FIELDS = ("messages", "stream", "stream_options", "outrider")


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _fault(text: str) -> PydanticCustomError:
    return PydanticCustomError("load", text)


class OnOff(_Spec):
    """Arrivals come during on_s of every on_s + off_s; the mean rate stays."""

    on_s: Seconds
    off_s: Seconds


class Burst(_Spec):
    """So many requests more at one instant of the counted time."""

    at_s: Annotated[float, Field(ge=0)]
    requests: Annotated[int, Field(ge=1, le=100_000)]


class Arrivals(_Spec):
    """Closed: each of `users` asks again when its answer has ended. Else an open loop, which waits for nothing."""

    process: Literal["closed", "poisson", "gamma"]
    users: Annotated[tuple[Annotated[int, Field(ge=1, le=100_000)], ...], Field(strict=False)] = ()
    rate_per_s: Annotated[tuple[Annotated[float, Field(gt=0, le=100_000)], ...], Field(strict=False)] = ()
    cv: Annotated[float, Field(ge=0.05, le=20)] | None = Field(None, description="Coefficient of variation of gaps.")
    on_off: OnOff | None = None
    bursts: Annotated[tuple[Burst, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _fields_fit_the_process(self) -> Arrivals:
        needs = {"closed": {"users"}, "poisson": {"rate_per_s"}, "gamma": {"rate_per_s", "cv"}}[self.process]
        takes = needs | ({"on_off", "bursts"} if self.open else set())
        given = {name for name in type(self).model_fields if name != "process" and getattr(self, name)}
        for name in sorted(needs - given):
            raise _fault(f"process '{self.process}' needs '{name}'")
        for name in sorted(given - takes):
            raise _fault(f"process '{self.process}' takes {', '.join(sorted(takes))}, not '{name}'")
        return self

    @property
    def open(self) -> bool:
        return self.process != "closed"

    @property
    def loads(self) -> tuple[float, ...]:
        """Numbers of users or rates, in the order in which they are driven."""
        return self.rate_per_s if self.open else self.users

    def label(self, load: float) -> str:
        return f"{load:g}/s" if self.open else f"{load:g} user{'s' * (load != 1)}"

    def due_s(self, rate_per_s: float, warm_up_s: float, duration_s: float, random: np.random.Generator) -> Times:
        """When an open loop's requests are due, from the beginning of the counted time; the warm-up's are before 0.

        The warm-up is without bursts.
        """
        cv = self.cv or 1.0
        warm = renewal_times(rate_per_s, warm_up_s, random, cv=cv) - warm_up_s if warm_up_s else np.empty(0)
        if self.on_off:
            on_s, off_s = self.on_off.on_s, self.on_off.off_s
            counted = on_off_times(rate_per_s, duration_s, random, on_s=on_s, off_s=off_s, cv=cv)
        else:
            counted = renewal_times(rate_per_s, duration_s, random, cv=cv)
        return np.concatenate([warm, with_bursts(counted, [(each.at_s, each.requests) for each in self.bursts])])


class Cancel(_Spec):
    """The share of requests whose client leaves, and when."""

    share: Annotated[float, Field(gt=0, le=1)]
    after_tokens: Annotated[int, Field(ge=1)] | None = None
    after_s: Seconds | None = None

    @model_validator(mode="after")
    def _one_moment(self) -> Cancel:
        if (self.after_tokens is None) == (self.after_s is None):
            raise _fault("give one of 'after_tokens' and 'after_s'")
        return self

    @property
    def leave(self) -> Leave:
        return Leave(self.after_tokens, self.after_s)


class SloSpec(_Spec):
    """What a request must keep to count as good. Not sent: `budgets` are what the platform is told."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    e2e_ms: Milliseconds | None = None
    models: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Whose answers count as good enough; all when empty."""

    @property
    def slo(self) -> Slo:
        ttft_s, tpot_s, e2e_s = (ms and ms / 1e3 for ms in (self.ttft_ms, self.tpot_ms, self.e2e_ms))
        return Slo(ttft_s, tpot_s, e2e_s, frozenset(self.models) or None)


class TrafficClass(_Spec):
    """Requests that have something in common; `weight` is its share of all requests, relative to the other classes."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    key: SecretStr | None = Field(None, description="API key, or env:NAME for one in the environment.")
    body: dict[str, Any]
    budgets: OutriderOptions = OutriderOptions()
    domains: Annotated[tuple[str, ...], Field(strict=False)] = ()
    prompt_characters: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    cancel: Cancel | None = None
    slo: SloSpec = SloSpec()

    @model_validator(mode="after")
    def _body_is_not_the_driver_s(self) -> TrafficClass:
        for name in (name for name in _OWN_FIELDS if name in self.body):
            instead = "'budgets' instead" if name == "outrider" else "none: the driver fills it in"
            raise _fault(f"'body' may not have '{name}'; give {instead}")
        if "model" not in self.body:
            raise _fault("'body' needs 'model'")
        return self

    def key_or(self, default: str) -> str:
        """The class's own key, else the default. Raises ConfigurationError for a variable that is not set."""
        if self.key is None:
            return default
        text = self.key.get_secret_value()
        if not text.startswith(_ENVIRONMENT):
            return text
        name = text.removeprefix(_ENVIRONMENT)
        if not os.environ.get(name):
            raise ConfigurationError(f"key: the environment variable {name} is not set", param="key")
        return os.environ[name]

    @property
    def whole_body(self) -> dict[str, Any]:
        """The body of each request, but for its messages."""
        budgets = self.budgets.model_dump(exclude_defaults=True)
        return {**self.body, **({"outrider": budgets} if budgets else {})}


class Scenario(_Spec):
    """One load: how requests arrive, for how long, and of which classes they are."""

    arrivals: Arrivals
    duration_s: Seconds
    warm_up_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    timeout_s: Seconds = 120.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    classes: Annotated[dict[str, TrafficClass], Field(min_length=1)]

    @model_validator(mode="after")
    def _bursts_are_counted(self) -> Scenario:
        for burst in self.arrivals.bursts:
            if burst.at_s >= self.duration_s:
                raise _fault(f"a burst at {burst.at_s:g} s is past the end of 'duration_s' ({self.duration_s:g})")
        return self

    @classmethod
    def load(cls, file: Path) -> Scenario:
        """Raises ConfigurationError with one `file:line:column: field: text` for everything that is wrong."""
        return load_model(file, cls, noun="scenario")
