"""Models of text alone: what is tuned where no picture is seen."""

from __future__ import annotations

from typing import ClassVar, Literal

from lcia.config.sections import Count, Name, Section

ALL_LINEAR = "all-linear"
"""peft's word for every linear layer but the output."""


class CausalConfig(Section):
    """Any AutoModelForCausalLM by local path or hub id, with its own tokenizer and chat template."""

    linear_layers: ClassVar[str] = ALL_LINEAR

    kind: Literal["causal"]
    """Any `AutoModelForCausalLM`: text alone."""
    model: Name
    """A local folder with config.json and safetensors weights, or with `gguf_file`; or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: main."""
    gguf_file: Name | None = None
    """Name of a GGUF file in the folder or repository: it holds weights, configuration and tokenizer, and is read with
    the package gguf. null: safetensors.
    """
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format of the frozen base."""
    max_length: Count = 2048
    """Tokens of a dialogue; of a longer one, tokens in the middle of what comes before the first answer are left out.
    """
    chat_template: Name | None = None
    """A chat template (Jinja) in place of the tokenizer's own; null: its own, and where it has none, every turn ends
    with a line break.
    """
    trust_remote_code: bool = False
    """Whether code that lies in the checkpoint's folder or repository may run. It can do whatever you can."""


class Seq2SeqConfig(Section):
    """Any AutoModelForSeq2SeqLM (T5) by local path or hub id: the encoder reads the question, the decoder answers."""

    linear_layers: ClassVar[str] = ALL_LINEAR

    kind: Literal["seq2seq"]
    """Any `AutoModelForSeq2SeqLM`, such as T5: text alone."""
    model: Name
    """A local folder with config.json and safetensors weights, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: main."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format of the frozen base."""
    max_length: Count = 1024
    """Tokens of a question; of a longer one the middle is left out."""
    max_answer_length: Count = 128
    """Tokens of an answer that are trained; a longer one is cut at its end."""
    trust_remote_code: bool = False
    """Whether code that lies in the checkpoint's folder or repository may run. It can do whatever you can."""
