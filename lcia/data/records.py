"""One raw record (a JSON object or a row of a table) to a draft of a sample; all shapes of docs/method.md 8. Pure.

The shape is seen from the keys: `conversations` (LLaVA/CoIN, train), `text` (CoIN, test), `messages` (chat).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, assert_never

from lcia.types import IMAGE_TOKEN, InstructionRule, Message, Sample

VERSION = 3
"""Goes up whenever some record or image is read in another way, so that results of the old way are not taken for new
ones.

2: a system turn in front is read instead of refused.
3: 16-bit grey is scaled, EXIF orientation applied, transparency laid on white; wide images are bounded by their square.
"""

Reason: TypeAlias = Literal[
    "invalid_json", "bad_field", "bad_text", "unknown_role", "odd_roles", "empty_question", "empty_answer",
    "image_count", "image_outside_root", "missing_image", "empty_image", "truncated_image", "unreadable_image",
    "image_too_large", "duplicate_id",
]  # fmt: skip

Role: TypeAlias = Literal["system", "user", "assistant"]
Picture: TypeAlias = str | bytes
"""A name below the image root, or the encoded file."""

LLAVA_ROLES: Mapping[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}
CHAT_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
ALTERNATE = "after at most one system turn the user starts, and turns alternate"


class RowError(Exception):
    """Why one row cannot be used: a reason to count by, and a message for its owner."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Defect:
    """A row that cannot be used. `record`: its line (JSON lines) or number in the file, from 1."""

    file: str
    record: int
    id: str
    reason: Reason
    message: str


Checked: TypeAlias = tuple[int, Sample | Defect]
"""Record number and what became of it."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A record in our own words, its images not yet read. `answers`: what the record gives beside its turns."""

    id: str | None
    messages: tuple[Message, ...]
    images: tuple[Picture, ...]
    answers: tuple[str, ...]


def draft(raw: object) -> Draft:
    """Raises RowError where the record has no known shape or breaks its rules."""
    if not isinstance(raw, Mapping):
        raise RowError("bad_field", f"a record is an object with keys, not {type(raw).__name__}")
    record = {key: value for key, value in raw.items() if value is not None}
    images = _images(record)
    if "conversations" in record:
        messages = _turns(record["conversations"], ("from", "value"), LLAVA_ROLES)
    elif "messages" in record:
        messages = _turns(record["messages"], ("role", "content"), CHAT_ROLES)
        images = images or _images_in_parts(record["messages"])
    elif "text" in record:
        messages = (Message("user", _with_tokens(_text(record["text"], "text"), len(images))),)
    else:
        raise RowError("bad_field", "a record needs one of the keys conversations, messages and text")
    return Draft(record_id(record), messages, images, _answers(record))


def record_id(record: Mapping[str, Any]) -> str | None:
    """`id`, else `question_id`, as text; None where the record has none."""
    given = next((record[key] for key in ("id", "question_id") if record.get(key) not in (None, "")), None)
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise RowError("bad_field", f"an id is text or a number, not {type(given).__name__}")
    return str(given)


# Turns


def _turns(turns: object, keys: tuple[str, str], roles: Mapping[str, Role]) -> tuple[Message, ...]:
    if not isinstance(turns, list) or not turns:
        raise RowError("bad_field", "the conversation must be a list with at least one turn")
    messages = tuple(_turn(turn, keys, roles) for turn in turns)
    opening = messages[:1] if messages[0].role == "system" else ()
    for number, message in enumerate(messages[len(opening) :]):
        if message.role != ("user", "assistant")[number % 2]:
            place = len(opening) + number + 1
            raise RowError("odd_roles", f"turn {place} is by the {message.role}: {ALTERNATE}")
    if opening == messages:
        raise RowError("odd_roles", "the system's turn is the only one")
    return messages if opening and opening[0].content.strip() else messages[len(opening) :]


def _turn(turn: object, keys: tuple[str, str], roles: Mapping[str, Role]) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError("bad_field", f"a turn is an object with {keys[0]} and {keys[1]}")
    role = turn.get(keys[0])
    if not isinstance(role, str) or role not in roles:
        raise RowError("unknown_role", f"{keys[0]} {role!r} is not one of {', '.join(roles)}")
    return Message(roles[role], _content(turn.get(keys[1]), keys[1]))


def _content(content: object, key: str) -> str:
    """Text, or a list of parts; a line break stands between an image and text only, as in LLaVA's own layout."""
    if not isinstance(content, list):
        return _text(content, key)
    pieces = [_part(part) for part in content]
    text = ""
    for before, piece in zip([None, *pieces], pieces, strict=False):
        beside_image = before is not None and (before == IMAGE_TOKEN) != (piece == IMAGE_TOKEN)
        text += ("\n" if beside_image else "") + piece
    return text


def _part(part: object) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image" | "image_url"}:
            return IMAGE_TOKEN
        case _:
            raise RowError("bad_field", "a part of a message is of type text (with text) or image")


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise RowError("bad_field", f"{key} must be text, not {type(value).__name__}")
    return value


def _with_tokens(text: str, images: int) -> str:
    """CoIN's questions carry no image token; they get one per image in front, as in training."""
    return text if IMAGE_TOKEN in text else f"{IMAGE_TOKEN}\n" * images + text


# Images and answers


def _images(record: Mapping[str, Any]) -> tuple[Picture, ...]:
    given = record.get("images", record.get("image"))
    if given is None or given == "":
        return ()
    return tuple(_picture(image) for image in (given if isinstance(given, list) else [given]))


def _images_in_parts(turns: Sequence[Any]) -> tuple[Picture, ...]:
    parts = [part for turn in turns if isinstance(turn.get("content"), list) for part in turn["content"]]
    return tuple(_picture(named) for part in parts if (named := _named(part)) is not None)


def _named(part: Mapping[str, Any]) -> object:
    if part.get("type") == "image_url":
        url = part.get("image_url")
        return url.get("url") if isinstance(url, Mapping) else url
    return part.get("image", part.get("path")) if part.get("type") == "image" else None


def _picture(image: object) -> Picture:
    match image:
        case str() | bytes():
            return image
        case {"bytes": bytes(data)}:
            return data
        case {"path": str(path)}:
            return path
        case _:
            raise RowError("bad_field", f"an image is a path, bytes, or an object of both, not {type(image).__name__}")


def _answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    """`answers` (texts, or objects with `answer`, as VQA writes them), else `answer`, else a box."""
    given = record.get("answers") or record.get("answer")
    if given is None or given == "":
        return (str(record["answer_bbox"]),) if "answer_bbox" in record else ()
    return tuple(_answer(answer) for answer in (given if isinstance(given, list) else [given]))


def _answer(answer: object) -> str:
    value = answer.get("answer") if isinstance(answer, Mapping) else answer
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError("bad_field", f"an answer is text or a number, not {type(value).__name__}")
    return str(value)


# Whole samples


def answered(found: Draft, train: bool, needs_answer: bool) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The sample's messages and references: a training sample ends with its answer, any other with the question.

    Raises:
        RowError: there is no answer, or an empty one, and one is needed.
    """
    *asked, last = found.messages
    given = (last.content,) if last.role == "assistant" else ()
    question = tuple(asked) if given else found.messages
    references = found.answers or given
    taught = tuple(Message("assistant", answer) for answer in (given or references)[:1]) * train
    earlier = [message.content for message in (*question, *taught) if message.role == "assistant"]
    answerless = not any(map(str.strip, references)) and (train or needs_answer)
    if answerless or not all(map(str.strip, earlier)):
        raise RowError("empty_answer", "the record has no answer, or an empty one")
    return question + taught, references


def check_messages(messages: Sequence[Message], images: int) -> None:
    """Raises RowError unless there is a question, all text can be stored, and every image has its place in it."""
    for message in messages:
        check_storable(message.content)
        if message.role == "user" and not message.content.replace(IMAGE_TOKEN, "").strip():
            raise RowError("empty_question", "a user's turn has no text")
        if message.role != "user" and IMAGE_TOKEN in message.content:
            raise RowError("image_count", f"a turn of the {message.role} holds {IMAGE_TOKEN}")
    tokens = sum(message.content.count(IMAGE_TOKEN) for message in messages)
    if tokens != images:
        raise RowError("image_count", f"the text has {tokens} times {IMAGE_TOKEN}, the row {images} images")


def check_storable(*texts: str) -> None:
    """Raises RowError where JSON escapes left a lone surrogate, which UTF-8 cannot encode."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        raise RowError("bad_text", "a text holds half a surrogate pair, which is not a character") from None


# Instructions


def first_question(messages: Sequence[Message]) -> str:
    """The first turn of the user; what the system says is not an instruction."""
    return next(message.content for message in messages if message.role == "user")


def instruction_of(text: str, rule: InstructionRule) -> str:
    """What grouping compares, cut from the first human turn (docs/method.md 3)."""
    lines = _lines(text)
    if not lines:
        return ""
    match rule:
        case "last_line":
            return lines[-1]
        case "first_line":
            return lines[0]
        case "before_colon":
            return lines[-1].partition(":")[0].strip()
        case "after_image":
            return (_lines(text.partition(IMAGE_TOKEN)[2]) or lines)[0]
        case "definition":
            paragraph = _lines(text.strip().partition("\n\n")[0])
            return " ".join(paragraph).removeprefix("Definition:").strip()
        case "whole":
            return "\n".join(lines)
        case _:
            assert_never(rule)


def _lines(text: str) -> list[str]:
    """Lines with content, without image tokens."""
    return [line.strip() for line in text.replace(IMAGE_TOKEN, "\n").splitlines() if line.strip()]
