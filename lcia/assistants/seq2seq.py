"""Any AutoModelForSeq2SeqLM (T5) as an assistant: the encoder reads the question, the decoder writes the answer.

The decoder's input is [start, y1 .. yn], and its logits at one place are those of the next token, as everywhere: the
batch's labels are [UNTRAINED, y1 .. yn]. So the loss is that of transformers' own model(labels=[y1 .. yn]).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
import torch
from torch import Tensor

from lcia.assistants import Hardware
from lcia.assistants.adapters import AdaptedModel, LoraAdapters, lora_form
from lcia.assistants.dialogue import Encoded, asked, padded
from lcia.assistants.language import check_text, load_parts, without_middle
from lcia.config.assistants import LoraConfig
from lcia.config.language import Seq2SeqConfig
from lcia.protocols import UNTRAINED, Adapters, Batch
from lcia.types import Message, Sample


def load(config: Seq2SeqConfig, lora: LoraConfig, hardware: Hardware) -> Seq2SeqAssistant:
    """A checkpoint by local path or hub id.

    Raises:
        InputError: as load_parts.
    """
    from transformers import AutoModelForSeq2SeqLM

    tokenizer, model = load_parts(config, AutoModelForSeq2SeqLM, hardware.attn_implementation)
    hardware.hold(model)
    return Seq2SeqAssistant(model, tokenizer, lora_form(lora, config.model), config)


class Seq2SeqAssistant(AdaptedModel):
    """Implements lcia.protocols.Assistant on one model with an encoder and a decoder."""

    def __init__(self, model: Any, tokenizer: Any, lora: peft.LoraConfig, config: Seq2SeqConfig) -> None:
        self.adapters: Adapters = LoraAdapters(model, lora)
        self.tokenizer, self.config = tokenizer, config
        self.start: int = model.config.decoder_start_token_id

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """As the protocol says, with the decoder's input `decoder_input_ids` [batch, answer tokens] and labels of the
        same shape."""
        check_text(samples)
        answers = padded([self._answer(sample) for sample in samples], self.tokenizer.pad_token_id, left=False)
        return {
            **self._questions(samples),
            "decoder_input_ids": answers["input_ids"],
            "decoder_attention_mask": answers["attention_mask"],
            "labels": answers["labels"],
        }

    def logits(self, module: torch.nn.Module, batch: Batch) -> Tensor:
        inputs = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
        logits: Tensor = module(**inputs, use_cache=False).logits
        return logits

    @torch.inference_mode()
    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
        check_text(samples)
        inputs = {key: value.to(self.device) for key, value in self._questions(samples).items()}
        tokens = self.module.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids)
        return text

    def _questions(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        rows = [without_middle(self._ids(_prompt(sample.messages)), self.config.max_length) for sample in samples]
        batch = padded([Encoded(row, (UNTRAINED,) * len(row)) for row in rows], self.tokenizer.pad_token_id, left=False)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def _answer(self, sample: Sample) -> Encoded:
        """The decoder's input and its labels; of a row that ends with a question, the start alone."""
        taught = [sample.messages[-1].content] if sample.messages[-1].role == "assistant" else []
        ids = [token for text in taught for token in self._ids(text)][: self.config.max_answer_length]
        return Encoded((self.start, *ids), (UNTRAINED, *ids))

    def _ids(self, text: str) -> list[int]:
        """Tokens of a text, with the end of the sequence."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=True)["input_ids"]
        end = self.tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, end]


def _prompt(messages: tuple[Message, ...]) -> str:
    """The turns up to the last question, each on lines of its own: models of this kind have no chat template."""
    return "\n".join(message.content.strip() for message in asked(messages))
