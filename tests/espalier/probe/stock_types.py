"""Write `espalier.families.stock_types` anew: `python -m tests.espalier.probe.stock_types`."""

from __future__ import annotations

import textwrap
from pathlib import Path

import transformers
from transformers.models.auto import configuration_auto, modeling_auto

from espalier.families import stock_types

HEAD = '''"""Every model type of transformers {version}, written by `python -m tests.espalier.probe.stock_types`."""

from __future__ import annotations

from typing import Final

_NAMES: Final = {{
'''
TAIL = '''}
KINDS: Final[dict[str, str]] = {name: kind for kind, names in _NAMES.items() for name in names.split()}
"""Model type -> what it is, for people."""
'''


CLASSES = (
    ("an encoder-decoder", "SEQ_TO_SEQ_CAUSAL_LM"),
    ("a model of text and other media", "IMAGE_TEXT_TO_TEXT MULTIMODAL_LM"),
    ("a model of speech", "SPEECH_SEQ_2_SEQ CTC AUDIO_CLASSIFICATION TEXT_TO_WAVEFORM TEXT_TO_SPECTROGRAM"),
    ("an encoder", "MASKED_LM"),
    ("a decoder", "CAUSAL_LM"),
    ("a model of pictures", "IMAGE_CLASSIFICATION IMAGE OBJECT_DETECTION DEPTH_ESTIMATION MASK_GENERATION BACKBONE"),
    ("a model of pictures", "VIDEO_CLASSIFICATION ZERO_SHOT_IMAGE_CLASSIFICATION UNIVERSAL_SEGMENTATION"),
    ("an encoder", "TEXT_ENCODING SEQUENCE_CLASSIFICATION QUESTION_ANSWERING PRETRAINING"),
)
"""What a model is, by the automatic classes that know it; the first line that fits."""


def kind_of(name: str) -> str:
    """Say what a model type is."""
    for kind, classes in CLASSES:
        if any(name in getattr(modeling_auto, f"MODEL_FOR_{each}_MAPPING_NAMES") for each in classes.split()):
            return kind
    return "a part or a model of another kind"


def source() -> str:
    """What the module should say."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(configuration_auto.CONFIG_MAPPING_NAMES):
        kinds.setdefault(kind_of(name), []).append(name)
    entries = []
    for kind, names in sorted(kinds.items()):
        lines = textwrap.wrap(" ".join(names), 110, break_on_hyphens=False, break_long_words=False)
        entries.append(f'    "{kind}": """\n' + "\n".join(f"        {line}" for line in lines) + '\n    """,\n')
    return HEAD.format(version=transformers.__version__) + "".join(entries) + TAIL


if __name__ == "__main__":
    Path(stock_types.__file__).write_text(source())
