"""What models of text alone share: how they are loaded, their dialogues, and rows that they cannot read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from lcia.assistants.dialogue import Encoded
from lcia.config.language import CausalConfig, Seq2SeqConfig
from lcia.protocols import UNTRAINED
from lcia.types import IMAGE_TOKEN, InputError, Sample

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
)
"""For a model without a chat template: every turn ends with a line break, and answers with the end of the sequence."""


class TextProcessor:
    """What a Dialogue asks of a processor, of a tokenizer alone.

    `template` is the chat template in place of the tokenizer's own.
    """

    image_token = IMAGE_TOKEN

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.chat_template: str = template or tokenizer.chat_template or PLAIN_TEMPLATE

    def apply_chat_template(self, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Contents are texts here: templates of language models know no parts."""
        plain = [{**turn, "content": "".join(part["text"] for part in turn["content"])} for turn in turns]
        text: str = self.tokenizer.apply_chat_template(plain, chat_template=self.chat_template, **options)
        return text


def load_parts(config: CausalConfig | Seq2SeqConfig, auto: Any, attention: str | None) -> tuple[Any, Any]:
    """Tokenizer and model; weights from safetensors, or from a GGUF file. `auto` is a class of transformers.

    Raises:
        InputError: there is no such model, it is of another family, or it brings code that is not allowed to run.
    """
    from transformers import AutoTokenizer

    source = {
        "pretrained_model_name_or_path": config.model,
        "revision": config.revision or "main",
        # Never unset: transformers would ask on the terminal, and run the code after a "y".
        "trust_remote_code": config.trust_remote_code,
    }
    loads: dict[str, Any] = {"dtype": config.dtype, "attn_implementation": attention}
    if isinstance(config, CausalConfig) and config.gguf_file:
        from transformers import GgufConfig

        check_gguf()
        source["gguf_file"] = config.gguf_file
        # Packed weights are slower to tune, and an adapter could not be merged into them.
        loads["quantization_config"] = GgufConfig(dequantize=True)
    else:
        loads["use_safetensors"] = True
    with _explained(config):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = auto.from_pretrained(**source, **loads)
    # Padding is masked, so any token serves.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.eos_token is None:
        raise InputError(f"assistant.model {config.model!r} has no end-of-sequence token, so answers would not end")
    return tokenizer, model


def check_gguf() -> None:
    """Raises InputError where the package that reads GGUF files is not installed."""
    if find_spec("gguf") is None:
        raise InputError("assistant.gguf_file needs the package gguf: run `pip install gguf`, or give safetensors")


@contextmanager
def _explained(config: CausalConfig | Seq2SeqConfig) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"assistant.model {config.model!r} brings code of its own, which is not run: read it, then set "
                "assistant.trust_remote_code to true, or choose a checkpoint that needs none"
            ) from error
        raise InputError(
            f"cannot load assistant.model {config.model!r} as kind {config.kind}: give the local folder of such a "
            f"model with weights as safetensors, or a hub id ({error})"
        ) from error


def check_text(samples: Sequence[Sample]) -> None:
    """Raises InputError for a row with a picture."""
    for sample in samples:
        if sample.images:
            raise InputError(
                f"row {sample.id!r} has a picture, and the model reads text alone: choose assistant.kind llava, or "
                "rows without pictures"
            )


def without_middle(ids: Sequence[int], most: int) -> tuple[int, ...]:
    """At most so many tokens: their beginning and their end, where what is asked for and how to go on stand."""
    if len(ids) <= most:
        return tuple(ids)
    head = most // 2
    return (*ids[:head], *ids[len(ids) - (most - head) :])


def shortened(row: Encoded, most: int) -> Encoded:
    """At most so many tokens: the middle of what comes before the first answer is left out, then the row's end."""
    first = next((k for k, label in enumerate(row.labels) if label != UNTRAINED), len(row.ids))
    asked = without_middle(row.ids[:first], max(most - (len(row.ids) - first), min(first, 2)))
    ids = (*asked, *row.ids[first:])[:most]
    labels = (*[UNTRAINED] * len(asked), *row.labels[first:])[:most]
    return Encoded(ids, labels)
