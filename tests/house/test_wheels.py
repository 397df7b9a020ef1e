"""What the two wheels hold and require, without building them; `tests/flows/test_from_wheels.py` builds them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from setuptools import find_namespace_packages

from espalier.version import VERSION
from tests.fixtures.suite.distributions import HOMES, LIBRARY, ROOT, SERVICE, closure, declared, project, top_level

PACKAGES = {LIBRARY: ("espalier",), SERVICE: ("app", "migrations", "workers")}
EVERYTHING = {LIBRARY: f"{LIBRARY}[compress]", SERVICE: f"{SERVICE}[worker,otel]"}
NOT_INSTALLED = {"lm_eval", "mypy_boto3_s3"}
"""What the extra `tasks` brings, which is no part of a set-up; and what only a type checker reads."""
IMPORT = re.compile(r"^ *(?:from(?= \S+ import )|import(?= \S+(?: as \w+)?(?:  #.*)?$)) (\w+)", re.MULTILINE)
CLIENT_ALONE = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.path.insert(0, {str(ROOT)!r})
sys.meta_path.insert(0, Blocker())
import espalier
assert espalier.Client("http://127.0.0.1:1").submit and espalier.ServiceError and espalier.__version__ == {VERSION!r}
for name in ("compress", "inspect", "unpack", "Report", "RecipeError"):
    try:
        getattr(espalier, name)
    except ImportError as error:
        print(error)
"""


def wheel_files(name: str) -> set[Path]:
    """What setuptools puts into a wheel, by the project file."""
    settings: dict[str, Any] = project(name)["tool"]["setuptools"]
    (where,) = settings["packages"]["find"].get("where", ["."])
    top = (HOMES[name] / where).resolve()
    packages = find_namespace_packages(str(top), include=settings["packages"]["find"]["include"])
    modules = {path for package in packages for path in (top / package.replace(".", "/")).glob("*.py")}
    data = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (top / package.replace(".", "/")).glob(pattern)
    }
    return modules | {path for path in data if path.is_file()}


@pytest.mark.parametrize("name", PACKAGES)
def test_every_module_and_every_file_is_in_the_wheel(name: str) -> None:
    there = {
        path
        for package in PACKAGES[name]
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there - wheel_files(name) == set(), "add it to the package data of the project file"
    assert wheel_files(name) - there == set()


def test_a_wheel_is_licensed_and_the_library_is_typed() -> None:
    for name, home in HOMES.items():
        assert project(name)["project"]["license-files"] == ["LICENSE"]
        assert project(name)["project"]["license"] == "Apache-2.0"
        assert "Version 2.0, January 2004" in (home / "LICENSE").read_text()
    assert ROOT / "espalier/py.typed" in wheel_files(LIBRARY)


def test_there_is_one_version() -> None:
    for name in HOMES:
        assert "version" in project(name)["project"]["dynamic"]
        assert project(name)["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "espalier.version.VERSION"}
    fields = project(SERVICE)["project"]
    lines = [*fields["dependencies"], *(line for extra in fields["optional-dependencies"].values() for line in extra)]
    assert {str(Requirement(line).specifier) for line in lines if Requirement(line).name == LIBRARY} == {f"=={VERSION}"}


def modules(wanted: str) -> set[str]:
    """Top-level modules that pip would install for one of our distributions."""
    names = {name for distribution in closure(declared(wanted)).values() for name in top_level(distribution)}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", PACKAGES)
def test_what_the_packages_import_is_required(name: str) -> None:
    ours = {package for packages in PACKAGES.values() for package in packages}
    files = (path for package in PACKAGES[name] for path in (ROOT / package).rglob("*.py"))
    used = {imported[1] for path in files for imported in IMPORT.finditer(path.read_text())}
    assert used - ours - sys.stdlib_module_names - modules(EVERYTHING[name]) - NOT_INSTALLED == set()


def test_the_library_alone_gives_the_client_and_names_the_extra_for_the_rest() -> None:
    allowed = modules(LIBRARY) | sys.stdlib_module_names | {"espalier"}
    assert not {"torch", "numpy", "yaml", "re2"} & allowed
    code = f"ALLOWED = {sorted(allowed)!r}\n{CLIENT_ALONE}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all(line.endswith("needs `pip install 'espalier-compress[compress]'`") for line in lines)
