"""The service's answers as typed objects. Unknown keys are ignored, so that a newer service breaks no client."""

from datetime import datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import urljoin

from pydantic import BaseModel, ConfigDict, Field

from compression.schema.prediction import Answered
from compression.schema.recipe.recipe import Targets
from compression.schema.report.measurements import Latency, NotMeasured, Ratios, Remedy, Row, Score
from compression.schema.report.report import Report as Report
from compression.schema.validation import DataFacts, ModelFacts

T = TypeVar("T", bound=BaseModel)
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


def parse(kind: type[T], body: Any) -> T:
    """Check an answer against its type. Unknown keys are dropped at every depth, contract types included."""
    return kind.model_validate(body, extra="ignore")


class Answer(BaseModel):
    """Base of all answers: frozen, and lenient towards new keys."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Manifest(Answer):
    """A file in a manifest: its relative path, size and hash."""

    path: str
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class File(Manifest):
    """A file of an upload, and whether its bytes have arrived."""

    uploaded: bool = True


class Reason(Answer):
    """Why something failed or was rejected, and what to do."""

    code: str
    cause: str
    remedy: str = ""
    param: str | None = None


class Upload(Answer):
    """Base of models and datasets: uploading → validating → ready or rejected."""

    id: str
    name: str
    state: str
    file_count: int = 0
    bytes: int = 0
    files: tuple[File, ...] = ()
    """Empty in a list; GET the upload itself to see the first 1,000. `Lathe.files` returns all."""
    reasons: tuple[Reason, ...] = ()
    created_at: datetime


class Model(Upload):
    """A checkpoint."""

    facts: ModelFacts | None = None


class Dataset(Upload):
    """Data files and the meaning of their columns."""

    task: str = ""
    data: dict[str, Any] = {}
    facts: DataFacts | None = None


class Progress(Answer):
    """Progress of a running job. `fraction` is of the whole job; `step` and `total` count within the phase."""

    stage: str
    phase: str = ""
    step: int = 0
    total: int = 0
    fraction: float = 0.0
    eta_seconds: float | None = None
    loss: float | None = None
    rate: float | None = None
    score: float | None = None
    part: str = ""


class Job(Answer):
    """A job in its current state."""

    id: str
    name: str
    state: str
    version: int = 0
    labels: dict[str, str] = {}
    task: str = ""
    models: dict[str, Any] = {}
    datasets: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    recipe: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    device: str = "any"
    priority: int = 0
    stage: str | None = None
    progress: Progress | None = None
    rows: tuple[Row, ...] = ()
    estimate: dict[str, Any] | None = None
    """As forecast when it was submitted; None in older jobs."""
    attempt: int = 0
    failures: int = 0
    error: Reason | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    retry_of: str | None = None
    owner: str | None = None
    ratios: Ratios | None = None
    remedies: tuple[Remedy, ...] = ()
    queue_position: int | None = None
    start_seconds: float | None = None
    waits_for: str | None = None
    deadline_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether it has an outcome, which never changes."""
        return self.state in TERMINAL

    @property
    def retention(self) -> float:
        """Its target of retention."""
        return float(self.targets.get("retention", Targets().retention))


class Preflight(Answer):
    """The result and cost of a job, estimated without running it."""

    shape: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    multiply_adds: int | None = None
    baseline_multiply_adds: int | None = None
    estimate: dict[str, Any] = {}
    warnings: tuple[Any, ...] = ()


class Event(Answer):
    """An event of a job."""

    seq: int
    type: str
    at: datetime | None = None
    data: dict[str, Any] = {}


class Artifact(Answer):
    """An artifact to download."""

    id: str
    name: str
    kind: str
    stage: str
    precision: str
    files: tuple[Manifest, ...]
    bytes: int = 0
    score: Score | NotMeasured | None = None
    validation: Score | NotMeasured | None = None
    latency: Latency | NotMeasured | None = None
    trained_as_shipped: bool | None = None
    operators: dict[str, dict[str, int]] | None = None
    opens_with: str = ""
    part: str | None = None


class Try(Answer):
    """A prediction by a finished job's models: the question, and once it is answered both answers side by side."""

    id: str
    job: str
    state: str
    part: str = ""
    asked: dict[str, Any] = {}
    result: Answered | None = None
    error: Reason | None = None

    @property
    def ended(self) -> bool:
        """Whether it was answered, or never will be."""
        return self.state in TERMINAL


class Preset(Answer):
    """A recipe with a name."""

    name: str
    summary: str = ""
    recipe: dict[str, Any]
    of_modalities: dict[str, dict[str, Any]] = {}
    """Of other data than texts: what is under this name, by the kind of data."""


class Recipes(Answer):
    """The recipes that have a name, and the JSON schema of all recipes."""

    items: tuple[Preset, ...] = ()
    recipe_schema: dict[str, Any] = Field(default={}, alias="schema")


class CheckedRecipe(Answer):
    """A recipe that the service accepts, in full."""

    recipe: dict[str, Any]


class Worker(Answer):
    """A worker, as it last reported itself."""

    id: str
    kind: str
    host: str | None = None
    """Null except for those who run the service; so is the process."""
    pid: int | None = None
    facts: dict[str, Any] = {}
    drain: bool = False
    rests_until: datetime | None = None
    """Until when it claims nothing, because its disk or the storage failed. The reason is null except for operators."""
    rest_reason: str | None = None
    alive: bool = False
    job: str | None = None
    started_at: datetime | None = None
    seen_at: datetime | None = None
    silent_seconds: float | None = None
    busy: bool = False


class Queue(Answer):
    """How many jobs, checks and predictions of all teams wait and run."""

    queued: int = 0
    running: int = 0
    checks: int = 0
    tries: int = 0
    longest_wait_seconds: float | None = None


class Share(Answer):
    """A link that shows one report without a key; only the answer that creates it has the `url`."""

    id: str
    job: str
    key: str | None = None
    """The key that made it; the link ends with that key at the latest."""
    created_at: datetime
    expires_at: datetime
    url: str | None = None

    def under(self, address: str) -> "Share":
        """Complete a relative `url`: the service does not repeat a host that it does not know."""
        return self.model_copy(update={"url": urljoin(address, self.url)}) if self.url else self


class Used(Answer):
    """A team's usage; all other teams are one entry."""

    team: str
    mine: bool = False
    jobs: dict[str, int] = {}
    worker_minutes: float = 0.0
    models_bytes: int = 0
    datasets_bytes: int = 0
    artifacts_bytes: int = 0


class Usage(Answer):
    """Usage by team since a time."""

    since: datetime
    items: tuple[Used, ...] = ()


class Quota(Answer):
    """One limit of the team, and how much of it is used."""

    name: str
    limit: int
    used: float
    frees: str = ""
    frees_at: datetime | None = None


class Quotas(Answer):
    """The team's limits, and how much of each is used."""

    weight: float = 1.0
    items: tuple[Quota, ...] = ()


class Key(Answer):
    """An API key, without its secret."""

    id: str
    name: str
    scope: str = "write"
    created_at: datetime | None = None
    revoked_at: datetime | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    """To the minute."""
    made_by: str | None = None
    """Id of the key that made it."""
    replaces: str | None = None
    """Id of the key whose rotation made it."""
    mine: bool = False


class NewKey(Key):
    """A new key, in the only answer that shows its secret."""

    key: str


class Team(Answer):
    """The owner of models, datasets, jobs and keys; only the answer that creates it has its first `key`."""

    id: str
    name: str
    created_at: datetime | None = None
    operator: bool = False
    """Whether its admins run the service."""
    mine: bool = False
    key: str | None = None


class AuditEntry(Answer):
    """A change that a key made, or was refused."""

    id: str
    at: datetime
    key: str
    action: str
    outcome: str
    address: str | None = None
    object: str | None = None
    request_id: str | None = None


class Page(Answer):
    """One page of a list."""

    items: tuple[dict[str, Any], ...] = ()
    next_page_token: str | None = None
