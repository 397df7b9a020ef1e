"""`espalier demo`: one command that serves, submits, watches, reports, downloads and proves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from app.cli.connection import fetch_all, finish, follow
from app.cli.modules import module_command, want_torch
from app.cli.output import Json, out, print_json
from app.cli.report import print_report
from espalier.client import Client

commands = typer.Typer()

MODEL = Path(__file__).parents[2] / "demo_model"
STOP_SECONDS = 60
"""More than the service takes to end its parts."""
KEPT_SETTINGS = ("ESPALIER_THREADS", "ESPALIER_DEVICE")
"""The demo is its own installation: other settings of the user's shell do not reach it."""

SPEC: dict[str, Any] = {
    "calibration": {"samples": 32, "sequence_length": 256, "seed": 0},
    "prune": {"method": "wanda", "sparsity": 0.6},
    "reconstruct": {"window": "submodule", "epochs": 1},
    "retrain": {"method": "perp", "trainable": ["norms", "mask_lora"], "steps": 24, "batch_size": 4},
    "evaluate": {
        "perplexity": [
            {
                "dataset": {"kind": "builtin", "name": "python-docs", "split": "validation"},
                "sequence_length": 256,
                "max_windows": 64,
            }
        ],
        "after_each_phase": True,
    },
}

PROOF = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], local_files_only=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
inputs = tokenizer(sys.argv[2], return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=24, do_sample=False, repetition_penalty=1.3)
assert "app" not in sys.modules and "workers" not in sys.modules
print(tokenizer.decode(ids[0], skip_special_tokens=True))
"""
UNDERTRAINED = (
    "note         the result beats the dense model: this small model is undertrained, and retraining on the manual\n"
    "             also taught it the manual; what pruning alone costs stands in the row `pruned`"
)
PROMPT = "The import statement"


@commands.command()
def demo(
    home: Annotated[Path, typer.Option(help="State folder of the demo's own service.")] = Path(".demo"),
    output: Annotated[Path, typer.Option(help="Where the artifact goes.")] = Path("demo-output"),
    url: Annotated[str | None, typer.Option(help="Use this service; its LOCAL_ROOTS must hold the model.")] = None,
    json: Json = False,
) -> None:
    """Serve, submit, watch and report: one small trained Llama, pruned and recovered in about a minute."""
    want_torch()
    with _service(home.absolute(), url) as address, Client(address) as client:
        if not json:
            out.print(f"service      {address}")
            out.print(f"model        {MODEL.name}: a trained Llama of 2.6 M parameters; text: the Python manual")
        body = {
            "name": "demo: wanda 60 % + reconstruct + perp",
            "source": {"kind": "local", "path": str(MODEL)},
            "spec": SPEC,
            "reuse": "never",
        }
        if url is None:
            _cancel_leftovers(client)
        job = follow(client, client.submit(body).id, json=json)
        if not job.good:
            finish(job, json=json)
        report = client.report(job.id)
        fetch_all(client, job.id, output)
    text = _generate(output)
    if json:
        print_json({"job": job.id, "report": report, "folder": str(output), "generated": text})
        return
    print_report(report)
    dense, result = (report[side]["perplexity"]["python-docs"] for side in ("dense", "compressed"))
    if result < dense:
        out.print(UNDERTRAINED)
    out.print(f"artifact     {output}  (stock transformers loaded it, and wrote:)")
    out.print(f"             [italic]{escape(' '.join(text.split()))}[/]")


def _cancel_leftovers(client: Client) -> None:
    """End what an interrupted demo left in the queue: it would be resumed first."""
    for job in client.jobs(limit=200):
        if not job.finished:
            client.cancel(job.id)


@contextmanager
def _service(home: Path, url: str | None) -> Iterator[str]:
    """The address of a service: the one given, or our own on a free port, ended with the block."""
    if url:
        yield url
        return
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in KEPT_SETTINGS if name in os.environ}
    own = {"ESPALIER_HOME": str(home), "ESPALIER_PORT": "0", "ESPALIER_LOCAL_ROOTS": str(MODEL)}
    others = {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")}
    log_path = home / "serve.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            # With a parent-death signal: a demo that is killed ends its service too.
            module_command("espalier.parent_death", str(os.getpid()), *module_command("workers.service")),
            env=others | kept | own,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield _address(process, log_path)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("listening on "):
            return line.removeprefix("listening on ").strip()
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the service did not start; the end of {log}:\n{tail}")


def _generate(folder: Path) -> str:
    """Load the artifact with stock transformers in a process that knows nothing of us, and let it write."""
    command = [sys.executable, "-I", "-c", PROOF, str(folder.absolute()), PROMPT]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"stock transformers could not load {folder}:\n{done.stderr[-2000:]}")
    return done.stdout
