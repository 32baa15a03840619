"""Any AutoModelForCausalLM as an assistant: text alone; tokenizer and chat template come from the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
import torch
from torch import Tensor

from lcia.assistants import Hardware
from lcia.assistants.adapters import AdaptedModel, LoraAdapters, lora_form
from lcia.assistants.dialogue import Dialogue, Encoded, asked, padded
from lcia.assistants.language import TextProcessor, check_text, load_parts, shortened
from lcia.config.assistants import LoraConfig
from lcia.config.language import CausalConfig
from lcia.protocols import Adapters, Batch
from lcia.types import Sample


def load(config: CausalConfig, lora: LoraConfig, hardware: Hardware) -> CausalAssistant:
    """A checkpoint by local path or hub id.

    Raises:
        InputError: as load_parts.
    """
    from transformers import AutoModelForCausalLM

    tokenizer, model = load_parts(config, AutoModelForCausalLM, hardware.attn_implementation)
    hardware.hold(model)
    processor = TextProcessor(tokenizer, config.chat_template)
    return CausalAssistant(model, processor, lora_form(lora, config.model), config.max_length)


class CausalAssistant(AdaptedModel):
    """Implements lcia.protocols.Assistant on one language model with a causal head."""

    def __init__(self, model: Any, processor: TextProcessor, lora: peft.LoraConfig, max_length: int) -> None:
        self.adapters: Adapters = LoraAdapters(model, lora)
        self.tokenizer, self.max_length = processor.tokenizer, max_length
        self.dialogue = Dialogue.of_text(processor)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        check_text(samples)
        return self._batch([self.dialogue.encode(sample.messages) for sample in samples], left=False)

    def logits(self, module: torch.nn.Module, batch: Batch) -> Tensor:
        inputs = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
        logits: Tensor = module(**inputs, use_cache=False).logits
        return logits

    @torch.inference_mode()
    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
        check_text(samples)
        batch = self._batch([self.dialogue.encode(asked(sample.messages)) for sample in samples], left=True)
        inputs = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
        tokens = self.module.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1,
            eos_token_id=self._ends(), pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def text(self, ids: Sequence[int]) -> str:
        return self.dialogue.text(ids)

    def _ends(self) -> list[int]:
        """The token that answers were trained to end with, and those that the checkpoint ends with."""
        given = self.module.generation_config.eos_token_id
        own = given if isinstance(given, list) else [given]
        return sorted({self.tokenizer.eos_token_id, *(token for token in own if token is not None)})

    def _batch(self, rows: Sequence[Encoded], *, left: bool) -> dict[str, Tensor]:
        return padded([shortened(row, self.max_length) for row in rows], self.tokenizer.pad_token_id, left=left)
