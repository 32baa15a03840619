"""LoRA adapters of peft on one frozen base, the same for all families of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lcia.assistants import experts
from lcia.config.assistants import LoraConfig
from lcia.protocols import Adapters, TunedLinear
from lcia.types import InputError

WEIGHTS = "adapter_model.safetensors"
SPARE = "spare"
"""peft cannot delete the last adapter of a model with modules_to_save: this one stays, never used."""
FORM = ("r", "lora_alpha", "target_modules", "modules_to_save", "use_rslora", "use_dora", "bias", "rank_pattern")
"""What two adapters must share for the weights of one to go where the other's were."""


class LoraAdapters:
    """Implements lcia.protocols.Adapters on a model whose base is whole.

    `module` is the bare model until the first adapter, then the PeftModel around it. `lora` is the form of added
    adapters, loaded ones bring their own. Of the modules in `lora.modules_to_save` every adapter owns a copy, kept in
    the same file as its LoRA weights.
    """

    def __init__(self, model: Any, lora: peft.LoraConfig) -> None:
        self.module: Any = model.requires_grad_(False).eval()
        self.lora = lora
        self._before_merge: dict[LoraLayer, Tensor] = {}
        """Weights of the base without the adapter that is merged into them; empty: none is."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that are loaded."""
        loaded = self.module.peft_config if isinstance(self.module, PeftModel) else ()
        return tuple(name for name in loaded if name != SPARE)

    @property
    def base(self) -> Any:
        """The model under the adapters."""
        return self.module.get_base_model() if isinstance(self.module, PeftModel) else self.module

    def add(self, name: str, seed: int) -> None:
        self._restore()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._attach(name, deepcopy(self.lora), experts.experts_of(self.lora))
        self.use(name)

    def load(self, name: str, folder: Path) -> None:
        self._restore()
        config = peft.LoraConfig.from_pretrained(str(folder))
        routers = load_file(folder / experts.ROUTERS) if (folder / experts.ROUTERS).exists() else {}
        count = experts.experts_in(routers)
        if name in self.names and self.form(name) != _form(config, count):
            self.drop(name)
        if name not in self.names:
            with torch.random.fork_rng():
                self._attach(name, config, count)
        set_peft_model_state_dict(self.module, load_file(folder / WEIGHTS), adapter_name=name)
        experts.fill(self.module, name, routers)
        self.use(name)

    def save(self, name: str, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        given = self.weights(name) if weights is None else weights
        saved = {key: tensor.detach().contiguous().cpu() for key, tensor in given.items()}
        routers = {key: saved.pop(key) for key in list(saved) if experts.is_router(key)}
        save_file(saved, folder / WEIGHTS, metadata={"format": "pt"})
        if routers:
            save_file(routers, folder / experts.ROUTERS, metadata={"format": "pt"})
        config = _ranked(self.module.peft_config[name], saved)
        config.inference_mode = True
        config.save_pretrained(str(folder))

    def use(self, name: str | None) -> None:
        self._restore()
        if name is not None and name not in self.names:
            raise InputError(f"no adapter {name!r} is loaded; there is {', '.join(self.names) or 'none'}")
        if name is not None:
            self.module.base_model.enable_adapter_layers()
            self.module.set_adapter(name)
        elif self.names:
            self.module.base_model.disable_adapter_layers()

    def merge(self, name: str) -> None:
        self.use(name)
        if experts.count_experts(self.module, name) > 1:
            # What a routed adapter adds to the weights differs from token to token.
            return
        layers = [
            m for m in self.module.modules() if isinstance(m, LoraLayer) and name in (*m.lora_A, *m.lora_embedding_A)
        ]
        self._before_merge = {layer: layer.get_base_layer().weight.detach().clone() for layer in layers}
        self.module.base_model.merge_adapter(adapter_names=[name])

    def _restore(self) -> None:
        """Copies the base's own weights back: subtracting what was added would leave roundings behind."""
        for layer, weight in self._before_merge.items():
            layer.get_base_layer().weight.data.copy_(weight)
            layer.merged_adapters.clear()
        self._before_merge = {}

    def drop(self, name: str) -> None:
        self._restore()
        if tuple(self.module.peft_config) == (name,):
            with torch.random.fork_rng():
                self._attach(SPARE, deepcopy(self.lora))
        self.module.set_adapter(next(other for other in self.module.peft_config if other != name))
        self.module.delete_adapter(name)
        self.module.base_model.disable_adapter_layers()

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        if not self.names:
            return {}
        trained = {id(p) for p in self.module.parameters() if p.requires_grad}
        return {key: p for key, p in self.weights(self.module.active_adapter).items() if id(p) in trained}

    def layers(self) -> tuple[TunedLinear, ...]:
        """Implements lcia.protocols.Adapters.

        Raises:
            InputError: an adapter tunes a layer that is not linear.
        """
        if not self.names:
            return ()
        name, found = self.module.active_adapter, []
        for path, module in self.module.named_modules():
            if isinstance(module, LoraLayer) and name in (*module.lora_A, *module.lora_embedding_A):
                found.append(_product(path, module, name))
                found.extend(_router(path, module, name))
            elif isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save:
                found.extend(_whole(path, module.modules_to_save[name]))
        return tuple(found)

    def weights(self, name: str) -> dict[str, torch.nn.Parameter]:
        """What is saved for an adapter, by the saved keys; the parameters themselves."""
        weights: dict[str, torch.nn.Parameter] = get_peft_model_state_dict(
            self.module, self.module.state_dict(keep_vars=True), adapter_name=name, save_embedding_layers=False
        )
        # peft takes a router's key for one that holds no adapter's name.
        stock = {key: weight for key, weight in weights.items() if not experts.is_router(key)}
        return stock | experts.router_weights(self.module, name)

    def form(self, name: str) -> dict[str, Any]:
        """What an adapter must share with another whose weights could take its place."""
        return _form(self.module.peft_config[name], experts.count_experts(self.module, name))

    def _attach(self, name: str, config: peft.LoraConfig, count: int = 1) -> None:
        if isinstance(self.module, PeftModel):
            self.module.add_adapter(name, config)
            # peft looks at the active adapter while it loads weights; it may be one that was dropped.
            self.module.set_adapter(name)
        else:
            self.module = PeftModel(self.module, config, adapter_name=name).eval()
        _widen(self.module, name)
        if count > 1:
            experts.route(self.module, name, count)


def _widen(module: nn.Module, name: str) -> None:
    """Holds an adapter's copies of whole modules in fp32, as peft holds its LoRA: in half precision a step of the usual
    learning rates is less than the distance between two numbers, and nothing would be learnt."""
    for wrapper in module.modules():
        if not isinstance(wrapper, ModulesToSaveWrapper) or name not in wrapper.modules_to_save:
            continue
        own, dtype = wrapper.modules_to_save[name], next(wrapper.original_module.parameters()).dtype
        if dtype in (torch.bfloat16, torch.float16):
            own.float()
            own.register_forward_pre_hook(_in_fp32)
            own.register_forward_hook(partial(_back_in, dtype))


def _in_fp32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


def _back_in(dtype: torch.dtype, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.to(dtype)


def _product(path: str, module: Any, name: str) -> TunedLinear:
    # GPT-2's Conv1D is a linear layer whose frozen weights lie the other way round.
    if not isinstance(module.get_base_layer(), nn.Linear | Conv1D) or name in module.lora_magnitude_vector:
        raise InputError(f"{path} is not a plain LoRA of a linear layer: choose other lora.target_modules")
    return TunedLinear(
        path, module, module.lora_B[name].weight, module.lora_A[name].weight, scale=float(module.scaling[name])
    )


def _router(path: str, module: Any, name: str) -> Iterator[TunedLinear]:
    """The router of a layer, if it has one: a linear layer that is trained as it is."""
    for _, router in experts.routers(module, name):
        yield TunedLinear(f"{path}.{experts.ROUTER}", router, cast(nn.Parameter, router.weight))


def _whole(path: str, module: nn.Module) -> Iterator[TunedLinear]:
    """The linear layers of a module that is trained as it is."""
    for inner, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            up, bias = cast(nn.Parameter, layer.weight), cast("nn.Parameter | None", layer.bias)
            yield TunedLinear(f"{path}.{inner}".rstrip("."), layer, up, bias=bias)


class AdaptedModel:
    """What assistants share: a model under its adapters, here one without a projector."""

    adapters: Adapters

    @property
    def module(self) -> Any:
        """That of the adapters."""
        return self.adapters.module

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = next(self.module.parameters()).device
        return device

    def in_projector(self, name: str) -> bool:
        """Whether a name of trainable() is of a projector between vision and language."""
        return False


def lora_form(lora: LoraConfig, model: str, whole: Sequence[str] = ()) -> peft.LoraConfig:
    """The form of adapters for a base by its folder or hub id; the modules `whole` are trained as they are."""
    # An adapter is used on other machines, so it must not hold a path of this one.
    named = None if Path(model).is_dir() else model
    return experts.LoraForm(
        lora.experts,
        **lora.model_dump(mode="json", exclude={"experts"}),
        modules_to_save=list(whole) or None,
        base_model_name_or_path=named,
    )


def _ranked(config: peft.LoraConfig, weights: Mapping[str, Tensor]) -> peft.LoraConfig:
    """The form of an adapter with these weights, whose B A has the scale that `config` gives it."""
    found = deepcopy(config)
    ranks = {tensor.shape[0] for key, tensor in weights.items() if key.endswith("lora_A.weight")}
    if ranks and ranks != {config.r}:
        (found.r,) = ranks
        alpha = config.lora_alpha * found.r / config.r
        # An integer where it is one: some loaders take no other.
        found.lora_alpha = int(alpha) if alpha == int(alpha) else alpha
    return found


def _form(config: peft.LoraConfig, count: int) -> dict[str, Any]:
    return {name: getattr(config, name) for name in FORM} | {"experts": count}
