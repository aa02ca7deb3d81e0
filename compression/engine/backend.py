"""The interface between a job's lifecycle (`job`) and its backends, in memory (`dataset_run`) and on disk (`on_disk`)."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, Self

from transformers import PreTrainedModel

from compression.engine.checkpoints import Fingerprints, StageCheckpoint
from compression.engine.job_data import JobData
from compression.engine.reporting.dataset_facts import DatasetSummary
from compression.engine.shipping import ShippedArtifact
from compression.engine.stage_clock import StageClock
from compression.engine.stage_result import StageResult
from compression.quantization.fake_quantize import Simulation
from compression.schema.events import Event
from compression.schema.job_spec import DatasetSpec, Spec
from compression.schema.report.draws import SplitDraws
from compression.schema.report.measurements import Row
from compression.schema.report.report import Artifact, File
from compression.schema.stages import Stage
from compression.system.progress import ProgressTracker
from compression.training.budget import Budget
from compression.training.save import TrainingCheckpointer
from compression.training.work import Processes

Finish = Callable[[ShippedArtifact, PreTrainedModel], Sequence[Row]]
"""Completes a stage's row from its measured first artifact and its model without weights; returns the rows so far."""


class ModelBackend(Protocol):
    """A job on one of its datasets: makes each stage's model, ships it, and keeps what a new attempt needs of it."""

    suffix: ClassVar[str]  #: of its fingerprints: another backend's checkpoints hold something else
    on_disk: ClassVar[bool]
    data: JobData
    rows: list[Row]  #: the dataset's, of the stages so far
    draws: dict[Stage, SplitDraws]  #: by stage, its artifact's scores on resamples of the rows

    @classmethod
    def open(cls, spec: Spec, base: Path, asked: DatasetSpec) -> Self:
        """Read model and data, and refuse an impossible job before any stage. Raises CompressionError."""

    @staticmethod
    def progress(spec: Spec, rows: Mapping[str, Mapping[str, int]]) -> ProgressTracker:
        """Return the tracker of a job's phases. rows: dataset → split → rows."""

    @property
    def budget(self) -> Budget:
        """What is left of the limits on training."""

    @property
    def clock(self) -> StageClock:
        """What the dataset has taken."""

    @property
    def result(self) -> StageResult:
        """What the current stage found out."""

    @property
    def simulation(self) -> Simulation | None:
        """The quantization that the model of a checkpoint simulates."""

    def leave_device(self) -> None:
        """Move all models to the CPU: nothing of the job needs its device any more."""

    def summary(self) -> DatasetSummary:
        """Return the report's facts about the dataset."""

    def begin(
        self, checkpointer: TrainingCheckpointer, tracker: ProgressTracker, fingerprints: Fingerprints, processes: Processes
    ) -> None:
        """Set the job's checkpointer for training in progress, its tracker, its fingerprints and what trains."""

    def take_up(self, folder: Path, done: StageCheckpoint, beginning: Path) -> None:
        """Resume from a finished stage's checkpoint in `folder`. beginning: the folder of the baseline's checkpoint, which an
        earlier attempt may have written. Raises UnusableCheckpoint, before anything is changed.
        """

    def restore(self) -> Iterator[Event]:
        """Bring the rest up to the stage that was taken up, such as files that are gone."""

    def run(self, stage: Stage, finish: Finish) -> Generator[Event, None, Sequence[Artifact]]:
        """Run a stage and ship its model; return its artifacts, that of the row first. Raises Pause."""

    def save(self, folder: Path, facts: StageCheckpoint) -> Generator[Event, None, tuple[File, ...]]:
        """Write `folder`/<stage>[/<dataset>] atomically and durably; return its files."""

    def ship_more(self, chosen: Stage, rows: Sequence[Row], folder_of: Callable[[Stage], Path]) -> Iterator[Event]:
        """Ship further artifacts of the headline's stage `chosen`. folder_of: returns the folder of a finished stage's
        checkpoints.
        """
