"""What one gateway holds of each account, and who of its requests holds which part. Pure: no clock, no calls.

What the owner thinks this gateway holds is at any moment what stands here, plus what an exchange under way gives back,
minus what one under way grants: both sides do the same sums from the same messages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from outrider.accounting.messages import Back, Exchanged, Grant, Held, Need, Resource
from outrider.accounting.windows import ALWAYS, Window

__all__ = ["Books", "Part", "Want"]

IDLE_S = 10.0
"""What was not used for so long is given back unasked; rates after RATES_IDLE_S, others may be refused meanwhile."""

RATES_IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Want:
    """What a request needs of one account; 0 where nothing limits it. Money: all of it, or at least the floor."""

    account: str
    money_nusd: int = 0
    floor_nusd: int = 0
    permits: int = 0
    requests: int = 0
    tokens: int = 0


@dataclass(slots=True, eq=False)
class Part:
    """What a request holds of one account. void: the owner gave its money to others."""

    account: str
    span: Window
    money_nusd: int
    permits: int
    requests: int
    tokens: int
    void: bool = False


@dataclass(slots=True)
class _Book:
    """An account here: what is free of it. Money is of one span; ended ones wait in `Books.stale`."""

    span: Window = ALWAYS
    span_ends_s: float = 0.0
    money_nusd: int = 0
    permits: int = 0
    requests: int = 0
    tokens: int = 0
    requests_left: float = 0.0
    tokens_left: float = 0.0
    left_s: float | None = None
    used_s: float = 0.0
    open: set[Part] = field(default_factory=set)


class Books:
    """Times are monotonic seconds, `now_s` in every call."""

    def __init__(self) -> None:
        self._books: defaultdict[str, _Book] = defaultdict(_Book)
        self._stale: Counter[tuple[str, Window]] = Counter()
        self._usable_until_s = float("-inf")

    def lapsed(self, now_s: float) -> bool:
        """The owner was not heard for so long that what is held may be somebody else's by now."""
        return now_s > self._usable_until_s

    @property
    def empty(self) -> bool:
        """Nothing is held, so there is nothing to renew."""
        return not self._stale and not any(_holds(book) for book in self._books.values())

    def rate(self, account: str, resource: Resource, limit: int, now_s: float) -> float | None:
        """What is left of a limit per minute, here and at the owner, as last heard; None before anything was."""
        book = self._books.get(account)
        if book is None or book.left_s is None:
            return None
        left, free = {"requests": (book.requests_left, book.requests), "tokens": (book.tokens_left, book.tokens)}[
            resource
        ]
        return left + free + (now_s - book.left_s) * limit / 60.0

    def accounts(self) -> tuple[str, ...]:
        """All that were ever asked for here."""
        return tuple(self._books)

    def lacks(self, want: Want, resource: Resource) -> bool:
        """Whether there is less than wanted here."""
        book = self._books[want.account]
        return {
            "money": book.money_nusd < want.money_nusd,
            "permits": book.permits < want.permits,
            "requests": book.requests < want.requests,
            "tokens": book.tokens < want.tokens,
        }[resource]

    def take(self, wants: tuple[Want, ...], now_s: float, *, floor: bool = False) -> tuple[Part, ...] | None:
        """All that is wanted or (floor) less money; None and nothing where it is not here."""
        if self.lapsed(now_s):
            return None
        books = [self._current(want.account, now_s) for want in wants]
        if any(
            book.permits < want.permits or book.requests < want.requests or book.tokens < want.tokens
            for book, want in zip(books, wants, strict=True)
        ):
            return None
        paying = [(book, want) for book, want in zip(books, wants, strict=True) if want.money_nusd]
        money = min((min(want.money_nusd, book.money_nusd) for book, want in paying), default=0)
        if any(money < (want.floor_nusd if floor else want.money_nusd) for _, want in paying):
            return None
        return tuple(_part(book, want, money, now_s) for book, want in zip(books, wants, strict=True))

    def span(self, account: str, now_s: float) -> Window | None:
        """The one that money is reserved in now; None if that is not known."""
        book = self._books[account]
        return book.span if now_s < book.span_ends_s else None

    def needs(self, wants: Iterable[Want], now_s: float, recall: Container[str]) -> tuple[Need, ...]:
        """What is missing for all of the wants together, by account; `recall`: accounts to be had from others."""
        sums: dict[str, Want] = {}
        for want in wants:
            before = sums.get(want.account)
            sums[want.account] = want if before is None else _sum(before, want)
        return tuple(self._need(want, now_s, recall=want.account in recall) for want in sums.values())

    def _need(self, want: Want, now_s: float, *, recall: bool) -> Need:
        book = self._current(want.account, now_s)
        return Need(
            want.account,
            max(0, want.money_nusd - book.money_nusd) if want.money_nusd else 0,
            max(0, want.permits - book.permits),
            max(0, want.requests - book.requests),
            max(0, want.tokens - book.tokens) if want.tokens else 0,
            recall,
        )

    # -- what comes back from a request

    def settle(self, parts: Iterable[Part], cost_nusd: int, tokens: int) -> None:
        """The owner has written what it cost; the rest is free again. tokens: really used."""
        for part in parts:
            book = self._close(part)
            if part.tokens:
                book.tokens += part.tokens - tokens
            if part.money_nusd and not part.void:
                others = sum(each.money_nusd for each in book.open if each.span == part.span and not each.void)
                free = book.money_nusd if part.span == book.span else self._stale[part.account, part.span]
                # The owner's lease does not go below 0 either, whatever was spent beyond a reservation.
                self._set_free(part, max(free + part.money_nusd - cost_nusd, -others))

    def release(self, parts: Iterable[Part]) -> None:
        """Nothing was delivered."""
        for part in parts:
            book = self._close(part)
            book.requests += part.requests
            book.tokens += part.tokens
            self.free_money(part)

    def merge(self, part: Part, more: Part) -> None:
        """Make one part of two. Where the money of `more` is of a later span it must suffice for both."""
        self._books[more.account].open.discard(more)
        if more.span != part.span:
            self.free_money(part)
            part.span, part.void = more.span, more.void
        part.money_nusd += more.money_nusd

    def free_money(self, part: Part) -> None:
        """Put a part's money back, and only that."""
        book = self._books[part.account]
        if part.money_nusd and not part.void:
            free = book.money_nusd if part.span == book.span else self._stale[part.account, part.span]
            self._set_free(part, free + part.money_nusd)
        part.money_nusd = 0

    def _close(self, part: Part) -> _Book:
        book = self._books[part.account]
        book.open.discard(part)
        book.permits += part.permits
        return book

    def _set_free(self, part: Part, nusd: int) -> None:
        book = self._books[part.account]
        if part.span == book.span:
            book.money_nusd = nusd
        elif nusd > 0:
            self._stale[part.account, part.span] = nusd
        else:
            self._stale.pop((part.account, part.span), None)

    # -- exchanges

    def backs(self, recalled: Iterable[str], now_s: float) -> tuple[Back, ...]:
        """Take out what is to be given back: what was recalled, has ended or is idle, and rates used beyond a lease."""
        wanted = set(recalled)
        found = [Back(account, span, money_nusd=nusd) for (account, span), nusd in self._stale.items()]
        self._stale.clear()
        for account in list(self._books):
            book = self._current(account, now_s)
            idle_s = now_s - book.used_s
            back = Back(account, book.span)
            if account in wanted or idle_s > IDLE_S:
                back = Back(account, book.span, max(0, book.money_nusd), book.permits)
                book.money_nusd, book.permits = min(0, book.money_nusd), 0
            if account in wanted or idle_s > RATES_IDLE_S or book.tokens < 0:
                back = Back(account, book.span, back.money_nusd, back.permits, book.requests, book.tokens)
                book.requests = book.tokens = 0
            if back != Back(account, book.span):
                found.append(back)
        found += [Back(account, span, money_nusd=nusd) for (account, span), nusd in self._stale.items()]
        self._stale.clear()
        return tuple(found)

    def held(self) -> tuple[Held, ...]:
        """All that is held, to be confirmed by an owner that does not know it; free permits and rates are dropped."""
        self._stale.clear()
        found = []
        for account, book in self._books.items():
            book.permits = book.requests = book.tokens = 0
            money: Counter[Window] = Counter()
            for part in book.open:
                money[part.span] += 0 if part.void else part.money_nusd
            money[book.span] += book.money_nusd
            found += [Held(account, span, max(0, nusd)) for span, nusd in money.items() if nusd > 0]
            permits = sum(part.permits for part in book.open)
            found += [Held(account, permits=permits)] if permits else []
        return tuple(found)

    def apply(self, answer: Exchanged, held: Iterable[Held], sent_s: float, now_s: float) -> None:
        """Take in an owner's answer to an exchange that was sent at `sent_s` and said `held`."""
        self._usable_until_s = max(self._usable_until_s, sent_s + answer.usable_s)
        kept = {(each.account, each.span): each.money_nusd for each in answer.kept}
        for each in held:
            if each.money_nusd and kept.get((each.account, each.span), 0) < each.money_nusd:
                self._lose(each.account, each.span, kept.get((each.account, each.span), 0))
        for grant in answer.grants:
            self._add(grant, sent_s, now_s)

    def _lose(self, account: str, span: Window, kept_nusd: int) -> None:
        """Somebody else may have the rest: no request can count on its part."""
        book = self._books[account]
        for part in book.open:
            part.void |= part.span == span
        if book.span == span:
            book.money_nusd = kept_nusd
        elif kept_nusd:
            self._stale[account, span] = kept_nusd

    def _add(self, grant: Grant, sent_s: float, now_s: float) -> None:
        book = self._books[grant.account]
        if book.span != grant.span:
            self._retire(grant.account, book)
            book.span = grant.span
        # The owner read its calendar after this was sent, so the span ends no sooner than that.
        book.span_ends_s = sent_s + grant.span_left_s
        book.money_nusd += grant.money_nusd
        book.permits += grant.permits
        book.requests += grant.requests
        book.tokens += grant.tokens
        book.requests_left, book.tokens_left, book.left_s = grant.requests_left, grant.tokens_left, now_s
        book.used_s = now_s

    def _current(self, account: str, now_s: float) -> _Book:
        book = self._books[account]
        if now_s >= book.span_ends_s and book.money_nusd > 0:
            self._retire(account, book)
        return book

    def _retire(self, account: str, book: _Book) -> None:
        if book.money_nusd > 0:
            self._stale[account, book.span] += book.money_nusd
        book.money_nusd = 0


def _part(book: _Book, want: Want, money_nusd: int, now_s: float) -> Part:
    money = money_nusd if want.money_nusd else 0
    part = Part(want.account, book.span, money, want.permits, want.requests, want.tokens)
    book.money_nusd -= money
    book.permits -= want.permits
    book.requests -= want.requests
    book.tokens -= want.tokens
    book.used_s = now_s
    book.open.add(part)
    return part


def _sum(one: Want, other: Want) -> Want:
    return Want(
        one.account,
        one.money_nusd + other.money_nusd,
        0,
        one.permits + other.permits,
        one.requests + other.requests,
        one.tokens + other.tokens,
    )


def _holds(book: _Book) -> bool:
    return bool(book.open or book.money_nusd or book.permits or book.requests or book.tokens)
