"""The task of the demo family: short sums written character by character.

A problem is a prompt such as ``47+85=`` and its only right answer, ``132``. There are two operations, ``+``
and ``-``, on numbers of one or two digits; ``-`` never goes below zero.

One problem in ten is held out: a checksum of the prompt decides, so every script agrees on which ones
without sharing a file, and no model, the base included, is ever trained on them.

The base learns from a corpus of mixed quality, as corpora are: in four answers out of ten the last digit is
rounded away to 0 (``47+85=130``). A model of that corpus knows how to add and still often samples a rounded
answer, which leaves fine-tuning something to improve. The tuned models learn from exact answers or from a
reward that checks for them.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

ALPHABET = "0123456789+-="
LONGEST_PROMPT = len("99+99=")
LONGEST_ANSWER = len("198")

ROUNDED_SHARE = 0.4
HELD_OUT_SEED = 20_000
POOL_SEED = 10_000


@dataclass(frozen=True)
class Problem:
    """A prompt and its right answer."""

    prompt: str
    answer: str


def is_held_out(prompt: str) -> bool:
    """Whether this prompt belongs to the tenth that is kept for measuring."""
    return zlib.crc32(prompt.encode()) % 10 == 0


def draw_number(rng: random.Random) -> int:
    """A number of one or two digits, each as often."""
    digits = rng.randint(1, 2)
    return rng.randrange(10 ** (digits - 1), 10**digits)


def draw_problem(rng: random.Random, operations: str) -> Problem:
    """One problem with an operation drawn evenly from ``operations`` (for example ``"+-"``)."""
    operation = rng.choice(operations)
    left, right = draw_number(rng), draw_number(rng)
    if operation == "-":
        left, right = max(left, right), min(left, right)
    result = left + right if operation == "+" else left - right
    return Problem(f"{left}{operation}{right}=", str(result))


def stream(rng: random.Random, operations: str, held_out: bool) -> Iterator[Problem]:
    """An endless stream of problems from one side of the split."""
    while True:
        problem = draw_problem(rng, operations)
        if is_held_out(problem.prompt) == held_out:
            yield problem


def corpus(rng: random.Random, operations: str) -> Iterator[Problem]:
    """The stream that the base is pretrained on: some answers exact, some rounded down to tens."""
    for problem in stream(rng, operations, held_out=False):
        rounded = rng.random() < ROUNDED_SHARE
        yield Problem(problem.prompt, problem.answer[:-1] + "0") if rounded else problem


def distinct_problems(count: int, operations: str, held_out: bool, seed: int) -> list[Problem]:
    """The first ``count`` distinct problems of a seeded stream."""
    found: dict[str, Problem] = {}
    for problem in stream(random.Random(seed), operations, held_out):
        found.setdefault(problem.prompt, problem)
        if len(found) == count:
            break
    return list(found.values())


def training_pool(operations: str, count: int) -> list[Problem]:
    """The problems that the tuned models learn from: the same pool whatever the training seed."""
    return distinct_problems(count, operations, held_out=False, seed=POOL_SEED)


def held_out_set(operations: str, count: int) -> list[Problem]:
    """The problems on which every model is measured."""
    return distinct_problems(count, operations, held_out=True, seed=HELD_OUT_SEED)
