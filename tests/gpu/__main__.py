"""`make gpu`: prove on a card what no machine without one can show; writes results/gpu.json and results/gpu.md.

It needs what is installed and nothing else, and stops by itself. `--standin` runs all of it, with tiny sizes, on the
pretend accelerator of `tests/standin`: that shows that it runs, and measures nothing.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()  # before torch loads, which takes seconds of the time that there is

import argparse  # noqa: E402
import faulthandler  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).parents[2]
SECONDS = 420.0
GRACE_SECONDS = 30.0
"""After which a process that hangs in a kernel is ended from outside of Python."""


def main() -> int:
    """Measure the rows, most valuable first; 0 where all hold, 1 where not, 2 where there is nothing to measure on."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.gpu", description="Prove Espalier on a GPU.")
    parser.add_argument(
        "--standin", action="store_true", help="Run on the pretend accelerator, with tiny sizes: no result."
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="Stop after so many seconds.")
    parser.add_argument("--only", default="", help="Rows whose name matches this regular expression.")
    parser.add_argument(
        "--into", type=Path, help="Folder of gpu.json and gpu.md (results; with --standin build/standin)."
    )
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as in the child of a worker
    faulthandler.dump_traceback_later(arguments.seconds + GRACE_SECONDS, exit=True)
    try:
        proof = import_module("tests.gpu.proof")
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error}: install what `pip install './library[compress]'` brings.\n")
        return 2
    into = arguments.into or ROOT / ("build/standin" if arguments.standin else "results")
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        try:
            holds = proof.run(
                Path(folder),
                into,
                standin=arguments.standin,
                only=arguments.only,
                deadline=BEGAN + arguments.seconds,
            )
        except proof.NoAcceleratorError as error:
            sys.stderr.write(f"{error}\n")
            return 2
    sys.stdout.write(f"written to {into / 'gpu.md'}\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
