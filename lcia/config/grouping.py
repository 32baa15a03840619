"""How instructions are compared, and which of them share an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from lcia.config.sections import Count, Fraction, Name, Positive, Section

FeatureKind: TypeAlias = Literal["texts", "text_vectors", "image_vectors"]
"""What is compared: the instructions themselves, a vector of each, or a mean of vectors that depend on the images."""

# `auto_range` of an embedder: the similarity that unrelated instructions reach, and the one that paraphrases of one
# task reach; a threshold that is chosen from the data lies between them. None: not measured (docs/grouping.md).


class TfidfConfig(Section):
    """`pairwise`: the authors' rule, in closed form; `corpus`: one vocabulary fitted on all instructions."""

    feature_kind: ClassVar[FeatureKind] = "texts"
    auto_range: ClassVar[tuple[float, float] | None] = (0.0, 0.65)

    kind: Literal["tfidf"] = "tfidf"
    """TF-IDF: no model, fast."""
    fit: Literal["pairwise", "corpus"] = "pairwise"
    """What the vocabulary is fitted on: the two strings compared (`pairwise`), or all instructions (`corpus`)."""


class TextConfig(Section):
    """Mean-pooled sentence embeddings of any transformers encoder, by path or hub id."""

    feature_kind: ClassVar[FeatureKind] = "text_vectors"
    auto_range: ClassVar[tuple[float, float] | None] = (0.5, 0.65)

    kind: Literal["text"]
    """A transformers encoder."""
    model: Name
    """A local folder or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub repository; null: main."""
    max_length: Count = 128
    """Tokens of an instruction that are read."""
    trust_remote_code: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether code that lies in the checkpoint's folder or repository may run. It can do whatever you can."""


class ClipConfig(Section):
    """open_clip: model name with a weights path or tag; which side to embed.

    A model named `hf-hub:...` or `local-dir:...` brings its weights along and needs no `pretrained`.
    """

    auto_range: ClassVar[tuple[float, float] | None] = None

    kind: Literal["clip"]
    """An open_clip model."""
    model: str = "ViT-B-32"
    """Name of the model as open_clip lists it; `hf-hub:...` and `local-dir:...` bring their weights along."""
    pretrained: str = ""
    """A weights file, or a tag of open_clip."""
    features: Literal["text", "image", "both"] = "text"
    """Which side is embedded: the instruction, the pictures or both."""

    @property
    def feature_kind(self) -> FeatureKind:
        return "text_vectors" if self.features == "text" else "image_vectors"


EmbedderConfig = Annotated[TfidfConfig | TextConfig | ClipConfig, Field(discriminator="kind")]


THRESHOLDS: Mapping[str, float] = {"origin": 0.9, "diverse": 0.3}
"""The paper's thresholds by name, for pairwise TF-IDF."""


class FusionConfig(Section):
    """The adapters of all tasks answer together (HiDe-LLaVA): summed, and in the last layers weighed by how similar a
    question is to each task."""

    temperature: Positive = 0.1
    """What similarities are divided by before the softmax that makes weights of them."""
    layers: Count = 1
    """Last layers of the decoder in which adapters are weighed; in all others they are summed."""


class GroupingConfig(Section):
    """Instruction grouping (docs/method.md 3). Off: one adapter for the whole stream."""

    enabled: bool = True
    """false: one adapter for the whole stream."""
    embedder: EmbedderConfig = TfidfConfig()
    """What similarity is computed with."""
    threshold: Literal["auto", "origin", "diverse"] | Fraction = "auto"
    """Mean similarity that a group needs to take a task or to answer a sample. `auto`: chosen from the similarities of
    the tasks seen so far; `origin`: 0.9, the paper's for one template per kind of answer; `diverse`: 0.3, the paper's
    for a template per task and for paraphrases; or a number from 0 to 1."""
    expand_from: Literal["fresh", "newest"] = "fresh"
    """Where a new group's adapter starts: from fresh LoRA weights, or from the adapter that was trained last."""
    fallback: Literal["best", "newest", "base"] = "best"
    """Who answers a sample that no group reaches the threshold for: the most similar group, the newest group (as the
    authors' scripts do), or the model without an adapter."""
    route: Literal["file", "sample"] = "sample"
    """One decision for all samples of a task's file, or one for each distinct instruction."""
    # Not written where there is none: what is stored stays valid.
    fusion: FusionConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Every task gets an adapter of its own, and all of them answer together; `threshold` and `fallback` then decide
    nothing. null: one adapter answers.
    """

    @field_validator("threshold", mode="before")
    @classmethod
    def _threshold_is_a_name_or_a_similarity(cls, value: object) -> object:
        if isinstance(value, str) and (value == "auto" or value in THRESHOLDS):
            return value
        try:
            known = not isinstance(value, bool) and 0 <= float(str(value)) <= 1
        except ValueError:
            known = False
        if not known:
            raise ValueError(f"give auto, origin, diverse or a number from 0 to 1, not {value}")
        return value

    @model_validator(mode="after")
    def _fusion_has_something_to_fuse(self) -> GroupingConfig:
        if self.fusion and not self.enabled:
            raise ValueError("fusion answers with the adapters of all tasks: set grouping.enabled to true")
        if self.fusion and self.expand_from == "newest":
            raise ValueError("fusion sums adapters, which must not hold each other: set grouping.expand_from to fresh")
        return self

    @model_validator(mode="after")
    def _auto_knows_the_embedder(self) -> GroupingConfig:
        if self.enabled and not self.fusion and self.threshold == "auto" and self.embedder.auto_range is None:
            raise ValueError(
                f"threshold: auto was never measured for {self.embedder.kind} features; give a number from 0 to 1 "
                "(`lcia group CONFIG grouping.threshold=0.8` prints all similarities and trains nothing)"
            )
        return self
