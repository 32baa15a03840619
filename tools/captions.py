"""Caption talk about drawn pictures: what the tiny assistant's base is aligned on before it sees any task.

Its prompts are orders ("Describe ...", "Locate ...") and its answers are fragments of captions, so the base learns to
see and to name without learning MiniCoIN's questions or answer formats.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from PIL import Image

from lcia.data.minicoin.drawing import (
    CELLS,
    COLOURS,
    SHAPES,
    Scene,
    cover,
    degrade,
    digit,
    encode_png,
    plain_scene,
    scene,
    sign,
)
from lcia.data.minicoin.vocabulary import AUTHORS, NUMBERS, TITLES, WORDS, format_box
from lcia.types import IMAGE_TOKEN, Message, Sample

Turn = tuple[str, str]
Talk = Callable[[Random], tuple[Image.Image | None, list[Turn]]]
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
COMMON_WORDS = tuple(
    """
    a an the this that these those it is are was be been can could do does did has have will would may must not
    no yes or and but if then than so as at by for from in into of on over to under up with within without about
    after all also any because before between both each few first give go good great here how however in large
    last left like line little long look make many more most much name near new next now number of old one only
    other out part people place point right same see show shape small some such take tell text thing time two
    use very view way well what when where which while who why word work write year you your answer question
    image picture phrase single letter option choice choices directly correct region box coordinate coordinates
    object objects color written title book author sign say says there present contain answerable unanswerable
    shown sentence describes please provide given according based short reply
    """.split()  # noqa: SIM905
)
OTHER_WORDS = (*NUMBERS, "yes", "no", "unanswerable", "left", "right", "above", "below", *LETTERS, *COMMON_WORDS)

SEEKING = (
    "Look for a {}.",
    "Find a {}.",
    "Search the image for a {}.",
    "Say whether a {} is present.",
    "Say whether there is a {} in the image.",
    "Say whether the image contains a {}.",
)
ENDINGS = (
    "",
    "",
    "\nAnswer with one word.",
    "\nAnswer with found or missing.",
    "\nReply with missing or found.",
    "\nBe brief.",
)
"""Answer-format lines; a model that never saw one mistakes it for the question."""


def caption_sample(random: Random) -> Sample:
    """One picture (or, sometimes, none) with several turns of caption talk."""
    return _sample(random, random.choices([talk for talk, _ in _TALKS], [weight for _, weight in _TALKS])[0])


def plain_sample(random: Random) -> Sample:
    """Four times in five a single plain shape; else any talk, so that the rest is not forgotten."""
    return _sample(random, _plain_talk) if random.random() < 0.8 else caption_sample(random)


def seek_sample(random: Random) -> Sample:
    """The same with something to look for in most pictures, asked for in many words. It takes a base that can name."""
    return _sample(random, _seek_talk) if random.random() < 0.8 else caption_sample(random)


def _sample(random: Random, talk: Talk) -> Sample:
    image, turns = talk(random)
    lines = [text for turn in turns for text in turn]
    lines[0] = f"{IMAGE_TOKEN}\n{lines[0]}" if image else lines[0]
    messages = tuple(Message("assistant" if i % 2 else "user", line) for i, line in enumerate(lines))
    return Sample("", "", messages, (encode_png(image),) if image else (), (lines[-1],))


def _scene_talk(random: Random) -> tuple[Image.Image, list[Turn]]:
    drawn = scene(random, random.randint(1, 4))
    ask = [_describe, _cell, _thing, _thing, _attribute, _locate, _outline, _count, _look, _look, _key, _key]
    ask += [_compare] * 4 * (len(drawn.things) > 1)
    return drawn.image, [query(random, drawn) for query in random.sample(ask, 4)]


def _plain_talk(random: Random) -> tuple[Image.Image, list[Turn]]:
    drawn = plain_scene(random)
    ask = [_describe, _thing, _attribute, _attribute, _look, _look, _key]
    return drawn.image, [query(random, drawn) for query in random.sample(ask, 3)]


def _seek_talk(random: Random) -> tuple[Image.Image, list[Turn]]:
    """Most begin with a look for something, when no earlier turn has named what is there."""
    drawn = plain_scene(random)
    ask = random.sample([_describe, _thing, _attribute, _attribute, _look, _look, _key, _seek], 3)
    if random.random() < 0.6:
        ask[0] = _seek
    return drawn.image, [query(random, drawn) for query in ask]


def _sign_talk(random: Random) -> tuple[Image.Image, list[Turn]]:
    word = random.choice(WORDS)
    return sign(random, word), [
        random.choice([("Describe the image.", f"a sign, {word}"), ("Read the text.", f"text {word}")])
    ]


def _cover_talk(random: Random) -> tuple[Image.Image, list[Turn]]:
    title, author = random.choice(TITLES), random.choice(AUTHORS)
    turns = [
        ("Describe the image.", f"a book, {title} by {author}"),
        ("Read the top line.", f"top {title}"),
        ("Read the bottom line.", f"bottom {author}"),
    ]
    return cover(random, title, author), random.sample(turns, 2)


def _digit_talk(random: Random) -> tuple[Image.Image, list[Turn]]:
    image, value = digit(random, "alignment", turn=12)
    turns = [("Describe the image.", f"number {value}"), ("Read the number.", f"number {value}")]
    return image, [random.choice(turns)]


def _ruined_talk(random: Random) -> tuple[Image.Image, list[Turn]]:
    """Queries about degraded pictures; a hopeless one has the same answer whatever is asked."""
    hopeless = random.random() < 0.4
    talk = random.choice((_scene_talk, _scene_talk, _sign_talk, _plain_talk))
    image, turns = talk(random)
    if hopeless:
        turns = [(prompt, "too blurry") for prompt, _ in turns[:1]]
    return degrade(random, image, hopeless), turns


def _text_talk(random: Random) -> tuple[None, list[Turn]]:
    """No picture: copying and spelling, which also gives every word of the answers a trained embedding."""
    if random.random() < 0.3:
        value = random.randrange(10)
        return None, [(f"Spell {value}.", f"{value} is {NUMBERS[value]}")]
    words = " ".join(random.sample((*WORDS, *TITLES, *AUTHORS, *COLOURS, *SHAPES, *OTHER_WORDS), random.randint(1, 4)))
    return None, [(f"Repeat: {words}", words)]


def _describe(random: Random, drawn: Scene) -> Turn:
    parts = ", ".join(f"{thing.name} {CELLS[thing.cell]}" for thing in drawn.things)
    return "Describe the image.", f"{len(drawn.things)} things: {parts}"


def _cell(random: Random, drawn: Scene) -> Turn:
    cell = random.randrange(4)
    here = [thing.name for thing in drawn.things if thing.cell == cell]
    return f"Describe the {CELLS[cell]}.", here[0] if here else "nothing"


def _thing(random: Random, drawn: Scene) -> Turn:
    thing = random.choice(drawn.things)
    known = random.choice((thing.shape, f"{thing.colour} thing"))
    return f"Describe the {known}.", f"{thing.name} {CELLS[thing.cell]}"


def _attribute(random: Random, drawn: Scene) -> Turn:
    thing = random.choice(drawn.things)
    if random.random() < 0.5:
        return f"Name the color of the {thing.shape}.", f"color {thing.colour}"
    return f"Name the shape of the {thing.colour} object.", f"shape {thing.shape}"


def _locate(random: Random, drawn: Scene) -> Turn:
    thing = random.choice(drawn.things)
    return f"Locate the {thing.name}.", CELLS[thing.cell]


def _outline(random: Random, drawn: Scene) -> Turn:
    thing = random.choice(drawn.things)
    return f"Outline the {thing.name}.", f"box {format_box(thing.box)}"


def _count(random: Random, drawn: Scene) -> Turn:
    return "Count the objects.", f"{len(drawn.things)} things"


def _look(random: Random, drawn: Scene) -> Turn:
    """Half of the queries ask for what is there; the others for words drawn at random."""
    thing = random.choice(drawn.things)
    shape, colour = thing.shape, thing.colour
    if random.random() < 0.5:
        shape, colour = random.choice(drawn.shapes), random.choice(drawn.colours)
    match random.randrange(3):
        case 0:
            sought, there = shape, any(other.shape == shape for other in drawn.things)
        case 1:
            sought, there = f"{colour} object", any(other.colour == colour for other in drawn.things)
        case _:
            sought, there = f"{colour} {thing.shape}", colour == thing.colour
    return f"Look for a {sought}.", "found" if there else "missing"


def _seek(random: Random, drawn: Scene) -> Turn:
    """For a shape or a colour, which is missing half of the time, so that no answer is right without a look."""
    if random.random() < 0.6:
        here, all_of_them, words = {thing.shape for thing in drawn.things}, drawn.shapes, "{}"
    else:
        here, all_of_them, words = {thing.colour for thing in drawn.things}, drawn.colours, "{} object"
    pool = sorted(here) if random.random() < 0.5 else [word for word in all_of_them if word not in here]
    sought = random.choice(pool)
    asked = random.choice(SEEKING).format(words.format(sought)) + random.choice(ENDINGS)
    return asked, "found" if sought in here else "missing"


def _compare(random: Random, drawn: Scene) -> Turn:
    a, b = random.sample(drawn.things, 2)
    across = ("same", "right", "left")[(a.cell % 2 > b.cell % 2) + 2 * (a.cell % 2 < b.cell % 2)]
    down = ("level", "below", "above")[(a.cell // 2 > b.cell // 2) + 2 * (a.cell // 2 < b.cell // 2)]
    if random.random() < 0.5:
        return f"Compare the {a.shape} and the {b.shape}.", f"{across} {down}"
    return f"Compare the {a.colour} object and the {b.colour} object.", f"{across} {down}"


def _key(random: Random, drawn: Scene) -> Turn:
    """Three labelled words, one of which fits a thing; the answer is its label."""
    thing = random.choice(drawn.things)
    if random.random() < 0.5:
        prompt, right, pool = f"Label the color of the {thing.shape}.", thing.colour, drawn.colours
    else:
        prompt, right, pool = f"Label the shape of the {thing.colour} object.", thing.shape, drawn.shapes
    words = [right, *random.sample([word for word in pool if word != right], 2)]
    random.shuffle(words)
    labels = random.sample(LETTERS, 3)
    listed = "\n".join(f"{label} = {word}" for label, word in zip(labels, words, strict=True))
    return f"{prompt}\n{listed}", f"label {labels[words.index(right)]}"


_TALKS: tuple[tuple[Talk, float], ...] = (
    (_scene_talk, 0.38),
    (_plain_talk, 0.12),
    (_sign_talk, 0.12),
    (_cover_talk, 0.10),
    (_digit_talk, 0.12),
    (_ruined_talk, 0.09),
    (_text_talk, 0.07),
)
