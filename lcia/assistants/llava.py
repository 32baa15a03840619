"""Any stock LLaVA as an assistant; processor and chat template come from the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
import torch
from torch import Tensor

from lcia.assistants import Hardware
from lcia.assistants.adapters import AdaptedModel, LoraAdapters, lora_form
from lcia.assistants.dialogue import Dialogue, Encoded, asked, padded
from lcia.assistants.pictures import Pictures
from lcia.config.assistants import LlavaConfig, LoraConfig
from lcia.config.image_text import ImageTextConfig
from lcia.protocols import Adapters, Assistant, Batch
from lcia.types import InputError, Sample

PROJECTOR = "multi_modal_projector"


def load(config: LlavaConfig, lora: LoraConfig, hardware: Hardware) -> LlavaAssistant:
    """A checkpoint by local path or hub id; with `train_projector` each adapter brings a projector of its own."""
    from transformers import LlavaForConditionalGeneration

    processor, model = load_parts(config, LlavaForConditionalGeneration, hardware)
    form = lora_form(lora, config.model, [PROJECTOR] if config.train_projector else [])
    return LlavaAssistant(model, processor, form, max_length=config.max_length, pad=config.pad_image_to_square)


def load_parts(config: LlavaConfig | ImageTextConfig, kind: Any, hardware: Hardware) -> tuple[Any, Any]:
    """Processor and model of a class of transformers, the weights from safetensors only.

    Raises:
        InputError: there is no such model, or it brings code that is not allowed to run.
    """
    from transformers import AutoProcessor

    source = {
        "pretrained_model_name_or_path": config.model,
        "revision": config.revision or "main",
        # Never unset: transformers would ask on the terminal, and run the code after a "y".
        "trust_remote_code": config.trust_remote_code,
    }
    loads = {"dtype": config.dtype, "attn_implementation": hardware.attn_implementation, "use_safetensors": True}
    try:
        processor, model = AutoProcessor.from_pretrained(**source), kind.from_pretrained(**source, **loads)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"assistant.model {config.model!r} brings code of its own, which is not run: read it, then set "
                "assistant.trust_remote_code to true, or choose a checkpoint that needs none"
            ) from error
        raise InputError(
            f"cannot load assistant.model {config.model!r}: give the local folder of {config.wanted} with weights as "
            f"safetensors, or a hub id ({error})"
        ) from error
    hardware.hold(model)
    return processor, model


class LlavaAssistant(AdaptedModel):
    """Implements lcia.protocols.Assistant on one LlavaForConditionalGeneration.

    With PROJECTOR among `lora.modules_to_save` every adapter owns a projector.
    """

    def __init__(
        self, model: Any, processor: Any, lora: peft.LoraConfig, *, max_length: int = 2048, pad: bool = True
    ) -> None:
        self.adapters: Adapters = LoraAdapters(model, lora)
        self.tokenizer = processor.tokenizer
        self.pictures = Pictures(processor.image_processor, pad)
        self.dialogue = Dialogue(processor, model.config.image_seq_length, max_length)

    def in_projector(self, name: str) -> bool:
        return PROJECTOR in name

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self._batch(samples, [self.dialogue.encode(sample.messages) for sample in samples], left=False)

    def logits(self, module: torch.nn.Module, batch: Batch) -> Tensor:
        inputs = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
        logits: Tensor = module(**inputs, use_cache=False).logits
        return logits if "pixel_values" in batch else logits + idle(self)

    @torch.inference_mode()
    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
        encoded = [self.dialogue.encode(asked(sample.messages)) for sample in samples]
        batch = self._batch(samples, encoded, left=True)
        inputs = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
        return greedy(self.module, self.tokenizer, inputs, max_new_tokens)

    def text(self, ids: Sequence[int]) -> str:
        return self.dialogue.text(ids)

    def _batch(self, samples: Sequence[Sample], encoded: Sequence[Encoded], *, left: bool) -> dict[str, Tensor]:
        batch = padded(encoded, self.tokenizer.pad_token_id, left=left)
        images = [image for sample in samples for image in sample.images]
        return {**batch, "pixel_values": self.pictures(images)} if images else batch


def greedy(module: Any, tokenizer: Any, inputs: dict[str, Tensor], max_new_tokens: int) -> list[str]:
    """The text that a model adds to each row of `inputs`, which are padded at their left."""
    tokens = module.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    answers = tokens[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


def idle(assistant: Assistant) -> Tensor | float:
    """Zero that depends on a trained projector: without pictures it still gets a gradient on every worker."""
    trained = [p for n, p in assistant.module.named_parameters() if p.requires_grad and assistant.in_projector(n)]
    return 0.0 * torch.stack([p.sum() for p in trained]).sum() if trained else 0.0
