"""The typed configuration of the Serve application: the `args` of a config file, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from outrider.errors import ConfigurationError, ModelDirectoryError
from outrider.scheduling import scheduler_named

__all__ = [
    "AppConfig",
    "ControlConfig",
    "GatewayConfig",
    "ListenConfig",
    "ModelConfig",
    "RoleConfig",
    "Timeouts",
    "database_url",
    "resolve_path",
]

DEMO_PREFIX = "demo:"
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
RESERVED_MODEL_NAMES = frozenset({"auto"})

ModelLocation = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""`demo:NAME` for a model that ships with the package, else a directory."""


def _none_is_none(value: object) -> object:
    return None if value == "none" else value


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RoleConfig(_Settings):
    """What one replica of a role (target or drafter) runs on."""

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=1, ge=1, le=256)
    """Torch threads: Ray sets OMP_NUM_THREADS=1 for fractional CPUs, so the number is always explicit."""
    compile: Literal["off", "background"] = "background"
    """`background`: a step compiled by the host's C++ compiler takes over when it is ready; start-up never waits."""
    num_cpus: float = Field(default=0.2, ge=0)
    """What Ray reserves; a placement number, not a limit."""
    num_gpus: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _device_has_its_resource(self) -> Self:
        if (self.device == "cuda") != (self.num_gpus > 0):
            raise ValueError(f"device {self.device} with num_gpus {self.num_gpus}: set both or neither")
        return self


class ModelConfig(_Settings):
    """One target and, unless `drafter: none`, its drafter."""

    directory: ModelLocation
    drafter: Annotated[ModelLocation | None, BeforeValidator(_none_is_none)]
    """Required, so that running without a drafter is something a person wrote down."""
    target: RoleConfig = RoleConfig()
    draft: RoleConfig = RoleConfig()
    link: Literal["process", "in-process"] = "process"
    """Where the drafter runs: in a process of its own, or in the target's, on its device, where rounds of a GPU need to
    wait for it once instead of twice. `draft` then says its dtype only."""
    replicas: int = Field(default=1, ge=1, le=256)
    """Targets of this model, and as many drafters."""
    max_running_requests: int = Field(default=16, ge=1, le=4096)
    max_queued_requests: int = Field(default=256, ge=0)
    kv_blocks: int = Field(default=2048, ge=8)
    """Blocks of the paged KV pool; times `block_size` it is how many token positions are held at once."""
    block_size: int = Field(default=8, ge=1, le=256)
    """Positions of a block. Prefixes are reused in whole blocks: small ones waste less of a conversation's next turn,
    large ones suit GPU kernels."""
    prefix_cache: bool = True
    """Whether requests of one tenant take over what earlier ones computed of the same beginning."""
    scheduler: str = "constrained"
    """Who decides what to draft and verify: constrained (TPOT targets, then price), asynchronous, algorithm1, none,
    fixed:DEPTH, threshold:SURVIVAL or table:REQUESTS=DEPTH,…"""
    tenant_draft_tokens: int | None = Field(default=None, ge=0)
    """Most draft tokens that one tenant may have verified in a round, null for any number."""
    calibration_share: float = Field(default=0.01, ge=0, le=1)
    """Share of drafted rounds that verify their whole block, so that it stays known what confidences are worth."""
    cost_profile: str | None = None
    """A file of `outrider profile`, used instead of measuring at start; one of another machine or model is refused."""

    @model_validator(mode="after")
    def _one_process_has_one_device(self) -> Self:
        if self.link == "in-process" and self.drafter is not None and self.draft.device != self.target.device:
            raise ValueError(
                f"link in-process with target.device {self.target.device} and draft.device {self.draft.device}: "
                "one process drafts on its target's device"
            )
        return self

    @field_validator("scheduler")
    @classmethod
    def _scheduler_is_known(cls, name: str) -> str:
        try:
            scheduler_named(name)
        except ConfigurationError as error:
            raise ValueError(error.message) from None
        return name


class ListenConfig(_Settings):
    """An address of the gateway's own, past Serve's proxy."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)


class ControlConfig(_Settings):
    """The process that keeps ledger and policy."""

    num_cpus: float = Field(default=0.1, ge=0)


class GatewayConfig(_Settings):
    """The HTTP front."""

    listen: ListenConfig | None = None
    """Every gateway of a host listens here and Serve's proxy is not needed (`proxy_location: Disabled`): each request
    is spared its hop. Null: requests come through Serve's proxy, as on a cluster whose load balancer knows that."""
    num_cpus: float = Field(default=0.2, ge=0)
    replicas: int = Field(default=1, ge=1)
    max_ongoing_requests: int = Field(default=4096, ge=1)
    events_per_s: float = Field(default=400.0, gt=0)
    """Most stream events one gateway sends, all streams together; beyond it, rounds are merged. An event costs about
    1 ms of CPU in gateway and Serve's proxy, so 400 leave the machine to the models."""


class Timeouts(_Settings):
    """Seconds."""

    drain_s: float = Field(default=60.0, gt=0)
    """How long a replica that is being replaced may go on finishing its streams."""
    link_s: float = Field(default=1.0, gt=0)
    """How long a round waits for its drafter before the target goes on at depth 0."""
    snapshot_stale_s: float = Field(default=3.0, gt=0)
    """A target whose newest load snapshot is older than this counts as not ready."""


class AppConfig(_Settings):
    """Everything `outrider_deployments.app:build` needs. Paths are taken as `resolve_path` says."""

    policy: str
    """The platform's policy, or a directory of it and its teams': what the first start takes, and every start at which
    it changed. What was applied since is kept otherwise."""
    teams: tuple[str, ...] = ()
    """Teams' policy files."""
    database: str = "sqlite:///.outrider/outrider.db"
    """Where ledger and policy versions are kept: a SQLite file, or postgresql+psycopg://USER@HOST/NAME."""
    models: Mapping[str, ModelConfig] = Field(min_length=1)
    gateway: GatewayConfig = GatewayConfig()
    control: ControlConfig = ControlConfig()
    timeouts: Timeouts = Timeouts()
    sockets: Literal["host", "cluster"] = "host"
    """How replicas reach each other: `host`, over Unix sockets on the one machine all of them run on; `cluster`, over
    TCP under CURVE keys made from OUTRIDER_CLUSTER_KEY, which every replica must have in its environment."""
    events: str | None = None
    """File to which one event per request is appended; None keeps events off the disk."""
    quality: str | None = None
    """What `auto` takes to tell whom a prompt is easy enough for: a file of `outrider eval sufficiency fit` made with
    these models, or `demo`, which ships and is of the demo models. None leaves it to tags and the policy."""

    @model_validator(mode="after")
    def _a_cluster_shares_its_database(self) -> Self:
        if self.sockets == "cluster" and self.database.startswith("sqlite"):
            raise ValueError(
                "sockets cluster with a SQLite file: control may be started again on another host; use PostgreSQL"
            )
        return self

    @field_validator("models")
    @classmethod
    def _names_are_routable(cls, models: Mapping[str, ModelConfig]) -> Mapping[str, ModelConfig]:
        for name in models:
            if name in RESERVED_MODEL_NAMES or not MODEL_NAME.fullmatch(name):
                raise ValueError(f"'{name}' cannot name a model: use [a-z0-9._-], and not 'auto'")
        return models

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """Validate; raises ConfigurationError that names `source` and the first offending field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first, *others = error.errors(include_url=False)
            field = ".".join(str(part) for part in first["loc"]) or "(top level)"
            more = f" (and {len(others)} more)" if others else ""
            raise ConfigurationError(f"{source}: {field}: {first['msg']}{more}", param=field) from error


def resolve_path(location: str) -> Path:
    """The path a configuration means: absolute, or relative to the current directory, else to this checkout.

    Under `serve run` the builder runs in a Ray worker, whose current directory is the one Ray was started in: for a
    checkout started from elsewhere the second place finds the shipped files. Raises ConfigurationError.
    """
    path = Path(location).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    places = [path] if path.is_absolute() else [Path.cwd() / path, checkout / path]
    for place in places:
        if place.exists():
            return place
    raise ConfigurationError(f"no such path: {location} (looked for {' and '.join(map(str, places))})")


def model_directory(location: str) -> Path:
    """The directory of a model; `demo:NAME` is one that ships with the package. Raises ModelDirectoryError."""
    if location.startswith(DEMO_PREFIX):
        from outrider import demo_models

        return demo_models.path(location.removeprefix(DEMO_PREFIX))
    try:
        return resolve_path(location)
    except ConfigurationError as error:
        raise ModelDirectoryError(error.message) from error


def database_url(url: str) -> str:
    """A SQLite file's relative path as an absolute one: replicas run in directories of their own.

    Raises ConfigurationError for what is no URL of a database.
    """
    prefix = "sqlite:///"
    if "://" not in url:
        raise ConfigurationError(f"database: '{url}' is no URL; try sqlite:///.outrider/outrider.db", param="database")
    if not url.startswith(prefix):
        return url
    return f"{prefix}{Path(url.removeprefix(prefix)).expanduser().absolute()}"
