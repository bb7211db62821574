"""Word sums with worked solutions, and plain arithmetic; every answer is computed, never written by hand."""

# ruff: noqa: E501 — templates are read side by side, one to a line

from __future__ import annotations

import random
import re
from collections.abc import Callable

from outrider.training.data.document import Document, chat

__all__ = ["maths_documents"]

NAMES = [
    "Mia",
    "Tom",
    "Sara",
    "Leo",
    "Anna",
    "Ben",
    "Nina",
    "Omar",
    "Ella",
    "Sam",
    "Lucy",
    "Max",
    "Ravi",
    "Zoe",
    "Ivan",
    "Kate",
    "Noah",
    "Rosa",
    "Finn",
    "Maya",
    "Hugo",
    "Lena",
    "Amir",
    "Jane",
]
THINGS = [
    "apples",
    "pencils",
    "books",
    "marbles",
    "stamps",
    "cards",
    "coins",
    "shells",
    "buttons",
    "stickers",
    "cookies",
    "flowers",
    "stones",
    "tickets",
]
BOXES = ["boxes", "bags", "baskets", "trays", "jars", "shelves"]

Problem = tuple[str, str, int]


def _closing(rng: random.Random, value: int) -> str:
    return rng.choice((f"The answer is {value}.", f"So the answer is {value}.", f"Answer: {value}"))


def _gain_and_loss(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(5, 50), rng.randint(3, 40)
    c = rng.randint(2, min(30, a + b - 1))
    gained = rng.choice(("buys", "finds", "gets"))
    lost = rng.choice(("gives away", "loses", "sells"))
    question = (
        f"{name} has {a} {thing}. {name} {gained} {b} more and then {lost} {c}. "
        f"How many {thing} does {name} have {rng.choice(('now', 'in the end'))}?"
    )
    steps = (
        f"{name} starts with {a} {thing}.\nAfter {name} {gained} {b} more: {a} + {b} = {a + b}.\n"
        f"After {name} {lost} {c}: {a + b} - {c} = {a + b - c}."
    )
    return question, steps, a + b - c


def _boxes(rng: random.Random) -> Problem:
    thing, box = rng.choice(THINGS), rng.choice(BOXES)
    n, k, extra = rng.randint(2, 12), rng.randint(2, 12), rng.randint(1, 20)
    question = (
        f"There are {n} {box} with {k} {thing} in each, and {extra} more {thing} on the table. "
        f"How many {thing} are there {rng.choice(('in total', 'altogether'))}?"
    )
    steps = f"In the {box}: {n} * {k} = {n * k} {thing}.\nWith the {extra} on the table: {n * k} + {extra} = {n * k + extra}."
    return question, steps, n * k + extra


def _sharing(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    people, each = rng.randint(2, 10), rng.randint(2, 12)
    total = people * each
    question = f"{name} shares {total} {thing} equally among {people} friends. How many {thing} does each friend get?"
    steps = f"There are {total} {thing} for {people} friends.\nEach friend gets {total} / {people} = {each} {thing}."
    return question, steps, each


def _price(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    n, cost = rng.randint(2, 9), rng.randint(2, 9)
    paid = n * cost + rng.randint(1, 30)
    question = f"{name} buys {n} {thing} for {cost} dollars each and pays with {paid} dollars. How much change does {name} get?"
    steps = f"The {thing} cost {n} * {cost} = {n * cost} dollars.\nThe change is {paid} - {n * cost} = {paid - n * cost} dollars."
    return question, steps, paid - n * cost


def _comparison(rng: random.Random) -> Problem:
    first, second = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    a, d = rng.randint(4, 40), rng.randint(2, 30)
    question = f"{first} has {a} {thing}. {second} has {d} more than {first}. How many {thing} do they have together?"
    steps = f"{second} has {a} + {d} = {a + d} {thing}.\nTogether they have {a} + {a + d} = {2 * a + d} {thing}."
    return question, steps, 2 * a + d


def _speed(rng: random.Random) -> Problem:
    vehicle = rng.choice(("train", "car", "bus", "truck"))
    speed, hours, more = rng.randint(2, 12) * 5, rng.randint(2, 6), rng.randint(1, 9) * 5
    question = (
        f"A {vehicle} travels at {speed} km per hour for {hours} hours and then {more} km more. "
        f"How {rng.choice(('far does it travel', 'many km does it travel'))}?"
    )
    far = speed * hours
    steps = (
        f"In {hours} hours the {vehicle} travels {speed} * {hours} = {far} km.\nThen {far} + {more} = {far + more} km."
    )
    return question, steps, far + more


def _savings(rng: random.Random) -> Problem:
    name = rng.choice(NAMES)
    weekly, weeks, spent = rng.randint(3, 15), rng.randint(3, 12), rng.randint(2, 9)
    saved = weekly * weeks
    question = (
        f"{name} saves {weekly} dollars a week for {weeks} weeks and then spends {spent} dollars. How much is left?"
    )
    steps = f"{name} saves {weekly} * {weeks} = {saved} dollars.\nAfter spending {spent}: {saved} - {spent} = {saved - spent} dollars."
    return question, steps, saved - spent


def _rows(rng: random.Random) -> Problem:
    rows, seats, taken = rng.randint(3, 12), rng.randint(4, 12), rng.randint(2, 11)
    place = rng.choice(("hall", "cinema", "theatre"))
    question = f"A {place} has {rows} rows of {seats} seats. {taken} seats are taken. How many seats are free?"
    total = rows * seats
    steps = f"There are {rows} * {seats} = {total} seats.\nFree seats: {total} - {taken} = {total - taken}."
    return question, steps, total - taken


def _plain(rng: random.Random) -> Problem:
    kind = rng.randrange(4)
    if kind == 0:
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        expression, value = f"{a} + {b}", a + b
    elif kind == 1:
        a, b = rng.randint(2, 99), rng.randint(1, 99)
        a, b = max(a, b), min(a, b)
        expression, value = f"{a} - {b}", a - b
    elif kind == 2:
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        expression, value = f"{a} * {b}", a * b
    else:
        b, value = rng.randint(2, 12), rng.randint(2, 12)
        expression = f"{b * value} / {b}"
    question = rng.choice(("What is {}?", "Compute {}.", "Calculate {}.", "{} = ?")).format(expression)
    return question, f"{expression} = {value}.", value


def _three_terms(rng: random.Random) -> Problem:
    a, b, c = rng.randint(2, 40), rng.randint(2, 40), rng.randint(2, 40)
    question = rng.choice(("What is {}?", "Compute {} step by step.", "Add {}.")).format(f"{a} + {b} + {c}")
    return question, f"{a} + {b} = {a + b}.\n{a + b} + {c} = {a + b + c}.", a + b + c


def _small(rng: random.Random) -> Problem:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    expression, value = rng.choice(((f"{a} + {b}", a + b), (f"{a + b} - {b}", a)))
    return rng.choice(("What is {}?", "How much is {}?", "{}?")).format(expression), f"{expression} = {value}.", value


TEMPLATES: tuple[Callable[[random.Random], Problem], ...] = (
    _gain_and_loss, _boxes, _sharing, _price, _comparison, _speed, _savings, _rows, _plain, _plain, _plain, _three_terms,
)  # fmt: skip
ARITHMETIC = (_plain, _three_terms, _small)
DRILL = (*TEMPLATES, _plain, _plain, _plain, _small, _small)


def maths_documents(count: int, rng: random.Random, drill: bool = False) -> list[Document]:
    """`count` distinct questions; the split key is the question itself.

    `drill` adds small sums, writes some expressions without spaces, and asks for arithmetic more often.
    """
    seen: set[str] = set()
    documents: list[Document] = []
    attempts = 0
    while len(documents) < count and attempts < 4 * count:
        attempts += 1
        template = rng.choice(DRILL if drill else TEMPLATES)
        question, steps, value = template(rng)
        if drill and template in ARITHMETIC and rng.random() < 0.3:
            question = re.sub(r" ([-+*/]) ", r"\1", question)
        if question in seen:
            continue
        seen.add(question)
        kind = "arithmetic" if template in ARITHMETIC else "word sums"
        response = f"{steps}\n{_closing(rng, value)}"
        documents.append(chat("maths", kind, question, question, response, answer=str(value)))
    return documents
