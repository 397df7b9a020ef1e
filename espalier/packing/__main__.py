"""The process behind `espalier unpack` and `espalier inspect`; prints JSON lines, trouble as one line on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from espalier.packing.files import PackError, TensorFile
from espalier.packing.pack import SUFFIX
from espalier.packing.summary import summary
from espalier.packing.unpacking import Pack, unpack_file, unpacked_path


def main(verb: str, directory: str, output: str | None = None) -> int:
    """Run one verb; 1 when a file is not what it claims to be."""
    try:
        if verb == "inspect":
            _print(summary(Path(directory)))
        else:
            _unpack(Path(directory), Path(output or directory))
    except (PackError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _unpack(folder: Path, output: Path) -> None:
    packs = sorted(folder.glob(f"*{SUFFIX}"))
    if not packs:
        raise PackError(f"{folder} holds no file that ends in {SUFFIX}")
    if output != folder:
        _copy_others(folder, output)
    for path in packs:
        target = unpacked_path(output / path.name)
        if not target.exists():
            unpack_file(path, target)
        elif TensorFile(target).sha256 != Pack(path).sha256:
            raise PackError(f"{target} is there already and is not what {path.name} holds")
        _print({"path": str(target), "bytes": target.stat().st_size})


def _copy_others(folder: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.rglob("*")):
        target = output / path.relative_to(folder)
        if path.is_file() and not path.name.endswith(SUFFIX) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
