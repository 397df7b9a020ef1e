"""Select the parameters that a retraining trains, in an otherwise frozen model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from espalier.errors import TargetsError
from espalier.model.numerics import generator
from espalier.recipe.steps.retrain import Retrain
from espalier.session import Session
from espalier.training.lora import ADAPTERS, LORA_A, LORA_B, require_rank
from espalier.training.trainables import (
    Kind,
    Trainable,
    Unfreezing,
    embeddings,
    freeze,
    kind_of,
    norms_and_biases,
)

Among = Callable[[str], bool]
"""Whether something of a name in the model is meant."""


def select_trainable_parameters(
    session: Session, model: nn.Module, spec: Retrain, *, among: Among = lambda _: True
) -> list[Trainable]:
    """Freeze a model and make the parameters of a spec trainable, in float32.

    `among`: names of the part that is there, where a model is loaded part by part.
    """
    freeze(model, among)
    if spec.method == "full":
        return list(_everything(session, model, among))
    vectors = [(name, kind) for name, kind, _ in norms_and_biases(model, spec.trainable)]
    if "biases" in spec.trainable and not any(kind == "biases" for _, kind in vectors):
        if spec.trainable == ["biases"]:
            raise TargetsError("the model has no biases", hint="Train `norms` or `mask_lora`.")
        session.reporter.warn("no_biases", "The model has no biases; the other parameters are trained.")
    unfreezing = Unfreezing(model)
    items = [_unfrozen(session, unfreezing, name, kind) for name, kind in vectors if among(name)]
    if "embeddings" in spec.trainable:
        for name in filter(among, embeddings(model)):
            items.append(_unfrozen(session, unfreezing, name, "embeddings"))
            # What a float32 table gives would meet norms in the compute dtype, which CPU kernels refuse.
            table = model.get_submodule(name.rpartition(".")[0])
            table.register_forward_hook(lambda _module, _args, output: output.to(session.compute_dtype))
    if "head" in spec.trainable and among(head_name(model) or ""):
        items += _adapt_head(session, model, spec)
    if spec.adapter is not None:
        items += _adapt(session, model, spec, spec.adapter, among)
    return items


def _unfrozen(
    session: Session, unfreezing: Unfreezing, name: str, kind: Kind, pruned: torch.Tensor | None = None
) -> Trainable:
    parameter = unfreezing.unfreeze(name)
    # From the file: the model in memory may be in a coarser compute dtype.
    parameter.data.copy_(session.weights.get(session.streamed.tensors[name]).to(parameter.device))
    return Trainable(name, kind, parameter, pruned)


def _everything(session: Session, model: nn.Module, among: Among) -> Iterator[Trainable]:
    unfreezing = Unfreezing(model)
    pruned = {
        f"{matrix.name}.weight": matrix.view(~session.mask(matrix.name)).to(session.device)
        for matrix in session.streamed.layout.matrices
        if matrix.name in session.weights.mask_names and among(matrix.name)
    }
    for name, parameter in [each for each in model.named_parameters() if among(each[0])]:
        kind = kind_of(name, parameter)
        yield _unfrozen(session, unfreezing, name, kind, pruned.get(name))


def _adapt(session: Session, model: nn.Module, spec: Retrain, kind: Kind, among: Among) -> list[Trainable]:
    """An adapter on every pruned matrix."""
    items: list[Trainable] = []
    pruned = set(session.weights.mask_names)
    if not pruned:
        raise TargetsError(f"{kind} trains pruned matrices, and nothing is pruned", hint="Train `norms`, or prune.")
    for matrix in session.streamed.layout.matrices:
        if matrix.name not in pruned or not among(matrix.name):
            continue
        if kind == "lora" and matrix.routed:
            raise TargetsError(
                f"{matrix.name} is stacked with other experts in the model that stock transformers loads",
                hint="`lora` keeps adapters apart, which experts have no place for: use `mask_lora`.",
                module=matrix.name,
            )
        items += _place(model, matrix.name, kind, session.mask(matrix.name), spec, transposed=matrix.transposed)
    return items


def _adapt_head(session: Session, model: nn.Module, spec: Retrain) -> list[Trainable]:
    """A dense low-rank update of the head; a tied head is refused, for merging would change the embeddings too."""
    name = head_name(model)
    tensors = session.streamed.tensors
    if name is None or any(tensors[table] == tensors[f"{name}.weight"] for table in embeddings(model)):
        raise TargetsError(
            "the head shares its weight with the embeddings", hint="Train `embeddings`: that moves both."
        )
    shape = session.weights.shape(tensors[f"{name}.weight"])
    everything = torch.ones(shape, dtype=torch.bool)
    return _place(model, name, "head", everything, spec, transposed=False)


def _place(
    model: nn.Module, name: str, kind: Kind, mask_OI: torch.Tensor, spec: Retrain, *, transposed: bool
) -> list[Trainable]:
    require_rank(spec.rank, mask_OI.shape, name=name)
    adapter = ADAPTERS[kind](
        model.get_submodule(name),
        mask_OI,
        transposed=transposed,
        rank=spec.rank,
        alpha=spec.alpha,
        generator=generator(spec.seed, kind, name),
    )
    model.set_submodule(name, adapter)
    return [
        Trainable(f"{name}.{LORA_A}", kind, adapter.a_RI),
        Trainable(f"{name}.{LORA_B}", kind, adapter.b_OR),
    ]


def head_name(model: nn.Module) -> str | None:
    """Return the name of the output embeddings (the language-model head)."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return next((name for name, module in model.named_modules() if module is head), None)
