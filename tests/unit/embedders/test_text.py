"""Sentence embeddings against the encoder called by hand, one unpadded text at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from lcia.config.grouping import TextConfig
from lcia.embedders import similarity_of
from lcia.embedders.text import TextEmbedder
from lcia.protocols import Features
from lcia.types import InputError, Sample

pytestmark = pytest.mark.numeric

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "the", "object", "in", "image", "answer", "word")
TEXTS = (
    "what is the object in the image",
    "answer",
    "",
    "answer the word in the image",
    "answer",
    "naïve object",
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT with its tokenizer, saved as the hub's checkpoints are."""
    folder = tmp_path_factory.mktemp("bert")
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **shape)).save_pretrained(folder)
    return folder


def by_hand(folder: Path, text: str, max_length: int) -> NDArray[np.float64]:
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    cut = ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]]
    with torch.no_grad():
        states = (
            AutoModel.from_pretrained(folder, dtype=torch.float64)
            .eval()(input_ids=torch.tensor([cut]))
            .last_hidden_state[0]
        )
    mean: NDArray[np.float64] = states.mean(dim=0).numpy()
    return mean / np.linalg.norm(mean)


def embed(folder: Path, max_length: int = 16) -> NDArray[np.float32]:
    embedder = TextEmbedder(TextConfig(kind="text", model=str(folder), max_length=max_length))
    # The model in float64, so that what is left are the roundings of the vectors themselves.
    embedder.model.double()
    return embedder.embed([Sample("", text, (), (), ()) for text in TEXTS])


@pytest.mark.parametrize("max_length", [16, 5])
def test_a_padded_batch_equals_each_text_alone(encoder: Path, max_length: int) -> None:
    expected = np.stack([by_hand(encoder, text, max_length) for text in TEXTS])
    np.testing.assert_allclose(embed(encoder, max_length), expected, atol=1e-6)


def test_equal_texts_have_one_vector_of_unit_length(encoder: Path) -> None:
    vectors = embed(encoder)
    np.testing.assert_array_equal(vectors[1], vectors[4])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="transformers cannot load"):
        TextEmbedder(TextConfig(kind="text", model=str(tmp_path)))


def test_a_mean_similarity_is_that_of_each_text_of_the_first_over_all_of_the_second() -> None:
    a = Features(("x", "y"), np.ones(2, np.int64), np.eye(3)[:2])
    vectors = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1]])
    b = Features(("p", "q", "r"), np.ones(3, np.int64), vectors)
    similarity = similarity_of(TextConfig(kind="text", model="any"))
    np.testing.assert_allclose(similarity(a, b), [1.6 / 3, 0.8 / 3], atol=1e-12)
