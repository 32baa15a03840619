"""What a run *is*: every field that can change a number. Where a run happens is pipelines.launch.

Defaults stand here (those of strategies in lcia.methods) and nowhere else. YAML in, frozen pydantic out; unknown keys
are errors. The names are those of transformers and peft wherever those have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from lcia.methods import CurvatureConfig, StrategyConfig
from lcia.sections import Count, Fraction, Name, Positive, Section
from lcia.types import Format, InstructionRule, InstructionType, Split

LANGUAGE_LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""All linear layers of the language model; the vision tower has a q_proj too, hence the prefix."""

COIN_ORDER = ("ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCR-VQA")

# --- benchmarks -----------------------------------------------------------------------------------------------------


class MiniCoinConfig(Section):
    """Eight generated tasks in CoIN's formats, any size from a seed."""

    kind: Literal["minicoin"] = "minicoin"
    tasks: tuple[str, ...] = COIN_ORDER
    instructions: InstructionType = "origin"
    train_size: Count = 800
    validation_size: Count = 100
    test_size: Count = 100
    seed: int = 0


class CoinConfig(Section):
    """The eight tasks of CoIN from one root folder; image paths in the rows are relative to it.

    `annotations`, seen from the root, is the folder that holds <task>/train.json; with `instructions` it is the folder
    that holds Instructions, Instructions_Diverse and Instructions_10Type, of which that type's is read. `validation` is
    the name of a file beside train.json, which CoIN does not publish.
    """

    kind: Literal["coin"]
    root: str
    annotations: str = ""
    instructions: InstructionType | None = None
    validation: str | None = None
    tasks: tuple[str, ...] = COIN_ORDER
    max_samples: Count | None = None


ScorerName: TypeAlias = Literal["exact", "multiple_choice", "soft_accuracy", "contains", "iou", "rouge_l"]


class CustomTask(Section):
    """One task of your own; paths are relative to the benchmark's root unless absolute or URLs."""

    name: str
    train: str
    test: str
    validation: str | None = None
    image_root: str = ""
    format: Format = "llava"
    instruction: InstructionRule = "last_line"
    scorer: ScorerName = "exact"
    licence: str = ""
    max_samples: Count | None = None


class CustomConfig(Section):
    """Anyone's stream, without code.

    `validation_share` of the training pictures of every task without a validation file is held out, drawn by `seed`.
    """

    kind: Literal["custom"]
    name: str = "custom"
    root: str = ""
    tasks: tuple[CustomTask, ...]
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: int = 0


BenchmarkConfig = Annotated[MiniCoinConfig | CoinConfig | CustomConfig, Field(discriminator="kind")]


class DataConfig(Section):
    """How strict reading is. `max_image_pixels` guards against decompression bombs."""

    max_bad_fraction: Fraction = 0.0
    max_image_pixels: Count = 50_000_000


# --- model ----------------------------------------------------------------------------------------------------------


class TinyConfig(Section):
    """The small LLaVA that ships with the package (CPU, seconds).

    `base`: aligned on captions of many kinds of drawn pictures (`scenes`), or from there on with mostly single plain
    shapes on a light ground (`shapes`), for streams like easy-VQA.
    """

    kind: Literal["tiny"] = "tiny"
    # Left out of keys while it is the one that was there first: what is stored stays valid.
    base: Literal["scenes", "shapes"] = Field(default="scenes", exclude_if=lambda value: value == "scenes")
    train_projector: bool = False


class LlavaConfig(Section):
    """Any LlavaForConditionalGeneration by local path or hub id, with its own processor and chat template."""

    kind: Literal["llava"]
    model: Name
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    train_projector: bool = False
    max_length: Count = 2048
    pad_image_to_square: bool = True
    trust_remote_code: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether code that lies in the checkpoint's folder or repository may run. It can do whatever you can."""


AssistantConfig = Annotated[TinyConfig | LlavaConfig, Field(discriminator="kind")]


class LoraConfig(Section):
    """Passed to peft as it is."""

    r: Count = 8
    lora_alpha: Count = 16
    lora_dropout: Fraction = 0.0
    target_modules: str | tuple[str, ...] = LANGUAGE_LINEAR


class TrainingConfig(Section):
    """One task's tuning. `batch_size` is global: over all workers and accumulated micro-batches."""

    learning_rate: Positive = 4e-3
    projector_learning_rate: Positive = 2e-5
    batch_size: Count = 16
    max_steps: Count | None = None
    num_train_epochs: Positive = 1.0
    warmup_ratio: Fraction = 0.03
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    group_by_length: bool = False
    bf16: bool = False
    """bfloat16 autocast while training, on any device. It changes numbers beyond rounding, so it belongs to the run."""


# --- grouping -------------------------------------------------------------------------------------------------------
# `auto_range` of an embedder: the similarity that unrelated instructions reach, and the one that paraphrases of one
# task reach; a threshold that is chosen from the data lies between them. None: nobody measured it (docs/grouping.md).


class TfidfConfig(Section):
    """`pairwise`: the authors' rule, in closed form; `corpus`: one vocabulary fitted on all instructions."""

    auto_range: ClassVar[tuple[float, float] | None] = (0.0, 0.65)

    kind: Literal["tfidf"] = "tfidf"
    fit: Literal["pairwise", "corpus"] = "pairwise"


class TextConfig(Section):
    """Mean-pooled sentence embeddings of any transformers encoder, by path or hub id."""

    auto_range: ClassVar[tuple[float, float] | None] = (0.5, 0.65)

    kind: Literal["text"]
    model: Name
    revision: str | None = None
    """Branch, tag or commit of a hub repository; null: main."""
    max_length: Count = 128
    trust_remote_code: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether code that lies in the checkpoint's folder or repository may run. It can do whatever you can."""


class ClipConfig(Section):
    """open_clip: model name with a weights path or tag; which side to embed.

    A model named `hf-hub:...` or `local-dir:...` brings its weights along and needs no `pretrained`.
    """

    auto_range: ClassVar[tuple[float, float] | None] = None

    kind: Literal["clip"]
    model: str = "ViT-B-32"
    pretrained: str = ""
    features: Literal["text", "image", "both"] = "text"


EmbedderConfig = Annotated[TfidfConfig | TextConfig | ClipConfig, Field(discriminator="kind")]


THRESHOLDS: Mapping[str, float] = {"origin": 0.9, "diverse": 0.3}
"""The paper's thresholds by name, for pairwise TF-IDF."""


class GroupingConfig(Section):
    """Instruction grouping (METHOD 3). Off: one adapter for the whole stream."""

    enabled: bool = True
    embedder: EmbedderConfig = TfidfConfig()
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
    def _auto_knows_the_embedder(self) -> GroupingConfig:
        if self.enabled and self.threshold == "auto" and self.embedder.auto_range is None:
            raise ValueError(
                f"threshold: auto was never measured for {self.embedder.kind} features; give a number from 0 to 1 "
                "(`lcia group CONFIG grouping.threshold=0.8` prints all similarities and trains nothing)"
            )
        return self


# --- evaluation and the whole ---------------------------------------------------------------------------------------


class EvaluationConfig(Section):
    """`scoring` names the column the matrix is made of; predictions are stored with both."""

    split: Split = "test"
    scoring: Literal["strict", "legacy"] = "strict"
    max_new_tokens: Count = 32
    zero_shot: bool = False
    upper_triangle: bool = False


class RunConfig(Section):
    """One method on one order with one seed. Equal configurations are the same run.

    `order`: task names, or the name of one of the benchmark's orders; null: the tasks as the benchmark lists them.
    """

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    benchmark: BenchmarkConfig = MiniCoinConfig()
    order: str | tuple[str, ...] | None = None
    protocol: Literal["continual", "multitask", "zero_shot"] = "continual"
    data: DataConfig = DataConfig()
    assistant: AssistantConfig = TinyConfig()
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig()
    strategy: Annotated[StrategyConfig, Field(discriminator="kind")] = CurvatureConfig()
    grouping: GroupingConfig = GroupingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = 0

    @model_validator(mode="after")
    def _tasks_are_named_once(self) -> RunConfig:
        if isinstance(self.order, tuple) and len(set(self.order)) != len(self.order):
            raise ValueError(f"order names a task twice: {', '.join(self.order)}")
        return self
