"""All settings, from the environment (LATHE_…) or a .env file. docs/operations.md lists the same names."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self

import limits
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from compression.schema.worker_device import DEVICE_PATTERN


class Settings(BaseSettings):
    """Locations, limits and timeouts. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="LATHE_", env_file=".env", extra="ignore", frozen=True)

    home: Annotated[Path, Field(description="Folder for what has no other place: SQLite, local storage, scratch.")] = (
        Path.home() / ".lathe"
    )
    database_url: Annotated[str, Field(description="postgresql+psycopg://… or sqlite:///…; SQLite in home where empty.")] = ""
    broker_url: Annotated[str, Field(description="Valkey or Redis. Carries wake-ups only.")] = "redis://127.0.0.1:6379/0"
    storage_url: Annotated[str, Field(description="file:///folder or s3://bucket/prefix; home/storage where empty.")] = ""
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_presign: Annotated[bool, Field(description="Answer downloads with a redirect to storage instead of the bytes.")] = False

    max_file_bytes: Annotated[int, Field(description="Largest single upload.")] = 64 * 2**30
    max_body_bytes: Annotated[int, Field(description="Largest JSON body.")] = 2**20

    public_url: Annotated[
        str | None,
        Field(
            pattern=r"^https?://[^/?#@\s]+/?$",
            description="Where callers reach the API: https://lathe.example.com. https: HSTS, and cookies over TLS alone.",
        ),
    ] = None
    allowed_hosts: Annotated[
        str, Field(description="Names, by commas, that addresses may be built from besides this machine's, without public_url.")
    ] = ""
    max_connections: Annotated[
        int | None,
        Field(ge=16, description="Open connections of an API process; unset: 4096, fewer if it may open fewer files."),
    ] = None
    max_connections_per_address: Annotated[
        int | None,
        Field(ge=1, description="Of these, for one address that is no proxy of FORWARDED_ALLOW_IPS; unset: a quarter."),
    ] = None
    header_seconds: Annotated[float, Field(gt=0, description="For all headers of a request to come.")] = 10.0
    idle_seconds: Annotated[
        float, Field(gt=0, description="A body of which nothing comes, or an answer of which nothing goes, for so long is cut.")
    ] = 60.0

    heartbeat_seconds: float = 3.0
    lease_seconds: Annotated[float, Field(description="A worker that is silent for so long has lost its job.")] = 30.0
    max_failures: Annotated[int, Field(description="Lost workers and crashes after which a job fails for good.")] = 3
    backoff_seconds: Annotated[float, Field(description="Wait after the first failure; doubles with each.")] = 5.0
    cancel_grace_seconds: Annotated[float, Field(description="Between SIGTERM and SIGKILL of an engine.")] = 10.0
    keeper_seconds: Annotated[float, Field(description="The keeper's round.")] = 2.0
    device: Annotated[
        str,
        Field(
            pattern=DEVICE_PATTERN,
            description="What a worker computes on: cpu; cuda:N, card N alone; cuda:N,N, several cards; auto (auto:N), the "
            "first card (card N) if it works, else the CPU.",
        ),
    ] = "auto"
    engine_threads: Annotated[int | None, Field(description="Training threads of an engine; all cores where unset.")] = None
    drain_grace_seconds: Annotated[float, Field(description="For an engine to save its training when its worker stops.")] = 30.0
    stall_seconds: Annotated[float, Field(description="An engine that shows no progress for so long is stopped.")] = 3600.0
    save_seconds: Annotated[float, Field(description="How often training in progress is saved.")] = 120.0
    engine_memory_bytes: Annotated[
        int | None,
        Field(description="An engine that takes more is stopped, a job forecast to is not claimed; unset: nine tenths."),
    ] = None
    host_workers: Annotated[
        int, Field(ge=1, description="Workers for jobs that share this machine: each has its part of these nine tenths.")
    ] = 1
    engine_disk_bytes: Annotated[
        int, Field(description="An engine that writes so much more than twice its job's forecast is stopped.")
    ] = 4 * 2**30
    teacher_cache_bytes: Annotated[
        int,
        Field(ge=0, description="Most of a teacher's outputs that an engine keeps on disk unasked, and half of what is free."),
    ] = 64 * 2**30
    engine_processes: Annotated[int, Field(gt=0, description="An engine that has more processes at once is stopped.")] = 256
    engine_tasks: Annotated[int, Field(gt=0, description="So is one whose processes have more threads together.")] = 8192
    measure_hold_seconds: Annotated[
        float, Field(gt=0, description="An engine that keeps this host's measuring lock so long loses it to the next one.")
    ] = 600.0
    measure_wait_seconds: Annotated[
        float, Field(gt=0, description="An engine that waits so long for that lock measures without it, and says so.")
    ] = 900.0
    metrics_token: Annotated[
        SecretStr | None,
        Field(description="What GET /metrics takes as bearer token, beside an admin key of the team that runs the service."),
    ] = None
    traces: Annotated[
        str, Field(description="Where traces go (extra otel): otlp, as OTEL_* say, or file:PATH; nowhere where empty.")
    ] = ""
    sweep_seconds: Annotated[float, Field(description="How often the keeper looks for bytes that no row names.")] = 3600.0
    upload_seconds: Annotated[
        float, Field(gt=0, description="An upload that nobody completed is deleted when nothing came for so long.")
    ] = 7 * 24 * 3600.0
    ring_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="An idle worker rings for itself so often while work waits; after five rings in vain it begins anew.",
        ),
    ] = 5.0
    unconfined: Annotated[bool, Field(description="Run engines where nothing can confine them.")] = False
    wordnet: Annotated[
        Path | None, Field(description="Folder with WordNet's database files, for augmentation by synonyms.")
    ] = None
    helper_models: Annotated[
        Path | None,
        Field(description="Folder of the model folders that augmentation may name: masked LMs, translation models."),
    ] = None
    lm_eval_data: Annotated[
        Path | None, Field(description="Folder of lm-eval's tasks' data under its names on the hub, as allenai/ai2_arc.")
    ] = None
    emulate_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="Each int8 ONNX file may take so long to answer sample rows under AVX2, where there is qemu-user; 0: "
            "it is not asked.",
        ),
    ] = 120.0
    session_seconds: Annotated[float, Field(gt=0, description="After so long a browser must sign in again.")] = 12 * 3600.0
    audit_seconds: Annotated[
        float, Field(gt=0, description="So long the audit log keeps what is written from now on; nobody can delete it before.")
    ] = 365 * 24 * 3600.0
    validation_seconds: Annotated[float, Field(description="An upload whose check takes longer is rejected.")] = 600.0

    answer_seconds: Annotated[float, Field(description="A question to a job's models may take so long.")] = 120.0

    rate_storage_url: Annotated[
        str, Field(description="Valkey or Redis that counts requests for all API processes; each by itself where empty.")
    ] = ""
    rate_per_key: Annotated[str, Field(description="Requests of one key, as `number/time`.")] = "3000/minute"
    rate_per_address: Annotated[str, Field(description="Requests from one address (IPv6: one /64).")] = "6000/minute"
    rate_wrong: Annotated[str, Field(description="Wrong keys and links that one address may try.")] = "30/minute"

    # Quotas of a team; a team's own limits are in its row (`python -m app.quotas`). 0 allows nothing.
    quota_jobs_waiting: Annotated[int, Field(ge=0, description="Jobs of a team that wait.")] = 1000
    quota_jobs_running: Annotated[int, Field(ge=0, description="Jobs of a team at work; more wait.")] = 100
    quota_worker_hours: Annotated[int, Field(ge=0, description="Hours of workers that a team has in a month (UTC).")] = 20_000
    quota_bytes_stored: Annotated[
        int, Field(ge=0, description="Bytes of a team's models, datasets and artifacts, with what its manifests promise.")
    ] = 4 * 2**40
    quota_bytes_arriving: Annotated[int, Field(ge=0, description="Bytes of a team's uploads that are under way.")] = 2**40
    quota_files: Annotated[int, Field(ge=0, description="Files that a team's models and datasets have together.")] = 1_000_000
    quota_streams: Annotated[int, Field(ge=0, description="Event streams of a team that are open, in one API process.")] = 400
    quota_profiles_waiting: Annotated[int, Field(ge=0, description="Profiles of a team that wait for their devices.")] = 200
    streams_per_key: Annotated[int, Field(ge=0, description="Event streams of a key that are open, in one API process.")] = 100

    @field_validator("rate_per_key", "rate_per_address", "rate_wrong")
    @classmethod
    def _rate(cls, value: str) -> str:
        limits.parse(value)
        return value

    @model_validator(mode="after")
    def _places_in_home(self) -> Self:
        home = self.home.expanduser().resolve()
        object.__setattr__(self, "home", home)
        for name in ("wordnet", "helper_models", "lm_eval_data"):
            if (place := getattr(self, name)) is not None:
                object.__setattr__(self, name, place.expanduser().resolve())
        if self.public_url:
            object.__setattr__(self, "public_url", self.public_url.rstrip("/"))
        if not self.database_url:
            if "?" in str(home):
                raise ValueError("LATHE_HOME must have no `?` where LATHE_DATABASE_URL is empty: SQLite's address ends there")
            object.__setattr__(self, "database_url", f"sqlite:///{home / 'lathe.db'}")
        if not self.storage_url:
            object.__setattr__(self, "storage_url", (home / "storage").as_uri())
        if self.lease_seconds < 5 * self.heartbeat_seconds:
            raise ValueError("LATHE_LEASE_SECONDS must be at least five times LATHE_HEARTBEAT_SECONDS")
        return self

    @property
    def hosts(self) -> list[str]:
        """The names of `allowed_hosts`."""
        return [host.strip().lower() for host in self.allowed_hosts.split(",") if host.strip()]

    @property
    def scratch(self) -> Path:
        """Folder where workers prepare jobs, on the worker's own disk."""
        return self.home / "scratch"


@lru_cache
def get_settings() -> Settings:
    """Return this process's settings, read once."""
    return Settings()
