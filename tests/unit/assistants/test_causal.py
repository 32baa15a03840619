"""Language models with a causal head: labels on answers only, padding that changes nothing, answers that end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lcia import assistants
from lcia.assistants.causal import CausalAssistant
from lcia.assistants.dialogue import Encoded
from lcia.assistants.language import PLAIN_TEMPLATE, shortened, without_middle
from lcia.config.assistants import LoraConfig
from lcia.config.language import CausalConfig
from lcia.config.run import RunConfig
from lcia.protocols import UNTRAINED
from lcia.training.train import answer_loss
from lcia.types import InputError, Message, Sample
from tests import checkpoints

pytestmark = pytest.mark.numeric

LORA = LoraConfig(target_modules="all-linear")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.gpt2(tmp_path_factory.mktemp("gpt2"))


def build(folder: Path, **given: Any) -> CausalAssistant:
    """In float64, so that no comparison depends on a processor's roundings."""
    config = CausalConfig(kind="causal", model=str(folder), dtype="float32", **given)
    assistant = assistants.build(config, LORA)
    assert isinstance(assistant, CausalAssistant)
    assistant.module.double()
    return assistant


@pytest.fixture(scope="module")
def llama(folder: Path) -> CausalAssistant:
    assistant = build(folder)
    assistant.adapters.add("a", seed=1)
    return assistant


def talk(*lines: str) -> Sample:
    messages = tuple(Message("assistant" if i % 2 else "user", line) for i, line in enumerate(lines))
    return Sample("row", "", messages, (), (lines[-1],))


def read_and_trained(assistant: CausalAssistant, sample: Sample) -> tuple[str, str]:
    batch = assistant.collate([sample])
    labels = batch["labels"][0]
    return assistant.text(batch["input_ids"][0].tolist()), assistant.text(labels[labels != UNTRAINED].tolist())


# Labels -----------------------------------------------------------------------------------------------------------


def test_the_tokenizer_s_own_template_is_used_and_answers_are_trained_with_their_end(llama: CausalAssistant) -> None:
    read, trained = read_and_trained(llama, talk("Who?", "Ann", "And Bob?", "no"))
    assert read == "[user]Who?</s>\n[assistant]Ann</s>[user]And Bob?</s>\n[assistant]no</s>"
    assert trained == "Ann</s>no</s>"


def test_a_model_without_a_template_reads_turns_that_end_with_line_breaks(gpt2: Path) -> None:
    read, trained = read_and_trained(build(gpt2), talk("Who?", "Ann"))
    assert (read, trained) == ("Who?\nAnn</s>", "Ann</s>")


def test_a_template_of_the_configuration_takes_the_place_of_the_tokenizer_s(folder: Path) -> None:
    assert read_and_trained(build(folder, chat_template=PLAIN_TEMPLATE), talk("Who?", "Ann"))[0] == "Who?\nAnn</s>"


def test_a_row_with_a_picture_is_refused_by_its_id(llama: CausalAssistant) -> None:
    picture = Sample("seen", "", (Message("user", "<image>\nWho?"), Message("assistant", "Ann")), (b"png",), ("Ann",))
    for use in (lambda: llama.collate([picture]), lambda: llama.answer([picture], 1)):
        with pytest.raises(InputError, match="row 'seen' has a picture, and the model reads text alone"):
            use()


# Long rows --------------------------------------------------------------------------------------------------------


def test_a_long_question_loses_its_middle_and_keeps_its_ends_and_the_answer(folder: Path) -> None:
    assistant = build(folder, max_length=40)
    read, trained = read_and_trained(assistant, talk("begin " + "x" * 100 + " end", "Ann"))
    assert read.startswith("[user]begin xxx")
    assert read.endswith("x end</s>\n[assistant]Ann</s>")
    assert (trained, len(assistant.dialogue.tokenizer(read)["input_ids"])) == ("Ann</s>", 40)


def test_an_answer_longer_than_allowed_is_cut_at_its_end() -> None:
    row = Encoded(tuple(range(10)), (UNTRAINED,) * 3 + tuple(range(3, 10)))
    assert shortened(row, 6) == Encoded((0, 2, 3, 4, 5, 6), (UNTRAINED, UNTRAINED, 3, 4, 5, 6))
    assert shortened(row, 10) == row


def test_the_middle_that_is_left_out_is_as_long_as_it_must_be() -> None:
    assert [without_middle((1, 2, 3, 4, 5), most) for most in (5, 4, 3)] == [(1, 2, 3, 4, 5), (1, 2, 4, 5), (1, 4, 5)]


# Numbers ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_transformers_on_the_same_labels(folder: Path) -> None:
    assistant = build(folder)
    batch = assistant.collate([talk("Who is it?", "Ann"), talk("Who?", "Bob and Carl")])
    stock = AutoModelForCausalLM.from_pretrained(folder).double()
    mean = stock(**batch).loss
    loss = answer_loss(assistant.logits(assistant.module, batch), batch["labels"])
    trained = (batch["labels"][:, 1:] != UNTRAINED).sum()
    # Theirs is computed in float32, whatever the model's precision.
    torch.testing.assert_close((loss / trained).float(), mean, rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["folder", "gpt2"])
def test_answers_do_not_depend_on_the_padding_of_their_batch(family: str, request: pytest.FixtureRequest) -> None:
    assistant = build(request.getfixturevalue(family))
    asked = [talk("Who?"), talk("And who is that over there, behind the house?")]
    alone = [assistant.answer([sample], 8)[0] for sample in asked]
    assert assistant.answer(asked, 8) == alone


def test_greedy_answers_are_those_of_a_plain_loop(llama: CausalAssistant, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stock = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    ids = tokenizer("[user]Who?</s>\n[assistant]", add_special_tokens=False, return_tensors="pt")["input_ids"]
    asked = ids.shape[1]
    with torch.no_grad():
        while ids.shape[1] < asked + 6 and ids[0, -1] != tokenizer.eos_token_id:
            ids = torch.cat([ids, stock(ids).logits[:, -1:].argmax(-1)], dim=1)
    llama.adapters.use(None)
    expected = tokenizer.decode(ids[0, asked:], skip_special_tokens=True).strip()
    assert llama.answer([talk("Who?")], 6) == [expected]


def learn(assistant: CausalAssistant, sample: Sample, steps: int) -> list[float]:
    parameters = list(assistant.adapters.trainable().values())
    optimizer, batch, losses = torch.optim.AdamW(parameters, lr=1e-2), assistant.collate([sample]), []
    for _ in range(steps):
        loss = answer_loss(assistant.logits(assistant.module, batch), batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_learns_an_answer_and_its_end(folder: Path, checkpointing: bool) -> None:
    config = CausalConfig(kind="causal", model=str(folder), dtype="float32")
    assistant = assistants.build(config, LoraConfig(r=16, target_modules="all-linear"),
                                 gradient_checkpointing=checkpointing)  # fmt: skip
    assert isinstance(assistant, CausalAssistant)
    assistant.adapters.add("a", seed=0)
    assistant.module.train()
    losses = learn(assistant, talk("Who?", "ab"), 30)
    assert losses[-1] < losses[0] / 4
    assistant.module.eval()
    assert assistant.answer([talk("Who?")], 10) == ["ab"]


# Configuration ----------------------------------------------------------------------------------------------------


def test_a_run_of_a_language_model_tunes_all_its_linear_layers_unless_it_names_some() -> None:
    given = {"assistant": {"kind": "causal", "model": "m"}}
    assert RunConfig.model_validate(given).lora.target_modules == "all-linear"
    named = {**given, "lora": {"target_modules": ["q_proj"], "r": 4}}
    assert RunConfig.model_validate(named).lora.target_modules == ("q_proj",)
    assert RunConfig().lora == LoraConfig()
    again = RunConfig.model_validate(RunConfig.model_validate(given).model_dump(mode="json"))
    assert again == RunConfig.model_validate(given)


def test_all_linear_layers_are_tuned_and_the_output_is_not(llama: CausalAssistant) -> None:
    llama.adapters.use("a")
    names = {layer.name.rsplit(".", 1)[-1] for layer in llama.adapters.layers()}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(llama.adapters.layers()) == 2 * 7


def test_a_base_that_is_to_answer_gives_up_its_only_adapter(folder: Path, tmp_path: Path) -> None:
    tuned = build(folder)
    tuned.adapters.add("a", seed=1)
    tuned.adapters.save("a", tmp_path)
    answering = assistants.build(CausalConfig(kind="causal", model=str(folder), dtype="float32"))
    answering.adapters.load("a", tmp_path)
    answering.adapters.drop("a")
    assert answering.adapters.names == ()


@pytest.mark.parametrize("family", ["folder", "gpt2"])
def test_every_tuned_layer_is_the_product_that_it_is_told_as(family: str, request: pytest.FixtureRequest) -> None:
    """Also GPT-2's, whose frozen weights lie the other way round."""
    assistant = build(request.getfixturevalue(family))
    assistant.adapters.add("a", seed=1)
    for layer in assistant.adapters.layers():
        assert layer.down is not None
        torch.nn.init.normal_(layer.up)
        x = torch.randn(2, layer.shape[1], dtype=torch.float64)
        added = layer.module(x) - layer.module.get_base_layer()(x)  # type: ignore[operator]
        torch.testing.assert_close(added, layer.scale * x @ layer.down.T @ layer.up.T, rtol=1e-9, atol=1e-12)


@pytest.fixture
def broken(tmp_path: Path) -> Callable[[str], CausalConfig]:
    def make(file: str) -> CausalConfig:
        (checkpoints.llama(tmp_path) / file).unlink()
        return CausalConfig(kind="causal", model=str(tmp_path), dtype="float32")

    return make


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_that_is_not_whole_is_refused(file: str, broken: Callable[[str], CausalConfig]) -> None:
    with pytest.raises(InputError, match=r"cannot load assistant\.model"):
        assistants.build(broken(file), LORA)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    checkpoints.llama(tmp_path)
    state = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"cannot load assistant\.model"):
        assistants.build(CausalConfig(kind="causal", model=str(tmp_path)), LORA)


def test_a_gguf_file_without_the_package_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcia.assistants.language.find_spec", lambda name: None)
    config = CausalConfig(kind="causal", model=str(folder), gguf_file="model.gguf")
    with pytest.raises(InputError, match="pip install gguf"):
        assistants.build(config, LORA)
