"""A version of the source that services run from, and the proof that all of their processes do."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import psutil

from tests.fixtures.service.deployment import Deployment

ROOT = Path(__file__).parents[2]
_ORIGINS = """
import sys
from importlib.util import find_spec
for name in sys.argv[1:]:
    print(getattr(find_spec(name), "origin", name))
"""


@dataclass(frozen=True)
class Tree:
    """A folder of source, named by what is in it."""

    folder: Path

    @property
    def name(self) -> str:
        """`commit-...` or `working-...`."""
        return self.folder.name

    @cached_property
    def packages(self) -> tuple[str, ...]:
        """What Python can import from it, tests apart."""
        packages = sorted(path.parent.name for path in self.folder.glob("*/__init__.py") if path.parent.name != "tests")
        assert packages, f"no packages in {self.folder}"
        return tuple(packages)

    @cached_property
    def command(self) -> list[str]:
        """Its command `espalier`, wherever its code lies."""
        project = tomllib.loads((self.folder / "pyproject.toml").read_text())["project"]
        module, _, function = project["scripts"]["espalier"].partition(":")
        code = f"import sys; from {module} import {function}; sys.argv[0] = 'espalier'; sys.exit({function}())"
        return [sys.executable, "-P", "-c", code]


def commit(revision: str, trees: Path) -> Tree:
    """Unpack a commit, once; raises ValueError for what is none."""
    try:
        sha = _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
    except subprocess.CalledProcessError:
        raise ValueError(f"{revision} is no commit") from None

    def fill(folder: Path) -> None:
        subprocess.run(["tar", "-x", "-C", str(folder)], input=_git("archive", sha), check=True)

    return _made(trees / f"commit-{sha[:16]}", fill)


def working_tree(trees: Path) -> Tree:
    """Copy the working tree as it is now, what is not committed too; later edits do not reach the copy."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    names = [name for name in sorted(set(listed)) if (ROOT / name).is_file()]
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0".encode() + hashlib.sha256((ROOT / name).read_bytes()).digest())

    def fill(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)

    return _made(trees / f"working-{digest.hexdigest()[:16]}", fill)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


def _made(folder: Path, fill: Callable[[Path], None]) -> Tree:
    """Fill a folder beside its place and move it there, so that it is whole or not there."""
    if not folder.exists():
        half = folder.with_name(f"{folder.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        fill(half)
        half.rename(folder)
    return Tree(folder)


class ForeignCode(Exception):
    """A process of a service would import a package from elsewhere."""


@dataclass
class Installation(Deployment):
    """A service of a tree, whose every process is looked at."""

    source: Tree = field(kw_only=True)
    seen: set[psutil.Process] = field(default_factory=set)
    resident: frozenset[psutil.Process] = frozenset()
    """The processes that outlive a job."""

    @classmethod
    def of(cls, source: Tree, home: Path, **settings: str) -> Installation:
        """Describe a service that keeps its state in a folder."""
        home.mkdir(parents=True, exist_ok=True)
        ours = {"PYTHONPATH": str(source.folder), "ESPALIER_THREADS": "1", "ESPALIER_STORE_URL": f"file://{home}/store"}
        return cls(home, ours | settings, source.command, home, source=source)

    def start(self) -> None:
        """Start it, and know what belongs to no job."""
        super().start()
        self.resident = frozenset(self.tree())

    def look(self) -> list[psutil.Process]:
        """Return the processes of jobs; raises ForeignCode when any process of the service is not of our tree."""
        tree = self.tree()
        for process in set(tree) - self.seen:
            try:
                environment, folder = process.environ(), Path(process.cwd())
            except (psutil.Error, FileNotFoundError):  # it has ended
                continue
            if not environment:  # it is about to begin or to end, and has none to read
                continue
            path = environment.get("PYTHONPATH", "")
            elsewhere = [
                origin
                for origin in _origins(path, self.source.packages)
                if not Path(origin).is_relative_to(self.source.folder)
            ]
            if folder != self.source.folder:  # the folder a program is started in may come before its path
                elsewhere += [str(folder / name) for name in self.source.packages if (folder / name).exists()]
            if elsewhere:
                raise ForeignCode(f"{process.cmdline()} of {self.source.name} would import {elsewhere}")
            self.seen.add(process)
        return [process for process in tree if process not in self.resident]


@cache
def _origins(path: str, packages: tuple[str, ...]) -> list[str]:
    """Where a Python with this PYTHONPATH finds packages, or its name for one that it does not find."""
    command = [sys.executable, "-P", "-c", _ORIGINS, *packages]
    done = subprocess.run(command, env={"PYTHONPATH": path}, cwd="/", check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.split("\n")[:-1]
