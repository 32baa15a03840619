"""Makes the tiny assistant's base: a tokenizer, then a LLaVA trained from nothing on caption talk about drawn pictures.

python -m tools.align_tiny_base --out DIR --steps N
python -m tools.align_tiny_base --out DIR --steps N --start BASE --talk plain --learning-rate 1e-3  # goes on from one
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import torch
from peft import LoraConfig
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from lcia.assistants import Hardware
from lcia.assistants.llava import LlavaAssistant, load
from lcia.assistants.tiny import TINY_BASE
from lcia.benchmarks.minicoin import benchmark
from lcia.config.assistants import LlavaConfig as LlavaSettings
from lcia.config.assistants import LoraConfig as LoraSettings
from lcia.config.benchmarks import MiniCoinConfig
from lcia.data.minicoin.drawing import SIZE
from lcia.data.minicoin.questions import DRAWINGS
from lcia.data.minicoin.rows import generate
from lcia.metrics.scoring import fitted
from lcia.protocols import UNTRAINED
from lcia.types import GeneratedSource, InstructionType, Sample, Source, TaskSpec
from tools.captions import COMMON_WORDS, caption_sample, plain_sample, seek_sample

Draw = Callable[[Random], Sample]
TALKS: dict[str, Draw] = {"all": caption_sample, "plain": plain_sample, "seek": seek_sample}
PATCH, WIDTH, DEPTH = 8, 96, 3
SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "USER:", "ASSISTANT:")
# A coordinate is one piece, and a comma takes its space along, so that a box is nine tokens.
PIECES = r"[01]\.\d\d|, ?| ?\p{L}+| ?\d| ?[^\s\p{L}\d]+|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'][0]['text'] }}{{ '\n' }}"
    "{% elif message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{{ '\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '\n' }}{% else %}ASSISTANT:{% generation %}"
    "{% for part in message['content'] %} {{ part['text'] }}{% endfor %}</s>{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def train_tokenizer(texts: Iterator[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so any text encodes; what is frequent in `texts` becomes one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    side = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size=side, image_mean=[0.4] * 3, image_std=[0.35] * 3
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.06,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIZE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    return LlavaForConditionalGeneration(config)


def tokenizer_texts() -> Iterator[str]:
    """Caption talk, MiniCoIN's prompts (words only: no answer is learnt from them) and common words."""
    for i in range(4000):
        yield from (message.content for message in caption_sample(Random(f"tokenizer/{i}")).messages)
    kinds: tuple[InstructionType, ...] = ("origin", "diverse", "10type")
    for task in DRAWINGS:
        for kind in kinds:
            for sample in generate(GeneratedSource(task, "train", 200, 1, kind), 0, 200):
                yield from (message.content for message in sample.messages)
    yield from [" ".join(COMMON_WORDS)] * 20
    for word in COMMON_WORDS:
        yield from [word, word.capitalize()] * 3


def align(assistant: LlavaAssistant, draw: Draw, steps: int, batch_size: int, learning_rate: float) -> None:
    """Trains every parameter on caption talk; each step draws new pictures, so nothing is seen twice."""
    module = assistant.module.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    running = torch.zeros(())
    for step in range(steps):
        samples = [draw(Random(f"{step}/{i}")) for i in range(batch_size)]
        loss = answer_loss(assistant, samples)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        running += loss.detach()
        if step % 100 == 99:
            print(f"step {step + 1}  loss {running / 100:.3f}", flush=True)
            running.zero_()
    module.requires_grad_(False).eval()


def answer_loss(assistant: LlavaAssistant, samples: list[Sample]) -> torch.Tensor:
    """Mean cross entropy over the answers' tokens."""
    batch = assistant.collate(samples)
    labels = batch["labels"][:, 1:]
    kept = labels != UNTRAINED
    return torch.nn.functional.cross_entropy(assistant.logits(assistant.module, batch)[:, :-1][kept], labels[kept])


def _rate(step: int, steps: int) -> float:
    """Warm-up over 80 steps, then a cosine down to 2 %."""
    return min((step + 1) / 80, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def exact_match(assistant: LlavaAssistant, draw: Draw, rows: int = 400) -> dict[str, float]:
    """Share of right answers to the last turn of fresh caption talk, by the kind of prompt."""
    samples = [draw(Random(f"check/{i}")) for i in range(rows)]
    right = defaultdict(list)
    for start in range(0, rows, 100):
        part = samples[start : start + 100]
        for sample, answer in zip(part, assistant.answer(part, 48), strict=True):
            kind = sample.messages[-2].content.removeprefix("<image>\n").split()[0].rstrip(":")
            right[kind].append(answer == sample.references[0])
            right["all"].append(right[kind][-1])
    return {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())}


def save(assistant: LlavaAssistant, processor: LlavaProcessor, out: Path) -> None:
    assistant.module.save_pretrained(out)
    processor.save_pretrained(out)


def check(base: Path, steps: int = 100, rows: int = 800) -> dict[str, dict[str, float]]:
    """Strict scores of MiniCoIN's tasks: untuned, after `steps` of LoRA on one task, and after as many each on all."""
    assistant = load(LlavaSettings(kind="llava", model=str(base), dtype="float32"), LoraSettings(), Hardware())
    tasks = benchmark(MiniCoinConfig(train_size=rows)).tasks
    trained = {task.name: _rows(task.train) for task in tasks if task.train}
    scores: dict[str, dict[str, float]] = {task.name: {"zero_shot": _score(assistant, task)} for task in tasks}
    for task in tasks:
        tune(assistant, trained[task.name], steps)
        scores[task.name]["alone"] = _score(assistant, task)
    tune(assistant, [row for part in trained.values() for row in part], steps * len(tasks))
    for task in tasks:
        scores[task.name]["joint"] = _score(assistant, task)
    return scores


def tune(assistant: LlavaAssistant, samples: list[Sample], steps: int, batch_size: int = 16) -> None:
    """A fresh adapter with the product's default rates, and no method on top."""
    if assistant.adapters.trainable():
        assistant.adapters.drop("check")
    assistant.adapters.add("check", seed=0)
    parameters, random = list(assistant.adapters.trainable().values()), Random(0)
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.03 * steps), steps)
    for _ in range(steps):
        answer_loss(assistant, random.sample(samples, batch_size)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def _score(assistant: LlavaAssistant, task: TaskSpec) -> float:
    """In percent, over the task's test rows."""
    samples = _rows(task.test)
    answers = assistant.answer(samples, 16)
    strict = fitted(task.strict, [sample.references for sample in samples])
    right = [strict(answer, sample.references) for answer, sample in zip(answers, samples, strict=True)]
    return 100 * sum(right) / len(right)


def _rows(source: Source | None) -> list[Sample]:
    assert isinstance(source, GeneratedSource)
    return list(generate(source, 0, source.rows))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.align_tiny_base", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for a new checkpoint")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from; without it: from nothing")
    parser.add_argument("--talk", choices=tuple(TALKS), default="all", help="what the pictures show")
    parser.add_argument("--check", type=Path, nargs="?", const=TINY_BASE, help="measure a checkpoint (the shipped one)")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.steps < 1:
        parser.error("--steps: at least 1")
    torch.set_num_threads(1)
    if given.out:
        make(given)
    if given.check:
        print(json.dumps(check(given.check), indent=1))


def make(given: argparse.Namespace) -> None:
    assistant, processor = beginning(given.start, given.seed)
    align(assistant, TALKS[given.talk], given.steps, given.batch_size, given.learning_rate)
    save(assistant, processor, given.out)
    print(json.dumps(exact_match(assistant, TALKS[given.talk]), indent=1))


def beginning(start: Path | None, seed: int) -> tuple[LlavaAssistant, LlavaProcessor]:
    """A checkpoint, or a new tokenizer and random weights."""
    if start is not None:
        model = LlavaForConditionalGeneration.from_pretrained(start, dtype="float32")
        processor = LlavaProcessor.from_pretrained(start)
    else:
        tokenizer = train_tokenizer(tokenizer_texts(), size=1000)
        model, processor = build_model(tokenizer, seed), build_processor(tokenizer)
    return LlavaAssistant(model, processor, LoraConfig()), processor


if __name__ == "__main__":
    main()
