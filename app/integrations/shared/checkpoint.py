"""Which files of a listing are the model: the small ones, then the weights that stock transformers would read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from espalier.errors import SourceNotFound, UnsafeSource
from espalier.model_files import INDEX, PICKLES, SINGLE, belongs_to_model, is_weights
from espalier.probe import unsupported_files
from espalier.probe.documents import refuse_large
from espalier.probe.headers import SAVE_AGAIN, weight_files


def small_files(names: Mapping[str, int], what: str, *, convert: str) -> list[str]:
    """Return what comes before the weights; raises what such a listing is refused for. `convert`: what to do about it.

    `names` have their sizes in bytes beside them; `what` names the source for people.
    """
    if "config.json" not in names:
        raise unsupported_files.refuse(names, f"{what} has no config.json.")
    if not {INDEX, SINGLE} & names.keys():
        if any(PICKLES.fullmatch(name) for name in names):
            raise UnsafeSource(f"The weights of {what} are pickles, which can run code.", hint=convert)
        raise SourceNotFound(f"{what} has no weights in safetensors.", hint=convert)
    small = {name: size for name, size in names.items() if belongs_to_model(name) and not is_weights(name)}
    if SINGLE in names:  # stock transformers reads it, and no index beside it
        small.pop(INDEX, None)
    refuse_large(small)
    return list(small)


def weight_names(names: Collection[str], folder: Path, what: str) -> list[str]:
    """Return the files of the weights, by the index where there is one; the small files lie in `folder`."""
    if SINGLE in names:
        return [SINGLE]
    shards = weight_files(folder)
    missing = [name for name in shards if name not in names]
    if missing:
        raise SourceNotFound(f"{what} lacks {missing[0]}.", hint=SAVE_AGAIN, module=missing[0])
    return shards
