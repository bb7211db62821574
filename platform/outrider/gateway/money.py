"""What a request may still spend: no token leaves that was not paid for."""

from __future__ import annotations

import asyncio
import math

from outrider.accounting import Accountant, Reservation
from outrider.policy import ModelPolicy

__all__ = ["Meter"]

STRIDE_TOKENS = 64
"""How far ahead money is asked for when a reservation is used up."""
ROUNDING_USD = 0.49e-9
"""A charge is rounded to the nearest nano-dollar."""


class Meter:
    """One request's, shared by its choices. Prompts count at their full price until the engine says what it knew."""

    def __init__(
        self, price: ModelPolicy, prompt_tokens: int, reservation: Reservation, accountant: Accountant
    ) -> None:
        self.reservation = reservation
        self.paid_tokens = 0
        self._price = price
        self._prompt_tokens = prompt_tokens
        self._accountant = accountant
        self._asking = asyncio.Lock()

    async def pay(self, tokens: int) -> int:
        """How many of the next tokens may be delivered; they count as paid. Fewer than asked: there is no more money.

        Suspends only where the reservation does not cover them.
        """
        paid = self._affordable(tokens)
        if paid < tokens:
            async with self._asking:  # choices that run out together ask once each, not for the same tokens
                if self._affordable(tokens) < tokens:
                    await self._extend(tokens)
                paid = self._affordable(tokens)
        self.paid_tokens += paid
        return paid

    async def _extend(self, tokens: int) -> None:
        """By enough for a while, else for these tokens, else for half of them, and so on."""
        ahead = tokens + STRIDE_TOKENS
        while ahead:
            short_usd = self._cost_usd(ahead) - self.reservation.usd
            if short_usd <= ROUNDING_USD or await self._accountant.extend(self.reservation, short_usd):
                return
            ahead = tokens if ahead > tokens else ahead // 2

    def _affordable(self, tokens: int) -> int:
        if math.isinf(self.reservation.usd):
            return tokens
        left_usd = self.reservation.usd + ROUNDING_USD - self._cost_usd(0)
        if left_usd < 0 or self._price.output_usd_per_token == 0:
            return tokens if left_usd >= 0 else 0
        return min(tokens, int(left_usd / self._price.output_usd_per_token))

    def _cost_usd(self, more_tokens: int) -> float:
        return self._price.cost_usd(self._prompt_tokens, self.paid_tokens + more_tokens)
