"""A model of images and text of any family: what its processor returns for a row goes to the model as it is.

Each row is processed on its own, so what it becomes does not depend on the batch that it is in. A processor replaces a
picture's placeholder by as many tokens as the picture takes and says where; answers are found from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor

from lcia.assistants import Hardware
from lcia.assistants.adapters import AdaptedModel, LoraAdapters, lora_form
from lcia.assistants.dialogue import Dialogue, Span, asked, labels_of
from lcia.assistants.llava import greedy, idle, load_parts
from lcia.config.assistants import LoraConfig
from lcia.config.image_text import ImageTextConfig
from lcia.data.pixels import decode_rgb
from lcia.protocols import UNTRAINED, Adapters, Batch
from lcia.types import InputError, Message, Sample

PROJECTORS = ("multi_modal_projector", "connector", "merger", "mm_projector", "aligner")
"""What families call the modules between vision tower and language model."""
TOKENS = ("input_ids", "attention_mask", "labels", "mm_token_type_ids", "token_type_ids")
"""What has an entry for each token of a row; all else is of its pictures."""


def load_image_text(config: ImageTextConfig, lora: LoraConfig, hardware: Hardware) -> ImageTextAssistant:
    """A checkpoint by local path or hub id.

    Raises:
        InputError: the model is not one that answers from its own tokens, or its processor does not say where it puts
            the tokens of pictures.
    """
    from transformers import AutoModelForImageTextToText

    processor, model = load_parts(config, AutoModelForImageTextToText, hardware)
    _check(config.model, model, processor)
    whole = projector_of(config.model, model) if config.train_projector else []
    return ImageTextAssistant(model, processor, lora_form(lora, config.model, whole), config)


def _check(name: str, model: Any, processor: Any) -> None:
    from transformers import ProcessorMixin

    if model.config.is_encoder_decoder or hasattr(model.config.get_text_config(), "cross_attention_layers"):
        raise InputError(
            f"assistant.model {name!r} ({model.config.model_type}) reads pictures through cross attention; image_text "
            "is for models that read them as tokens among the text's"
        )
    if getattr(type(processor), "replace_image_token", None) in (None, ProcessorMixin.replace_image_token):
        raise InputError(
            f"the processor of assistant.model {name!r} ({type(processor).__name__}) does not say where it puts the "
            "tokens of pictures, so answers cannot be found: choose a model of another family"
        )


def projector_of(name: str, model: Any) -> list[str]:
    """Names of the linear layers of a model's projector, as peft finds them by their ends.

    Not the whole module: some families normalise in it, and strategies know linear layers alone.
    """
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in PROJECTORS:
            linear = (inner for inner, layer in module.named_modules() if isinstance(layer, torch.nn.Linear))
            return [f"{path}.{inner}".removeprefix("model.") for inner in linear]
    raise InputError(f"assistant.train_projector: {name} has no module called {', '.join(PROJECTORS)}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the processor gives it: [tokens] each, and what belongs to its pictures."""

    tokens: Mapping[str, Tensor]
    pictures: Mapping[str, Tensor]


class ImageTextAssistant(AdaptedModel):
    """Implements lcia.protocols.Assistant on one model that AutoModelForImageTextToText loads."""

    def __init__(self, model: Any, processor: Any, lora: peft.LoraConfig, config: ImageTextConfig) -> None:
        self.adapters: Adapters = LoraAdapters(model, lora)
        self.processor, self.tokenizer, self.dtype = processor, processor.tokenizer, model.dtype
        self.dialogue = Dialogue(processor, 1, config.max_length)
        self.max_length, self.images_kwargs = config.max_length, dict(config.images_kwargs)
        self.projector = tuple(lora.modules_to_save or ())

    def in_projector(self, name: str) -> bool:
        return any(f".{path}." in f".{name}" for path in self.projector)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self._batch([self._row(sample, sample.messages) for sample in samples], left=False)

    def logits(self, module: torch.nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = module(**self._inputs(batch), use_cache=False).logits
        return logits if any(key not in TOKENS for key in batch) else logits + idle(self)

    @torch.inference_mode()
    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
        batch = self._batch([self._row(sample, asked(sample.messages)) for sample in samples], left=True)
        return greedy(self.module, self.tokenizer, self._inputs(batch), max_new_tokens)

    def text(self, ids: Sequence[int]) -> str:
        return self.dialogue.text(ids)

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        """On the model's device, pixels in its number format."""
        given = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
        return {key: value.to(self.dtype) if value.is_floating_point() else value for key, value in given.items()}

    def _row(self, sample: Sample, messages: tuple[Message, ...]) -> Row:
        text, answers = self.dialogue.render(messages)
        given = self._processed(text, [decode_rgb(image) for image in sample.images])
        offsets, replaced = given.pop("offset_mapping")[0], given.pop("text_replacement_offsets", [[]])[0]
        self._check_length(offsets, replaced)
        given["labels"] = [labels_of(given["input_ids"][0], offsets, _moved(answers, replaced))]
        tensors = given.convert_to_tensors("pt")
        tokens = {key: tensors[key][0, : self.max_length] for key in TOKENS if key in tensors}
        return Row(tokens, {key: value for key, value in tensors.items() if key not in TOKENS})

    def _processed(self, text: str, images: Sequence[Any]) -> Any:
        try:
            return self.processor(
                text=[text],
                # Nested: some families treat several pictures of one row otherwise than pictures of several rows.
                images=[images] if images else None,
                add_special_tokens=not self.dialogue.begins_itself(text),
                return_offsets_mapping=True,
                return_text_replacement_offsets=True,
                images_kwargs=self.images_kwargs,
            )
        except ValueError as error:
            raise InputError(f"the model's processor refuses a row of the data: {error}") from error

    def _check_length(self, offsets: Sequence[Span], replaced: Sequence[Mapping[str, Any]]) -> None:
        """Raises InputError where a row's pictures do not fit into the tokens that are kept."""
        end = replaced[-1]["new_span"][1] if replaced else 0
        if any(start < end for start, _ in offsets[self.max_length :]):
            needed = sum(start < end for start, _ in offsets)
            raise InputError(
                f"a row's pictures end at token {needed}, and max_length is {self.max_length}: raise max_length, or "
                "make pictures smaller by assistant.images_kwargs"
            )

    def _batch(self, rows: Sequence[Row], *, left: bool) -> dict[str, Tensor]:
        width = max(len(row.tokens["input_ids"]) for row in rows)
        fill = {"input_ids": self.tokenizer.pad_token_id, "labels": UNTRAINED}
        batch = {}
        for key in {key: None for row in rows for key in row.tokens}:
            batch[key] = torch.full((len(rows), width), fill.get(key, 0))
            for k, row in enumerate(rows):
                if (given := row.tokens.get(key)) is not None:
                    batch[key][k, width - len(given) if left else 0 :][: len(given)] = given
        named = {key: None for row in rows for key in row.pictures}
        return batch | {key: joined([row.pictures[key] for row in rows if key in row.pictures]) for key in named}


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Pictures of several rows, one after the other; where one row's are larger, the others' are filled up with zeros,
    which families take as no picture."""
    if len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))
    sizes = [max(sides) for sides in zip(*(part.shape[1:] for part in parts), strict=True)]
    whole = parts[0].new_zeros(sum(len(part) for part in parts), *sizes)
    start = 0
    for part in parts:
        whole[(slice(start, start + len(part)), *(slice(side) for side in part.shape[1:]))] = part
        start += len(part)
    return whole


def _moved(spans: Sequence[Span], replaced: Sequence[Mapping[str, Any]]) -> list[Span]:
    """Where spans of the text stand after the pictures' placeholders before them were replaced."""
    gains = [(item["span"][1], item["new_span"][1] - item["span"][1]) for item in replaced]
    found = []
    for start, end in spans:
        gained = [gain for at, gain in gains if at <= start][-1:] or [0]
        found.append((start + gained[0], end + gained[0]))
    return found
