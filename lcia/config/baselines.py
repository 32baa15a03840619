"""The strategies of others that ours are compared with, and their constants (docs/method.md 2)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from lcia.config.sections import Count, Fraction, Positive, Section

NotNegative = Annotated[float, Field(ge=0)]


class SequentialConfig(Section):
    """Plain LoRA tuning, one task after another: no average."""

    kind: Literal["sequential"] = "sequential"
    """Plain tuning."""

    def first(self) -> SequentialConfig:
        """What the first stage of an adapter uses: there is nothing to average with or to be pulled to yet."""
        return self


class LwfConfig(Section):
    """Learning without forgetting: KL from the model at the task's start, on the task's own answers."""

    kind: Literal["lwf"]
    """Distillation from the task's start."""
    weight: NotNegative = 1.0
    """Weight of the divergence beside the loss of the answers."""
    temperature: Positive = 2.0
    """What the scores of both models are divided by before they are compared."""
    mask_target: bool = False
    """Whether the right token is left out of the comparison, so that the teacher does not speak against it."""

    def first(self) -> SequentialConfig:
        return SequentialConfig()


class OLoraConfig(Section):
    """O-LoRA: each task trains a low-rank pair of its own, orthogonal to the earlier ones, which are frozen.

    What is stored is their sum as one LoRA, whose rank grows by lora.r with each task.
    """

    kind: Literal["olora"]
    """Orthogonal low-rank pairs."""
    weight: NotNegative = 0.5
    """Weight of the sum of absolute inner products of the pairs' directions; 0: pairs that do not know each other."""

    def first(self) -> SequentialConfig:
        return SequentialConfig()


class SlaoConfig(Section):
    """SLAO, merge before forget: B is averaged over tasks, A is the last one; a task starts from the last tuned pair.

    Its weight of the new task, 1/sqrt(t), is the method's; there is nothing to set.
    """

    kind: Literal["slao"]
    """One merged LoRA."""

    def first(self) -> SequentialConfig:
        return SequentialConfig()


class RegularEwcConfig(Section):
    """Elastic weight consolidation with the Fisher information of rows that are seen once more at a task's end."""

    kind: Literal["regular_ewc"]
    """A pull by the Fisher information."""
    pull: NotNegative = 100.0
    """Strength of the penalty; 0: plain tuning. It belongs to the data: choose it on validation rows."""
    on: Literal["factors", "product"] = "factors"
    """What is held: A and B entry by entry (`factors`), or their product (`product`, EWC-LoRA). A product's information
    is as large as the layer of the base: 4 bytes for each of its weights.
    """
    labels: Literal["drawn", "data"] = "drawn"
    """Whether labels are drawn from the model (the Fisher information) or those of the data (the empirical one)."""
    rows: Count = 128
    """Training rows of a task that its information is taken from."""
    decay: Fraction = 1.0
    """What the information of earlier tasks is multiplied by when a task's is added."""

    def first(self) -> RegularEwcConfig:
        return self.model_copy(update={"pull": 0.0, "decay": 1.0})


class RegLoraConfig(Section):
    """RegLoRA of SEFE: the largest entries of what earlier tasks added to a layer are held."""

    kind: Literal["reg_lora"]
    """Key entries of the product are held."""
    weight: NotNegative = 2_500.0
    """Weight of the mean size of the change in a layer's key entries; 0: plain tuning."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Share of a layer's entries that are key to a task."""

    def first(self) -> RegLoraConfig:
        return self.model_copy(update={"weight": 0.0})


class MeanTeacherConfig(Section):
    """Mean teacher: the model agrees with a slow average of itself, on the task's own answers."""

    kind: Literal["mean_teacher"]
    """Consistency with an average of the weights."""
    weight: NotNegative = 1.0
    """Weight of the consistency beside the loss of the answers."""
    decay: Fraction = 0.99
    """Weight of the old teacher in each step's average."""
    consistency: Literal["kl", "mse"] = "kl"
    """How the two are compared: divergence, or mean square of the probabilities' difference over the vocabulary."""
    stored: Literal["teacher", "student"] = "teacher"
    """Whose weights answer and go on; with the student's, the teacher is kept beside the adapter."""

    def first(self) -> SequentialConfig:
        return SequentialConfig()


BaselineConfig: TypeAlias = (
    SequentialConfig | LwfConfig | OLoraConfig | SlaoConfig | RegularEwcConfig | RegLoraConfig | MeanTeacherConfig
)
