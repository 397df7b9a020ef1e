"""The same one-shot runs by llm-compressor, in a virtual environment of its own that `make bench` makes on wish.

The peer's own code runs in another process with the same model, tokens, dtype and threads: what it is timed on is the
whole one-shot call, as ours is timed on calibrating and pruning.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.fixtures.library.alone import Run

PEER = "llmcompressor==0.14.0.1"
VENV = Path(__file__).parents[2] / ".venv-peer"

SCRIPT = """
import json, sys, time
from pathlib import Path
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

folder, tokens, method, sparsity, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
windows = load_file(tokens)["tokens"]
data = Dataset.from_dict({"input_ids": windows.tolist(), "attention_mask": torch.ones_like(windows).tolist()})
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
modifier = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method]
recipe = modifier(sparsity=float(sparsity), targets=["Linear"], ignore=["re:.*lm_head"])
began = time.monotonic()
oneshot(model=model, tokenizer=AutoTokenizer.from_pretrained(folder), dataset=data, recipe=recipe,
        num_calibration_samples=len(windows), max_seq_length=windows.shape[1])
seconds = time.monotonic() - began
status = Path("/proc/self/status").read_text().splitlines()
(peak,) = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")]
print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
"""


class PeerError(Exception):
    """The peer cannot be installed, or did not run; the message has its last words."""


def install() -> Path:
    """Make the peer's environment with the torch that this one has; its Python."""
    python = VENV / "bin/python"
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(VENV)], "the peer's environment")
        torch_pin = f"torch=={version('torch').partition('+')[0]}"
        _run([str(python), "-m", "pip", "install", "--quiet", torch_pin, PEER], f"installing {PEER}")
    return python


def run(
    python: Path, model: Path, windows_NT: torch.Tensor, *, method: str, sparsity: float, threads: int, folder: Path
) -> Run:
    """Prune a copy of the model in the peer's process."""
    tokens = folder / "tokens.safetensors"
    save_file({"tokens": windows_NT.contiguous()}, tokens)
    command = [str(python), "-c", SCRIPT, str(model), str(tokens), method, str(sparsity), str(threads)]
    return Run(**json.loads(_run(command, f"the peer's {method}").strip().splitlines()[-1]))


def _run(command: list[str], what: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{what} failed:\n{done.stderr[-1500:]}")
    return done.stdout
