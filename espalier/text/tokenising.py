"""Tokenise in a process of its own, bounded in memory and time: a tokenizer is an untrusted program."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from espalier.errors import DatasetError, UnsafeTokenizerError
from espalier.memory.text import PIECE_BYTES
from espalier.model.stock import first_line
from espalier.parent_death import PR_SET_PDEATHSIG
from espalier.progress import count_step
from espalier.text.pieces import pieces

LOADING_BYTES: Final = 2**30
"""What the tokenizer may take before it reads: five times the largest of public ones (262,144 tokens)."""
MOST_BYTES: Final = 512
"""What it may take for a byte of a piece; honest ones take 165 to 400."""
LOADING_SECONDS: Final = 60
SECONDS: Final = 30
"""CPU time for a MiB of a piece; honest ones take one or two."""


@dataclass(frozen=True)
class Tokens:
    """A text in the ids of a tokenizer."""

    ids: torch.Tensor
    """int32."""
    pieces: int
    """How many were read of the text."""
    tokenizer: str
    """The class of the tokenizer."""


def load(model_dir: Path) -> PreTrainedTokenizerBase:
    """Load a model's own tokenizer; raises UnsafeTokenizerError for whatever stops the stock class."""
    try:
        return AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:
        raise _unsafe(f"the model's tokenizer cannot be loaded: {first_line(error)}") from error


def tokenise(model_dir: Path, text: Path | bytes, *, enough: int | None) -> Tokens:
    """Return the ids of a UTF-8 text, read piece by piece until there are `enough` (None: all).

    Raises DatasetError, UnsafeTokenizerError, and MemoryError where the machine has no more. The process is a fork:
    nothing of it stays in this one, which runs no other thread of Python, and a new one would load torch again.
    """
    size = text.stat().st_size if isinstance(text, Path) else len(text)
    with tempfile.TemporaryFile() as ids_file, tempfile.TemporaryFile() as answer_file:
        steps, step = os.pipe()  # a byte for each piece
        pid = os.fork()
        if pid == 0:
            _work(model_dir, text, size, enough, ids_file, answer_file, step)
        os.close(step)
        with os.fdopen(steps, "rb", buffering=0) as pieces_done:
            while pieces_done.read(1):
                count_step()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        answer_file.seek(0)
        answer: dict[str, Any] = json.loads(answer_file.read() or b"{}")
        if "tokenizer" not in answer:
            raise _refusal(status, answer, size)
        ids_file.seek(0)
        ids = np.fromfile(ids_file, dtype=np.int32)
    return Tokens(torch.from_numpy(ids), answer["pieces"], answer["tokenizer"])


def _work(
    model_dir: Path,
    text: Path | bytes,
    size: int,
    enough: int | None,
    ids_file: IO[bytes],
    answer_file: IO[bytes],
    step: int,
) -> NoReturn:
    """Run the tokenizing process: write ids and answer to the files, and exit."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the threads of a pool did not come along
        _bound(size)
        with text.open("rb") if isinstance(text, Path) else BytesIO(text) as stream:
            answer = _read(load(model_dir), stream, size=size, enough=enough, ids_file=ids_file, step=step)
    except UnicodeDecodeError:
        answer = {"error": "UnicodeDecodeError"}
    except UnsafeTokenizerError as error:
        answer = {"refused": error.message}
    except BaseException as error:  # noqa: BLE001 (a panic of Rust is no Exception)
        traceback.print_exc()
        answer = {"error": type(error).__name__, "words": str(error)}
    answer_file.write(json.dumps(answer).encode())
    answer_file.flush()
    os._exit(0)


def _bound(size: int) -> None:
    """Limit this process's memory and CPU time."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack, which the limit counts
    room = pages * resource.getpagesize() + _room(size)
    _, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    room = room if hard_limit == resource.RLIM_INFINITY else min(room, hard_limit)
    resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    resource.setrlimit(resource.RLIMIT_CPU, (_seconds(size), _seconds(size) + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _room(size: int) -> int:
    return LOADING_BYTES + MOST_BYTES * min(size, PIECE_BYTES)


def _seconds(size: int) -> int:
    return LOADING_SECONDS + SECONDS * -(-size // 2**20)


def _read(
    tokenizer: PreTrainedTokenizerBase,
    stream: IO[bytes],
    *,
    size: int,
    enough: int | None,
    ids_file: IO[bytes],
    step: int,
) -> dict[str, Any]:
    """Write the ids of a text to a file as int32, and return the number of pieces and the tokenizer's class."""
    whole = size <= PIECE_BYTES
    before, behind = ([], []) if whole else _special_tokens(tokenizer)
    count, read = _write(before, ids_file), 0
    for piece in pieces(stream):
        # verbose=False: a text longer than the model's window is what we want here.
        count += _write(tokenizer(piece, add_special_tokens=whole, verbose=False)["input_ids"], ids_file)
        read += 1
        os.write(step, b".")
        if enough is not None and count >= enough:
            break
    else:
        _write(behind, ids_file)
    ids_file.flush()
    return {"pieces": read, "tokenizer": type(tokenizer).__name__}


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer adds before and after a text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a")["input_ids"]
    begin = next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)
    return full[:begin], full[begin + len(bare) :]


def _write(ids: list[int], ids_file: IO[bytes]) -> int:
    return ids_file.write(np.array(ids, dtype=np.int32).tobytes()) // 4


def _refusal(status: int, answer: dict[str, Any], size: int) -> Exception:
    """Return the error for a text that was not read to its end."""
    if "refused" in answer:
        return _unsafe(answer["refused"])
    error = answer.get("error", "")
    if error == "UnicodeDecodeError":
        return DatasetError("the text is not UTF-8", hint="Convert the text to UTF-8.")
    if status == -signal.SIGKILL:  # by the kernel, for the memory of all
        return MemoryError()
    if status == -signal.SIGXCPU:
        why = f"takes more than {_seconds(size)} s of CPU time"
    elif error == "MemoryError" or status == -signal.SIGABRT:  # what Rust does where memory ends
        why = f"takes more than {_room(size) >> 20} MiB of memory"
    elif error:
        first = next(iter(answer["words"].splitlines()), "")
        why = f"fails with {error}: {first[:200]}"
    else:
        why = f"is ended by signal {-status}"
    return _unsafe(f"the model's tokenizer {why} on a text of {size} bytes")


def _unsafe(message: str) -> UnsafeTokenizerError:
    hint = "See its files: that they are whole, its normalizer, its patterns and its vocabulary."
    return UnsafeTokenizerError(message, hint=hint, module="tokenizer.json")
