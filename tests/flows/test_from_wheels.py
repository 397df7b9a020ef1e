"""Both distributions, built and installed into empty environments, beside a project with an `app` of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from espalier.version import VERSION
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service.deployment import Deployment
from tests.fixtures.suite.distributions import LIBRARY, SERVICE, Environment, build_wheels, make_environment

pytestmark = [pytest.mark.deep, pytest.mark.slow]

CLIENT = """
from importlib.util import find_spec
import espalier
try:
    espalier.Client("http://127.0.0.1:1", sleep=lambda seconds: None).queues()
except espalier.Unreachable:
    print(espalier.__version__, find_spec("torch"))
espalier.compress
"""
COMPRESS = f"""
import json
import espalier
recipe = {{"prune": {{"method": "magnitude", "sparsity": 0.5}}, "evaluate": {{"perplexity": [{{"max_windows": 2}}]}},
          "output": {{"format": "packed"}}}}
report = espalier.compress({str(DEMO_MODEL)!r}, recipe, output="small")
counted = espalier.inspect("small")["nonzero_parameters"]
espalier.unpack("small")
print(json.dumps([report["sparsity"]["achieved"], counted]))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both wheels, the library's first."""
    return build_wheels(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, wheels: list[Path]) -> Environment:
    """The service with its workers."""
    return make_environment(tmp_path_factory.mktemp("service"), f"{SERVICE}[worker]", wheels)


def test_the_library_alone_has_the_client_and_no_torch(tmp_path: Path, wheels: list[Path]) -> None:
    here = make_environment(tmp_path, LIBRARY, wheels[:1])
    ran = here.run("python", "-c", CLIENT)
    assert ran.stdout == f"{VERSION} None\n", ran.stderr
    assert ran.stderr.endswith("espalier.compress needs `pip install 'espalier-compress[compress]'`\n")
    assert here.trespassed() == []


def test_the_library_with_its_extra_compresses(tmp_path: Path, wheels: list[Path]) -> None:
    here = make_environment(tmp_path, f"{LIBRARY}[compress]", wheels[:1])
    ran = here.run("python", "-c", COMPRESS)
    assert ran.returncode == 0, ran.stderr
    achieved, counted = json.loads(ran.stdout)
    assert achieved == pytest.approx(0.5, abs=0.01)
    assert counted > 0
    assert here.trespassed() == []


def test_the_service_without_its_workers_migrates_and_names_what_computing_takes(
    tmp_path: Path, wheels: list[Path]
) -> None:
    here = make_environment(tmp_path, SERVICE, wheels)
    assert here.run("espalier", "migrate").returncode == 0
    for command in (["demo"], ["serve"], ["worker"], ["run", "job.yaml"]):
        (here.folder / "job.yaml").write_text("{}")
        refused = here.run("espalier", *command, COLUMNS="200")
        assert refused.returncode == 1
        assert refused.stderr.endswith("torch is not installed: `pip install 'espalier-service[worker]'`\n")
    made = here.run("python", "-P", "-c", "import app.main; print(type(app.main.create_app()).__name__)")
    assert made.stdout == "FastAPI\n", made.stderr
    assert here.trespassed() == []


def test_the_demo_runs_to_its_end(service: Environment) -> None:
    assert service.run("espalier", "--version").stdout.startswith(f"espalier {VERSION} (engine ")
    ran = service.run("espalier", "demo", "--json")
    assert ran.returncode == 0, ran.stderr
    ended = json.loads(ran.stdout.splitlines()[-1])
    assert ended["report"]["sparsity"]["achieved"] == pytest.approx(0.6, abs=0.005)
    assert (service.folder / "demo-output/manifest.json").is_file()
    assert service.trespassed() == []


@pytest.mark.parametrize("processes", ["1", "2"])  # one serves in its own process, two are spawned
def test_the_service_serves_api_and_portal(service: Environment, tmp_path: Path, processes: str) -> None:
    here = Deployment(
        tmp_path / "home", {"ESPALIER_API_PROCESSES": processes}, (str(service.bin / "espalier"),), service.folder
    )
    try:
        here.start()
        assert here.http.get("/healthz").status_code == 200
        assert here.get("/openapi.json")["info"]["version"] == VERSION
        for path in ("/portal/", "/portal/static/portal.css", "/portal/static/vendor/htmx.min.js"):
            assert here.http.get(path, follow_redirects=True).status_code == 200, path
    finally:
        here.stop()
        here.http.close()
    assert service.trespassed() == []
