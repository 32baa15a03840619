"""Orders of tasks: all of them, samples without repetition, and squares that balance positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import factorial
from random import Random

from lcia.types import InputError

Tasks = tuple[str, ...]


def of_code(tasks: Sequence[str], code: Sequence[int]) -> Tasks:
    """The order with this Lehmer code: code[i] is the place of the next task among those that are left, from 0."""
    left = list(tasks)
    return tuple(left.pop(place) for place in code)


def of_rank(tasks: Sequence[str], rank: int) -> Tasks:
    """The order number `rank` of all, from 0, as itertools.permutations lists them."""
    code = []
    for left in range(len(tasks), 0, -1):
        place, rank = divmod(rank, factorial(left - 1))
        code.append(place)
    return of_code(tasks, code)


def sampled(tasks: Sequence[str], count: int, seed: int) -> list[Tasks]:
    """`count` different orders, each set of them as likely as any other.

    Raises:
        InputError: there are not as many.
    """
    every = factorial(len(tasks))
    if count > every:
        raise InputError(f"orders.sample asks for {count} of {every} orders of {len(tasks)} tasks: use `orders: all`")
    return [of_rank(tasks, rank) for rank in Random(seed).sample(range(every), count)]


def latin(tasks: Sequence[str], squares: int, seed: int) -> list[Tasks]:
    """The rows of `squares` Latin squares, without a row that an earlier one has: in each square every task stands once
    in every position.

    They are Williams' squares (1949): with an even number of tasks every task also follows every other one once in a
    square. The first is made from the tasks as they stand, the others from shuffled ones.

    Raises:
        InputError: no more squares are left.
    """
    n, random = len(tasks), Random(seed)
    if squares > (every := factorial(n - 1)):
        raise InputError(f"orders.latin asks for {squares} of {every} squares of {n} tasks: use `orders: all`")
    found: dict[Tasks, None] = {}
    named = list(tasks)
    while len(found) < squares * n:
        square = [tuple(named[(place + row) % n] for place in _williams(n)) for row in range(n)]
        if found.keys().isdisjoint(square):
            found |= dict.fromkeys(square)
        random.shuffle(named)
    return list(found)


def _williams(n: int) -> list[int]:
    """0, 1, n - 1, 2, n - 2 ...: for an even n, neighbours differ by every number once."""
    return [0, *chain.from_iterable((step, n - step) for step in range(1, n // 2 + 1))][:n]
