"""The model at other weights, in the middle of a step: nothing of the step notices."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lcia import assistants
from lcia.config.assistants import TinyConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.rows import Rows
from lcia.local import LocalExecutor
from lcia.protocols import Assistant, Batch
from lcia.run import prepare
from lcia.store.folders import Store
from lcia.training.elsewhere import Elsewhere
from lcia.training.train import answer_loss

STREAM = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2"], "train_size": 4, "test_size": 2},
    "lora": {"lora_dropout": 0.5},
}


@pytest.fixture(scope="module", params=[False, True], ids=["stored", "checkpointed"])
def tuning(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Assistant, Batch]:
    """A model with dropout whose adapter says something, and a batch; its activations are kept, or computed again."""
    store = Store(str(tmp_path_factory.mktemp("store")))
    [prepared] = prepare([parse(RunConfig, STREAM, "test")], LocalExecutor(store))
    stage = prepared.plan.trains[0]
    built: Assistant = assistants.build(TinyConfig(), stage.lora, gradient_checkpointing=request.param, device="cpu")
    built.adapters.add("tuned", seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in built.adapters.trainable().values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    built.module.train()
    return built, built.collate(Rows([store.fetch(key) for key in stage.shards]).take([0, 1, 2, 3]))


def elsewhere(assistant: Assistant) -> Elsewhere:
    return Elsewhere(assistant, assistant.adapters.trainable(), Accelerator(cpu=True), bf16=False)


def others(assistant: Assistant) -> dict[str, Tensor]:
    return {name: parameter.detach() * 1.5 for name, parameter in assistant.adapters.trainable().items()}


def gradients(assistant: Assistant, batch: Batch, look: bool) -> list[Tensor]:
    """Of one step, with or without a look at other weights between its two passes."""
    torch.manual_seed(5)
    with torch.enable_grad():
        loss = answer_loss(assistant.logits(assistant.module, batch), batch["labels"])
        if look:
            elsewhere(assistant)(batch, others(assistant))
        return list(torch.autograd.grad(loss, list(assistant.adapters.trainable().values())))


def test_a_step_around_it_has_the_same_bits(tuning: tuple[Assistant, Batch]) -> None:
    assistant, batch = tuning
    plain, looked = (gradients(assistant, batch, look) for look in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(plain, looked, strict=True))
    assert max(float(gradient.abs().max()) for gradient in plain) > 0


def test_it_is_the_model_with_those_weights_without_dropout(tuning: tuple[Assistant, Batch]) -> None:
    assistant, batch = tuning
    parameters = assistant.adapters.trainable()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    given = others(assistant)
    found, again = (elsewhere(assistant)(batch, given) for _ in range(2))
    assert all(torch.equal(before[name], parameter) for name, parameter in parameters.items())
    assert all(module.training for module in assistant.module.modules() if isinstance(module, nn.Dropout))
    assert torch.equal(found, again)
    assert not found.requires_grad
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(given[name])
        assistant.module.eval()
        expected = assistant.logits(assistant.module, batch)
        assistant.module.train()
        for name, parameter in parameters.items():
            parameter.copy_(before[name])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float((found - elsewhere(assistant)(batch, before)).abs().max()) > 0.01


def test_an_error_in_the_middle_leaves_the_weights_as_they_were(tuning: tuple[Assistant, Batch]) -> None:
    assistant, batch = tuning
    before = {name: parameter.detach().clone() for name, parameter in assistant.adapters.trainable().items()}
    with pytest.raises(ValueError, match="input_ids"):
        elsewhere(assistant)({"labels": batch["labels"]}, others(assistant))
    assert all(torch.equal(before[name], value) for name, value in assistant.adapters.trainable().items())
