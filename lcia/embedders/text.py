"""Sentence embeddings by any transformers encoder: the mean of its last hidden states over the text's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from lcia.config.grouping import TextConfig
from lcia.embedders.vectors import once
from lcia.grouping.features import unit
from lcia.types import InputError, Sample


class TextEmbedder:
    """Embedder of the instruction alone; equal texts have one vector."""

    def __init__(self, config: TextConfig) -> None:
        self.max_length = config.max_length
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Never unset: transformers would ask on the terminal, and run the code after a "y".
        source = {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(config.model, **source)
            model = AutoModel.from_pretrained(config.model, dtype=torch.float32, use_safetensors=True, **source)
            self.model = model.to(self.device).eval()
        except (OSError, ValueError) as error:
            if "trust_remote_code" in str(error):
                raise InputError(
                    f"grouping.embedder: {config.model} brings code of its own, which is not run: read it, then set "
                    "grouping.embedder.trust_remote_code to true, or choose a checkpoint that needs none"
                ) from error
            raise InputError(f"grouping.embedder: transformers cannot load {config.model}: {error}") from error
        # Some tokenizers of decoders have no padding token; padding is masked, so any token serves.
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token

    def embed(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """[samples, dim], unit rows; each distinct instruction of the samples is computed once."""
        texts = [sample.instruction for sample in samples]
        # Sorted by length, so that a batch is padded to little more than it holds.
        order = np.array(sorted(range(len(texts)), key=lambda row: len(texts[row])), np.int64)
        vectors = once([texts[row] for row in order], self._encode)
        return vectors[np.argsort(order)]

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[texts, dim], unit rows; padded to the longest text of the batch."""
        limits = {"truncation": True, "max_length": self.max_length}
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt", **limits).to(self.device)
        states = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        # A text of no token at all has no mean; it becomes a row of zeros.
        means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return unit(means.cpu().numpy())
