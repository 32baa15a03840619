"""What a run *is*: every field that can change a number. Where a run happens is pipelines.launch.

Defaults stand here (those of strategies in config.strategies) and nowhere else. YAML in, frozen pydantic out; unknown
keys are errors. The names are those of transformers and peft wherever those have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Field, field_validator, model_validator

from lcia.config.general import ExternalConfig
from lcia.config.image_text import ImageTextConfig
from lcia.config.instrdialog import InstrDialogConfig
from lcia.config.language import CausalConfig, Seq2SeqConfig
from lcia.config.names import TaskName, TaskNames, check_distinct
from lcia.config.sections import Count, Fraction, Name, Positive, Section, Seed
from lcia.config.strategies import OF_THE_PRODUCT, KroneckerConfig, StrategyConfig
from lcia.config.watch import WatchConfig
from lcia.types import Format, InstructionRule, InstructionType, Split

LANGUAGE_LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""All linear layers of the language model; the vision tower has a q_proj too, hence the prefix."""

COIN_ORDER = ("ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCR-VQA")
UCIT_ORDER = ("ImageNet-R", "ArxivQA", "VizWiz", "IconQA", "CLEVR", "Flickr30k")
TRACE_ORDER = ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten")

# --- benchmarks -----------------------------------------------------------------------------------------------------

# Not written while tasks are whole: what is stored stays valid.
Stretches: TypeAlias = Annotated[Count, Field(exclude_if=lambda value: value == 1)]


class MiniCoinConfig(Section):
    """Eight generated tasks in CoIN's formats, any size from a seed."""

    kind: Literal["minicoin"] = "minicoin"
    """Eight generated tasks in CoIN's formats."""
    tasks: TaskNames = COIN_ORDER
    """Which of the eight tasks, in the order of the stream."""
    instructions: InstructionType = "origin"
    """How questions say what kind of answer they want: CoIN's own line per kind of answer (`origin`), one line per task
    (`diverse`), ten paraphrases per task (`10type`).
    """
    train_size: Count = 800
    """Training rows of each task."""
    validation_size: Count = 100
    """Validation rows of each task."""
    test_size: Count = 100
    """Test rows of each task."""
    seed: Seed = 0
    """What the pictures and questions are drawn from."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream: `GQA.1`, `VizWiz.1`, `GQA.2` ..."""


class CoinConfig(Section):
    """The eight tasks of CoIN from one root folder; image paths in the rows are relative to it.

    `annotations`, seen from the root, is the folder that holds <task>/train.json; with `instructions` it is the folder
    that holds Instructions, Instructions_Diverse and Instructions_10Type, of which that type's is read. `validation` is
    the name of a file beside train.json, which CoIN does not publish.
    """

    kind: Literal["coin"]
    """CoIN's files."""
    root: str
    """Folder or URL that the rows' image names start from."""
    annotations: str = ""
    """Seen from `root`, the folder of `<task>/train.json`; with `instructions`, the folder of the sets of
    annotations.
    """
    instructions: InstructionType | None = None
    """Which of `Instructions`, `Instructions_Diverse`, `Instructions_10Type` below `annotations` is read; null:
    `annotations` itself.
    """
    validation: str | None = None
    """Name of a validation file beside train.json; CoIN does not publish one."""
    tasks: TaskNames = COIN_ORDER
    """Which of the eight tasks, in the order of the stream."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream: `GQA.1`, `VizWiz.1`, `GQA.2` ..."""


class UcitConfig(Section):
    """The six tasks of UCIT in its authors' files (docs/benchmarks.md)."""

    kind: Literal["ucit"]
    """UCIT's files."""
    root: str
    """Folder or URL that holds both of the following."""
    annotations: str = "instructions"
    """Seen from `root`, the folder of `<task>/train.json` and the like."""
    images: str = "datasets"
    """Seen from `root`, the folder that the rows' image names start from."""
    tasks: TaskNames = UCIT_ORDER
    """Which of the six tasks, in the order of the stream."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream."""


class MllmClConfig(Section):
    """One of the two streams of MLLM-CL in its authors' files (docs/benchmarks.md)."""

    kind: Literal["mllm_cl"]
    """MLLM-CL's files."""
    root: str
    """Folder or URL that holds the folders of the tasks."""
    stream: Literal["domain", "ability"] = "domain"
    """Five domains (DCL), or four abilities (ACL)."""
    tasks: TaskNames | None = None
    """Which tasks of the stream, in its order; null: all."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream."""


class TraceConfig(Section):
    """The eight text tasks of TRACE in its authors' files (docs/benchmarks.md)."""

    kind: Literal["trace"]
    """TRACE's files."""
    root: str
    """Folder or URL that holds the folders of the tasks."""
    tasks: TaskNames = TRACE_ORDER
    """Which of the eight tasks, in the order of the stream."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream."""


ScorerName: TypeAlias = Literal[
    "exact", "multiple_choice", "soft_accuracy", "contains", "mentions", "iou",
    "rouge_l", "anls", "similarity", "bleu_4", "cider",
]  # fmt: skip


class CustomTask(Section):
    """One task of your own; paths are relative to the benchmark's root unless absolute or URLs."""

    name: TaskName
    """What orders, tables and files call the task: letters, digits, spaces and . _ - + ( ) & , - at most
    80 characters.
    """
    train: str | None = None
    """Training rows: a file, a folder or a pattern such as `part-*.json`, seen from the benchmark's `root` unless
    absolute or a URL; null: the task is evaluated only (`evaluation.general`).
    """
    test: str
    """Test rows, named as those of `train`."""
    validation: str | None = None
    """Validation rows, named as those of `train`; null: none, or drawn by `validation_share`."""
    image_root: str = ""
    """Folder that image names start from, seen from `root`; empty: `root`; without both, the folder of the rows."""
    format: Format = "llava"
    """How records lie in files: LLaVA's JSON, chat JSON lines, JSON of `prompt` and `answer`, Parquet or WebDataset
    tars.
    """
    instruction: InstructionRule = "last_line"
    """Which part of a question is its instruction, which grouping compares."""
    scorer: ScorerName = "exact"
    """How an answer is scored against the references."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""


def _distinct(tasks: tuple[CustomTask, ...]) -> tuple[CustomTask, ...]:
    check_distinct([task.name for task in tasks])
    return tasks


class CustomConfig(Section):
    """Anyone's stream, without code.

    `validation_share` of the training pictures of every task without a validation file is held out, drawn by `seed`.
    """

    kind: Literal["custom"]
    """Tasks of your own."""
    name: str = "custom"
    """What the report calls the benchmark."""
    root: str = ""
    """Folder or URL that the tasks' paths start from; empty: the working folder."""
    tasks: Annotated[tuple[CustomTask, ...], AfterValidator(_distinct)]
    """The tasks, in the order of the stream."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training pictures held out as validation rows in every task without a validation file;
    null: none.
    """
    seed: Seed = 0
    """What that draw follows from."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream: `GQA.1`, `VizWiz.1`, `GQA.2` ..."""


BenchmarkConfig = Annotated[
    MiniCoinConfig | CoinConfig | UcitConfig | MllmClConfig | TraceConfig | InstrDialogConfig | CustomConfig,
    Field(discriminator="kind"),
]


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


# --- model ----------------------------------------------------------------------------------------------------------


class TinyConfig(Section):
    """The small LLaVA that ships with the package (CPU, seconds).

    `base`: aligned on captions of many kinds of drawn pictures (`scenes`), or from there on with mostly single plain
    shapes on a light ground (`shapes`), for streams like easy-VQA.
    """

    linear_layers: ClassVar[str] = LANGUAGE_LINEAR

    kind: Literal["tiny"] = "tiny"
    """The small LLaVA that ships with the package."""
    # Left out of keys while it is the one that was there first: what is stored stays valid.
    base: Literal["scenes", "shapes"] = Field(default="scenes", exclude_if=lambda value: value == "scenes")
    """Which of the two checkpoints: aligned on drawn scenes, or from there on plain single shapes."""
    train_projector: bool = False
    """Tune the projector between vision tower and language model as well."""


class LlavaConfig(Section):
    """Any LlavaForConditionalGeneration by local path or hub id, with its own processor and chat template."""

    linear_layers: ClassVar[str] = LANGUAGE_LINEAR
    wanted: ClassVar[str] = "a LLaVA"

    kind: Literal["llava"]
    """Any `LlavaForConditionalGeneration`."""
    model: Name
    """A local folder with config.json and safetensors weights, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: main."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format of the frozen base."""
    train_projector: bool = False
    """Tune the projector between vision tower and language model as well."""
    max_length: Count = 2048
    """Tokens of a dialogue, image tokens included; longer rows are cut at their end."""
    pad_image_to_square: bool = True
    """Pad pictures to a square, as LLaVA 1.5 does, instead of cropping them."""
    trust_remote_code: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether code that lies in the checkpoint's folder or repository may run. It can do whatever you can."""


AssistantConfig = Annotated[
    TinyConfig | LlavaConfig | ImageTextConfig | CausalConfig | Seq2SeqConfig, Field(discriminator="kind")
]


class LoraConfig(Section):
    """Passed to peft as it is, but for `experts`."""

    r: Count = 8
    """Rank of the update matrices."""
    lora_alpha: Count = 16
    """Scale of the update: it is multiplied by lora_alpha / r."""
    lora_dropout: Fraction = 0.0
    """Share of an adapter's inputs dropped in training."""
    target_modules: str | tuple[str, ...] = LANGUAGE_LINEAR
    """Which linear layers get an adapter: a regular expression for whole module names, a list of names or their ends,
    or `all-linear`. Models of text alone start from `all-linear`.
    """
    # Not written where there is one: what is stored stays valid.
    experts: Count = Field(default=1, exclude_if=lambda value: value == 1)
    """Experts that share the rank `r`, each of rank r / experts, weighed for every token by a trained router in each
    layer (MoELoRA); 1: plain LoRA.
    """

    @model_validator(mode="after")
    def _rank_is_shared_out(self) -> LoraConfig:
        if self.r % self.experts:
            raise ValueError(
                f"r {self.r} cannot be shared out among {self.experts} experts: make it a multiple of them"
            )
        return self


@cache
def _with_layers(lora: LoraConfig, layers: str) -> LoraConfig:
    """One object for equal ones: runs of a study are compared by the parts that they share."""
    return lora.model_copy(update={"target_modules": layers})


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


# --- grouping -------------------------------------------------------------------------------------------------------
# `auto_range` of an embedder: the similarity that unrelated instructions reach, and the one that paraphrases of one
# task reach; a threshold that is chosen from the data lies between them. None: not measured (docs/grouping.md).


FeatureKind: TypeAlias = Literal["texts", "text_vectors", "image_vectors"]
"""What is compared: the instructions themselves, a vector of each, or a mean of vectors that depend on the images."""


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


# --- evaluation and the whole ---------------------------------------------------------------------------------------


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
            object.__setattr__(self, "lora", _with_layers(self.lora, layers))
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
