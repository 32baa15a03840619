"""Models with an encoder and a decoder: the loop's loss is transformers' own, answers do not depend on padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from lcia import assistants
from lcia.assistants.seq2seq import Seq2SeqAssistant
from lcia.config.assistants import LoraConfig
from lcia.config.language import Seq2SeqConfig
from lcia.protocols import UNTRAINED
from lcia.training.train import answer_loss
from lcia.types import InputError, Message, Sample
from tests import checkpoints

pytestmark = pytest.mark.numeric

LORA = LoraConfig(r=16, target_modules="all-linear")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.t5(tmp_path_factory.mktemp("t5"))


def build(folder: Path, **given: int) -> Seq2SeqAssistant:
    config = Seq2SeqConfig(kind="seq2seq", model=str(folder), dtype="float32", **given)  # type: ignore[arg-type]
    assistant = assistants.build(config, LORA)
    assert isinstance(assistant, Seq2SeqAssistant)
    assistant.module.double()
    return assistant


def pair(question: str, answer: str) -> Sample:
    return Sample("row", "", (Message("user", question), Message("assistant", answer)), (), (answer,))


PAIRS = [pair("Who is it?", "Ann"), pair("Who?", "Bob and Carl")]


def test_the_loss_is_that_of_transformers_on_the_answers_as_labels(folder: Path) -> None:
    assistant, tokenizer = build(folder), AutoTokenizer.from_pretrained(folder)
    stock = AutoModelForSeq2SeqLM.from_pretrained(folder).double()
    questions = tokenizer([f"{p.messages[0].content}</s>" for p in PAIRS], padding=True, return_tensors="pt")
    questions.pop("token_type_ids", None)
    answers = tokenizer([f"{p.messages[1].content}</s>" for p in PAIRS], padding=True, return_tensors="pt")["input_ids"]
    labels = answers.masked_fill(answers == tokenizer.pad_token_id, -100)
    mean = stock(**questions, labels=labels).loss
    batch = assistant.collate(PAIRS)
    loss = answer_loss(assistant.logits(assistant.module, batch), batch["labels"])
    assert (batch["labels"] != UNTRAINED).sum() == (labels != -100).sum() == len("Ann") + len("Bob and Carl") + 2
    torch.testing.assert_close(loss / (labels != -100).sum(), mean, rtol=1e-9, atol=0)


def test_a_row_has_the_same_logits_in_any_batch(folder: Path) -> None:
    assistant = build(folder)
    alone, together = (assistant.collate(rows) for rows in (PAIRS[:1], PAIRS))
    with torch.no_grad():
        one, two = (assistant.logits(assistant.module, batch) for batch in (alone, together))
    torch.testing.assert_close(two[0, : one.shape[1]], one[0], rtol=1e-9, atol=1e-12)


def test_answers_do_not_depend_on_the_padding_of_their_batch(folder: Path) -> None:
    assistant = build(folder)
    assert assistant.answer(PAIRS, 8) == [assistant.answer([sample], 8)[0] for sample in PAIRS]


def test_long_questions_lose_their_middle_and_long_answers_their_end(folder: Path) -> None:
    assistant = build(folder, max_length=8, max_answer_length=3)
    batch = assistant.collate([pair("begin, then end", "abcdef")])
    assert assistant.text(batch["input_ids"][0].tolist()) == "begiend</s>"
    assert assistant.text(batch["labels"][0, 1:].tolist()) == "abc"


def test_lora_learns_an_answer_and_its_end(folder: Path) -> None:
    assistant = assistants.build(
        Seq2SeqConfig(kind="seq2seq", model=str(folder), dtype="float32"), LORA, gradient_checkpointing=True
    )
    assistant.adapters.add("a", seed=0)
    assistant.module.train()
    optimizer = torch.optim.AdamW(list(assistant.adapters.trainable().values()), lr=1e-2)
    batch, losses = assistant.collate([pair("Who?", "ab")]), list[float]()
    for _ in range(30):
        loss = answer_loss(assistant.logits(assistant.module, batch), batch["labels"])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    assistant.module.eval()
    assert assistant.answer([pair("Who?", "ab")], 10) == ["ab"]


def test_a_decoder_alone_is_refused(tmp_path: Path) -> None:
    model = checkpoints.llama(tmp_path)
    with pytest.raises(InputError, match=r"cannot load assistant\.model .* as kind seq2seq"):
        assistants.build(Seq2SeqConfig(kind="seq2seq", model=str(model)), LORA)
