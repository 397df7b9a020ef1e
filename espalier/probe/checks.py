"""Check a spec against a model: everything that POST can refuse before a job is queued."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from espalier.errors import Problem
from espalier.families.sizes import PLURAL, Part
from espalier.probe.facts import ModelFacts
from espalier.probe.matching import Chosen, Matcher
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.objective import Target
from espalier.recipe.steps.prune import Targets
from espalier.recipe.steps.reconstruct import BlockWindow, Reconstruct
from espalier.recipe.steps.retrain import Retrain
from espalier.recipe.steps.structure import DepthFields, ExpertStep, WidthFields, WidthStep
from espalier.search.split import Candidate, Split


def check(spec: CompressionSpec, facts: ModelFacts, matcher: Matcher | None = None) -> list[Problem]:
    """Return every reason why this model cannot be compressed so; `prune` is a list in pointers, as in the spec.

    `matcher`: of the request, where that asks for many jobs.
    """
    matcher = matcher or Matcher()
    if problems := bad_patterns(spec, matcher):
        return problems
    # Names and shapes of what is left once whole parts are gone are known in the run alone.
    steps = [] if spec.structure else spec.masking
    chosen = [matcher.select(step.targets, facts, "/spec/prune/0/targets") for step in steps]
    return [
        *_lengths(spec, facts),
        *(list(_structure(spec, facts)) or _target(spec, facts)),
        *_pruning(spec, chosen),
        *_reconstruction(spec, facts, chosen),
        *_retraining(spec, facts, chosen),
        *_tokenizer(spec, facts),
    ]


def bad_patterns(spec: CompressionSpec, matcher: Matcher) -> list[Problem]:
    """Return why patterns of a spec cannot be used, whatever the model."""
    at = len(spec.structure)
    refusals = (matcher.refusal(step.targets, f"/spec/prune/{at}/targets") for step in spec.masking)
    return [problem for problem in refusals if problem]


def _lengths(spec: CompressionSpec, facts: ModelFacts) -> Iterator[Problem]:
    lengths = {"/spec/calibration/sequence_length": spec.calibration.sequence_length}
    if spec.retrain:
        lengths["/spec/retrain/sequence_length"] = spec.retrain.sequence_length
    for index, item in enumerate(spec.evaluate.perplexity):
        lengths[f"/spec/evaluate/perplexity/{index}/sequence_length"] = item.sequence_length
    for pointer, length in lengths.items():
        if length is not None and length > facts.max_positions:
            yield Problem(pointer, "sequence-too-long", f"the model reads at most {facts.max_positions} tokens")


def _structure(spec: CompressionSpec, facts: ModelFacts) -> Iterator[Problem]:
    left = facts.num_blocks
    for index, step in enumerate(spec.structure):
        pointer = f"/spec/prune/{index}"
        part = facts.sizes.part(step.pattern.kind) if facts.sizes else None
        if facts.sizes and part is None:
            yield Problem(f"{pointer}/pattern", "no-such-part", f"this model has no {step.pattern.kind}")
        elif part is not None and part.refusal:
            detail = f"a stock {facts.model_type} cannot have fewer {PLURAL[part.kind]}: {part.refusal}"
            yield Problem(f"{pointer}/pattern", "part-stays-whole", detail)
        elif isinstance(step, DepthFields):
            if step.replace and part is not None and part.no_stand_in:
                detail = f"no matrix of a {facts.model_type} can replace a block: {part.no_stand_in}"
                yield Problem(f"{pointer}/replace", "nothing-stands-in", detail)
            left -= step.gone(left)
            if left < 1:
                detail = f"no block would be left of {facts.num_blocks}; at least one has to stay"
                yield Problem(pointer, "no-block-left", detail)
                return
        elif part is not None:
            yield from _units(step, part, pointer)


def _units(step: WidthStep | ExpertStep, part: Part, pointer: str) -> Iterator[Problem]:
    kept, what = step.pattern.kept(part.count, sparsity=step.sparsity), PLURAL[part.kind]
    if step.pattern.multiple_of > part.count:
        detail = f"a block has {part.count} {what}, fewer than one multiple"
        yield Problem(f"{pointer}/pattern/multiple_of", "multiple-too-large", detail)
    elif part.fits is not None and kept not in part.fits:
        counts = ", ".join(map(str, part.fits))
        detail = f"{kept} of {part.count} {what} would stay; a stock configuration of this width can have {counts}"
        yield Problem(f"{pointer}/sparsity", "count-does-not-fit", detail)
    elif kept < part.least:
        max_sparsity = 1 - part.least / part.count
        detail = (
            f"{kept} of {part.count} {what} would stay, and every token is routed to {part.least}; the sparsity is "
            f"{max_sparsity:.3g} at most"
        )
        yield Problem(f"{pointer}/sparsity", "too-few-left", detail)
    if isinstance(step, WidthFields) and step.update == "bias_mean" and not part.carries_bias:
        detail = "no bias of this family can hold the mean of removed units: use `least_squares`"
        yield Problem(f"{pointer}/update", "no-biases", detail)


def _target(spec: CompressionSpec, facts: ModelFacts) -> Iterator[Problem]:
    """Check a target size against what the steps can reach; times are known in the run alone."""
    target, sizes = spec.objective, facts.sizes
    if not isinstance(target, Target) or target.unit == "seconds_per_token" or sizes is None:
        return
    split = Split(target, spec.structure, sizes, spec.output.dtype or facts.dtype)
    smallest, dense = (split.predicted(candidate) for candidate in (split.largest, Candidate(0, 0)))
    if not smallest <= target.at_most < dense:
        detail = f"these steps reach {math.ceil(smallest):,} to {math.ceil(dense) - 1:,} {target.unit}"
        why = "the model is not larger" if target.at_most >= dense else "allow them to remove more"
        yield Problem(f"/spec/objective/{target.unit}", "out-of-reach", f"{detail}: {why}")


def _pruning(spec: CompressionSpec, chosen: list[Chosen | Problem]) -> Iterator[Problem]:
    for index, (step, selected) in enumerate(zip(spec.masking, chosen, strict=False)):
        if isinstance(selected, Problem):
            yield selected
            continue
        refusals = ((matrix, step.pattern.refusal(inputs)) for inputs, matrix in selected.by_inputs.items())
        for matrix, refusal in ((matrix, refusal) for matrix, refusal in refusals if refusal):
            detail = f"{matrix.name} has {matrix.num_inputs} inputs: {refusal}"
            yield Problem(f"/spec/prune/{index}/pattern", "pattern-does-not-fit", detail)
            break
        if why := step.budget.refusal(step.target_sparsity, selected.known):
            yield Problem(f"/spec/prune/{index}/budget", "budget-does-not-fit", why)


def _reconstruction(spec: CompressionSpec, facts: ModelFacts, chosen: list[Chosen | Problem]) -> Iterator[Problem]:
    step = spec.reconstruct
    if not step:
        return
    if step.window == "matrix":
        yield from _something_in_a_matrix(step, facts, chosen)
        yield from _no_expert(facts, chosen)
    else:
        yield from _something_to_train(step.trainable, facts, "/spec/reconstruct/trainable")
    if step.window == "submodule" and not facts.splits_in_halves:
        detail = "attention and feed-forward net of this model do not add up to the block: use `block` or `matrix`"
        yield Problem("/spec/reconstruct/window", "no-submodules", detail)
    if isinstance(step.window, BlockWindow) and step.window.blocks > facts.num_blocks:
        detail = f"the model has only {facts.num_blocks} blocks; `all` is one window over all of them"
        yield Problem("/spec/reconstruct/window/blocks", "too-many-blocks", detail)
    if "mask_lora" in step.trainable:
        yield from _rank(spec, step.rank, "/spec/reconstruct/rank", facts, chosen)


def _something_to_train(names: Sequence[str], facts: ModelFacts, pointer: str) -> Iterator[Problem]:
    absent = {name for name, there in (("biases", facts.has_biases), ("norms", facts.has_norms)) if not there}
    if set(names) <= absent:
        code = "no-biases" if "biases" in names else "no-norms"
        yield Problem(pointer, code, f"the model has no {' and no '.join(sorted(absent & set(names)))} to train")


def _something_in_a_matrix(step: Reconstruct, facts: ModelFacts, chosen: list[Chosen | Problem]) -> Iterator[Problem]:
    """Require something to train in a window of one matrix, which holds its weight and its bias alone."""
    biased = facts.has_biases and any(
        matrix.biased for selected in _pruned(facts, chosen) for matrix in selected.matrices
    )
    if not step.moves_a_matrix(biased=biased):
        why = "no norm" if biased else "no norm, and no pruned matrix has a bias"
        detail = f"a window of one matrix holds {why}: train `weights` or `mask_lora`, or take larger windows"
        yield Problem("/spec/reconstruct/trainable", "nothing-in-a-matrix", detail)


def _no_expert(facts: ModelFacts, chosen: list[Chosen | Problem]) -> Iterator[Problem]:
    """Refuse experts in windows of one matrix: an expert's inputs depend on where tokens are routed."""
    pruned = (matrix.name for selected in _pruned(facts, chosen) for matrix in selected.matrices)
    expert = next((name for name in pruned if ".experts." in name), None)
    if expert is not None:
        detail = (
            f"{expert} belongs to an expert, which reads only the tokens that the router sends it, and cannot be "
            "fitted by itself: use `submodule` or `block`, or leave the experts out with `targets`"
        )
        yield Problem("/spec/reconstruct/window", "experts-by-matrix", detail)


def _retraining(spec: CompressionSpec, facts: ModelFacts, chosen: list[Chosen | Problem]) -> Iterator[Problem]:
    if not spec.retrain:
        return
    if spec.retrain.trainable:
        yield from _something_to_train(spec.retrain.trainable, facts, "/spec/retrain/trainable")
    if "head" in spec.retrain.trainable:
        yield from _head(spec.retrain, facts)
    adapter = spec.retrain.adapter
    if adapter is None:
        return
    if spec.masking and not any(step.target_sparsity for step in spec.masking):
        detail = f"{adapter} trains pruned matrices and nothing is pruned; use `prune: []` for a sparse model"
        yield Problem("/spec/retrain/trainable", "nothing-pruned", detail)
    yield from _rank(spec, spec.retrain.rank, "/spec/retrain/rank", facts, chosen)


def _pruned(facts: ModelFacts, chosen: list[Chosen | Problem]) -> list[Chosen]:
    """Return the matrices that a step prunes; all where none is known."""
    return [selected for selected in chosen if isinstance(selected, Chosen)] or [Chosen(list(facts.matrices))]


def _rank(
    spec: CompressionSpec, rank: int, pointer: str, facts: ModelFacts, chosen: list[Chosen | Problem]
) -> Iterator[Problem]:
    """Check a rank against the dense model's shapes; a model with parts removed is checked in the run."""
    if spec.structure and any(step.targets != Targets() for step in spec.masking):
        return
    (selected, *_) = _pruned(facts, chosen)  # one step prunes single weights at most
    narrowest = selected.narrowest
    if rank > min(narrowest.num_inputs, narrowest.num_outputs):
        shape = f"{narrowest.num_outputs} x {narrowest.num_inputs}"
        yield Problem(pointer, "rank-too-large", f"{narrowest.name} is only {shape}")


def _head(retrain: Retrain, facts: ModelFacts) -> Iterator[Problem]:
    if facts.tied_embeddings:
        detail = "the head shares its weight with the embeddings: train `embeddings`, which moves both"
        yield Problem(f"/spec/retrain/trainable/{retrain.trainable.index('head')}", "tied-head", detail)
    # Small OPT models project to embeddings narrower than what is between their blocks.
    width = facts.sizes.head // facts.vocab_size if facts.sizes else facts.hidden_size
    if retrain.rank > min(width, facts.vocab_size):
        yield Problem("/spec/retrain/rank", "rank-too-large", f"the head is {facts.vocab_size} x {width}")


def _tokenizer(spec: CompressionSpec, facts: ModelFacts) -> Iterator[Problem]:
    reads_text = spec.reconstruct or spec.retrain or spec.evaluate.perplexity
    if not facts.tokenizer_present and (
        reads_text or spec.structure or any(step.reads != "none" or step.budget.statistics for step in spec.masking)
    ):
        why = facts.tokenizer_missing or "the model has no tokenizer (tokenizer.json, or vocab.json and merges.txt)"
        yield Problem("/source", "no-tokenizer", f"the job reads text, and {why}")
