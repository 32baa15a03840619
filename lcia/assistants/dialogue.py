"""Messages to token ids and labels, by the checkpoint's own chat template."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lcia.protocols import UNTRAINED
from lcia.types import IMAGE_TOKEN, InputError, Message

REMEMBERED = 20_000
"""Encoded dialogues kept in memory; a few hundred bytes each for short ones."""


Span = tuple[int, int]
"""The first character and the one after the last."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """`labels` equal `ids` on the assistant's words and on the token that ends each of its turns."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


class Dialogue:
    """Renders with the chat template turn by turn, so what an answer adds to the text is known and nothing is guessed.

    A turn whose template does not end it with the end-of-sequence token gets one: generation has to learn to stop.
    """

    def __init__(self, processor: Any, image_tokens: int, max_length: int) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.image_text: str = processor.image_token * image_tokens
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(processor.image_token)
        self.image_tokens, self.max_length = image_tokens, max_length
        self._memory: dict[tuple[Message, ...], Encoded] = {}

    @classmethod
    def of_text(cls, processor: Any) -> Dialogue:
        """For rows without images, which are not cut; `processor` has a tokenizer and a chat template."""
        return cls(processor, image_tokens=0, max_length=sys.maxsize)

    def encode(self, messages: tuple[Message, ...]) -> Encoded:
        """A dialogue that ends with a user turn is followed by the words that open an answer."""
        if messages not in self._memory:
            if len(self._memory) >= REMEMBERED:
                self._memory.clear()
            self._memory[messages] = self._encode(messages)
        return self._memory[messages]

    def text(self, ids: Sequence[int]) -> str:
        """The tokens as text; an image's many tokens as their number."""
        mark = re.escape(self.processor.image_token)
        text = self.tokenizer.decode(ids)
        return re.sub(f"(?:{mark})+", lambda run: f"<{len(re.findall(mark, run[0]))} image tokens>", text)

    def _encode(self, messages: tuple[Message, ...]) -> Encoded:
        text, answers = self.render(messages)
        tokens = self.tokenizer(text, add_special_tokens=not self.begins_itself(text), return_offsets_mapping=True)
        ids, labels = tokens["input_ids"], labels_of(tokens["input_ids"], tokens["offset_mapping"], answers)
        self._check_images(ids, messages)
        return Encoded(tuple(ids[: self.max_length]), tuple(labels[: self.max_length]))

    def render(self, messages: tuple[Message, ...]) -> tuple[str, list[Span]]:
        """The whole text, image tokens expanded, and where in it the answers stand."""
        text, answers, seen = "", [], ""
        for k, message in enumerate(messages):
            if message.role == "assistant" or k + 1 == len(messages):
                upto = k if message.role == "assistant" else k + 1
                prompt = self._template(messages[:upto], opening=True)
                text += _added(prompt, seen).replace(self.processor.image_token, self.image_text)
                seen = prompt
            if message.role == "assistant":
                whole = self._template(messages[: k + 1], opening=False)
                answer = self._ended(_added(whole, seen))
                answers.append((len(text), len(text) + len(answer)))
                text, seen = text + answer, whole
        return text, answers

    def begins_itself(self, text: str) -> bool:
        """Whether the template has written the token that texts begin with."""
        return bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)

    def _template(self, messages: Sequence[Message], opening: bool) -> str:
        """The chat template's text; raises InputError where it refuses a row or leaves out its system turn."""
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": _parts(message.content)} for message in messages]
        try:
            text = str(self.processor.apply_chat_template(turns, add_generation_prompt=opening, tokenize=False))
        except TemplateError as error:
            raise InputError(f"the model's chat template refuses a row of the data: {error}") from error
        if messages[0].role == "system" and messages[0].content.strip() not in text:
            raise InputError("the model's chat template leaves out the system turn that rows of the data begin with")
        return text

    def _ended(self, answer: str) -> str:
        end = self.tokenizer.eos_token
        return answer.rstrip() if answer.rstrip().endswith(end) else answer.rstrip() + end

    def _check_images(self, ids: Sequence[int], messages: Sequence[Message]) -> None:
        if not self.image_tokens:
            return
        images = sum(message.content.count(IMAGE_TOKEN) for message in messages)
        kept = ids[: self.max_length].count(self.image_id)
        if kept != images * self.image_tokens:
            raise InputError(
                f"a row of {len(ids)} tokens keeps {kept} image tokens of {images} x {self.image_tokens}: raise "
                f"max_length (now {self.max_length}) or take {IMAGE_TOKEN} out of the row's text"
            )


def labels_of(ids: Sequence[int], offsets: Sequence[tuple[int, int]], answers: Sequence[Span]) -> list[int]:
    """The ids that begin inside an answer, UNTRAINED elsewhere; `offsets`: where in the text each of them stands."""
    labels = [UNTRAINED] * len(ids)
    for k, (start, stop) in enumerate(offsets):
        if start < stop and any(begin <= start < end for begin, end in answers):
            labels[k] = ids[k]
    return labels


def padded(rows: Sequence[Encoded], pad: int, *, left: bool) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels [batch, tokens], filled up at the right end, or at the left to generate."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad)
    labels, mask = torch.full_like(ids, UNTRAINED), torch.zeros_like(ids)
    for k, row in enumerate(rows):
        where = slice(width - len(row.ids), width) if left else slice(len(row.ids))
        ids[k, where], labels[k, where], mask[k, where] = torch.tensor(row.ids), torch.tensor(row.labels), 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Up to the last user turn."""
    return messages[:-1] if messages[-1].role == "assistant" else messages


def _added(whole: str, before: str) -> str:
    """The part of `whole` after `before`.

    Raises:
        InputError: the template changes the text of earlier turns, so what an answer has added is unknown.
    """
    if not whole.startswith(before):
        raise InputError("the model's chat template changes earlier turns when one is added: answers cannot be marked")
    return whole[len(before) :]


def _parts(content: str) -> list[dict[str, str]]:
    """Text and images in their order, as chat templates of image-text models take them."""
    parts: list[dict[str, str]] = []
    for k, piece in enumerate(content.split(IMAGE_TOKEN)):
        parts += [{"type": "image"}] * (k > 0)
        parts += [{"type": "text", "text": piece.strip()}] * bool(piece.strip())
    return parts
