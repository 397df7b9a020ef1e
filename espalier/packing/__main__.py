"""The process behind `espalier unpack` and `espalier inspect`; prints JSON lines, trouble as one line on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from espalier.packing.files import PackError
from espalier.packing.summary import summary
from espalier.packing.unpacking import unpack_folder


def main(verb: str, directory: str, output: str | None = None) -> int:
    """Run one verb; 1 when a file is not what it claims to be."""
    try:
        if verb == "inspect":
            _print(summary(Path(directory)))
        else:
            for path in unpack_folder(Path(directory), Path(output or directory)):
                _print({"path": str(path), "bytes": path.stat().st_size})
    except (PackError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
