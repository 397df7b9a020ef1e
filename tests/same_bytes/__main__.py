"""`python -m tests.same_bytes REV`: run every job at a commit and with the code of the working tree, and compare.

Every safetensors file and every other file of a result must have the same bytes, the reports must tell the same but for
times, ids and readings of memory, and so must the jobs that are killed at the commit and go on with the new code. Both
are driven through the command `espalier` and HTTP alone, so that the source may be arranged anew between them.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.same_bytes.compare import Result, differences, different_files
from tests.same_bytes.jobs import bodies, write_inputs
from tests.same_bytes.runs import Refused, resumed, undisturbed
from tests.same_bytes.trees import commit, working_tree

Results = dict[str, Result]


def _share(text: str) -> float:
    fraction = float(text)
    if not 0 <= fraction <= 1:
        raise argparse.ArgumentTypeError("a share lies in 0 to 1")
    return fraction


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; 1 when anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.same_bytes")
    parser.add_argument("revision", help="The commit to compare with.")
    parser.add_argument("--work", type=Path, required=True, help="Keeps inputs and results: a run cut short goes on.")
    parser.add_argument("--resume", type=_share, default=1.0, help="Share of jobs that are killed and resumed, too.")
    parser.add_argument("--only", default="", help="Regular expression over the names of jobs.")
    parser.add_argument("--services", type=int, choices=(1, 2), default=2, help="How many run side by side.")
    asked = parser.parse_args(arguments)
    work = asked.work.resolve()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:6.0f} s] {line}", file=sys.stderr, flush=True)  # noqa: T201

    try:
        old, new = commit(asked.revision, work / "trees"), working_tree(work / "trees")
    except ValueError as error:
        parser.error(str(error))
    write_inputs(work / "inputs")
    every = bodies(work / "inputs")
    chosen = {name: body for name, body in every.items() if re.search(asked.only, name)}
    try:
        with ThreadPoolExecutor(asked.services) as pool:
            befores, afters = pool.map(lambda tree: undisturbed(tree, chosen, every, work, say), (old, new))
            killed = sorted(chosen, key=lambda name: zlib.crc32(name.encode()))[: round(asked.resume * len(chosen))]

            def resume(name: str) -> Result:
                result = resumed(old, new, name, chosen[name], befores[name], work)
                say(f"resumed: {name} {result.get('error') or result['killed']}")
                return result

            again = dict(zip(killed, pool.map(resume, killed), strict=True))
    except Refused as refusal:
        sys.exit(str(refusal))
    return show(befores, afters, again)


def show(befores: Results, afters: Results, again: Results, say: Callable[[str], None] = print) -> int:
    """Print a row for every job, what differs below it, and the sums; 1 when anything differs, or nothing was done."""
    undisturbed = {name: differences(before, afters[name]) for name, before in sorted(befores.items())}
    killed = {name: _resumption(befores[name], late) for name, late in sorted(again.items())}
    files = {name: len(before.get("files", ())) for name, before in befores.items()}
    table = Table("job", "files", "undisturbed", "killed", "resumed")
    for name, lines in undisturbed.items():
        table.add_row(name, str(files[name]), _verdict(lines), _place(again.get(name)), _verdict(killed.get(name)))
    Console(width=120).print(table)
    for title, lines_of in (("", undisturbed), (", resumed", killed)):
        for name, lines in lines_of.items():
            for line in lines:
                say(f"{name}{title}: {line}")
    differ, differ_resumed = (sum(map(bool, lines_of.values())) for lines_of in (undisturbed, killed))
    say(
        f"{len(befores)} jobs, {sum(files.values())} files: {differ} differ; "
        f"{len(again)} resumed: {differ_resumed} differ"
    )
    return 1 if differ or differ_resumed or not befores else 0


def _resumption(before: Result, late: Result) -> list[str]:
    return [late["error"]] if "error" in late else different_files(before["files"], late["files"])


def _place(late: Result | None) -> str:
    """Where a job was killed."""
    killed = (late or {}).get("killed")
    return f"{'' if killed['amid'] else 'after '}{killed['phase']}, {killed['checkpoint']}" if killed else ""


def _verdict(lines: list[str] | None) -> str:
    return "" if lines is None else f"{len(lines)} differ" if lines else "same"


if __name__ == "__main__":
    sys.exit(main())
