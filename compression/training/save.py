"""Training in progress on disk: saved at a step, taken up by a new attempt as if it had never stopped.

A save is a folder of one safetensors file and state.json, whole and durable like a stage's checkpoint, and trusted like one:
only for the same work, and only with every digest right. One that cannot be used costs time and nothing else.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator
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
from compression.system.sealed_folder import STATE, UnusableCheckpoint, list_files, seal, unseal, verify_files
from compression.training.budget import Spent

TENSORS = "training.safetensors"
FOLDER = "training"
"""Where a supervisor lays an earlier attempt's save, beside its stages' checkpoints."""
BESIDE = "beside."
"""Names of tensors that are saved with a training and are not its own begin so."""
PATIENCE = 20.0
"""Seconds that a pause, or the end of a training, waits for the listener to have taken the save before."""
LOOK_AGAIN = 0.05


@dataclass
class TrainerState:
    """The numbers of a training in progress: with its tensors, all that is needed to go on. Epoch 0 is the model before.

    `total` is how many steps it will have; `spent` what the whole job has trained up to here, this training included;
    `ranges` those of the model's static layers, which it keeps throughout; `gain_epoch` the last epoch that gained, in score or
    loss, where the rate falls without a gain; `least_loss` the lowest on validation so far.
    """

    before: Validation
    best: Validation
    decay: float
    total: int
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
    spent: Spent = field(default_factory=Spent)
    ranges: dict[str, Range] = field(default_factory=dict)
    curve: list[Validation] = field(default_factory=list)
    gain_epoch: int = 0
    least_loss: float | None = None


class TrainingCheckpoint(Config):
    """state.json: what was trained, where it was, and what the row's notes said so far."""

    fingerprint: str
    stage: Stage
    phase: str
    total: int
    where: TrainerState
    shapes: Shapes
    notes: tuple[str, ...]
    files: tuple[File, ...]
    part: str = ""


class Resumable(Protocol):
    """What can be saved."""

    where: TrainerState

    @property
    def shapes(self) -> Shapes:
        """Return the shapes of all that is trained."""

    def tensors(self) -> Tensors:
        """Return all that must be kept beside the numbers."""


@dataclass
class TrainingCheckpointer:
    """What all trainings of one attempt share: where saves go, how often, and the earlier attempt's, if there is one.

    A save's folder belongs to its listener as soon as its event is out, until the listener removes it. `stage` is the current
    one, `part` the current dataset, of several.
    """

    folder: Path
    fingerprint: str
    seconds: float | None = None
    pause_asked: Callable[[], bool] = never
    resume: Path | None = None
    found: TrainingCheckpoint | None = None
    stage: Stage = BASELINE
    part: str = ""
    _last: float = field(default_factory=time.monotonic)
    _handed_over: Path | None = None

    def look(self) -> str | None:
        """Find an earlier attempt's save under `resume`; say why there is none where one lies there."""
        if self.resume is None or not (self.resume / FOLDER).is_dir():
            return None
        try:
            self.found = read_training(self.resume / FOLDER, self.fingerprint)
        except UnusableCheckpoint as problem:
            return str(problem)
        return None

    def is_at(self, phase: str) -> bool:
        """Return whether the earlier attempt was in this training of the current stage: what came before it is done."""
        found = self.found
        return found is not None and (found.stage, found.phase, found.part) == (self.stage, phase, self.part)

    def beside(self) -> Tensors:
        """Read what an earlier attempt saved beside its training."""
        if self.found is None or self.resume is None:
            return {}
        with safe_open(self.resume / FOLDER / TENSORS, "pt") as file:
            return {key.removeprefix(BESIDE): file.get_tensor(key) for key in file.keys() if key.startswith(BESIDE)}  # noqa: SIM118

    def begin(self) -> None:
        """Count the time until the next save from now."""
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Say whether enough time has passed, and the listener has taken the save before."""
        return self.seconds is not None and time.monotonic() - self._last >= self.seconds and not self.is_outstanding()

    def is_outstanding(self) -> bool:
        """Say whether the listener has still to take the save before."""
        return self._handed_over is not None and self._handed_over.exists()

    def wait(self) -> bool:
        """Give the listener time to take what was saved; say whether it did."""
        end = time.monotonic() + PATIENCE
        while self.is_outstanding() and time.monotonic() < end:
            time.sleep(LOOK_AGAIN)
        return not self.is_outstanding()

    def save(self, facts: TrainingCheckpoint, tensors: Tensors) -> TrainingSaved:
        """Write a save whole; return the event that hands it over."""
        taken = [int(path.name.split("-")[1]) for path in self.folder.glob("training-*") if path.name[9:].isdigit()]
        before = int(self._handed_over.name.split("-")[1]) if self._handed_over else 0
        name = f"training-{max([before, *taken]) + 1}"
        with durable_files.folder(self.folder / name) as place:
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, place / TENSORS)
            (place / TENSORS).chmod(0o644)
            complete = facts.model_copy(update={"files": list_files(place)})
            # Not by pydantic, whose JSON has no word for a loss that is not a number.
            (place / STATE).write_text(seal(json.dumps(complete.model_dump())), encoding="utf-8")
        self._handed_over = self.folder / name
        self._last = time.monotonic()
        return TrainingSaved(
            stage=facts.stage,
            phase=facts.phase,
            step=facts.where.step,
            total=facts.total,
            folder=name,
            files=list_files(self._handed_over),
            part=facts.part,
        )


def read_training(place: Path, expected: str) -> TrainingCheckpoint:
    """Read and verify a save. Raises Unusable where it is damaged or of other work."""
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
    """One training's way: taken up where an earlier attempt left it, saved on the way, stopped when a pause is asked for.

    `notes` are the row's, which a save keeps and puts back; `beside` tensors that are saved with it, because nothing else keeps
    them yet: `Saver.beside` gives them to a new attempt.
    """

    checkpointer: TrainingCheckpointer
    phase: str
    notes: list[str]
    beside: Tensors = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def take_up(self, shapes: Shapes) -> Generator[Log, None, tuple[TrainerState, Tensors] | None]:
        """Return the earlier attempt's place in this training, if there is one. shapes: those of all that is trained."""
        self.checkpointer.begin()
        found, folder = self.checkpointer.found, self.checkpointer.resume
        if found is None or folder is None or not self.checkpointer.is_at(self.phase):
            return None
        self.checkpointer.found = None
        if found.shapes != shapes:
            yield Log(
                level="warning", message=f"The saved training of {self.checkpointer.stage} is not used: the shapes differ."
            )
            return None
        with safe_open(folder / FOLDER / TENSORS, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        self.notes[:] = found.notes
        place = f"from step {found.where.step} of {found.total}"
        yield Log(message="Training had ended; its result is taken up." if found.where.ended else f"Training goes on {place}.")
        return found.where, tensors

    def after_step(self, training: Resumable, *, ended: bool = False) -> Iterator[TrainingSaved]:
        """Save where it is time to. Raises Pause where one is asked for, after a save that the listener took if it would.

        At the end of a training that took long its result is saved: what comes next may fail, and must not cost it.
        """
        pausing = self.checkpointer.pause_asked()
        if not pausing and not (self._took_long() if ended else self.checkpointer.is_due()):
            return
        if self.checkpointer.wait():
            yield self._save(training)
            if pausing:
                self.checkpointer.wait()
        if pausing:
            raise Pause

    def _took_long(self) -> bool:
        return self.checkpointer.seconds is not None and time.monotonic() - self._started >= self.checkpointer.seconds

    def _save(self, training: Resumable) -> TrainingSaved:
        facts = TrainingCheckpoint(
            fingerprint=self.checkpointer.fingerprint,
            stage=self.checkpointer.stage,
            phase=self.phase,
            total=training.where.total,
            where=training.where,
            shapes=training.shapes,
            notes=tuple(self.notes),
            files=(),
            part=self.checkpointer.part,
        )
        return self.checkpointer.save(
            facts, training.tensors() | {f"{BESIDE}{key}": value for key, value in self.beside.items()}
        )


def random_state() -> Tensors:
    """Return what the next random numbers hang on: torch's generator of the CPU, and the device's where there is one."""
    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(tensors: Tensors) -> None:
    """Put saved generators back; one of a device that is not here has no meaning."""
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
