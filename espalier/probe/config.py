"""Parse an untrusted config.json: either every key is known, or the model is refused with a reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from espalier.errors import SourceNotFound, UnsafeSource, UnsupportedArchitecture
from espalier.families import FAMILIES, Family, accepted, family_of
from espalier.families.stock_decoders import rows
from espalier.families.stock_types import KINDS
from espalier.probe import unsupported_files
from espalier.probe.code import refuse_code
from espalier.probe.documents import PLAIN, read_object
from espalier.probe.unread_keys import refuse_unread

MAX_CONFIG_BYTES = 2**20
MAX_TOKENIZER_CONFIG_BYTES = 16 * 2**20
LONGEST_NAME = max(map(len, FAMILIES))
MAY_NAME_CODE = (
    "generation_config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
)


def read_config(directory: Path) -> Family:
    """Read and check config.json, and look for code in the other configurations beside it."""
    path = directory / "config.json"
    if not path.is_file():
        names = [path.name for path in directory.iterdir()]
        below = any(next(directory.glob(place), None) for place in ("*/config.json", "snapshots/*/config.json"))
        if below and not unsupported_files.has_parts_in_folders(names):
            raise SourceNotFound("The folder has no config.json.", hint="A folder below it has one: name that folder.")
        raise unsupported_files.refuse(names, "The folder has no config.json.")
    family = parse_config(read_object(path, max_bytes=MAX_CONFIG_BYTES))
    for name in MAY_NAME_CODE:
        if (directory / name).is_file():
            refuse_code(read_object(directory / name, max_bytes=MAX_TOKENIZER_CONFIG_BYTES), name)
    return family


def parse_config(config: dict[str, Any]) -> Family:
    """Check a configuration; raises UnsafeSource or UnsupportedArchitecture."""
    refuse_code(config, "config.json")
    name = config.get("model_type")
    kind = family_of(name)
    if kind is None:
        raise why_not(name)
    if config.get("quantization_config"):
        raise UnsupportedArchitecture("The model is quantised.", hint="Compress the unquantised weights.")
    refuse_unread(config, kind.keys(), kind.architecture)
    try:
        family = kind.model_validate(config)
    except ValidationError as error:
        raise UnsafeSource(
            f"config.json of this {name} model is not usable: {_first(error)}.", module="config.json"
        ) from None
    if family.architectures and family.architecture not in family.architectures:
        raise UnsupportedArchitecture(
            f"config.json is not of a {family.architecture}.", hint="Only causal language models are supported."
        )
    return family


def sanitised_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that we know, which is all that transformers may see."""
    return parse_config(config).model_dump(mode="json", by_alias=True, exclude_unset=True)


def dropped_keys(config: dict[str, Any]) -> list[str]:
    """Return the keys of a configuration that transformers does not see; unprintable names are left out."""
    family = parse_config(config)
    known = {field.alias or name for name, field in type(family).model_fields.items()} | family.other_keys.keys()
    return sorted(key for key in config.keys() - known if PLAIN.fullmatch(key))


def why_not(name: object) -> UnsupportedArchitecture:
    """Return why a model type is not accepted; an unknown word of a stranger is not printed."""
    supported = f"Supported: {', '.join(accepted())}."
    if not isinstance(name, str):
        return UnsupportedArchitecture("config.json names no model_type.", hint=supported)
    kind = KINDS.get(name)
    if kind == "a decoder":
        row = rows().get(name)
        reason = f": {row.refused}" if row is not None and row.refused else ""
        why = f"{name} is a decoder of stock transformers, and is not supported by Espalier{reason}."
        return UnsupportedArchitecture(why, hint=f"Its weights cannot stand for another type. {supported}")
    if kind is not None:
        why = f"{name} is {kind} of stock transformers, and is not supported: only causal language models are."
        return UnsupportedArchitecture(why, hint=supported)
    near = [(edits, family) for family in FAMILIES if (edits := _edits(name, family)) is not None]
    meant = f" Did you mean {min(near)[1]}?" if near else ""
    return UnsupportedArchitecture(
        "This model_type is not supported: stock transformers does not know it.", hint=supported + meant
    )


def _edits(name: str, meant: str) -> int | None:
    """Count the edits from one to the other, where that is a typo.

    Another number is another model, and so are another ending behind it, another first letter, and a name that is
    known itself. Only the word before the number may have wrong letters.
    """
    if len(name) > 2 * LONGEST_NAME:
        return None
    (word, rest), (other, other_rest) = _parted(name), _parted(meant)
    if word == other and rest == other_rest:
        return 0
    known = word in KINDS or word in FAMILIES
    if known or rest != other_rest or word[:1] != other[:1] or abs(len(word) - len(other)) > 2:
        return None
    row = list(range(len(other) + 1))
    for count, letter in enumerate(word, 1):
        diagonal, row[0] = row[0], count
        for place, letter_meant in enumerate(other, 1):
            cheapest = min(row[place] + 1, row[place - 1] + 1, diagonal + (letter != letter_meant))
            diagonal, row[place] = row[place], cheapest
    return row[-1] if row[-1] <= min(2, len(other) // 3) else None


def _parted(name: str) -> tuple[str, str]:
    """Split a name into the word that it begins with and the rest from its first number on; case and separators go."""
    plain = re.sub(r"[\W_]", "", name.lower())
    word = re.match(r"\D*", plain)
    assert word is not None
    return word[0], plain[word.end() :]


def _first(error: ValidationError) -> str:
    """Return the first mistake without the value, which comes from a stranger."""
    mistake = error.errors(include_input=False, include_url=False, include_context=False)[0]
    field = next((str(part) for part in mistake["loc"]), "")
    return f"{field}: {mistake['msg']}" if field else mistake["msg"]
