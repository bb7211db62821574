"""What gateways and the accounting owner say to each other: frozen values of numbers, names and tuples of such.

    gateway                                        owner
    exchange(number, backs, needs)        ->       what is given back, then what is asked for
          grants, shortages               <-       after the grants are durable
    settle(items)                         ->       rows of the ledger
          charged                         <-       after they are durable
    attend(gateway)                       ->       a long poll
          accounts                        <-       whose unused part another gateway needs now

A gateway has one exchange under way at a time and repeats it, unchanged, until it is answered; the owner knows the last
number of each gateway and answers a repetition as before. So what is given back arrives once, and so does a grant.
Every exchange renews all that the gateway holds. One it does not know (it restarted, or the gateway was silent for too
long) it answers with `known=False`; the gateway then says all it holds in `held` and keeps what is confirmed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from outrider.accounting.types import Settlement
from outrider.accounting.windows import ALWAYS, Window

__all__ = [
    "Back",
    "Charged",
    "Exchange",
    "Exchanged",
    "Grant",
    "Held",
    "Need",
    "OwnerClient",
    "Resource",
    "Settle",
    "SettleItem",
    "Settled",
    "Shortage",
]

Resource = Literal["money", "permits", "requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Need:
    """What a gateway lacks of an account; 0 is nothing. recall: if it is short, ask other gateways to give back."""

    account: str
    money_nusd: int = 0
    permits: int = 0
    requests: int = 0
    tokens: int = 0
    recall: bool = True


@dataclass(frozen=True, slots=True)
class Back:
    """What a gateway no longer holds. tokens may be negative: more were used than had been leased."""

    account: str
    span: Window = ALWAYS
    money_nusd: int = 0
    permits: int = 0
    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """All that a gateway holds of an account's span: reserved or free. permits: requests that run now."""

    account: str
    span: Window = ALWAYS
    money_nusd: int = 0
    permits: int = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """epoch: of the owner it is meant for, 0 at first. recalled: accounts given back because the owner asked."""

    gateway: str
    epoch: int
    number: int
    backs: tuple[Back, ...] = ()
    recalled: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    held: tuple[Held, ...] | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What the gateway holds from now on beside what it has, one for each need.

    span: when the money may be reserved, by the owner's calendar; span_left_s: until it ends.
    *_left: what the owner's buckets hold after it, for headers.
    """

    account: str
    span: Window
    span_left_s: float
    money_nusd: int
    permits: int
    requests: int
    tokens: int
    requests_left: float
    tokens_left: float


@dataclass(frozen=True, slots=True)
class Shortage:
    """A resource that was granted less of than needed.

    recalling: other gateways were asked to give back; ask again in a moment. unwritten: the database cannot be
    written. left_nusd: what is neither spent nor granted for ever, that is limit less spent.
    """

    account: str
    resource: Resource
    recalling: bool = False
    unwritten: bool = False
    retry_after_s: float = 1.0
    left_nusd: int = 0


@dataclass(frozen=True, slots=True)
class Exchanged:
    """usable_s: how long after it *sent* the exchange a gateway may use what it holds. calendar_s: the owner's time."""

    epoch: int
    known: bool
    usable_s: float
    calendar_s: float
    grants: tuple[Grant, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    kept: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True)
class SettleItem:
    """spans: what its money was reserved in, by account. charged_s: when; None if nothing limits it."""

    settlement: Settlement
    spans: tuple[tuple[str, Window], ...] = ()
    charged_s: float | None = None


@dataclass(frozen=True, slots=True)
class Settle:
    gateway: str
    items: tuple[SettleItem, ...]


@dataclass(frozen=True, slots=True)
class Charged:
    """duplicate: the decision had been settled before, and counts once."""

    decision_id: str
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Settled:
    charged: tuple[Charged, ...]


class OwnerClient(Protocol):
    """A way to the owner. Each call raises AccountingUnavailable where it failed, or may have; it may be repeated."""

    async def exchange(self, exchange: Exchange) -> Exchanged: ...

    async def settle(self, settle: Settle) -> Settled: ...

    async def attend(self, gateway: str) -> tuple[str, ...]: ...
