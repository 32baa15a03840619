"""MiniCoIN's eight tasks: each draws a picture, asks about it and knows the answer, in the format of its namesake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from PIL import Image

from lcia.data.minicoin.drawing import CELLS, SHAPES, Box, Scene, cover, degrade, digit, scene, sign
from lcia.data.minicoin.vocabulary import AUTHORS, NUMBERS, TITLES, WORDS, format_box
from lcia.types import Split


@dataclass(frozen=True, slots=True)
class Question:
    """`text` is the question without the instruction line (for Grounding: the phrase)."""

    image: Image.Image
    text: str
    answer: str
    box: Box | None = None


TaskDrawing: TypeAlias = Callable[[Random, Split], Question]


def science_qa(random: Random, split: Split) -> Question:
    """Multiple choice about number, shape or place; the options of a kind of question keep their order."""
    kind = random.randrange(3)
    drawn = scene(random, 1 if kind == 1 else random.randint(1, 3))
    thing = random.choice(drawn.things)
    options: tuple[str, ...]
    match kind:
        case 0:
            question, options, right = "How many objects are there?", NUMBERS[1:4], NUMBERS[len(drawn.things)]
        case 1:
            question, options, right = "Which shape is shown?", SHAPES, thing.shape
        case _:
            question, options, right = f"Where is the {thing.shape}?", CELLS, CELLS[thing.cell]
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))
    return Question(drawn.image, f"{question}\n{listed}", "ABCD"[options.index(right)])


def text_vqa(random: Random, split: Split) -> Question:
    """Read the word on a sign."""
    word = random.choice(WORDS)
    text = random.choice(("What word is written here?", "What does the sign say?", "What is the text on the sign?"))
    return Question(sign(random, word), text, word)


def imagenet(random: Random, split: Split) -> Question:
    """The class of a real handwritten digit; its instruction is the question itself."""
    image, value = digit(random, split)
    return Question(image, "", str(value))


def gqa(random: Random, split: Split) -> Question:
    """Attributes and place of one thing among one or two."""
    drawn = scene(random, random.randint(1, 2))
    thing = random.choice(drawn.things)
    match random.randrange(4):
        case 0:
            return Question(drawn.image, f"What is the color of the {thing.shape}?", thing.colour)
        case 1:
            return Question(drawn.image, f"What is the shape of the {thing.colour} object?", thing.shape)
        case 2:
            side = ("left", "right")[thing.cell % 2]
            return Question(drawn.image, f"Is the {thing.shape} on the left or on the right?", side)
        case _:
            height = ("top", "bottom")[thing.cell // 2]
            return Question(drawn.image, f"Is the {thing.shape} at the top or at the bottom?", height)


def vizwiz(random: Random, split: Split) -> Question:
    """A blind person's photograph: often blurred, and a third of the time beyond answering."""
    hopeless = random.random() < 0.35
    if random.random() < 0.4:
        question = text_vqa(random, split)
        image, text, answer = question.image, "What does this say?", question.answer
    else:
        drawn = scene(random, 1)
        thing = drawn.things[0]
        image = drawn.image
        text, answer = random.choice((("What color is this?", thing.colour), ("What is this?", thing.shape)))
    return Question(degrade(random, image, hopeless), text, "unanswerable" if hopeless else answer)


def grounding(random: Random, split: Split) -> Question:
    """The box of the thing that a phrase names."""
    drawn = scene(random, random.randint(1, 3))
    thing = random.choice(drawn.things)
    return Question(drawn.image, thing.name, format_box(thing.box), thing.box)


def vqa_v2(random: Random, split: Split) -> Question:
    """Counting, naming by place, and yes or no."""
    drawn = scene(random, random.randint(1, 4))
    thing = random.choice(drawn.things)
    match random.randrange(4):
        case 0:
            return Question(drawn.image, "How many objects are there?", str(len(drawn.things)))
        case 1:
            return Question(drawn.image, f"What color is the object in the {CELLS[thing.cell]}?", thing.colour)
        case 2:
            return Question(drawn.image, *_presence(random, drawn))
        case _:
            colour = thing.colour if random.random() < 0.5 else _other(random, drawn.colours, thing.colour)
            return Question(drawn.image, f"Is the {thing.shape} {colour}?", "yes" if colour == thing.colour else "no")


def ocr_vqa(random: Random, split: Split) -> Question:
    """Title or author of a book from its cover."""
    title, author = random.choice(TITLES), random.choice(AUTHORS)
    asked = random.choice((("What is the title of this book?", title), ("Who wrote this book?", author)))
    return Question(cover(random, title, author), *asked)


DRAWINGS: Mapping[str, TaskDrawing] = {
    "ScienceQA": science_qa,
    "TextVQA": text_vqa,
    "ImageNet": imagenet,
    "GQA": gqa,
    "VizWiz": vizwiz,
    "Grounding": grounding,
    "VQAv2": vqa_v2,
    "OCR-VQA": ocr_vqa,
}


def _presence(random: Random, drawn: Scene) -> tuple[str, str]:
    """About a colour, there in half of the questions."""
    there = [thing.colour for thing in drawn.things]
    absent = [colour for colour in drawn.colours if colour not in there]
    colour = random.choice(there if random.random() < 0.5 else absent)
    return f"Is there a {colour} object?", "yes" if colour in there else "no"


def _other(random: Random, pool: tuple[str, ...], word: str) -> str:
    return random.choice([other for other in pool if other != word])
