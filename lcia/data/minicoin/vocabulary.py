"""The words that the drawn pictures hold, and how numbers and boxes are written."""

from __future__ import annotations

from lcia.data.minicoin.drawing import Box

WORDS = (
    "stop",
    "exit",
    "open",
    "taxi",
    "cafe",
    "bank",
    "shop",
    "park",
    "gate",
    "menu",
    "sale",
    "hotel",
    "pizza",
    "metro",
    "music",
)
TITLES = ("moon", "storm", "river", "ghost", "tiger", "ocean", "dream", "stone", "fire", "wolf")
AUTHORS = ("smith", "jones", "brown", "adams", "clark", "lewis", "young", "hall", "king", "diaz")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def format_box(box: Box) -> str:
    """As CoIN writes it: four fractions with two decimals in brackets."""
    return "[" + ", ".join(f"{value:.2f}" for value in box) + "]"
