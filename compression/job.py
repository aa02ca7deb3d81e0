"""One job: its specification, the dataset's part that the stages work on, and what all of it has brought so far."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from compression import checkpoint, durable
from compression.checkpoint import Checkpoint, Unusable
from compression.environment import environment
from compression.notes import job_notes
from compression.part import Part
from compression.recipe import Spec
from compression.report import (
    Artifact,
    ArtifactReady,
    Event,
    Log,
    Report,
    Row,
    Stage,
    StageFinished,
    StageStarted,
    verdicts,
)
from compression.saving import Saver, never
from compression.stages.distill import distill
from compression.stages.prepare import prepare
from compression.stages.prune import prune
from compression.stages.quantize import quantize
from compression.state import State
from compression.verdicts import choose

WORK: dict[Stage, Callable[[State], Iterator[Event]]] = {
    "baseline": prepare,
    "quantized": quantize,
    "pruned": prune,
    "distilled": distill,
}


@dataclass
class Job:
    """What the parts of a job have in common: where it lies, its rows, its artifacts, its report."""

    spec: Spec
    base: Path
    output: Path
    part: Part
    fingerprint: str
    rows: list[Row] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)

    @classmethod
    def open(cls, spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> "Job":
        """Read model and data, and refuse before any training what cannot be done."""
        part = Part.open(spec, base)
        output, work = base / spec.output, checkpoint.fingerprint(spec, base)
        earlier = base / spec.resume if spec.resume is not None else None
        part.save_with(Saver(output / "checkpoints", work, spec.save_seconds, pause_asked, earlier))
        return cls(spec, base, output, part, work)

    @property
    def finished(self) -> set[Stage]:
        """Stages that have their row."""
        return {row.stage for row in self.rows}

    def look_for_checkpoint(self, stages: tuple[Stage, ...]) -> tuple[Checkpoint | None, list[str]]:
        """Find where an earlier attempt got to: its last stage, and the training that it was in."""
        if self.spec.resume is None:
            return None, []
        done, problems = checkpoint.latest(self.base / self.spec.resume, stages, self.fingerprint)
        saver = self.part.state.saver
        problem = saver.look() if saver else None
        return done, problems + ([problem] if problem else [])

    def go_on_from(self, done: Checkpoint) -> Iterator[Event]:
        """Take up an earlier attempt: its rows, its model and its teacher. Nothing is trained."""
        try:
            self.part.take_up(self.base / (self.spec.resume or ""), done)
        except Unusable as problem:
            yield Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])
            return
        self.rows, self.artifacts = list(done.rows), list(done.artifacts)
        for row in self.rows:
            self.part.state.journey.skip(row.stage)
            yield StageStarted(stage=row.stage, resumed=True)
        yield from self.part.restore_baseline()
        self.part.follow_cut()

    def do(self, stage: Stage) -> Iterator[Event]:
        """Do a stage's work, ship the model as it is then, complete the row and keep a checkpoint."""
        started = time.monotonic()
        part = self.part
        yield from WORK[stage](part.state)
        yield from part.state.journey.mark(stage, "export and measure", done=False)
        shipped = part.ship(part.state.model, stage, "onnx")
        self.artifacts.append(shipped.artifact)
        yield ArtifactReady(artifact=shipped.artifact)
        row = part.finish(stage, shipped, time.monotonic() - started)
        self.rows.append(row)
        facts = part.checkpoint(stage, self.artifacts)
        tokenizer = part.tokenizer_of(stage) if part.state.vocabulary is not None else None
        files = checkpoint.write(self.output / "checkpoints", part.state.model, facts, tokenizer)
        yield from part.state.journey.mark(stage, "export and measure", done=True)
        yield StageFinished(row=row, checkpoint=files)

    def ship_checkpoint(self) -> Iterator[Event]:
        """Ship the headline's model a second time, as a checkpoint of its own library."""
        last = self.rows[-1].stage
        yield from self.part.state.journey.mark(last, "export the checkpoint", done=False)
        chosen, _ = choose(self.rows, self.spec.targets)
        stage, model = yield from self.part.model_after(chosen.stage)
        shipped = self.part.ship(model, stage, "transformers")
        self.artifacts.append(shipped.artifact)
        yield ArtifactReady(artifact=shipped.artifact)
        yield from self.part.state.journey.mark(last, "export the checkpoint", done=True)

    def report(self) -> Report:
        """Write report.json and return it."""
        chosen, choice = choose(self.rows, self.spec.targets)
        part = self.part
        report = Report(
            task=self.spec.task,
            labels=part.dataset.labels,
            rows=tuple(self.rows),
            headline=chosen.artifact,
            choice=choice,
            ratios=chosen.ratios,
            targets=self.spec.targets,
            verdicts=verdicts(chosen.ratios, self.spec.targets),
            artifacts=tuple(self.artifacts),
            recipe=self.spec.recipe,
            splits={str(name): facts for name, facts in part.dataset.facts().items()},
            pruning=part.state.pruning,
            sensitivity=part.state.sensitivity,
            environment=environment(),
            notes=job_notes(self.rows[0], chosen, part.dataset, part.cut, part.max_length),
        )
        durable.write_text(self.output / "report.json", report.model_dump_json(indent=2))
        shutil.rmtree(self.output / "scratch", ignore_errors=True)
        return report
