"""A real MLflow server: SQL backend, its own webhooks, the settings of docs/registries.md; and its own client."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.fernet import Fernet

from tests.fixtures.servers.processes import missing
from tests.fixtures.suite.pages import block, exports

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180
PAGE, HEADING = "docs/registries.md", "MLflow in five minutes"
_CLIENT = """
import json, sys
sys.path += {sites!r}  # torch and transformers, which this Python lacks
import mlflow
from mlflow import MlflowClient
client = MlflowClient()
{code}
"""


def python() -> str:
    """The Python that has MLflow: of `make registry`, or the one that is named."""
    interpreter = os.environ.get("TEST_MLFLOW_PYTHON") or str(ROOT / ".venv-mlflow/bin/python")
    if not Path(interpreter).exists():
        missing("no MLflow: run `make registry`, or set TEST_MLFLOW_PYTHON")
    return interpreter


@dataclass
class RealMlflow:
    """One server; `start` may be called again after `kill`, on the same port and data."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it as docs/registries.md says, and wait until it answers."""
        if not self.settings:
            self.settings = exports(block(PAGE, HEADING, "", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS"))
            self.settings["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"] = Fernet.generate_key().decode()
        ours = {
            **self.settings,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        command = [
            python(),
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination",
            str(self.folder / "artifacts"),
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        with (self.folder / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**_plain(), **ours}, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, (self.folder / "mlflow.log").read_text()[-4000:]
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            time.sleep(0.5)
        raise TimeoutError("MLflow does not answer")

    def kill(self) -> None:
        """kill -9 the server and its workers."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def run(self, code: str, *, timeout: float = 300) -> Any:
        """Run lines of Python with MLflow's own client at hand (`client`); return what they print as JSON, last."""
        sites = [path for path in sys.path if "site-packages" in path]
        done = subprocess.run(
            [python(), "-c", _CLIENT.format(sites=sites, code=code)],
            cwd=self.folder,
            check=False,
            env={**_plain(), "MLFLOW_TRACKING_URI": self.url, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true"},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines and lines[-1][:1] in '[{"' else None

    def count_logged(self, words: str) -> int:
        """How many lines of its log hold these words."""
        return sum(words in line for line in (self.folder / "mlflow.log").read_text().splitlines())

    def register(self, name: str, model: Path) -> str:
        """Log a model with the transformers flavour and register it; return the version."""
        made = self.run(f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(model)!r})
tokenizer = AutoTokenizer.from_pretrained({str(model)!r})
mlflow.set_experiment("training")
with mlflow.start_run():
    info = mlflow.transformers.log_model(
        {{"model": model, "tokenizer": tokenizer}}, name="model", task="text-generation",
        registered_model_name={name!r}, pip_requirements=["transformers"],
    )
print(json.dumps({{"version": info.registered_model_version}}))
""")
        return str(made["version"])

    def register_folder(self, name: str, folder: Path) -> str:
        """Log a folder's files to a run and register it as it is; quick, for nothing has to load the model."""
        made = self.run(f"""
with mlflow.start_run() as run:
    mlflow.log_artifacts({str(folder)!r}, "files")
try:
    client.create_registered_model({name!r})
except mlflow.exceptions.MlflowException:
    pass
made = client.create_model_version({name!r}, f"{{run.info.artifact_uri}}/files", run.info.run_id)
print(json.dumps({{"version": made.version}}))
""")
        return str(made["version"])

    def version(self, name: str, version: str) -> dict[str, Any]:
        """What MLflow's client sees of a version, its metrics and its aliases."""
        entity: dict[str, Any] = self.run(f"""
entity = client.get_model_version({name!r}, {version!r})
numbers = client.get_run(entity.run_id).data.metrics if entity.run_id else {{}}
report = [item.path for item in client.list_artifacts(entity.run_id)] if entity.run_id else []
model_id = entity.source.removeprefix("models:/")
model = mlflow.get_logged_model(model_id) if model_id.startswith("m-") else None
print(json.dumps({{
    "tags": entity.tags, "aliases": list(entity.aliases), "metrics": numbers, "files": report,
    "model_metrics": sorted(m.key for m in model.metrics) if model and model.metrics else [],
}}))
""")
        return entity


def _plain() -> dict[str, str]:
    """Our environment without what would make MLflow, or Python, another one."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON", "VIRTUAL_"))}
