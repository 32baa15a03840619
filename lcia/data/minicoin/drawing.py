"""Small pictures drawn from a seeded Random: scenes of coloured shapes, signs, book covers, digits, and their ruin.

Everything is drawn with Pillow's built-in bitmap font and integer geometry, so a seed gives the same pixels everywhere.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = 32
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 240),
    "yellow": (240, 220, 40),
    "purple": (160, 50, 200),
    "white": (250, 250, 250),
}
CELLS = ("top left", "top right", "bottom left", "bottom right")
PLAIN_SHAPES = ("circle", "rectangle", "triangle")
PLAIN_COLOURS = {
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "yellow": (255, 255, 0),
    "teal": (0, 128, 128),
}

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture's side."""
DigitPart: TypeAlias = Literal["alignment", "train", "validation", "test"]
Colour: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn shape; `cell` indexes CELLS."""

    shape: str
    colour: str
    cell: int
    box: Box

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, what is in it in the order of the cells, and the shapes and colours it was chosen from."""

    image: Image.Image
    things: tuple[Thing, ...]
    shapes: tuple[str, ...] = SHAPES
    colours: tuple[str, ...] = tuple(COLOURS)


def scene(random: Random, count: int) -> Scene:
    """`count` (1 to 4) things of different shapes and colours, each in its own quarter of a dark picture."""
    image, draw = _canvas(_dark(random))
    things = []
    cells, shapes, colours = sorted(random.sample(range(4), count)), random.sample(SHAPES, count), list(COLOURS)
    for cell, shape, colour in zip(cells, shapes, random.sample(colours, count), strict=True):
        radius = random.randint(4, 6)
        x, y = (16 * part + 8 + random.randint(-1, 1) for part in (cell % 2, cell // 2))
        corners = (x - radius, y - radius, x + radius, y + radius)
        _draw_shape(draw, shape, corners, COLOURS[colour])
        things.append(Thing(shape, colour, cell, _fractions(corners, SIZE)))
    return Scene(image, tuple(things))


def plain_scene(random: Random, side: int = 64) -> Scene:
    """One shape of a plain colour, large or small, anywhere on a light picture of `side` x `side` pixels."""
    image = Image.new("RGB", (side, side), tuple(random.randint(228, 255) for _ in range(3)))
    shape, colour = random.choice(PLAIN_SHAPES), random.choice(list(PLAIN_COLOURS))
    width = random.randint(side // 8, side // 2)
    height = random.randint(side // 8, side // 2) if shape == "rectangle" else width
    left, top = random.randint(0, side - 1 - width), random.randint(0, side - 1 - height)
    corners = (left, top, left + width, top + height)
    _draw_shape(ImageDraw.Draw(image), shape, corners, PLAIN_COLOURS[colour])
    cell = 2 * (top + height / 2 >= side / 2) + (left + width / 2 >= side / 2)
    thing = Thing(shape, colour, cell, _fractions(corners, side))
    return Scene(image, (thing,), PLAIN_SHAPES, tuple(PLAIN_COLOURS))


def sign(random: Random, word: str) -> Image.Image:
    """A short word (up to five letters fit) on a dark picture, sometimes on a coloured bar."""
    image, draw = _canvas(_dark(random))
    top = random.choice((2, 10, 18))
    if random.random() < 0.5:
        draw.rectangle((0, top - 1, SIZE, top + 12), fill=COLOURS[random.choice(("blue", "green", "red", "purple"))])
    _write(random, draw, word, top)
    return image


def cover(random: Random, title: str, author: str) -> Image.Image:
    """A book's cover: the title above, the author below."""
    shade = COLOURS[random.choice(("red", "green", "blue", "yellow", "purple"))]
    image, draw = _canvas(tuple(value // 2 for value in shade))
    _write(random, draw, title, random.randint(1, 3))
    _write(random, draw, author, random.randint(18, 20), fill=(255, 240, 180))
    return image


def digit(random: Random, part: DigitPart, turn: float = 0.0) -> tuple[Image.Image, int]:
    """A real handwritten digit of that part of scikit-learn's set, turned by up to `turn` degrees, and its value."""
    pixels, value = random.choice(_digits(part))
    side = random.randint(24, 28)
    patch = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
    if turn:
        patch = patch.rotate(random.uniform(-turn, turn), Image.Resampling.BILINEAR)
    image, _ = _canvas((0, 0, 0))
    image.paste(patch.convert("RGB"), (random.randint(0, SIZE - side), random.randint(0, SIZE - side)))
    return image, value


def degrade(random: Random, image: Image.Image, hopeless: bool) -> Image.Image:
    """Blurred and noisy; `hopeless`: so much that one cannot tell what it showed."""
    soft = image.filter(ImageFilter.GaussianBlur(5 if hopeless else 0.8))
    noise = np.random.default_rng(random.getrandbits(64)).integers(-40, 41, (*soft.size, 3)) // (1 if hopeless else 4)
    return Image.fromarray((np.asarray(soft, dtype=np.int64) + noise).clip(0, 255).astype(np.uint8))


def encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _canvas(colour: Sequence[int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIZE, SIZE), tuple(colour))
    return image, ImageDraw.Draw(image)


def _dark(random: Random) -> Colour:
    value = random.randint(10, 70)
    return (value + random.randint(-8, 8), value + random.randint(-8, 8), value + random.randint(-8, 8))


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, corners: tuple[int, int, int, int], colour: Colour) -> None:
    left, top, right, bottom = corners
    x, y, arm = (left + right) // 2, (top + bottom) // 2, max(1, (right - left) // 6)
    match shape:
        case "circle":
            draw.ellipse(corners, fill=colour)
        case "triangle":
            draw.polygon([(x, top), (left, bottom), (right, bottom)], fill=colour)
        case "cross":
            draw.rectangle((x - arm, top, x + arm, bottom), fill=colour)
            draw.rectangle((left, y - arm, right, y + arm), fill=colour)
        case _:
            draw.rectangle(corners, fill=colour)


def _fractions(corners: tuple[int, int, int, int], side: int) -> Box:
    """Pixel corners, both inclusive, as fractions of the side."""
    left, top, right, bottom = corners
    return (left / side, top / side, (right + 1) / side, (bottom + 1) / side)


def _write(random: Random, draw: ImageDraw.ImageDraw, text: str, top: int, fill: Colour = (255, 255, 255)) -> None:
    font = _font()
    left = random.randint(0, max(0, SIZE - int(draw.textlength(text, font=font))))
    draw.text((left, top), text, font=font, fill=fill)


@cache
def _font() -> ImageFont.ImageFont:
    return ImageFont.load_default_imagefont()


@cache
def _digits(part: DigitPart) -> tuple[tuple[np.ndarray, int], ...]:
    """8 x 8 grey pictures (0 to 255) and values: 5 of 12 for alignment, 4 train, 1 validation, 2 test."""
    from sklearn.datasets import load_digits

    parts: tuple[DigitPart, ...] = ("alignment",) * 5 + ("train",) * 4 + ("validation",) + ("test",) * 2
    data = load_digits()
    chosen = [i for i in range(len(data.target)) if parts[i % len(parts)] == part]
    return tuple(((data.images[i] * (255 / 16)).astype(np.uint8), int(data.target[i])) for i in chosen)
