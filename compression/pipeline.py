"""compress(): the baseline and the three stages in their fixed order, a measured row after each.

prepare → ship → quantize → ship → prune → ship → distill → ship. Shipping means: write the artifact, reopen it in its own
runtime, hold it against the engine's model, and measure it. A stage that the recipe leaves out has no row.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from compression import checkpoint, data, durable, families, load, numerics, process, tasks
from compression.batches import encode
from compression.catalog import FAMILIES, planned_shape
from compression.checkpoint import Checkpoint, Unusable
from compression.environment import environment
from compression.errors import InvalidSpec
from compression.export.artifact import Shipped, ship
from compression.notes import job_notes, row_notes
from compression.progress import Journey, Phase
from compression.recipe import Recipe, Spec
from compression.report import (
    Artifact,
    ArtifactReady,
    Event,
    Finished,
    Log,
    Report,
    Row,
    Stage,
    StageFinished,
    StageStarted,
    Started,
    ratios,
    verdicts,
)
from compression.saving import Pause, Saver, never
from compression.stages.distill import distill
from compression.stages.prepare import prepare
from compression.stages.prune import prune
from compression.stages.quantize import quantize
from compression.state import State
from compression.tasks import classification

WORK: dict[Stage, Callable[[State], Iterator[Event]]] = {
    "baseline": prepare,
    "quantized": quantize,
    "pruned": prune,
    "distilled": distill,
}
SAMPLE = 64
"""Texts of validation on which an artifact must answer as the engine does."""


def compress(spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> Iterator[Event]:
    """Do one job; yield what happens. Relative paths of the specification are taken from `base`.

    Raises CompressionError where the job cannot be done as asked, and Pause after a step or a stage at which `pause_asked`.
    """
    torch.set_num_threads(spec.threads or process.usable_cores())
    stages = planned(spec.recipe)
    yield Started(environment=environment(), stages=stages)
    job = Job.open(spec, base, pause_asked)
    done, problems = job.look_for_checkpoint(stages)
    for problem in problems:
        yield Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])
    if done is not None:
        yield from job.go_on_from(done)
    for stage in stages:
        if stage in job.finished:
            continue
        yield StageStarted(stage=stage)
        started = time.monotonic()
        yield from WORK[stage](job.state)
        yield from job.ship_row(stage, started)
        if pause_asked():
            raise Pause
    yield from job.ship_checkpoint(stages[-1])
    yield Finished(report=job.report())


def planned(recipe: Recipe) -> tuple[Stage, ...]:
    """List the rows that a recipe leads to."""
    wanted: dict[Stage, bool] = {
        "baseline": True,
        "quantized": recipe.quantize is not None,
        "pruned": recipe.prune is not None,
        "distilled": recipe.distill is not None,
    }
    return tuple(stage for stage, is_wanted in wanted.items() if is_wanted)


@dataclass
class Job:
    """One job's inputs, its state between stages, and what it has brought so far."""

    spec: Spec
    base: Path
    output: Path
    dataset: data.Dataset
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    state: State
    fingerprint: str
    rows: list[Row]
    artifacts: list[Artifact]

    @classmethod
    def open(cls, spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> "Job":
        """Read model and data, and refuse before any training what cannot be done."""
        folder, recipe = base / spec.model, spec.recipe
        dataset = data.load(spec.data, base, seed=recipe.train.seed)
        model = load.load_model(folder, dataset.labels, seed=recipe.train.seed)
        dataset = dataset.in_order(classification.head_labels(model.config))
        tokenizer = load.load_tokenizer(folder)
        family = families.of(model)
        positions = family.max_positions(model.config)
        if spec.evaluate.length > positions:
            raise InvalidSpec(f"the model takes at most {positions} tokens", param="evaluate.length")
        if recipe.prune is not None:
            planned_shape(FAMILIES[model.config.model_type], family.shape_of(model.config), recipe.prune)
        length = min(recipe.train.max_length, positions)
        task, types = tasks.of(spec.task), family.types(model.config) > 1
        rows = {
            name: encode(tokenizer, split.texts, dataset.ids(name), length, task, types=types)
            for name, split in dataset.splits.items()
        }
        device = "cuda" if torch.cuda.is_available() else "cpu"
        output = base / spec.output
        output.mkdir(parents=True, exist_ok=True)
        work = checkpoint.fingerprint(spec, base)
        earlier = base / spec.resume if spec.resume is not None else None
        state = State(
            recipe,
            rows,
            model.to(device),
            journey(recipe, {name: len(r) for name, r in rows.items()}),
            parts=spec.split_batches,
            saver=Saver(output / "checkpoints", work, spec.save_seconds, pause_asked, earlier),
        )
        job = cls(spec, base, output, dataset, tokenizer, length, state, work, rows=[], artifacts=[])
        job.write_test_rows()
        return job

    @property
    def finished(self) -> set[Stage]:
        """Stages that have their row."""
        return {row.stage for row in self.rows}

    @property
    def test_rows(self) -> Path:
        """Where the measuring process finds the test split."""
        return self.output / "scratch" / "test.jsonl"

    def write_test_rows(self) -> None:
        """Write the test split as label ids, for the process that measures."""
        self.test_rows.parent.mkdir(exist_ok=True)
        rows = zip(self.dataset.splits["test"].texts, self.dataset.ids("test"), strict=True)
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        durable.write_text(self.test_rows, "".join(lines))

    def look_for_checkpoint(self, stages: tuple[Stage, ...]) -> tuple[Checkpoint | None, list[str]]:
        """Find where an earlier attempt got to: its last stage, and the training that it was in."""
        if self.spec.resume is None:
            return None, []
        done, problems = checkpoint.latest(self.base / self.spec.resume, stages, self.fingerprint)
        problem = self.state.saver.look() if self.state.saver else None
        return done, problems + ([problem] if problem else [])

    def go_on_from(self, done: Checkpoint) -> Iterator[Event]:
        """Take up an earlier attempt: its rows, its model and its teacher. Nothing is trained."""
        folder = self.base / (self.spec.resume or "")
        try:
            model = checkpoint.open_model(folder, done)
            first = checkpoint.read(folder, "baseline", self.fingerprint)
            teacher = checkpoint.open_model(folder, first)
        except Unusable as problem:
            yield Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])
            return
        device = self.state.device
        self.state.model = model.to(device)
        self.state.teacher = teacher.to(device).requires_grad_(False)
        self.state.pruning = done.pruning
        self.rows, self.artifacts = list(done.rows), list(done.artifacts)
        for row in self.rows:
            self.state.journey.skip(row.stage)
            yield StageStarted(stage=row.stage, resumed=True)
        baseline = self.artifact_folder(self.rows[0].artifact)
        if not (baseline / "model.onnx").is_file():
            yield Log(message="The baseline's artifact is written again: latency is held against it.")
            self.ship(teacher, "baseline", "onnx", against=None)

    def artifact_folder(self, name: str) -> Path:
        """Where an artifact's files lie."""
        return self.output / "artifacts" / name

    def ship(self, model: torch.nn.Module, stage: Stage, kind: str, against: Path | None) -> Shipped:
        """Export, reopen, verify and measure a model as one artifact."""
        precision = "int8" if simulated(model) else "float32"
        device = next(model.parameters()).device
        model.cpu()  # what is shipped is for the CPU, and is held against the CPU's answers
        process.release_memory()
        shipped = ship(
            model,
            name=f"{stage}-{kind}-{precision}",
            kind="onnx" if kind == "onnx" else "transformers",
            stage=stage,
            precision="int8" if precision == "int8" else "float32",
            labels=self.dataset.labels,
            tokenizer=self.base / self.spec.model,
            max_length=self.max_length,
            output=self.output,
            test_rows=self.test_rows,
            baseline=against,
            evaluate=self.spec.evaluate,
            sample=list(self.dataset.splits["validation"].texts[:SAMPLE]),
            last_try=self.spec.split_batches > 1,
        )
        model.to(device)
        return shipped

    def ship_row(self, stage: Stage, started: float) -> Iterator[Event]:
        """Ship the model as it is now, complete its row and keep a checkpoint."""
        state = self.state
        yield from state.journey.mark(stage, "export and measure", done=False)
        against = self.artifact_folder(self.rows[0].artifact) if self.rows else None
        shipped = self.ship(state.model, stage, "onnx", against)
        self.artifacts.append(shipped.artifact)
        yield ArtifactReady(artifact=shipped.artifact)
        row = self.row(stage, shipped, time.monotonic() - started)
        self.rows.append(row)
        state.notes.clear()
        files = checkpoint.write(self.output / "checkpoints", state.model, self.checkpoint(stage))
        yield from state.journey.mark(stage, "export and measure", done=True)
        yield StageFinished(row=row, checkpoint=files)

    def ship_checkpoint(self, stage: Stage) -> Iterator[Event]:
        """Ship the final model a second time, as a checkpoint of its own library."""
        yield from self.state.journey.mark(stage, "export the checkpoint", done=False)
        against = self.artifact_folder(self.rows[0].artifact)
        shipped = self.ship(self.state.model, stage, "transformers", against)
        self.artifacts.append(shipped.artifact)
        yield ArtifactReady(artifact=shipped.artifact)
        yield from self.state.journey.mark(stage, "export the checkpoint", done=True)

    def row(self, stage: Stage, shipped: Shipped, seconds: float) -> Row:
        """Put a stage's figures together."""
        parameters = families.of(self.state.model).parameters_of(self.state.model)
        before = self.rows[0] if self.rows else None
        after = (parameters, shipped.size, shipped.score)
        found = ratios((before.parameters, before.size, before.score) if before else after, after, shipped.latency)
        return Row(
            stage=stage,
            artifact=shipped.artifact.name,
            shape=families.of(self.state.model).shape_of(self.state.model.config),
            parameters=parameters,
            size=shipped.size,
            latency=shipped.latency,
            score=shipped.score,
            flops=shipped.flops,
            peak_memory_bytes=shipped.peak_memory_bytes,
            ratios=found,
            seconds=seconds,
            notes=(*self.state.notes, *row_notes(found, shipped.score, self.rows[-1] if self.rows else None)),
        )

    def checkpoint(self, stage: Stage) -> Checkpoint:
        """Say what must be known to go on after `stage`."""
        return Checkpoint(
            fingerprint=self.fingerprint,
            stage=stage,
            labels=self.dataset.labels,
            simulated=simulated(self.state.model),
            rows=tuple(self.rows),
            artifacts=tuple(self.artifacts),
            pruning=self.state.pruning,
            files=(),
        )

    def report(self) -> Report:
        """Write report.json and return it."""
        last = self.rows[-1]
        texts = self.state.rows["train"]
        report = Report(
            task=self.spec.task,
            labels=self.dataset.labels,
            rows=tuple(self.rows),
            headline=last.artifact,
            ratios=last.ratios,
            targets=self.spec.targets,
            verdicts=verdicts(last.ratios, self.spec.targets),
            artifacts=tuple(self.artifacts),
            recipe=self.spec.recipe,
            splits={str(name): facts for name, facts in self.dataset.facts().items()},
            pruning=self.state.pruning,
            environment=environment(),
            notes=job_notes(self.rows, self.dataset, sum(len(row) >= self.max_length for row in texts.tokens), self.max_length),
        )
        durable.write_text(self.output / "report.json", report.model_dump_json(indent=2))
        shutil.rmtree(self.output / "scratch", ignore_errors=True)
        return report


def simulated(model: torch.nn.Module) -> bool:
    """Say whether a model computes with fake-quantized integers."""
    return any(isinstance(module, numerics.FakeQuantLinear) for module in model.modules())


def journey(recipe: Recipe, rows: dict[str, int]) -> Journey:
    """List the phases of a job with their expected times: only how they compare to each other matters."""
    row, shipping = 0.006, 20 + 0.012 * rows["test"]
    train = rows["train"] * row
    phases = [Phase("baseline", "tune", recipe.prepare.epochs * train), Phase("baseline", "export and measure", shipping)]
    if recipe.quantize is not None:
        qat = recipe.quantize.qat.epochs if recipe.quantize.qat else 0
        phases.append(Phase("quantized", "quantization-aware training", qat * train))
        phases.append(Phase("quantized", "export and measure", shipping))
    if recipe.prune is not None:
        recovery = recipe.prune.recovery.epochs if recipe.prune.recovery else 0
        phases += [Phase("pruned", "cut", 2.0), Phase("pruned", "recover", recovery * train * 0.7)]
        phases.append(Phase("pruned", "export and measure", shipping))
    if recipe.distill is not None:
        phases.append(Phase("distilled", "ask the teacher", train / 3))
        phases.append(Phase("distilled", "distill", recipe.distill.epochs * train * 0.5))
        phases.append(Phase("distilled", "export and measure", shipping))
    return Journey([*phases, Phase(planned(recipe)[-1], "export the checkpoint", shipping / 2)])
