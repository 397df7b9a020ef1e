"""What the portal sends to browsers: recorded, licensed, small."""

from __future__ import annotations

import hashlib
import json

from app.portal.rendering import STATIC

VENDOR = STATIC / "vendor"
RECORD = json.loads((VENDOR / "vendor.json").read_text())
MAX_SCRIPT_BYTES = 150_000


def test_every_vendored_file_is_the_one_that_was_recorded() -> None:
    files = {name: digest for package in RECORD["packages"] for name, digest in package["files"].items()}
    there = {path.name for path in VENDOR.iterdir()} - {"vendor.json"}
    assert there == set(files)
    assert {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name in files} == files


def test_every_package_names_its_version_licence_and_the_tarball_it_came_from() -> None:
    for package in RECORD["packages"]:
        assert package["version"]
        assert package["integrity"].startswith("sha512-")
        assert package["licence"] in {"0BSD", "MIT"}
        assert any(name.endswith("LICENSE.txt") for name in package["files"])


def test_all_scripts_together_stay_below_150_kilobytes() -> None:
    assert 0 < sum(path.stat().st_size for path in STATIC.rglob("*.js")) < MAX_SCRIPT_BYTES
