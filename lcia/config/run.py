"""What a run *is*: every field that can change a number. Where a run happens is pipelines.launch.

Defaults stand in this package and nowhere else. YAML in, frozen pydantic out; unknown
keys are errors. The names are those of transformers and peft wherever those have one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lcia.config.assistants import AssistantConfig, LlavaConfig, LoraConfig, TinyConfig, with_layers
from lcia.config.benchmarks import BenchmarkConfig, MiniCoinConfig
from lcia.config.general import ExternalConfig
from lcia.config.grouping import GroupingConfig
from lcia.config.image_text import ImageTextConfig
from lcia.config.names import TaskName
from lcia.config.sections import Count, Fraction, Positive, Section, Seed
from lcia.config.strategies import OF_THE_PRODUCT, KroneckerConfig, StrategyConfig
from lcia.config.watch import WatchConfig
from lcia.types import Split


class NoiseConfig(Section):
    """Answers of training rows that are replaced on purpose. What is evaluated keeps its own."""

    kind: Literal["swap", "gibberish"]
    """What stands in place of an answer: that of another row of the task, drawn at random (`swap`; it may happen to be
    the same), or as many random letters (`gibberish`).
    """
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the training rows whose answer is replaced; each row is drawn by itself."""
    seed: Seed = 0
    """What is drawn for a row follows from this and from the row's id."""


class DataConfig(Section):
    """How strict reading is. `max_image_pixels` guards against decompression bombs."""

    max_bad_fraction: Fraction = 0.0
    """Share of a split's rows that may be unusable before the run is refused."""
    max_image_pixels: Count = 50_000_000
    """Larger pictures make their row unusable: a guard against decompression bombs."""
    # Not written where there is none: what is stored stays valid.
    noise: NoiseConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Wrong answers to train on, to see what a method makes of them; null: none."""
    # Not written where there is none: what is stored stays valid.
    replay: Fraction = Field(default=0.0, exclude_if=lambda value: value == 0)
    """Share of the training rows of each of an adapter's earlier tasks that its later tasks are trained on as well,
    mixed with their own (experience replay); 0: old data is gone. Which rows are kept follows from the run's `seed`.
    """


class TrainingConfig(Section):
    """One task's tuning. `batch_size` is global: over all workers and accumulated micro-batches."""

    learning_rate: Positive = 4e-3
    """Peak learning rate of the adapter."""
    projector_learning_rate: Positive = 2e-5
    """Peak learning rate of the projector, where it is trained."""
    batch_size: Count = 16
    """Rows per optimizer step, over all workers and accumulated micro-batches."""
    # Not written where it is empty: what is stored stays valid. A stage has its own task's size as batch_size.
    task_batch_sizes: dict[TaskName, Count] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Rows per optimizer step of single tasks, by their names, where they differ from `batch_size`; joint training
    takes `batch_size`.
    """
    max_steps: Count | None = None
    """Optimizer steps per task; null: as many as `num_train_epochs` takes."""
    num_train_epochs: Positive = 1.0
    """Passes over a task's training rows, where `max_steps` is null."""
    warmup_ratio: Fraction = 0.03
    """Share of the steps in which the learning rate rises from 0."""
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls afterwards."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW."""
    adam_beta1: Fraction = 0.9
    """Decay of Adam's first moment."""
    adam_beta2: Fraction = 0.999
    """Decay of Adam's second moment."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this norm; 0: not at all."""
    group_by_length: bool = False
    """Put rows of similar length into one batch, which saves padding."""
    bf16: bool = False
    """bfloat16 autocast while training, on any device. It changes numbers beyond rounding, so it belongs to the run."""

    def __hash__(self) -> int:
        # pydantic's own cannot hash a mapping.
        return hash(self.model_dump_json())

    @property
    def batch_sizes(self) -> frozenset[int]:
        """All sizes that a stage may have."""
        return frozenset({self.batch_size, *self.task_batch_sizes.values()})

    def of_tasks(self, tasks: tuple[str, ...]) -> TrainingConfig:
        """What one stage is tuned with."""
        if not self.task_batch_sizes:
            return self
        size = self.task_batch_sizes.get(tasks[0], self.batch_size) if len(tasks) == 1 else self.batch_size
        return self.model_copy(update={"batch_size": size, "task_batch_sizes": {}})


class GeneralConfig(Section):
    """Tasks that are never trained, to see what tuning does to everything else (docs/benchmarks.md)."""

    tasks: tuple[TaskName, ...] = ()
    """Names of tasks; they leave the stream. Empty: all tasks of `benchmark`."""
    benchmark: BenchmarkConfig | None = None
    """Where these tasks are from, of any kind that the run's `benchmark` may have; null: that one itself."""

    @model_validator(mode="after")
    def _names_something(self) -> GeneralConfig:
        if not self.tasks and self.benchmark is None:
            raise ValueError("name tasks of the run's benchmark, or give a benchmark of their own")
        return self


class EvaluationConfig(Section):
    """`scoring` names the column the matrix is made of; predictions are stored with both."""

    split: Split = "test"
    """Which split is answered and scored."""
    scoring: Literal["strict", "legacy"] = "strict"
    """Which score the matrix is made of: the right one, or CoIN's (docs/metrics.md). Both are stored."""
    max_new_tokens: Count = 32
    """Most tokens of an answer."""
    zero_shot: bool = False
    """Also score the untuned base on every task; `fwt` needs it."""
    upper_triangle: bool = False
    """Also score tasks before they are trained; `fwt` needs it."""
    # Not written where there are none, so that runs keep their names in MLflow.
    general: GeneralConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Tasks that are never trained, and evaluated before, after each task and at the end; null: none."""
    external: ExternalConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """A command that judges each adapter; null: none."""


class RunConfig(Section):
    """One method on one order with one seed. Equal configurations are the same run.

    `order`: task names, or the name of one of the benchmark's orders; null: the tasks as the benchmark lists them.
    """

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Name of the run's folder and of its MLflow run."""
    benchmark: BenchmarkConfig = MiniCoinConfig()
    """The stream of tasks."""
    order: str | tuple[str, ...] | None = None
    """The order of the stream: a list of task names, or one of the benchmark's orders (`given`, `reverse`; CoIN and
    MiniCoIN also `origin`, `alphabet`); null: as the benchmark lists its tasks.
    """
    protocol: Literal["continual", "multitask", "zero_shot"] = "continual"
    """Tune on one task after another (`continual`), on all at once (`multitask`, the upper end), or not at all
    (`zero_shot`, the lower end).
    """
    data: DataConfig = DataConfig()
    """How strict reading is, and whether some answers are replaced before training."""
    assistant: AssistantConfig = TinyConfig()
    """The model that is tuned."""
    lora: LoraConfig = LoraConfig()
    """The form of the adapters."""
    training: TrainingConfig = TrainingConfig()
    """How each task is tuned."""
    strategy: Annotated[StrategyConfig, Field(discriminator="kind")] = KroneckerConfig()
    """What protects old knowledge (docs/strategies.md)."""
    grouping: GroupingConfig = GroupingConfig()
    """Which tasks share an adapter (docs/grouping.md)."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is scored, and how."""
    watch: WatchConfig = WatchConfig()
    """From where on signs of failure are warned of (docs/watch.md)."""
    seed: Seed = 0
    """What adapters, batches and dropout are drawn from."""

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.protocol != "zero_shot"

    @property
    def is_stream(self) -> bool:
        """Whether tasks are trained one after another."""
        return self.protocol == "continual"

    @property
    def groups(self) -> bool:
        """Whether tasks are put into groups by their instructions."""
        return self.grouping.enabled and self.is_stream

    @property
    def uses_old_data(self) -> bool:
        """Whether rows of a task are trained on after the task: tables mark such a run, for a stream's data is gone."""
        return self.protocol == "multitask" or (self.is_stream and self.data.replay > 0)

    @model_validator(mode="after")
    def _layers_are_those_of_the_model(self) -> RunConfig:
        """Unless the configuration names the layers that get an adapter."""
        layers = self.assistant.linear_layers
        if "target_modules" not in self.lora.model_fields_set and self.lora.target_modules != layers:
            # The whole is frozen for its readers, and not ready yet.
            object.__setattr__(self, "lora", with_layers(self.lora, layers))
        return self

    @model_validator(mode="after")
    def _experts_suit_the_strategy(self) -> RunConfig:
        if self.trains and self.lora.experts > 1 and isinstance(self.strategy, OF_THE_PRODUCT):
            raise ValueError(
                f"strategy {self.strategy.kind} follows the product of LoRA's two matrices, which is another one for "
                f"every token with lora.experts {self.lora.experts}: choose strategy.kind=sequential, an average or "
                "ewc, or lora.experts=1"
            )
        return self

    @model_validator(mode="after")
    def _fusion_suits_the_adapters(self) -> RunConfig:
        if self.grouping.fusion and self.is_stream:
            if (
                isinstance(self.assistant, TinyConfig | LlavaConfig | ImageTextConfig)
                and self.assistant.train_projector
            ):
                raise ValueError(
                    "grouping.fusion sums LoRA weights, not projectors: set assistant.train_projector=false"
                )
            if self.lora.experts > 1:
                raise ValueError("grouping.fusion sums plain LoRA adapters: set lora.experts=1")
        return self

    @model_validator(mode="after")
    def _tasks_are_named_once(self) -> RunConfig:
        if isinstance(self.order, tuple) and len(set(self.order)) != len(self.order):
            raise ValueError(f"order names a task twice: {', '.join(self.order)}")
        return self
