"""Pairs with a known truth: what `outrider.quality` should find, and how sure it may be."""

from __future__ import annotations

import random

from outrider.quality import Pair

FRUIT = ("apples", "pears", "figs", "plums", "grapes", "melons")
VERBS = ("sorts", "reverses", "sums", "counts", "filters", "copies")


def true_success(text: str) -> dict[str, float]:
    """The probability that each of two made-up models answers a question of `make_pairs` rightly."""
    hard = "times" in text or "filters" in text
    return {"small": 0.15 if hard else 0.85, "large": 0.6 if hard else 0.9}


def make_pairs(count: int, seed: int = 1) -> list[Pair]:
    """Questions of two domains whose difficulty shows in one word; each its own group."""
    rng = random.Random(seed)
    pairs = []
    for number in range(count):
        if rng.random() < 0.5:
            operation = rng.choice(("plus", "times", "minus"))
            fruit = rng.choice(FRUIT)
            text = f"How many {fruit} are {rng.randint(2, 99)} {fruit} {operation} {rng.randint(2, 99)} {fruit}?"
            domain = "sums"
        else:
            text = f"Write a function `f_{rng.randint(2, 99)}(items)` that {rng.choice(VERBS)} the items."
            domain = "functions"
        correct = {model: rng.random() < chance for model, chance in true_success(text).items()}
        pairs.append(Pair(text, domain, f"{seed}:{number}", correct))
    return pairs
