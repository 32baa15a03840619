"""Any stock LLaVA as an assistant: LoRA adapters from peft, processor and chat template from the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcia.assistants.dialogue import UNTRAINED, Dialogue, Encoded
from lcia.assistants.pictures import Pictures
from lcia.assistants.sharded import fill, hollow, in_turn, layers
from lcia.config.run import LlavaConfig, LoraConfig
from lcia.protocols import Batch
from lcia.types import InputError, Message, Sample

PROJECTOR = "multi_modal_projector"
WEIGHTS = "adapter_model.safetensors"
INCOMING = "incoming"
"""The adapter of the hollow twin whose weights are about to take the place of sharded ones."""
SPARE = "spare"
"""peft cannot delete the last adapter of a model with a trained projector: this one stays, never used."""
FORM = ("r", "lora_alpha", "target_modules", "modules_to_save", "use_rslora", "use_dora", "bias", "rank_pattern")
"""What two adapters must share for the weights of one to go where the other's were."""
WHOLE = "a sharded base holds one adapter, for training only: load the base whole to answer or to use several"


@dataclass(frozen=True)
class Hardware:
    """How the base is held; none of it changes what it computes beyond rounding."""

    device: str | None = None
    attn_implementation: str | None = None
    gradient_checkpointing: bool = False


def load(config: LlavaConfig, lora: LoraConfig, hardware: Hardware) -> LlavaAssistant:
    """A checkpoint by local path or hub id; with `train_projector` each adapter brings a projector of its own."""
    processor, model = _parts(config, hardware.attn_implementation)
    model.to(hardware.device or "cpu")
    if hardware.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    saved = [PROJECTOR] if config.train_projector else None
    # An adapter is used on other machines, so it must not hold a path of this one.
    named = None if Path(config.model).is_dir() else config.model
    form = peft.LoraConfig(**lora.model_dump(mode="json"), modules_to_save=saved, base_model_name_or_path=named)
    return LlavaAssistant(model, processor, form, max_length=config.max_length, pad=config.pad_image_to_square)


def _parts(config: LlavaConfig, attention: str | None) -> tuple[Any, Any]:
    """Processor and model, the weights from safetensors only."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    source = {
        "pretrained_model_name_or_path": config.model,
        "revision": config.revision or "main",
        # Never unset: transformers would ask on the terminal, and run the code after a "y".
        "trust_remote_code": config.trust_remote_code,
    }
    loads = {"dtype": config.dtype, "attn_implementation": attention, "use_safetensors": True}
    try:
        processor = AutoProcessor.from_pretrained(**source)
        return processor, LlavaForConditionalGeneration.from_pretrained(**source, **loads)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"assistant.model {config.model!r} brings code of its own, which is not run: read it, then set "
                "assistant.trust_remote_code to true, or choose a checkpoint that needs none"
            ) from error
        raise InputError(
            f"cannot load assistant.model {config.model!r}: give the local folder of a LLaVA with weights as "
            f"safetensors, or a hub id ({error})"
        ) from error


class LlavaAssistant:
    """Implements lcia.protocols.Assistant on one LlavaForConditionalGeneration.

    `module` is the bare model until the first adapter, then the PeftModel around it. With PROJECTOR among
    `lora.modules_to_save` every adapter owns a projector, kept in the same file as its LoRA weights.

    Once the base is sharded its modules cannot change, so the adapter that is there stays and later ones go in its
    place. A twin whose frozen weights take no memory adds or loads them first, the way peft always does; so an adapter
    starts with the same bits whether the base is sharded or not, and the base is loaded once for a chain of stages.
    """

    def __init__(
        self, model: Any, processor: Any, lora: peft.LoraConfig, *, max_length: int = 2048, pad: bool = True
    ) -> None:
        self.module: Any = model.requires_grad_(False).eval()
        self.lora, self.tokenizer = lora, processor.tokenizer
        self.pictures = Pictures(processor.image_processor, pad)
        self.dialogue = Dialogue(processor, model.config.image_seq_length, max_length)
        self._twin: LlavaAssistant | None = None

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.module.parameters()).device
        return device

    @property
    def adapters(self) -> tuple[str, ...]:
        loaded = self.module.peft_config if isinstance(self.module, PeftModel) else ()
        return tuple(name for name in loaded if name != SPARE)

    def shard(self, apply: Callable[[torch.nn.Module], object]) -> None:
        twin = copy(self)
        twin.module = hollow(self.module)
        model = self.module.get_base_model()
        if any(PROJECTOR in key for key in self.trainable()):
            in_turn(model)
        for layer in layers(model):
            apply(layer)
        apply(self.module)
        self._twin = twin

    def add_adapter(self, name: str, seed: int) -> None:
        if self._twin is not None:
            self._replace(name, lambda twin: twin.add_adapter(INCOMING, seed))
            return
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._attach(name, deepcopy(self.lora))
        self.use_adapter(name)

    def load_adapter(self, name: str, folder: Path) -> None:
        if self._twin is not None:
            self._replace(name, lambda twin: twin.load_adapter(INCOMING, folder))
            return
        config = peft.LoraConfig.from_pretrained(str(folder))
        if name in self.adapters and _form(self.module.peft_config[name]) != _form(config):
            self.drop_adapter(name)
        if name not in self.adapters:
            with torch.random.fork_rng():
                self._attach(name, config)
        set_peft_model_state_dict(self.module, load_file(folder / WEIGHTS), adapter_name=name)
        self.use_adapter(name)

    def save_adapter(self, name: str, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        given = self._weights(name) if weights is None else weights
        saved = {key: tensor.detach().contiguous().cpu() for key, tensor in given.items()}
        save_file(saved, folder / WEIGHTS, metadata={"format": "pt"})
        config = deepcopy(self.module.peft_config[name])
        config.inference_mode = True
        config.save_pretrained(str(folder))

    def use_adapter(self, name: str | None) -> None:
        self._check_whole()
        if name is not None and name not in self.adapters:
            raise InputError(f"no adapter {name!r} is loaded; there is {', '.join(self.adapters) or 'none'}")
        if name is not None:
            self.module.base_model.enable_adapter_layers()
            self.module.set_adapter(name)
        elif self.adapters:
            self.module.base_model.disable_adapter_layers()

    def drop_adapter(self, name: str) -> None:
        """Afterwards the bare base is active."""
        self._check_whole()
        if tuple(self.module.peft_config) == (name,):
            with torch.random.fork_rng():
                self._attach(SPARE, deepcopy(self.lora))
        self.module.set_adapter(next(other for other in self.module.peft_config if other != name))
        self.module.delete_adapter(name)
        self.module.base_model.disable_adapter_layers()

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        if not self.adapters:
            return {}
        trained = {id(p) for p in self.module.parameters() if p.requires_grad}
        return {key: p for key, p in self._weights(self.module.active_adapter).items() if id(p) in trained}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self._batch(samples, [self.dialogue.encode(sample.messages) for sample in samples], left=False)

    def logits(self, module: torch.nn.Module, batch: Batch) -> Tensor:
        inputs = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
        logits: Tensor = module(**inputs, use_cache=False).logits
        return logits if "pixel_values" in batch else logits + self._idle_projector()

    @torch.inference_mode()
    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
        encoded = [self.dialogue.encode(_asked(sample.messages)) for sample in samples]
        batch = self._batch(samples, encoded, left=True)
        inputs = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
        tokens = self.module.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def lengths(self, samples: Sequence[Sample]) -> list[int]:
        return [len(self.dialogue.encode(sample.messages).ids) for sample in samples]

    def _attach(self, name: str, config: peft.LoraConfig) -> None:
        if isinstance(self.module, PeftModel):
            self.module.add_adapter(name, config)
            # peft looks at the active adapter while it loads weights; it may be one that was dropped.
            self.module.set_adapter(name)
        else:
            self.module = PeftModel(self.module, config, adapter_name=name).eval()

    def _replace(self, name: str, bring: Callable[[LlavaAssistant], None]) -> None:
        """Puts the weights that `bring` gives the twin's adapter into the shards of `name`."""
        assert self._twin is not None
        if name != self.module.active_adapter:
            raise InputError(WHOLE)
        bring(self._twin)
        here, there = self.module.peft_config[name], self._twin.module.peft_config[INCOMING]
        if _form(here) != _form(there):
            raise InputError("an adapter of another form cannot take the place of a sharded one: load the base again")
        fill(self.trainable(), self._twin._weights(INCOMING))
        self._twin.drop_adapter(INCOMING)

    def _check_whole(self) -> None:
        if self._twin is not None:
            raise InputError(WHOLE)

    def _weights(self, name: str) -> dict[str, torch.nn.Parameter]:
        """What peft saves for an adapter, by the saved keys; the parameters themselves."""
        weights: dict[str, torch.nn.Parameter] = get_peft_model_state_dict(
            self.module, self.module.state_dict(keep_vars=True), adapter_name=name, save_embedding_layers=False
        )
        return weights

    def _idle_projector(self) -> Tensor | float:
        """Zero that depends on a trained projector: without pictures it still gets a gradient on every worker."""
        trained = [p for n, p in self.module.named_parameters() if p.requires_grad and PROJECTOR in n]
        return 0.0 * torch.stack([p.sum() for p in trained]).sum() if trained else 0.0

    def _batch(self, samples: Sequence[Sample], encoded: Sequence[Encoded], *, left: bool) -> dict[str, Tensor]:
        width = max(len(row.ids) for row in encoded)
        ids = torch.full((len(encoded), width), self.tokenizer.pad_token_id)
        labels, mask = torch.full_like(ids, UNTRAINED), torch.zeros_like(ids)
        for k, row in enumerate(encoded):
            where = slice(width - len(row.ids), width) if left else slice(len(row.ids))
            ids[k, where], labels[k, where], mask[k, where] = torch.tensor(row.ids), torch.tensor(row.labels), 1
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        images = [image for sample in samples for image in sample.images]
        return {**batch, "pixel_values": self.pictures(images)} if images else batch


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Up to the last user turn."""
    return messages[:-1] if messages[-1].role == "assistant" else messages


def _form(config: peft.LoraConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in FORM}
