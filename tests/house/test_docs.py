"""What a document names is there: files, links, headings, targets, commands, settings, routes, numbers."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml
from pydantic import ValidationError

from app.bodies.job import JobRequest
from app.main import create_app
from app.settings import Settings
from espalier.recipe.spec import CompressionSpec
from espalier.version import VERSION
from tests.docs.commands import commands
from tests.docs.generated import PAGES as GENERATED
from tests.fixtures.suite.pages import README, ROOT, block, pages

PAGES: Final = [path.relative_to(ROOT).as_posix() for path in pages()]
FOLDERS: Final = ("app", "docker", "docs", "espalier", "migrations", "results", "tests", "workers")
NO_PATHS: Final = {"CHANGELOG.md"}
"""What it names was there when it was written."""
TO_BE_WRITTEN: Final = {"espalier/methods/criteria/powered_wanda.py"}
"""By the reader of the tutorial."""
NO_SETTINGS: Final = {"ESPALIER_ENV_FILE", "ESPALIER_URL", "ESPALIER_API_KEY", "ESPALIER_REFERENCE_DIR"}
"""Read before the settings, by the client, or by the tests."""
MAX_README_LINES: Final = 150


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def spans(page: str) -> Iterator[str]:
    """The code spans of a page's prose."""
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL))


def typed(page: str) -> Iterator[str]:
    """Everything of a page that may be a command: code spans, and the lines of its blocks."""
    yield from spans(page)
    for body in re.findall(r"```\w*\n(.*?)```", text_of(page), re.DOTALL):
        yield from body.splitlines()


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    bare = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", bare, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def test_the_readme_is_read_at_one_go() -> None:
    assert len(text_of(README).splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NO_PATHS])
def test_a_path_that_a_page_names_is_there(page: str) -> None:
    shape = re.compile(rf"({'|'.join(FOLDERS)})(/[\w.<>*-]+)*/?")
    named = {span for span in spans(page) if "/" in span and shape.fullmatch(span)} - TO_BE_WRITTEN
    missing = {name for name in named if not list(ROOT.glob(re.sub(r"<\w+>", "*", name.rstrip("/"))))}
    assert missing == set()


def test_the_tree_of_the_architecture_names_what_is_there() -> None:
    missing, package = set(), ""
    for line in block("docs/architecture.md", "Three packages", "", "door.py").splitlines():
        package = line.split("/")[0] if line[0] != " " else package
        names = re.findall(r"(?<![\w/])([a-z_]+(?:/|\.py))(?!\w)", line if line[0] == " " else "")
        # A folder of a folder that the tree names stands in the same entry.
        missing |= {name for name in names if not [*(ROOT / package).glob(name), *(ROOT / package).glob(f"*/{name}")]}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES)
def test_a_link_leads_somewhere(page: str) -> None:
    broken = set()
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path.relative_to(ROOT).as_posix())):
            broken.add(target)
    assert broken == set()


def test_every_target_of_make_that_a_page_names_is_one() -> None:
    targets = set(re.findall(r"^([a-z]+(?: [a-z]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    make_targets = {word for target in targets for word in target.split()}
    named = {(page, word) for page in PAGES for text in typed(page) for word in re.findall(r"^make ([a-z]+)", text)}
    assert {(page, word) for page, word in named if word not in make_targets} == set()


def test_every_command_that_a_page_names_is_one() -> None:
    cli_words = {word for name in commands() for word in (name, name.split()[0])}
    pattern = re.compile(r"^(?:\$ |docker compose exec \w+ )?(?:\.venv/bin/)?espalier ([a-z]+)(?= |$)")
    named = {(page, word) for page in PAGES for text in typed(page) for word in pattern.findall(text)}
    assert {(page, word) for page, word in named if word not in cli_words} == set()


@pytest.mark.parametrize("page", GENERATED)
def test_a_page_that_is_made_from_the_code_is_up_to_date(page: str) -> None:
    assert text_of(page) == GENERATED[page](), "run `.venv/bin/python -m tests.docs`"


def test_every_setting_that_a_page_names_is_one() -> None:
    variables = {f"ESPALIER_{name.upper()}" for name in Settings.model_fields} | NO_SETTINGS
    unknown = {
        (page, name)
        for page in PAGES
        for name in re.findall(r"\bESPALIER_[A-Z_0-9]+\b(?!\*)", text_of(page))
        if name not in variables
    }
    assert unknown == set()


def test_every_route_that_a_page_names_is_one() -> None:
    routes = {re.sub(r"\{[^}]*\}", "{}", path) for path in create_app().openapi()["paths"]}
    unknown = set()
    for page in PAGES:
        for text in spans(page):
            for path in re.findall(r"(?:^|[A-Z]+ )(/v1/[\w{}/:-]+)", text):
                if re.sub(r"\{[^}]*\}", "{}", path).rstrip("/") not in routes:
                    unknown.add((page, path))
    assert unknown == set()


def test_every_request_that_a_page_prints_is_one() -> None:
    posts = ((README, "One job by HTTP"), ("docs/jobs.md", "The body"))
    parts = (text_of(page).split(f"## {heading}\n")[1] for page, heading in posts)
    scripts = [re.findall(r" -d '(\{.*?\})'(?= >|\n)", part, re.DOTALL)[0] for part in parts]
    bodies = [json.loads(script.replace("'$MODEL'", "upl_01M8QXT1GXCGJPM538NE39VSVK")) for script in scripts]
    bodies.append(yaml.safe_load(block(README, "One job by command line", "yaml")))
    for body in bodies:
        JobRequest.model_validate_json(json.dumps(body))


def test_the_page_of_a_job_has_every_part_of_a_spec() -> None:
    table = text_of("docs/jobs.md").split("\n## The parts of a spec\n")[1].split("\n## ")[0]
    built = {name for name, field in CompressionSpec.model_fields.items() if field.annotation is not type(None)}
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)))) == built


UNBUILT: Final[list[tuple[str, dict[str, Any]]]] = [
    ("spec.quantize", {"spec": {"preset": "fast", "quantize": {"bits": 4}}}),
    ("spec.output.format", {"spec": {"preset": "fast", "output": {"format": "gguf"}}}),
    ("spec.output.format", {"spec": {"preset": "fast", "output": {"format": "compressed-tensors"}}}),
]


@pytest.mark.parametrize(("field", "body"), UNBUILT)
def test_what_the_page_of_a_job_calls_unbuilt_is_refused_by_name(field: str, body: dict[str, Any]) -> None:
    assert f"`{field}`" in text_of("docs/jobs.md")
    with pytest.raises(ValidationError) as refused:
        JobRequest.model_validate({"source": {"kind": "upload", "upload_id": "upl_01M8QXT1GXCGJPM538NE39VSVK"}, **body})
    assert [item["type"] for item in refused.value.errors()] == ["not_available"]


def test_the_checks_before_a_commit_are_those_of_make() -> None:
    hooks = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    recipe = text_of("Makefile")
    for hook in hooks:
        command = hook["entry"].replace(".venv/bin/", "$(BIN)/").split(" --")[0]
        assert command in recipe, command


def test_the_numbers_of_the_readme_are_those_of_the_results() -> None:
    table = text_of(README).split("\n## What it is worth\n", 1)[1].split("\n## ", 1)[0]
    results = text_of("docs/results.md")
    numbers = re.findall(r"\d+\.\d+", table)
    assert len(numbers) > 8
    assert [number for number in numbers if number not in results] == []


def test_the_newest_version_of_the_changelog_is_this_one() -> None:
    versions = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == VERSION
    assert all(date for _, date in versions[1:])


def test_the_site_has_every_page_in_its_menu() -> None:
    named = set(re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    results = {path.relative_to(ROOT).as_posix() for path in (ROOT / "results").glob("*.md")}
    assert {*PAGES, *results} - named == set()
    assert "mkdocs-material" in " ".join(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    )
