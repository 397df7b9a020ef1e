"""Recognise folders without a model (GGUF, pickles, adapters, ...) by file names, with advice for each."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from espalier.errors import SourceNotFound, SourceRefused, UnsafeSource, UnsupportedArchitecture

CONVERT: Final = "Convert the weights to safetensors, for instance with save_pretrained(safe_serialization=True)."
FOLDER: Final = "A model is a Hugging Face directory: config.json, tokenizer, safetensors."
_PIPELINE: Final = r"model_index\.json"
_ENCODER: Final = r"modules\.json|config_sentence_transformers\.json|sentence_bert_config\.json"
_KINDS: Final[tuple[tuple[str, str, str, type[SourceRefused]], ...]] = (
    (
        r"adapter_config\.json|adapter_model\.(safetensors|bin)",
        "This is an adapter (LoRA or another of PEFT), not a model.",
        "Merge it into its base: `PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(...)`.",
        UnsupportedArchitecture,
    ),
    (r".+\.gguf", "The weights are in GGUF.", "Give the original model in safetensors.", UnsupportedArchitecture),
    (
        _PIPELINE,
        "This is a pipeline of diffusers, not a language model.",
        "Only causal language models are supported.",
        UnsupportedArchitecture,
    ),
    (
        _ENCODER,
        "This is a model of sentence-transformers, an encoder.",
        "Only causal language models are supported.",
        UnsupportedArchitecture,
    ),
    (r".+\.onnx", "The model is in ONNX.", "Give the original model in safetensors.", UnsupportedArchitecture),
    (
        r"params\.json|consolidated.*\.(pth|safetensors)",
        "The model is in the format of its authors, not of transformers.",
        "Convert it with the script of its family in transformers.",
        UnsupportedArchitecture,
    ),
    (
        r".+\.(bin|pt|pth|ckpt|pkl|h5|msgpack)",
        "The weights are pickles or files of other libraries, which can run code.",
        CONVERT,
        UnsafeSource,
    ),
    (
        r"model-\d+-of-\d+\.safetensors",
        "The weights are in several files, and model.safetensors.index.json, which says what is where, is missing.",
        "Copy the index too, or save the model again with save_pretrained.",
        SourceNotFound,
    ),
)
"""Name -> what such a folder is, what to do, and how it is refused; the first one that fits."""


def is_known(name: str) -> bool:
    """Tell whether a file of this name identifies the kind of an unsupported folder."""
    return any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern, *_ in _KINDS)


def has_parts_in_folders(names: Collection[str]) -> bool:
    """Tell whether these files are of a pipeline whose parts lie in folders, none of which is the model."""
    return any(re.fullmatch(f"{_PIPELINE}|{_ENCODER}", name) for name in names)


def refuse(names: Collection[str], otherwise: str) -> SourceRefused:
    """Return the refusal of a folder of such files that lacks a model's; `otherwise` where the kind is not known."""
    if not names:
        return SourceNotFound("The folder is empty.", hint=FOLDER)
    for pattern, what, hint, kind in _KINDS:  # an adapter's own weights are safetensors too: the order decides
        if any(re.fullmatch(pattern, name, re.IGNORECASE) for name in names):
            return kind(what, hint=hint)
    return SourceNotFound(otherwise, hint=FOLDER)
