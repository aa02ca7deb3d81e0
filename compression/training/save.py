"""Training checkpoints: a new attempt resumes from a saved step as if training had never stopped.

A checkpoint is a folder with one safetensors file and state.json, complete and durable like a stage's, and used only for the
same work and if every digest is right. One that cannot be used costs only time. What a device or several processes hold is
copied to the host's memory and written in a thread; a kill meanwhile leaves the checkpoint before it, which the supervisor has.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from compression.evaluation.validate import Validation
from compression.models.tensors import Shapes, Tensors
from compression.quantization.static_int8 import Range
from compression.schema.config import Config
from compression.schema.events import Log, TrainingSaved
from compression.schema.report.report import File
from compression.schema.stages import BASELINE, Stage
from compression.system import durable_files
from compression.system.interrupts import Pause, never
from compression.system.sealed_folder import STATE, UnusableCheckpoint, file_in, list_files, seal, unseal, verify_files
from compression.training.budget import Spent

TENSORS = "training.safetensors"
FOLDER = "training"  #: folder in which a supervisor puts an earlier attempt's training checkpoint, beside its stage checkpoints
BESIDE = "beside."  #: prefix of the names of tensors that are saved with a training but do not belong to it
PATIENCE = 20.0
"""Seconds that a pause, or the end of a training, waits until the supervisor has collected the previous checkpoint."""
LOOK_AGAIN = 0.05
MOST_OF_TIME = 0.03
"""Share of a training's time for which saves may hold it: where one takes long, the next comes later than its interval."""


@dataclass
class TrainerState:
    """Scalar state of a training; with its tensors, this is all that resuming needs. Epoch 0 is the model before training."""

    before: Validation
    best: Validation
    decay: float
    total: int  #: number of steps in the training
    epoch: int = 1
    done: int = 0
    step: int = 0
    scale: float = 1.0
    best_epoch: int = 0
    stepped_back: bool = False
    last_score: float | None = None
    last_loss: float | None = None
    ended: bool = False
    remarks: list[str] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)  #: training of the whole job up to here, including this one
    ranges: dict[str, Range] = field(default_factory=dict)  #: of the model's static layers; training does not change them
    curve: list[Validation] = field(default_factory=list)
    gain_epoch: int = 0  #: the last epoch with a gain in score or loss, if the rate falls on a plateau
    least_loss: float | None = None  #: the lowest validation loss so far
    parts: int = 0  #: micro-batches of a batch; 0: not chosen yet


class TrainingCheckpoint(Config):
    """state.json: which training was saved, its state, and the notes of the report row so far."""

    fingerprint: str
    stage: Stage
    phase: str
    total: int
    where: TrainerState
    shapes: Shapes
    notes: tuple[str, ...]
    files: tuple[File, ...]
    part: str = ""
    seconds: float = 0.0  #: of the job's dataset until then, over all attempts


class Clock(Protocol):
    """The time that a job's dataset has taken, over attempts."""

    @property
    def seconds(self) -> float:
        """Return the seconds so far."""

    def carry(self, seconds: float) -> None:
        """Add what an earlier attempt had taken. seconds: of the job until its save."""


class Resumable(Protocol):
    """A training that can be saved."""

    where: TrainerState

    @property
    def shapes(self) -> Shapes:
        """Return the shapes of all weights that it changes."""

    @property
    def gathers(self) -> bool:
        """Return whether `tensors` are copies in the host's memory, which training does not change."""

    def tensors(self) -> Tensors:
        """Return all tensors that a checkpoint needs beside `where`."""


@dataclass
class TrainingCheckpointer:
    """Writes the checkpoints of all trainings of one attempt, and holds an earlier attempt's."""

    folder: Path  #: a checkpoint in it belongs to the supervisor once its event is emitted, until that removes it
    fingerprint: str
    seconds: float | None = None
    pause_asked: Callable[[], bool] = never
    resume: Path | None = None
    found: TrainingCheckpoint | None = None
    stage: Stage = BASELINE  #: the current stage
    part: str = ""  #: the current dataset, if there are several
    _last: float = field(default_factory=time.monotonic)
    _held: float = 0.0  #: seconds for which the last save held training
    _handed_over: Path | None = None
    _writing: Future[TrainingSaved] | None = None

    def look(self) -> str | None:
        """Load an earlier attempt's checkpoint from `resume`; return a reason if it cannot be used."""
        if self.resume is None or not (self.resume / FOLDER).is_dir():
            return None
        try:
            self.found = read_training(self.resume / FOLDER, self.fingerprint)
        except UnusableCheckpoint as problem:
            return str(problem)
        return None

    def is_at(self, phase: str) -> bool:
        """Return whether the earlier attempt was in this training; everything before it is then done."""
        found = self.found
        return found is not None and (found.stage, found.phase, found.part) == (self.stage, phase, self.part)

    def beside(self) -> Tensors:
        """Read the additional tensors that an earlier attempt saved beside its training."""
        if self.found is None or self.resume is None:
            return {}
        with safe_open(self.resume / FOLDER / TENSORS, "pt") as file:
            return {key.removeprefix(BESIDE): file.get_tensor(key) for key in file.keys() if key.startswith(BESIDE)}  # noqa: SIM118

    def begin(self) -> None:
        """Restart the time until the next save."""
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Return whether the interval has passed, and the previous checkpoint is written and collected by the supervisor.

        The interval is the one that was asked for, or longer if saves would else hold training for more than MOST_OF_TIME. 0
        means a save after each step, which waits until the one before is written.
        """
        if self.seconds is None:
            return False
        if self.seconds:
            interval = max(self.seconds, self._held * (1 / MOST_OF_TIME - 1))
            if self.is_writing() or time.monotonic() - self._last < interval:
                return False
        return not self.is_outstanding()

    def is_writing(self) -> bool:
        """Return whether a thread still writes a checkpoint."""
        return self._writing is not None and not self._writing.done()

    def is_outstanding(self) -> bool:
        """Return whether the supervisor has not yet collected the previous checkpoint."""
        return self._handed_over is not None and self._handed_over.exists()

    def wait(self) -> bool:
        """Wait up to PATIENCE until the supervisor has collected the checkpoint; return whether it did."""
        end = time.monotonic() + PATIENCE
        while self.is_outstanding() and time.monotonic() < end:
            time.sleep(LOOK_AGAIN)
        return not self.is_outstanding()

    def save(
        self, facts: TrainingCheckpoint, training: Resumable, beside: Tensors, *, at_once: bool
    ) -> Iterator[TrainingSaved]:
        """Write a complete checkpoint of a training and of tensors beside it, and yield the event that hands it over.

        Unless `at_once`, a thread writes what was copied from a device or gathered from several processes, while training goes
        on; `written` yields the event then. Weights that train in the host's memory are written before training changes them: a
        copy would take as much memory again.
        """
        began = time.monotonic()  # before processes gather what they hold
        tensors = training.tensors() | beside
        taken = [int(path.name.split("-")[1]) for path in self.folder.glob("training-*") if path.name[9:].isdigit()]
        before = int(self._handed_over.name.split("-")[1]) if self._handed_over else 0
        place = self.folder / f"training-{max([before, *taken]) + 1}"
        is_copied = training.gathers or any(tensor.device.type != "cpu" for tensor in tensors.values())
        host = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        if at_once or not is_copied:
            saved = _write(place, facts, host)
            self._held = time.monotonic() - began
            yield self._hand_over(saved)
            return
        thread = ThreadPoolExecutor(1, "training-save")
        self._writing = thread.submit(_write, place, facts.model_copy(deep=True), host)  # training changes its state meanwhile
        thread.shutdown(wait=False)
        self._last = time.monotonic()
        self._held = self._last - began

    def written(self, *, wait: bool) -> Iterator[TrainingSaved]:
        """Yield the event of a checkpoint that a thread has written. wait: until it has. Raises OSError if the disk is full."""
        if self._writing is not None and (wait or self._writing.done()):
            done, self._writing = self._writing, None
            yield self._hand_over(done.result())

    def _hand_over(self, saved: TrainingSaved) -> TrainingSaved:
        self._handed_over = self.folder / saved.folder
        self._last = time.monotonic()
        return saved


def _write(place: Path, facts: TrainingCheckpoint, tensors: Tensors) -> TrainingSaved:
    """Write a checkpoint's folder: whole, or not at all if the process is killed. Return the event that hands it over."""
    with durable_files.folder(place) as folder:
        save_file(tensors, folder / TENSORS)
        (folder / TENSORS).chmod(0o644)
        written = list_files(folder)
        # Not with pydantic: its JSON cannot represent a NaN loss.
        text = seal(json.dumps(facts.model_copy(update={"files": written}).model_dump()))
        (folder / STATE).write_text(text, encoding="utf-8")
        files = (file_in(folder, folder / STATE), *written)
    step, total = facts.where.step, facts.total
    return TrainingSaved(
        stage=facts.stage, phase=facts.phase, step=step, total=total, folder=place.name, files=files, part=facts.part
    )


def read_training(place: Path, expected: str) -> TrainingCheckpoint:
    """Read and verify a checkpoint. Raises UnusableCheckpoint if it is damaged or of other work."""
    try:
        facts = TrainingCheckpoint.model_validate(json.loads(unseal(place / STATE)))
        verify_files(place, facts.files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ValidationError) as problem:
        raise UnusableCheckpoint(f"saved training cannot be read: {problem}") from problem
    if facts.fingerprint != expected or {file.path for file in facts.files} != {TENSORS}:
        raise UnusableCheckpoint("saved training is of other work: recipe, data, model or version differ")
    return facts


@dataclass
class ResumableTraining:
    """Resumes one training from an earlier attempt, saves it at intervals, and stops it for a pause."""

    checkpointer: TrainingCheckpointer
    phase: str
    notes: list[str]  #: of the report row; a checkpoint stores and restores them
    beside: Tensors = field(default_factory=dict)  #: tensors to save that nothing else stores yet
    save_end: bool = False  #: whether the end of a short training is saved, too
    clock: Clock | None = None  #: which saves store and restore
    _started: float = field(default_factory=time.monotonic)

    def take_up(self, shapes: Shapes) -> Generator[Log, None, tuple[TrainerState, Tensors] | None]:
        """Return the earlier attempt's state of this training, or None. shapes: of all trained parameters."""
        self.checkpointer.begin()
        found, folder = self.checkpointer.found, self.checkpointer.resume
        if found is None or folder is None or not self.checkpointer.is_at(self.phase):
            return None
        self.checkpointer.found = None
        if found.shapes != shapes:
            message = f"The saved training of {self.checkpointer.stage} is not used: the shapes differ."
            yield Log(level="warning", message=message)
            return None
        with safe_open(folder / FOLDER / TENSORS, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        self.notes[:] = found.notes
        if self.clock is not None:
            self.clock.carry(found.seconds)
        place = f"from step {found.where.step} of {found.total}"
        yield Log(message="Training had ended; its result is taken up." if found.where.ended else f"Training goes on {place}.")
        return found.where, tensors

    def after_step(self, training: Resumable, *, ended: bool = False) -> Iterator[TrainingSaved]:
        """Save if a checkpoint is due. Raises Pause if one was requested.

        Copied tensors are written while training goes on; none are due until they are. A pause and the end wait for that.
        Before Pause, it saves at once and waits up to PATIENCE until the supervisor has collected the checkpoint. If it has not
        collected the previous one, nothing is saved. A training's end is saved if it took longer than the save interval, or
        with `save_end`: a later failure must not lose it.
        """
        pausing = self.checkpointer.pause_asked()
        seconds = self.checkpointer.seconds
        took_long = seconds is not None and (self.save_end or time.monotonic() - self._started >= seconds)
        wanted = pausing or (took_long if ended else self.checkpointer.is_due())
        yield from self.checkpointer.written(wait=wanted or ended)
        if not wanted:
            return
        at_once = pausing or ended
        if self.checkpointer.wait() if at_once else not self.checkpointer.is_outstanding():
            yield from self._save(training, at_once=at_once)
            if pausing:
                self.checkpointer.wait()
        if pausing:
            raise Pause

    def _save(self, training: Resumable, *, at_once: bool) -> Iterator[TrainingSaved]:
        saver, where = self.checkpointer, training.where
        more = {f"{BESIDE}{key}": value for key, value in self.beside.items()}
        facts = TrainingCheckpoint(
            fingerprint=saver.fingerprint,
            stage=saver.stage,
            phase=self.phase,
            total=where.total,
            where=where,
            shapes=training.shapes,
            notes=tuple(self.notes),
            files=(),
            part=saver.part,
            seconds=self.clock.seconds if self.clock is not None else 0.0,
        )
        yield from saver.save(facts, training, more, at_once=at_once)


def random_state() -> Tensors:
    """Return the state of torch's CPU generator, and of the CUDA generator if there is one."""
    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(tensors: Tensors) -> None:
    """Restore saved generator states; a CUDA state is ignored if there is no device."""
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
