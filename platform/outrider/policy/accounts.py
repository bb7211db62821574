"""Who calls and what they may use, as people type it: keys, budgets, limits, tenants, teams."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from outrider.policy.fields import Day, Depth, Objective, Period, Sha256, TimeZone, Usd

__all__ = ["BudgetSpec", "KeySpec", "LimitsSpec", "Spec", "TeamSpec", "TenantSpec"]


class Spec(BaseModel):
    """Frozen and strict: no unknown fields, no text for numbers, no infinities. Editors show the fields' docstrings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class KeySpec(Spec):
    """One key of a tenant or operator, by its hash; `outrider keys new` prints one."""

    sha256: Sha256
    """SHA-256 of the key in lower-case hex; never the key itself."""
    name: Annotated[str, Field(min_length=1, max_length=100)]
    """What people call the key, unique within a tenant; for operators, who they are in the audit."""
    not_before: Day | None = Field(default=None, examples=["2027-01-01"])
    """First day (UTC) on which the key is good."""
    expires: Day | None = Field(default=None, examples=["2027-12-31"])
    """Last day (UTC) on which the key is good."""


class BudgetSpec(Spec):
    """Money that may be spent in each period of a time zone's calendar."""

    usd: Usd = Field(examples=[50])
    """US dollars per period."""
    per: Period
    """Resets at the full hour, at midnight, on Monday or on the first of the month."""
    time_zone: TimeZone = Field(default="UTC", examples=["Europe/Berlin"])
    """IANA name of the time zone whose calendar counts."""


class LimitsSpec(Spec):
    """What may be used at once, per minute and per period; absent is no limit."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Requests begun in any minute."""
    tokens_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Prompt and output tokens in any minute."""
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests open at once, streams included."""
    budgets: list[BudgetSpec] = Field(default=[], max_length=8, examples=[[{"usd": 50, "per": "month"}]])
    """Money, one budget per period at most; all of them hold together."""


class TeamSpec(LimitsSpec):
    """What the platform grants a team: its file's tenants use these tiers and models, and share these limits."""

    models: list[str] = Field(min_length=1, examples=[["flash", "pro"]])
    """Models that tenants of the team may be given."""
    tiers: list[str] = Field(min_length=1, examples=[["standard"]])
    """Tiers that tenants of the team may be given."""
    max_tenants: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most tenants in the team's file."""
    max_depth: Depth | None = None
    """Most draft tokens that a round may verify for one request of the team."""
    max_cost_usd_per_request: Usd | None = None
    """US dollars after which a request ends with finish_reason "length"."""


class TenantSpec(LimitsSpec):
    """Who calls: keys, service level, granted models, limits."""

    keys: list[KeySpec]
    """Any of them opens; several let you rotate without downtime."""
    tier: str
    """Service level, by its name in `tiers`."""
    models: list[str] = Field(min_length=1, examples=[["flash", "pro"]])
    """Models the tenant may use; `auto` chooses among them."""
    max_depth: Depth | None = None
    """Tightens the tier's bound of draft tokens per round."""
    max_cost_usd_per_request: Usd | None = None
    """US dollars after which a request ends with finish_reason "length"."""
    objective: Objective | None = None
    """Overrides the tier's."""
    cache: Literal["off", "own", "shared"] = "own"
    """Whose cached answers it may get and leave: nobody's, its own, or those of all tenants that share."""
