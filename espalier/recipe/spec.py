"""The body of POST /v1/jobs, and the rules that cross its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Union

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe import presets
from espalier.recipe.base import Spec
from espalier.recipe.refusals.unbuilt import Unbuilt, is_true, later, not_available, refusing_if
from espalier.recipe.steps.dataset import Calibration, Dataset
from espalier.recipe.steps.evaluate import Evaluate, Gate
from espalier.recipe.steps.objective import AnyObjective, Objective
from espalier.recipe.steps.output import Output
from espalier.recipe.steps.prune import Prune, PruneFields, PruneStep
from espalier.recipe.steps.reconstruct import Reconstruct
from espalier.recipe.steps.recovery import Cycles, Soup, some_are_equal
from espalier.recipe.steps.retrain import SCHEDULES, Retrain
from espalier.recipe.steps.structure import DepthFields, StructureStep

SCHEMA_VERSION = 1
ENGINE_VERSION = "6"
"""Part of every work hash: raised whenever equal specs would give other bytes.

6: calibration is summed in eight shards, as any number of ranks adds them up; trials of a rate are shorter.
5: texts of more than 4 MiB are tokenised in pieces; null rows of data sets are no documents; a head
that the files hold beside `tie_word_embeddings: true` is the head where it differs from the embeddings.
"""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, dict) else value


MOST_STEPS = 8
PruneSteps = Annotated[list[Prune], Field(max_length=MOST_STEPS)]


class CompressionSpec(Spec):
    """What is done to the model."""

    preset: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9._-]{0,62}(@[1-9][0-9]{0,5})?$", description="name or name@version."
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Forward passes only.")
    calibration: Calibration = Calibration()
    propagation: Literal["sequential", "dense"] = Field(
        "sequential",
        description="Calibrate on what the pruned blocks before give, or on the dense model's activations.",
    )
    prune: Annotated[PruneSteps, BeforeValidator(_as_list, json_schema_input_type=Union[Prune, PruneSteps])]  # noqa: UP007
    reconstruct: Annotated[
        Reconstruct | None, refusing_if(is_true, "`true` for an object of defaults", instead="{}")
    ] = None
    retrain: Annotated[Retrain | None, refusing_if(is_true, "`true` for an object of defaults", instead="{}")] = None
    quantize: Unbuilt = later("Weights on a grid of 4 or 8 bits, zeros kept.")
    cycles: Cycles | None = None
    soup: Soup | None = None
    evaluate: Evaluate = Evaluate()
    objective: AnyObjective | None = None
    gate: Gate | None = None
    output: Output = Output()

    @property
    def unpublished(self) -> CompressionSpec:
        """The spec without where its result goes, of which computing knows nothing."""
        return self.model_copy(update={"output": self.output.model_copy(update={"publish": []})})

    @property
    def datasets(self) -> dict[str, Dataset]:
        """Every text that the spec names, by its place in it: `evaluate/perplexity/0/dataset`."""
        named = {"calibration/dataset": self.calibration.dataset}
        if self.retrain and self.retrain.dataset:
            named["retrain/dataset"] = self.retrain.dataset
        return named | {
            f"evaluate/perplexity/{index}/dataset": item.dataset for index, item in enumerate(self.evaluate.perplexity)
        }

    @property
    def structure(self) -> list[StructureStep]:
        """The steps that remove whole parts, in order; they come first."""
        return [step for step in self.prune if not isinstance(step, PruneFields)]

    @property
    def masking(self) -> list[PruneStep]:
        """The step that prunes single weights, if there is one."""
        return [step for step in self.prune if isinstance(step, PruneFields)]

    @model_validator(mode="after")
    def _parts_go_before_weights(self) -> CompressionSpec:
        for index, step in enumerate(self.prune[:-1]):
            if isinstance(step, PruneFields):
                raise PydanticCustomError(
                    "weights_before_parts",
                    "at most one step prunes single weights, and it must be the last of `prune`",
                    {"at": f"prune/{index}"},
                )
        if self.structure and self.cycles is not None:
            raise not_available("cycles after a step that removes whole parts", at="cycles")
        fewer_blocks = any(isinstance(step, DepthFields) for step in self.structure)
        if fewer_blocks and self.retrain and self.retrain.loss == "squarehead":
            raise PydanticCustomError(
                "blocks_do_not_match",
                "SquareHead compares block by block, and the prune steps remove blocks; use `kl`",
                {"at": "retrain/loss"},
            )
        if self.structure and self.reconstruct and self.reconstruct.window == "matrix":
            raise PydanticCustomError(
                "parts_are_gone",
                "a window of one matrix cannot compensate for removed parts; use `submodule` or `block`",
                {"at": "reconstruct/window"},
            )
        return self

    @model_validator(mode="after")
    def _a_loss_gap_can_be_seen(self) -> CompressionSpec:
        """Require two models to compare: the loss gap is between the dense model and the pruned one."""
        why = ""
        if not self.prune:
            why = "`prune` is empty: nothing differs from the source"
        elif not self.reconstruct and not self.retrain:
            why = "it picks the text of recovery: add `reconstruct` or `retrain`"
        elif self.reconstruct and self.reconstruct.interleave:
            why = "with `interleave` no pruned model stands before it is fitted"
        if self.calibration.selection == "loss_gap" and why:
            raise PydanticCustomError(
                "no_loss_gap", "`loss_gap` cannot be used: {why}", {"why": why, "at": "calibration/selection"}
            )
        return self

    @model_validator(mode="after")
    def _there_is_a_dense_model_to_fit_to(self) -> CompressionSpec:
        if self.reconstruct and not self.reconstruct.interleave and not self.prune:
            raise PydanticCustomError(
                "nothing_to_fit_to",
                "`reconstruct` fits the kept weights to what the dense model gives, and with `prune: []` the source is "
                "sparse itself: use `retrain`, or prune the dense model",
                {"at": "reconstruct"},
            )
        if self.retrain and self.retrain.loss != "cross_entropy" and not self.prune:
            raise PydanticCustomError(
                "no_teacher",
                "`{loss}` learns from the dense model, and with `prune: []` the source is its own teacher: use "
                "`cross_entropy`, or prune the dense model",
                {"loss": self.retrain.loss, "at": "retrain/loss"},
            )
        return self

    @model_validator(mode="after")
    def _allr_has_a_distance(self) -> CompressionSpec:
        if not self.retrain or self.masking:
            return self
        why = "schedule `allr` needs a step that prunes single weights"
        if self.retrain.schedule == "allr":
            raise PydanticCustomError(
                "no_distance",
                "{why}: use `llr`, which starts at the full rate",
                {"why": why, "at": "retrain/schedule"},
            )
        if self.soup and self.soup.vary == "schedule" and self.soup.members == len(SCHEDULES):
            raise PydanticCustomError(
                "no_distance",
                "{why}: lower `soup.members` by one, which leaves `allr` out",
                {"why": why, "at": "soup/members"},
            )
        return self

    @model_validator(mode="after")
    def _interleaving_prunes(self) -> CompressionSpec:
        if self.reconstruct and self.reconstruct.interleave and not self.masking:
            raise PydanticCustomError(
                "nothing_to_interleave",
                "`interleave` prunes each block before it is fitted, and `prune` is empty",
                {"at": "reconstruct/interleave"},
            )
        return self

    @model_validator(mode="after")
    def _interleaving_is_sequential(self) -> CompressionSpec:
        if self.reconstruct and self.reconstruct.interleave and self.propagation == "dense":
            raise PydanticCustomError(
                "does_not_combine",
                "`interleave` takes statistics on the fitted blocks before: leave `propagation` sequential",
                {"at": "propagation"},
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _explicit_fields_win_over_the_preset(cls, spec: object) -> object:
        return presets.expanded(spec)

    @model_validator(mode="after")
    def _an_objective_has_what_it_turns(self) -> CompressionSpec:
        if self.objective is None:
            return self
        steps = [step for step in self.prune if isinstance(step, PruneStep)]
        bounded = isinstance(self.objective, Objective)
        if bounded and (len(self.prune) != 1 or not steps or steps[0].pattern.implied_sparsity() is not None):
            raise PydanticCustomError(
                "nothing_to_search",
                "this objective searches a sparsity: `prune` must be one step that prunes single weights",
                {"at": "objective"},
            )
        kinds = [step.pattern.kind for step in self.structure]
        if not bounded and (not kinds or len(set(kinds)) < len(kinds)):
            raise PydanticCustomError(
                "nothing_to_search",
                "a size target needs structured steps in `prune`, at most one each of depth, neurons, kv_groups and "
                "experts",
                {"at": "objective"},
            )
        if not self.evaluate.perplexity:
            raise PydanticCustomError(
                "nothing_to_judge", "an objective needs a measurement in `evaluate.perplexity`", {"at": "objective"}
            )
        return self

    @model_validator(mode="after")
    def _training_text_is_not_evaluation_text(self) -> CompressionSpec:
        seen = [self.calibration.dataset]
        if self.retrain and self.retrain.dataset:
            seen.append(self.retrain.dataset)
        for index, item in enumerate(self.evaluate.perplexity):
            if item.dataset in seen:
                raise PydanticCustomError(
                    "training_text_is_evaluation_text",
                    "evaluate.perplexity[{index}] reads the same text that the job calibrates or trains on",
                    {"index": index, "at": f"evaluate/perplexity/{index}/dataset"},
                )
        return self

    @model_validator(mode="after")
    def _soups_and_cycles_have_what_they_turn_on(self) -> CompressionSpec:
        for problem in (*_soup_problems(self), *_cycle_problems(self)):
            raise problem
        return self


def _soup_problems(spec: CompressionSpec) -> Iterator[PydanticCustomError]:
    if spec.soup is None:
        return
    if spec.retrain is None:
        yield PydanticCustomError("nothing_to_average", "a soup averages what `retrain` gives", {"at": "soup"})
    elif "lora" in spec.retrain.trainable:
        yield PydanticCustomError(
            "nothing_to_average", "`lora` is not merged into the weights, and a soup averages weights", {"at": "soup"}
        )
    elif some_are_equal(spec.retrain, spec.soup):
        yield PydanticCustomError(
            "equal_members",
            "some members would be equal: this retraining does not read all that `{what}` changes; vary another thing",
            {"what": spec.soup.vary, "at": "soup/vary"},
        )


def _cycle_problems(spec: CompressionSpec) -> Iterator[PydanticCustomError]:
    if spec.cycles is None:
        return
    count = spec.cycles.count
    if not spec.masking or (spec.retrain is None and spec.reconstruct is None):
        yield PydanticCustomError(
            "nothing_to_repeat",
            "`cycles` needs a step that prunes single weights, and `reconstruct` or `retrain`",
            {"at": "cycles"},
        )
    if spec.retrain and spec.retrain.steps < count:
        yield PydanticCustomError(
            "too_few_steps",
            "every cycle needs a training step: give {count} or more",
            {"count": count, "at": "retrain/steps"},
        )
    if spec.retrain and "lora" in spec.retrain.trainable:
        yield PydanticCustomError(
            "adapter_between_cycles",
            "`lora` is not merged into the weights, which the next cycle prunes",
            {"at": "cycles"},
        )
    for index, step in enumerate(spec.masking):
        if step.optimizer is not None or (step.solver is not None and step.solver.moves_mask):
            yield PydanticCustomError(
                "pruned_comes_back",
                "`cycles` cannot be combined with a mask optimizer or a solver that chooses its mask",
                {"at": f"prune/{index}/{'optimizer' if step.optimizer else 'update'}"},
            )
        if getattr(step.budget, "kind", None) != "uniform":
            yield PydanticCustomError(
                "pruned_comes_back",
                "`cycles` needs `budget: uniform`",
                {"at": f"prune/{index}/budget"},
            )
        if step.pattern.implied_sparsity() is not None:
            yield PydanticCustomError(
                "one_sparsity",
                "this pattern has a fixed sparsity, which `cycles` cannot raise; use another pattern",
                {"at": f"prune/{index}/pattern"},
            )
