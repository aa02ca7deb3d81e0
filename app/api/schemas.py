"""Request and response bodies. Requests reject unknown keys; responses are built from rows."""

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from app.core.redaction import redact_paths
from app.core.schemas import TEXT, Body, FilePath, Id, Name, Out, Sha256
from app.jobs.queue_forecast import QueuePosition
from app.store import models
from app.store.resources import MOST_FILES
from compression.planning.estimator import Estimate
from compression.schema.job_spec import Columns
from compression.schema.recipe.base import DataFormat, DataSplit, Task
from compression.schema.report.measurements import Ratios, Remedy


class ManifestEntry(Body):
    """A file to be uploaded."""

    path: FilePath
    size: Annotated[int, Field(ge=0, le=2**40)]
    sha256: Sha256


FILES_A_REQUEST = 1000
"""Of a manifest: more come in pages."""
Manifest = Annotated[list[ManifestEntry], Field(min_length=1, max_length=FILES_A_REQUEST)]
REST = "If the manifest has more files than these: those that `POST …/files` will add, in pages."


class ManifestRest(Body):
    """What later pages add to a manifest: so many files, and their bytes together."""

    files: Annotated[int, Field(ge=1, lt=MOST_FILES)]
    bytes: Annotated[int, Field(ge=0, le=2**53)]


class ManifestPage(Body):
    """More files of a manifest."""

    files: Manifest


class ModelCreate(Body):
    """A model: its name and its files."""

    name: Name
    files: Manifest
    rest: Annotated[ManifestRest | None, Field(description=REST)] = None


class DatasetCreate(Body):
    """A dataset: its files, the split of each, and the meaning of its columns. Splits of the format folder may name folders."""

    name: Name
    task: Task = "text-classification"
    format: DataFormat
    columns: Columns = Columns()
    splits: dict[DataSplit, Annotated[list[FilePath], Field(min_length=1, max_length=FILES_A_REQUEST)]]
    files: Manifest
    rest: Annotated[ManifestRest | None, Field(description=REST)] = None


class JobRetry(Body):
    """How to retry a job."""

    remedies: Annotated[
        Literal["all"] | Annotated[list[Annotated[str, Field(max_length=200, pattern=TEXT)]], Field(max_length=20)],
        Field(
            description="Keys of the job's `remedies` to apply to the recipe, or all of them, and for a job that was late no "
            "deadline; none: the same request again."
        ),
    ] = []  # noqa: RUF012 (pydantic copies it)
    profile: Annotated[
        Id | None,
        Field(description="A profile of one of its artifacts: `remedies` are then the keys of its changes; none means all."),
    ] = None


class JobModelsOut(Out):
    """The models of a job, by id."""

    base: str
    student: str | None
    teachers: list[str]


class Progress(Out):
    """Progress of a running job."""

    stage: str
    phase: str
    step: int
    total: int
    fraction: float
    eta_seconds: float | None = None
    loss: float | None = None
    rate: float | None = None
    score: float | None = None
    part: Annotated[str, Field(description="The current dataset, if there are several.")] = ""


class JobOut(Out):
    """A job and its current state; `rows` grows stage by stage."""

    id: str
    version: Annotated[int, Field(description="Increases with every change; `Prefer: wait` waits for that.")]
    name: str
    labels: dict[str, str]
    task: str
    models: JobModelsOut
    datasets: list[str]
    parts: Annotated[list[str], Field(description="With several datasets, their names in rows and artifacts.")]
    recipe: dict[str, Any]
    evaluate: dict[str, Any]
    targets: dict[str, Any]
    device: Annotated[str, Field(description="Which workers may take it: any, cpu or cuda.")]
    priority: int
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    stage: str | None
    progress: Progress | None
    rows: list[dict[str, Any]]
    estimate: Annotated[Estimate | None, Field(description="As forecast when it was submitted; null in older jobs.")]
    attempt: int
    failures: int
    error: Annotated[dict[str, Any] | None, AfterValidator(redact_paths)]
    queue_position: int | None
    start_seconds: Annotated[float | None, Field(description="Estimated time until a worker starts it; null if unknown.")]
    waits_for: Annotated[
        Literal["worker", "device", "memory", "quota"] | None,
        Field(description="What no live worker offers, or the team's limit."),
    ]
    deadline_at: dt.datetime | None
    retry_of: str | None
    request_id: Annotated[str | None, Field(description="Id of the request that created it, as in logs and traces.")]
    owner: Annotated[str | None, Field(description="Name of the key that submitted it.")]
    ratios: Annotated[
        Ratios | None,
        Field(
            description="The headline artifact's, once the job has succeeded. `baseline_not_converged`: the retained "
            "score is unproven."
        ),
    ]
    remedies: Annotated[list[Remedy], Field(description="Changes of the recipe that POST …/retry can apply.")]
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    cancel_requested_at: dt.datetime | None


class EventOut(Out):
    """One event of a job."""

    seq: int
    type: str
    at: dt.datetime
    data: Annotated[dict[str, Any], AfterValidator(redact_paths)]


class ArtifactFile(Out):
    """One file of an artifact."""

    path: str
    size: int
    sha256: str


class ArtifactOut(Out):
    """Something to download: GET /v1/artifacts/{id}/files/{path} for each of its files."""

    id: str
    job: str
    name: str
    kind: str
    stage: str
    precision: str
    part: Annotated[str | None, Field(description="With several datasets, the one that it is for.")]
    opens_with: str
    score: Annotated[dict[str, Any], Field(description="On test.")]
    validation: Annotated[
        dict[str, Any] | None, Field(description="On validation, which decisions use; null in jobs from before it was scored.")
    ] = None
    latency: Annotated[
        dict[str, Any] | None, Field(description="In its own runtime, beside the original's ONNX file; null in older jobs.")
    ] = None
    trained_as_shipped: Annotated[
        bool | None, Field(description="Whether training computed with its very numbers; null in older jobs.")
    ] = None
    operators: Annotated[
        dict[str, dict[str, int]] | None,
        Field(description="By type, before and after its runtime joined some; null if it does not tell, and in older jobs."),
    ] = None
    bytes: int
    files: list[ArtifactFile]
    created_at: dt.datetime


def job_out(
    job: models.Job,
    place: QueuePosition | None = None,
    *,
    owner: str | None = None,
    ratios: dict[str, Any] | None = None,
    remedies: Sequence[Remedy] = (),
    rows: Sequence[dict[str, Any]] | None = None,
) -> JobOut:
    """Return a job's response; `rows` replaces the rows that would be loaded."""
    same = (
        "id",
        "version",
        "name",
        "labels",
        "task",
        "recipe",
        "evaluate",
        "targets",
        "device",
        "priority",
        "state",
        "stage",
        "attempt",
        "failures",
        "error",
        "deadline_at",
        "retry_of",
        "request_id",
        "created_at",
        "started_at",
        "finished_at",
        "cancel_requested_at",
    )
    return JobOut(
        **{name: getattr(job, name) for name in same},
        models=JobModelsOut(base=job.model_id, student=job.student, teachers=job.teachers),
        datasets=job.datasets,
        parts=[part.name for part in job.parts],
        progress=Progress.model_validate(job.progress) if job.progress else None,
        rows=[metric.row for metric in job.metrics] if rows is None else list(rows),
        estimate=Estimate.model_validate(job.forecast["estimate"]) if job.forecast else None,
        queue_position=place.position if place else None,
        start_seconds=place.start_seconds if place else None,
        waits_for=place.waits_for if place else None,
        owner=owner,
        remedies=list(remedies),
        ratios=Ratios.model_validate(ratios) if ratios else None,
    )


def artifact_out(row: models.Artifact) -> ArtifactOut:
    """Return an artifact's response."""
    return ArtifactOut(
        id=row.id,
        job=row.job_id,
        created_at=row.created_at,
        bytes=sum(file.size for file in row.files),
        files=[ArtifactFile.model_validate(file) for file in row.files],
        part=row.facts.get("part"),
        **{name: row.facts.get(name) for name in ("validation", "latency", "trained_as_shipped", "operators")},
        **{name: row.facts[name] for name in ("name", "kind", "stage", "precision", "opens_with", "score")},
    )
