"""Generated prose: descriptions of people and places from given facts, short stories, letters and instructions."""

# ruff: noqa: E501 — templates are read side by side, one to a line

from __future__ import annotations

import random
from collections.abc import Callable

from outrider.training.data.document import Document, chat
from outrider.training.data.maths import NAMES

__all__ = ["story_documents"]

JOBS = [
    "teacher",
    "baker",
    "doctor",
    "farmer",
    "pilot",
    "painter",
    "gardener",
    "nurse",
    "singer",
    "driver",
    "writer",
    "cook",
    "carpenter",
    "librarian",
]
PLACES = [
    "Leeds",
    "Oslo",
    "Lima",
    "Rome",
    "Cairo",
    "Paris",
    "Kyoto",
    "Quito",
    "Dublin",
    "Vienna",
    "Boston",
    "Lagos",
    "Turin",
    "Bergen",
    "Porto",
    "Delhi",
]
HOBBIES = (
    "playing chess", "reading books", "riding a bicycle", "growing roses", "painting boats", "baking bread",
    "climbing hills", "playing the violin", "swimming in the lake", "collecting stamps", "watching birds", "cooking soup",
)  # fmt: skip
ANIMALS = ["fox", "owl", "bear", "mouse", "rabbit", "crow", "cat", "dog", "goat", "hedgehog", "frog", "horse"]
SCENES = ["forest", "river", "garden", "village", "mountain", "meadow", "harbour", "barn", "valley", "lake"]
FOUND = ["key", "lamp", "letter", "map", "coin", "bell", "ring", "book", "kite", "boat"]
MOODS = ["happy", "proud", "tired", "curious", "brave", "quiet", "hungry", "lonely"]
WEATHER = ("sunny", "rainy", "windy", "cold", "warm", "foggy")
THINGS = (
    "a cup of tea",
    "a paper boat",
    "a bird house",
    "a pot of soup",
    "a loaf of bread",
    "a small garden",
    "a kite",
)

Text = tuple[str, str]


def _person(rng: random.Random) -> Text:
    name, job, place, hobby = (rng.choice(group) for group in (NAMES, JOBS, PLACES, HOBBIES))
    mood = rng.choice(MOODS)
    question = rng.choice(
        (
            f"Describe {name}, a {job} from {place} who likes {hobby}.",
            f"Write about {name}, a {job} in {place} who enjoys {hobby}.",
        )
    )
    ending = rng.choice(
        (f"People in {place} know {name} well and like to talk about {hobby}.",
         f"At the end of the day {name} is {mood} and goes home.",
         f"One day {name} hopes to leave {place} and see the world.")
    )  # fmt: skip
    middle = rng.choice(
        (f"Every morning {name} gets up early and goes to work.", f"Being a {job} is hard work, but {name} likes it.")
    )
    return question, f"{name} is a {job} who lives in {place}. {middle} In the evening {name} likes {hobby}. {ending}"


def _story(rng: random.Random) -> Text:
    animal, scene, thing, mood = (rng.choice(group) for group in (ANIMALS, SCENES, FOUND, MOODS))
    other = rng.choice([a for a in ANIMALS if a != animal])
    question = rng.choice(
        (
            f"Write a short story about a {animal} and a {thing}.",
            f"Tell me a story about a {animal} who finds a {thing}.",
        )
    )
    opening = rng.choice(("Once upon a time there was", "Long ago there lived"))
    third = rng.choice(
        (f'"Is this your {thing}?" asked the {animal}. "Yes," said the {other}, "I lost it yesterday."',
         f"The {animal} showed the {thing} to a {other}, and the {other} was very surprised.",
         f"A {other} came by and said that the {thing} was very old.")
    )  # fmt: skip
    closing = rng.choice(
        (
            "From that day on they were good friends.",
            f"And so the {animal} was never lonely again.",
            "They went home together and slept well.",
        )
    )
    return question, (
        f"{opening} a {mood} {animal} who lived near a {scene}. One day the {animal} found a {thing} by the {scene}. "
        f"{third} {closing}"
    )


def _weather(rng: random.Random) -> Text:
    place, weather, activity = rng.choice(PLACES), rng.choice(WEATHER), rng.choice(HOBBIES)
    question = rng.choice((f"Describe a {weather} day in {place}.", f"What is a {weather} day in {place} like?"))
    feeling = {
        "sunny": "The sky is blue and the streets are full of people.",
        "rainy": "The streets are wet and people carry umbrellas.",
        "windy": "The wind blows through the streets and moves the trees.",
        "cold": "The air is cold and people wear warm coats.",
        "warm": "The air is warm and the windows are open.",
        "foggy": "The fog is thick and the houses are hard to see.",
    }[weather]
    closing = rng.choice(
        (
            f"It is a good day for {activity}.",
            "In the evening everything becomes quiet.",
            f"Some people stay at home, others think of {activity}.",
        )
    )
    return question, f"It is a {weather} day in {place}. {feeling} {closing}"


def _letter(rng: random.Random) -> Text:
    writer, reader = rng.sample(NAMES, 2)
    occasion = rng.choice(("birthday party", "concert", "dinner", "picnic", "wedding"))
    day = rng.choice(("Monday", "Friday", "Saturday", "Sunday"))
    place = rng.choice(SCENES)
    question = f"Write a short letter from {writer} to {reader} about a {occasion} on {day}."
    body = rng.choice(
        (f"I would like to invite you to a {occasion} on {day}. We will meet near the {place}.",
         f"Thank you for the {occasion} on {day}. I had a very good time near the {place}.")
    )  # fmt: skip
    closing = rng.choice(
        ("I hope to see you soon.", "Please write back when you can.", "Please bring your friends too.")
    )
    return question, f"Dear {reader},\n\n{body} {closing}\n\nBest wishes,\n{writer}"


def _steps(rng: random.Random) -> Text:
    thing = rng.choice(THINGS)
    helper = rng.choice(NAMES)
    plan = {
        "a cup of tea": ("Boil some water.", "Put the tea into a cup.", "Pour the water over the tea and wait three minutes."),
        "a paper boat": ("Take a sheet of paper.", "Fold it in half and fold the corners down.", "Open it carefully and pull the ends apart."),
        "a bird house": ("Cut six pieces of wood.", "Nail the pieces together.", "Hang the house in a tree."),
        "a pot of soup": ("Wash and cut the vegetables.", "Boil them in water for twenty minutes.", "Add salt and stir well."),
        "a loaf of bread": ("Mix flour, water, salt and yeast.", "Let the dough rest for one hour.", "Bake it for forty minutes."),
        "a small garden": ("Dig the ground and remove the stones.", "Put the seeds into the ground.", "Water them every morning."),
        "a kite": ("Tie two sticks together in a cross.", "Cover them with thin paper.", "Fasten a long string and run into the wind."),
    }[thing]  # fmt: skip
    question = rng.choice((f"How does {helper} make {thing}?", f"Tell {helper} how to make {thing}."))
    closing = rng.choice(("That is all.", f"Now {thing} is ready.", f"{helper} can do this in one afternoon."))
    numbered = "\n".join(f"{i}. {line}" for i, line in enumerate(plan, 1))
    return question, f"To make {thing}, {helper} can follow these steps:\n\n{numbered}\n\n{closing}"


TEMPLATES: tuple[Callable[[random.Random], Text], ...] = (_person, _person, _story, _story, _weather, _letter, _steps)


def story_documents(count: int, rng: random.Random) -> list[Document]:
    """`count` conversations; the split key is the question."""
    documents: list[Document] = []
    for _ in range(count):
        question, response = rng.choice(TEMPLATES)(rng)
        documents.append(chat("prose", "story", question, question, response))
    return documents
