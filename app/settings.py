"""Every setting, its unit in its name; read from environment variables ESPALIER_* or from ESPALIER_ENV_FILE."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app import settings_rules as rules
from app.settings_file import PREFIX, BadFile, check_file, unknown
from app.worker_classes import WorkerClass, parse_classes

log = logging.getLogger(__name__)

DEFAULT_PEPPER = "insecure-embedded-pepper"
DEFAULT_CREDENTIALS_KEY = "insecure-embedded-credentials-key"
LONGEST_DAYS = 36_500
"""A time before the calendar would break the cleaning up, also of what has no rows: 0 is for ever."""
YEAR_SECONDS = 366 * 86_400


class Settings(BaseSettings):
    """The configuration of one process; `espalier settings` prints it with the source of every value."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    mode: Literal["embedded", "production"] = Field("embedded", description="embedded: one machine, loopback, no key.")
    home: Path = Field(Path.home() / ".espalier", description="The one state folder of the embedded mode.")
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on; 0 takes a free one.")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the home folder.")
    broker_url: str = Field("", description="Celery broker URL; empty: a folder in the home folder (filesystem://).")
    store_url: str = Field("", description="file:///dir or s3://bucket/prefix; empty: a folder in the home folder.")
    s3_endpoint_url: str | None = Field(None, description="Endpoint of an S3 store that is not AWS.")
    publish_s3_endpoint_url: str | None = Field(
        None, description="Server of `s3` sources and publications; empty: AWS."
    )
    local_roots: str = Field(
        "", description="Colon-separated folders below which `local` sources may lie; embedded mode only."
    )
    webhook_allowed_cidrs: str = Field("", description="Comma-separated private networks that webhooks may reach.")
    api_key_pepper: SecretStr = Field(SecretStr(DEFAULT_PEPPER), description="Key of the HMAC over API keys.")
    credentials_key: SecretStr = Field(
        SecretStr(DEFAULT_CREDENTIALS_KEY),
        description="Key that seals stored secrets (credentials, webhooks); comma-separated: the first seals.",
    )
    api_processes: int = Field(1, ge=1, le=64, description="Processes that answer requests; production: one per core.")
    api_max_connections: int = Field(
        4096, ge=16, le=65_536, description="Connections that one process keeps, event streams included; beyond: 503."
    )
    database_statement_seconds: float = Field(
        30, ge=0, le=3600, description="How long one statement may take on Postgres; 0: for ever."
    )
    portal_session_hours: float = Field(12, gt=0, le=720, description="How long a sign-in to the portal lasts.")
    public_url: str = Field(
        "",
        description="Where people reach the service, like https://espalier.example; empty: as each request names it.",
    )
    oidc_issuer: str = Field(
        "", description="OpenID Connect provider that people may sign in to the portal with; empty: none."
    )
    oidc_client_id: str = Field("", description="What the provider calls this service.")
    oidc_client_secret: SecretStr | None = Field(None, description="Its secret; none: a public client, by PKCE alone.")
    oidc_title: str = Field("single sign-on", max_length=60, description="What the page of the sign-in calls it.")
    oidc_scope: str = Field("openid profile email", description="What the provider is asked for.")
    oidc_name_claim: str = Field("sub", description="Claim that names people in the audit log; `email` if verified.")
    oidc_project_claim: str = Field("", description="Claim that holds a project id, or several: the first one here.")
    oidc_project: str = Field("", description="Project of those without one; empty: they stay outside.")
    oidc_grants: str = Field(
        "jobs:read,jobs:write,jobs:cancel,artifacts:read,models:write",
        description="Comma-separated scopes of those who signed in so.",
    )
    lease_seconds: float = Field(60, ge=2, le=3600, description="How long a silent worker keeps its job.")
    url: str = Field(
        "", description="Where the command line's client finds the service; empty: the loopback, at the port above."
    )
    api_key: SecretStr | None = Field(None, description="The key that the command line's client sends.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where children compute.")
    worker_classes: str = Field(
        "default", description="Worker classes as name=bytes:flops, smallest first: cpu=16e9,gpu=80e9:2e14."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines are printed.")
    cache_dir: Path | None = Field(None, description="Fetched models and text; default: home/cache.")
    cache_max_bytes: int = Field(200 * 2**30, ge=0, description="Cap of the cache; least recently used goes first.")
    scratch_dir: Path | None = Field(None, description="Working folders of running jobs; default: home/scratch.")
    scratch_max_bytes: int = Field(500 * 2**30, gt=0, description="Cap of working folders; beyond: disk_full.")
    phase_store_max_bytes: int = Field(
        100 * 2**30, ge=0, description="Cap of phase results in the object store; least recently used goes first."
    )
    keep_artifacts_days: float = Field(
        0, ge=0, le=LONGEST_DAYS, description="Files of results after the job's end; 0: for ever."
    )
    keep_events_days: float = Field(365, ge=0, le=LONGEST_DAYS, description="Events after the job's end; 0: for ever.")
    keep_logs_days: float = Field(90, ge=0, le=LONGEST_DAYS, description="Log lines after the job's end; 0: for ever.")
    keep_deliveries_days: float = Field(
        30, ge=0, le=LONGEST_DAYS, description="Deliveries of webhooks and hooks that are over; 0: for ever."
    )
    keep_audit_days: float = Field(730, ge=0, le=LONGEST_DAYS, description="The audit log; 0: for ever.")
    default_run_seconds: float = Field(
        2 * 86_400, gt=0, le=YEAR_SECONDS, description="Running time of a job that names no limits.max_run_seconds."
    )
    max_run_seconds: float = Field(
        7 * 86_400, gt=0, le=YEAR_SECONDS, description="Running time that a job may name at most."
    )
    max_retrain_steps: int = Field(100_000, ge=1, description="Steps of one retraining that a job may name at most.")
    publishers: int = Field(4, ge=1, le=64, description="Publications at once beside a reconciler; one per project.")
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, le=4096, description="CPU threads of one child."
    )
    hang_seconds: float = Field(
        900, ge=1, le=86_400, description="How long a child that computes may make no step before it is ended as hung."
    )
    child_memory_bytes: int | None = Field(
        None, ge=2**29, description="Memory of a child that computes; empty: nine tenths of the machine's."
    )
    fetch_memory_bytes: int | None = Field(
        None, ge=2**28, description="Memory of a fetcher or publisher; empty: a quarter of the machine's, 1 to 4 GiB."
    )
    tasks_dir: Path | None = Field(
        None,
        description="Folder of lm-eval task files; its `cache` may hold data of Hub tasks, as `datasets` keeps them.",
    )
    hf_token: SecretStr | None = Field(
        None, description="Hugging Face token of projects that share it; reaches the fetcher only."
    )
    hf_endpoint: str | None = Field(None, description="Hugging Face Hub endpoint, for a mirror or a stand-in.")
    otel_endpoint: str = Field(
        "", description="OTLP/HTTP collector of traces, like http://host:4318; empty: none. Needs the `otel` extra."
    )
    mlflow_tracking_uri: str | None = Field(None, description="MLflow server of `mlflow` sources and publications.")
    mlflow_token: SecretStr | None = Field(
        None, description="Its token, for projects that share it and stored no login of their own."
    )
    mlflow_username: str | None = Field(None, description="The same as user and password.")
    mlflow_password: SecretStr | None = Field(None, description="Reaches fetcher, publisher and registry sweep only.")
    registry_sweep_seconds: float = Field(
        300, ge=0, le=86_400, description="Pause between looks at MLflow for what deliveries have lost; 0: no looks."
    )

    @field_validator(*rules.SERVED)
    @classmethod
    def _served(cls, value: str | None, info: ValidationInfo) -> str | None:
        assert info.field_name is not None
        rules.require_served(info.field_name, value or "")
        return value

    @field_validator("home", "cache_dir", "scratch_dir", "tasks_dir")
    @classmethod
    def _folder(cls, value: Path | None) -> Path | None:
        if value is not None:
            rules.require_folder(value)
        return value

    @field_validator("local_roots")
    @classmethod
    def _roots(cls, value: str) -> str:
        for root in filter(None, value.split(":")):
            rules.require_folder(Path(root))
        return value

    @field_validator("credentials_key")
    @classmethod
    def _keys(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().replace(",", "").strip():
            raise ValueError("give one key, or several with commas between")
        return value

    @field_validator("webhook_allowed_cidrs")
    @classmethod
    def _networks(cls, value: str) -> str:
        rules.networks(value)
        return value

    @field_validator("worker_classes")
    @classmethod
    def _classes(cls, value: str) -> str:
        parse_classes(value)
        return value

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        if self.oidc_issuer and not self.oidc_client_id:
            raise ValueError("ESPALIER_OIDC_ISSUER takes ESPALIER_OIDC_CLIENT_ID")
        if bool(self.mlflow_username) != bool(self.mlflow_password):
            raise ValueError("ESPALIER_MLFLOW_USERNAME and ESPALIER_MLFLOW_PASSWORD come together")
        return self

    @model_validator(mode="after")
    def _apart(self) -> Settings:
        names = {
            "cache": f"{PREFIX}CACHE_DIR={self.cache}",
            "scratch": f"{PREFIX}SCRATCH_DIR={self.scratch}",
            "store": f"{PREFIX}STORE_URL={self.store}",
            "wake-up signals": f"{PREFIX}HOME={self.home}/bell",
        }
        every = names | {"database": f"{PREFIX}DATABASE_URL={rules.shown(self.database)}"}
        folders = {every[what]: folder for what, folder in self.folders.items()}
        if self.tasks_dir is not None:
            folders[f"{PREFIX}TASKS_DIR={self.tasks_dir}"] = self.tasks_dir
        rules.require_apart(folders, names.values())
        return self

    @property
    def service_url(self) -> str:
        """URL of the service for the client of the command line."""
        return self.url or f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.home.absolute()}/espalier.db"

    @property
    def broker(self) -> str:
        """The Celery broker URL in force."""
        return self.broker_url or "filesystem://"

    @property
    def store(self) -> str:
        """The object store URL in force."""
        return self.store_url or f"file://{self.home.absolute()}/store"

    @property
    def cache(self) -> Path:
        """Folder of fetched models and text."""
        return (self.cache_dir or self.home / "cache").absolute()

    @property
    def scratch(self) -> Path:
        """Folder that holds one working folder per running job."""
        return (self.scratch_dir or self.home / "scratch").absolute()

    @property
    def wake_up_folder(self) -> Path | None:
        """Folder of the wake-up signals, where no server brokers them."""
        return (self.home / "bell").absolute() if self.broker.startswith("filesystem:") else None

    @property
    def folders(self) -> dict[str, Path]:
        """Folders of this machine that are written to, by what lies there."""
        folders = {"cache": self.cache, "scratch": self.scratch}
        if self.database.startswith("sqlite"):
            folders["database"] = Path(urlsplit(self.database).path[1:]).absolute().parent
        if self.wake_up_folder is not None:
            folders["wake-up signals"] = self.wake_up_folder
        if self.store.startswith("file:"):
            folders["store"] = Path(unquote(urlsplit(self.store).path))
        return folders

    @property
    def classes(self) -> list[WorkerClass]:
        """The worker classes, smallest first."""
        return parse_classes(self.worker_classes)

    @property
    def roots(self) -> list[Path]:
        """Resolved folders below which `local` paths may lie."""
        return [Path(root).resolve() for root in self.local_roots.split(":") if root]


@lru_cache
def get_settings() -> Settings:
    """Read the settings once per process; a mistake in them ends it with a line each and status 2."""
    file = os.environ.get(f"{PREFIX}ENV_FILE") or None
    try:
        foreign = check_file(Path(file).expanduser(), Settings.model_fields) if file else []
        settings = Settings(_env_file=file)
    except ValidationError as error:
        sys.stderr.writelines(f"{_message(item)}\n" for item in error.errors(include_url=False))
        raise SystemExit(2) from None
    except BadFile as error:
        sys.stderr.write(f"{PREFIX}ENV_FILE: {error}\n")
        raise SystemExit(2) from None
    for name in unknown(os.environ.keys() - {f"{PREFIX}ENV_FILE"}, Settings.model_fields):
        log.warning("%s is no setting, and nothing reads it", name)
    for name in foreign:
        log.warning("%s in %s is no setting: set it in the environment if a library is to see it", name, file)
    return settings


def _message(item: Mapping[str, Any]) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message
    field = str(item["loc"][0])
    value = "" if "Secret" in str(Settings.model_fields[field].annotation) else f"={rules.shown(item['input'])}"
    return f"setting {PREFIX}{field.upper()}{value}: {message}"
