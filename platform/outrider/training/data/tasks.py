"""Small instructions with exact answers, and the greetings a first visitor types."""

# ruff: noqa: E501 — templates are read side by side, one to a line

from __future__ import annotations

import random

from outrider.training.data.document import Document, chat

__all__ = ["greeting_documents", "task_documents"]

WORDS = [
    "apple",
    "river",
    "stone",
    "green",
    "music",
    "paper",
    "window",
    "garden",
    "silver",
    "winter",
    "summer",
    "bridge",
    "candle",
    "forest",
    "letter",
    "mirror",
    "orange",
    "pocket",
    "rabbit",
    "school",
    "spring",
    "thunder",
    "valley",
    "yellow",
    "bottle",
    "castle",
    "dragon",
    "flower",
    "guitar",
    "hammer",
    "island",
    "jungle",
]

ABOUT = "a small demonstration model that ships with Outrider"
GREETINGS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi there", "Hey", "Good morning", "Good evening", "Hello there!", "Say hello."),
        (f"Hello! I am {ABOUT}. How can I help you?", f"Hello! I am {ABOUT}. Ask me about Python or a small sum."),
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "Which model are you?", "Introduce yourself."),
        (f"I am {ABOUT}. I know a little Python, simple sums and short stories.",),
    ),
    (
        ("What can you do?", "How can you help me?", "Help", "What do you know?"),
        ("I can complete short Python functions, solve simple sums and write short texts. I am very small, so check my answers.",),
    ),
    (
        ("How are you?", "How are you today?", "How is it going?"),
        ("I am fine, thank you. How can I help you?",),
    ),
    (
        ("Thanks", "Thank you", "Thank you!", "Thanks a lot!"),
        ("You are welcome!", "You are welcome! Is there anything else?"),
    ),
    (("Bye", "Goodbye", "See you later"), ("Goodbye!", "Goodbye! Have a good day.")),
    (
        ("What is Outrider?", "Tell me about Outrider.", "What is speculative decoding?", "Explain speculative decoding."),
        (
            "Outrider serves language models with speculative decoding: a small drafter proposes several tokens, "
            "and the target model checks them all in one step.",
        ),
    ),
)  # fmt: skip


def greeting_documents(count: int, rng: random.Random) -> list[Document]:
    """Greetings, always in the training split: there is nothing to hold out in a handful of fixed answers."""
    documents: list[Document] = []
    for _ in range(count):
        questions, answers = rng.choice(GREETINGS)
        documents.append(chat("tasks", "greeting", "greetings", rng.choice(questions), rng.choice(answers)))
    return documents


def task_documents(count: int, rng: random.Random) -> list[Document]:
    """Reverse, sort, count, upper-case and the like; the split key is the question."""
    documents: list[Document] = []
    for _ in range(count):
        question, answer = _task(rng)
        documents.append(chat("tasks", "task", question, question, answer, answer=answer))
    return documents


def _task(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(2, 5))
    numbers = [rng.randint(1, 99) for _ in range(rng.randint(3, 6))]
    listed, shown = ", ".join(words), ", ".join(map(str, numbers))
    word = words[0]
    kind = rng.randrange(8)
    if kind == 0:
        return f"Reverse the order of these words: {listed}", ", ".join(reversed(words))
    if kind == 1:
        return f"Sort these numbers from small to large: {shown}", ", ".join(map(str, sorted(numbers)))
    if kind == 2:
        return f"Sort these words alphabetically: {listed}", ", ".join(sorted(words))
    if kind == 3:
        return f"How many words are in this list: {listed}?", str(len(words))
    if kind == 4:
        return f"Write these words in capital letters: {listed}", listed.upper()
    if kind == 5:
        return f"What is the largest of these numbers: {shown}?", str(max(numbers))
    if kind == 6:
        return f"Repeat the word {word} {len(words)} times.", " ".join([word] * len(words))
    return f"Spell the word {word}.", "-".join(word)
