"""Small random checkpoints of text models in the hub's layout, made on the spot: their tokens are bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

CHAT = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SPECIAL = ("<pad>", "</s>", "<s>")


def write_tokenizer(folder: Path, template: str | None = CHAT, **given: Any) -> int:
    """Bytes as tokens, without padding token unless one is given; returns how many tokens there are."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({token: k for k, token in enumerate((*SPECIAL, *alphabet))}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", bos_token="<s>", **given)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return len(SPECIAL) + len(alphabet)


def llama(folder: Path, template: str | None = CHAT) -> Path:
    """Grouped queries and tied embeddings, as small Llamas have."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=write_tokenizer(folder, template), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.3, bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> Path:
    """Without chat template and without padding token, as base models come."""
    torch.manual_seed(0)
    size = write_tokenizer(folder, template=None)
    config = GPT2Config(
        vocab_size=size, n_positions=512, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def t5(folder: Path) -> Path:
    """Without dropout, so that a loss can be compared."""
    torch.manual_seed(0)
    size = write_tokenizer(folder, template=None, pad_token="<pad>")
    config = T5Config(
        vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder
