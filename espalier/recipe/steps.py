"""The steps of a job: calibrate, prune, reconstruct, retrain, evaluate, gate, write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from espalier.formats import FORMATS
from espalier.recipe.base import Spec
from espalier.recipe.dataset import BuiltinDataset, Dataset, dataset_name
from espalier.recipe.expressions import selection
from espalier.recipe.publish import PublishTarget
from espalier.recipe.unbuilt import Unbuilt, UnbuiltFlag, UnbuiltList, is_list, later, refusing, refusing_if

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
LearningRate = Annotated[float, Field(gt=0, le=1)] | Literal["auto"]


class Calibration(Spec):
    """The text that statistics and reconstruction see: `samples` windows of `sequence_length` tokens."""

    dataset: Dataset = BuiltinDataset()
    samples: int = Field(128, ge=1, le=65_536, description="Number of windows.")
    sequence_length: int | None = Field(None, ge=8, le=131_072, description="Tokens; default min(2048, model maximum).")
    seed: Seed = 0
    selection: Literal["random", "sequential", "loss_gap"] = Field(
        "random",
        description="random crops of the token stream, or its first windows. loss_gap: pruning reads random crops; "
        "reconstruction and retraining read the windows whose loss pruning raised most.",
    )
    candidates: int = Field(
        4, ge=2, le=64, description="Of loss_gap: how many times as many windows are looked at as are kept."
    )


MOST_PATTERNS: Final = 8
"""Of a list, in what is sent now; specs that were stored before may have up to 64, and other engines' syntax."""
ModuleRegex = Annotated[str, Field(min_length=1, max_length=200, description="In RE2 syntax.")]
ModuleRegexes = Annotated[list[ModuleRegex], Field(max_length=64, json_schema_extra={"maxItems": MOST_PATTERNS})]


class Targets(Spec):
    """Which linear maps are pruned: regular expressions of RE2, searched in module names.

    They are compiled where a job is admitted or run, and never while a spec is read.
    """

    include: ModuleRegexes = Field([], description="Empty: every linear map inside the blocks.")
    exclude: ModuleRegexes = Field([])
    allow_leftovers: UnbuiltFlag = later("Prune a model whose linear maps are not all understood.", default=False)

    def selects(self, name: str) -> bool:
        """Tell whether a module name is selected; raises BadPattern."""
        return selection(tuple(self.include), tuple(self.exclude)).selects(name)


class BlockWindow(Spec):
    """Windows of several consecutive blocks; the last one takes what is left."""

    blocks: int = Field(ge=1, le=100_000)


Mode = Literal["dense_inputs", "sparse_inputs", "sparse_inputs_dense_targets"]


class Reconstruct(Spec):
    """Refit the kept weights window by window against the dense model's activations (arXiv 2510.14444)."""

    window: Annotated[
        Annotated[Literal["submodule", "matrix", "block", "all", "auto"], Tag("name")]
        | Annotated[BlockWindow, Tag("span")],
        Discriminator(lambda value: "span" if isinstance(value, dict | BlockWindow) else "name"),
    ] = Field(
        "submodule", description="What is fitted at once; auto: the largest of block, submodule, matrix that fits."
    )
    mode: Mode = Field(
        "dense_inputs",
        description="Whose activations a window reads and should give: the dense model's; the fitted prefix's and what "
        "the dense window makes of them; the fitted prefix's and the dense model's.",
    )
    trainable: list[Literal["weights", "norms", "biases", "mask_lora"]] = Field(
        ["weights", "norms", "biases"],
        min_length=1,
        max_length=3,
        description="`weights` or `mask_lora`, not both. Norms do not move in windows of one matrix, which hold none.",
    )
    rank: int = Field(16, ge=1, le=4096, description="Of mask_lora.")
    alpha: float = Field(32, gt=0, le=65_536, description="Of mask_lora: its update is scaled by alpha / rank.")
    loss: Literal["mse", "cosine"] = "mse"
    learning_rate: LearningRate = Field("auto", description="auto: a short search scaled to the weights.")
    epochs: int = Field(4, ge=1, le=1000, description="Passes at most; a fit that no longer improves ends early.")
    batch_size: int = Field(8, ge=1, le=4096)
    validation_fraction: float = Field(0.125, ge=0, le=0.5, description="Share of the windows held out.")
    interleave: bool = Field(False, description="Prune each block just before it is fitted.")

    def moves_a_matrix(self, *, biased: bool) -> bool:
        """Whether anything is trained in a window of one matrix, which holds its weight and perhaps a bias."""
        return not set(self.trainable) <= ({"norms"} if biased else {"norms", "biases"})

    @model_validator(mode="after")
    def _one_way_to_move_the_weights(self) -> Reconstruct:
        if {"weights", "mask_lora"} <= set(self.trainable):
            at = {"at": f"trainable/{self.trainable.index('mask_lora')}"}
            raise PydanticCustomError("contradictory_trainable", "train `weights` or `mask_lora`, not both", at)
        return self


Schedule = Literal["linear", "cosine", "constant", "slr", "clr", "llr", "allr"]
SCHEDULES: Final[tuple[Schedule, ...]] = get_args(Schedule)
Trained = Literal["norms", "biases", "head", "embeddings", "mask_lora", "scale_lora", "lora_prune", "lora", "spp"]
ADAPTERS: Final = frozenset({"mask_lora", "scale_lora", "lora_prune", "lora", "spp"})
"""Low-rank updates of pruned matrices: a matrix has room for one."""


class Retrain(Spec):
    """Retraining of a few parameters (PERP, arXiv 2312.15230) or of all, zeros kept."""

    method: Literal["perp", "full"] = Field("perp", description="full: every parameter, `trainable` left out.")
    trainable: list[Trained] = Field(
        ["norms", "mask_lora"],
        max_length=9,
        description="`lora` stays an adapter beside the model; `head` is low-rank and merged, `embeddings` are whole.",
    )
    rank: int = Field(16, ge=1, le=4096)
    alpha: float = Field(32, gt=0, le=65_536, description="Updates count alpha / rank times; scale_lora has no factor.")
    steps: int = Field(200, ge=1, le=10_000_000, description="Optimizer steps.")
    batch_size: int = Field(8, ge=1, le=65_536)
    accumulate: int = Field(1, ge=1, le=65_536, description="Micro-batches per optimizer step.")
    learning_rate: LearningRate = Field("auto", description="auto: a short search around a rate for each trainable.")
    rate_factor: float | None = Field(
        None, gt=0, le=100, description="With learning_rate auto: what a search has found before, in place of one."
    )
    weight_decay: float = Field(0.0, ge=0, le=10, description="Of matrices; norms and biases never decay.")
    schedule: Schedule = Field("linear", description="10 % warm-up; allr starts by the pruning distance (2111.00843).")
    loss: Annotated[Literal["cross_entropy", "kl", "squarehead"], refusing("embedding")] = Field(
        "cross_entropy", description="kl and squarehead (arXiv 2310.06927) keep the dense model in memory as teacher."
    )
    patience: int | None = Field(None, ge=1, le=10_000, description="Held-out checks without gain before the end.")
    gradient_checkpointing: bool | Literal["auto"] = Field("auto", description="auto: where activations are large.")
    dataset: Dataset | None = Field(None, description="Default: the calibration's data set.")
    sequence_length: int | None = Field(None, ge=8, le=131_072, description="Tokens; default: the calibration's.")
    seed: Seed = 0
    order_seed: Seed | None = Field(None, description="Seed of the text's order alone; default: `seed`.")

    @model_validator(mode="before")
    @classmethod
    def _full_names_nothing(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("method") == "full":
            return {"trainable": [], **value}
        return value

    @model_validator(mode="after")
    def _something_is_trained_once(self) -> Retrain:
        if self.method == "full" and self.trainable:
            raise PydanticCustomError("contradictory_trainable", "full trains all; leave it out", {"at": "trainable"})
        if self.method == "perp" and not self.trainable:
            raise PydanticCustomError("nothing_to_train", "name at least one trainable", {"at": "trainable"})
        if self.rate_factor is not None and self.learning_rate != "auto":
            raise PydanticCustomError("contradictory_rate", "name a rate or a factor, not both", {"at": "rate_factor"})
        for index, name in enumerate(self.trainable):
            if name in self.trainable[:index]:
                raise PydanticCustomError("duplicate_name", "named twice", {"at": f"trainable/{index}"})
            if name in ADAPTERS and ADAPTERS & set(self.trainable[:index]):
                raise PydanticCustomError(
                    "several_adapters", "a matrix has room for one kind of adapter", {"at": f"trainable/{index}"}
                )
        return self

    @property
    def adapter(self) -> Trained | None:
        """The kind of low-rank update that pruned matrices get."""
        return next((name for name in self.trainable if name in ADAPTERS), None)


class Perplexity(Spec):
    """One measurement: exp of the mean cross entropy over non-overlapping windows."""

    name: str | None = Field(
        None, min_length=1, max_length=64, pattern=r"^[\w.-]+$", description="Default: data set's."
    )
    dataset: Dataset = BuiltinDataset(split="validation")
    sequence_length: int | None = Field(None, ge=8, le=131_072, description="Tokens; default min(2048, model maximum).")
    max_windows: int | None = Field(None, ge=1, le=1_000_000, description="First windows only; default: all.")

    @property
    def key(self) -> str:
        """The name under which reports show this measurement."""
        return self.name or dataset_name(self.dataset)


TaskName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w-][\w.-]*$")]


class Evaluate(Spec):
    """What is measured on the dense model and on the artifact."""

    perplexity: list[Perplexity] = Field([Perplexity()], max_length=16)
    tasks: list[TaskName] = Field(
        [], max_length=64, description="Names of lm-eval; the worker needs the extra `tasks` and their data."
    )
    divergence: bool = Field(
        False, description="Also KL and top-1 agreement with the dense model, on the windows of the perplexity."
    )
    latency: bool = Field(True, description="Time the dense model and the result on the worker: prompt and decoding.")
    after_each_phase: bool = Field(False, description="Also measure after reconstruction and retraining.")
    continuation: Unbuilt = later("How far texts that the result continues agree with the dense model's.")
    embeddings: Unbuilt = later("Of encoders: cosine to the dense embeddings, and shared nearest neighbours.")
    groups: UnbuiltList = later("Named texts, of which the worst is compared with the mean.", default=[])
    runtimes: UnbuiltList = later("Programs that load the artifact and are timed.", default=[])
    intervals: UnbuiltFlag = later("Intervals of every difference from the dense model.", default=False)
    compare_to: Unbuilt = later("Another model that is scored by the same protocol.")

    @model_validator(mode="after")
    def _tasks_differ(self) -> Evaluate:
        for index, name in enumerate(self.tasks):
            if name in self.tasks[:index]:
                raise PydanticCustomError("duplicate_name", "a task is named twice", {"at": f"tasks/{index}"})
        return self

    @model_validator(mode="after")
    def _divergence_has_windows(self) -> Evaluate:
        if self.divergence and not self.perplexity:
            raise PydanticCustomError(
                "nothing_to_measure",
                "`divergence` reads the windows of `perplexity`, which is empty",
                {"at": "divergence"},
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Evaluate:
        names = [item.key for item in self.perplexity]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise PydanticCustomError(
                    "duplicate_name", "two measurements have the same name", {"at": f"perplexity/{index}/name"}
                )
        return self


class Gate(Spec):
    """Limits that a result must keep to be published."""

    max_relative_perplexity_increase: float | None = Field(None, gt=-1, le=1e6, description="0.1: 10 % over dense.")
    max_perplexity: float | None = Field(None, gt=1, le=1e9)
    min_sparsity: float | None = Field(None, ge=0, lt=1)
    min_continuation_agreement: Unbuilt = later("Least agreement of `evaluate.continuation`.")
    max_task_drop: Unbuilt = later("Most that a task of `evaluate.tasks` may lose.")
    max_group_gap: Unbuilt = later("Most between the worst of `evaluate.groups` and their mean.")
    max_length_ratio: Unbuilt = later("Most that continuations may grow longer than the dense model's.")
    min_cosine: Unbuilt = later("Least cosine of `evaluate.embeddings`.")
    min_overlap: Unbuilt = later("Least overlap of nearest neighbours of `evaluate.embeddings`.")


FORMAT_NAMES: Final = ("safetensors", *(name for name in FORMATS if name != "safetensors"))
if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[FORMAT_NAMES]


class Output(Spec):
    """How the artifact is written."""

    format: Annotated[
        FormatName,
        refusing(*{"compressed-tensors", "gguf"} - set(FORMAT_NAMES)),
        refusing_if(is_list, "a list of formats"),
    ] = Field("safetensors", description="; ".join(f"{name}: {FORMATS[name].summary}" for name in FORMAT_NAMES) + ".")
    gguf_type: Unbuilt = later("Type of the tensors of a GGUF file.")
    layout: Annotated[Literal["stock"], refusing("custom")] = later(
        "Whose code loads the result: that of stock transformers, or (custom) a file beside it.", default="stock"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, description="Default: the input's.")
    publish: list[PublishTarget] = Field(
        [], max_length=8, description="Where the result goes, unless its gate is rejected."
    )
