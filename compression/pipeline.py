"""compress(): the baseline and the three stages in their fixed order, a measured row after each.

prepare → ship → quantize → ship → prune → ship → distill → ship. Shipping means: write the artifact, reopen it in its own
runtime, hold it against the engine's model, and measure it. A stage that the recipe leaves out has no row.
"""

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from compression import checkpoint, data, durable, families, load, numerics, process, tasks
from compression.augment.material import Material
from compression.augment.resources import Resources
from compression.budget import Budget
from compression.cast import Named, gathered
from compression.catalog import FAMILIES, augment_seconds, check_task, planned_shape
from compression.checkpoint import Checkpoint, Unusable
from compression.encoding import Reading
from compression.environment import environment
from compression.errors import InvalidSpec
from compression.export.artifact import Shipped, ship
from compression.notes import job_notes, row_notes
from compression.plan import check_precision
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
from compression.stages import general
from compression.stages.distill import distill
from compression.stages.further import PHASE, epochs_again
from compression.stages.prepare import phase_of, prepare
from compression.stages.prune import prune
from compression.stages.quantize import quantize
from compression.stages.teachers import ASK
from compression.state import State
from compression.verdicts import choose, judged

WORK: dict[Stage, Callable[[State], Iterator[Event]]] = {
    "baseline": prepare,
    "quantized": quantize,
    "pruned": prune,
    "distilled": distill,
}
SAMPLE = 64
"""Rows of validation on which an artifact must answer as the engine does."""


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
    yield from job.ship_checkpoint()
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
        dataset = data.load(spec.data, base, seed=recipe.train.seed, task=spec.task)
        check_task(spec.task, recipe, spec.evaluate, dataset.labels)
        model = load.load_model(folder, dataset.labels, spec.task, seed=recipe.train.seed)
        if dataset.labels:
            dataset = dataset.in_order(load.head_labels(model.config))
        tokenizer = load.load_tokenizer(folder)
        family = families.of(model)
        positions = family.max_positions(model.config)
        if spec.evaluate.length > positions:
            raise InvalidSpec(f"the model takes at most {positions} tokens", param="evaluate.length")
        planned = family.shape_of(model.config)
        if recipe.prune is not None:
            planned = planned_shape(FAMILIES[model.config.model_type], planned, recipe.prune)
        length = min(recipe.train.max_length, positions)
        task = tasks.of(spec.task, dataset.labels, spec.evaluate)
        reading, own = Reading(tokenizer, length, family.types(model.config) > 1), family.shape_of(model.config)
        rows = {name: reading.split(dataset, name, task) for name in dataset.splits}
        members = gathered(
            Named("models.base", folder, reading, own, positions),
            base / spec.student if spec.student is not None else None,
            [base / teacher for teacher in spec.teachers],
            dataset,
            task,
            recipe,
            planned,
        )
        if members.student is not None and spec.evaluate.length > members.student.positions:
            raise InvalidSpec(f"the student takes at most {members.student.positions} tokens", param="evaluate.length")
        resources = Resources.of(spec, base)
        if recipe.distill is not None and recipe.distill.augment is not None:
            resources.check(recipe.distill.augment)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        check_precision(recipe.train.precision, device)
        output = base / spec.output
        output.mkdir(parents=True, exist_ok=True)
        work = checkpoint.fingerprint(spec, base)
        earlier = base / spec.resume if spec.resume is not None else None
        state = State(
            recipe,
            rows,
            model.to(device),
            journey(recipe, {name: len(r) for name, r in rows.items()} | {"unlabelled": len(dataset.unlabelled)}),
            parts=spec.split_batches,
            saver=Saver(output / "checkpoints", work, spec.save_seconds, pause_asked, earlier),
            budget=Budget(recipe.train.max_steps, recipe.train.max_minutes),
            targets=spec.targets,
            material=Material(
                dataset.splits["train"].columns,
                lambda texts, labels: reading.rows(texts, labels, task),
                tokenizer,
                resources,
            ),
            unlabelled=reading.unlabelled(dataset.unlabelled, task) if dataset.unlabelled else None,
            cast=members,
            scratch=output / "scratch",
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
        """Write the test split for the process that measures."""
        self.test_rows.parent.mkdir(exist_ok=True)
        durable.write_text(self.test_rows, "".join(json.dumps(row) + "\n" for row in self.dataset.judged("test")))

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
            originals = [] if done.stage == "distilled" else checkpoint.open_teachers(folder, first)
        except Unusable as problem:
            yield Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])
            return
        device = self.state.device
        self.state.model = model.to(device)
        self.state.teacher = teacher.to(device).requires_grad_(False)
        self.state.originals = [original.requires_grad_(False) for original in originals]
        self.state.pruning, self.state.budget.spent = done.pruning, done.spent
        self.rows, self.artifacts = list(done.rows), list(done.artifacts)
        for row in self.rows:
            self.state.journey.skip(row.stage)
            yield StageStarted(stage=row.stage, resumed=True)
        baseline = self.artifact_folder(self.rows[0].artifact)
        if not (baseline / "model.onnx").is_file():
            yield Log(message="The baseline's artifact is written again: latency is held against it.")
            self.ship(teacher, "baseline", "onnx", against=None)

    def reader(self, stage: Stage) -> Named:
        """Say how the model of a stage reads texts: as the base does, or as the student that took its place."""
        cast = self.state.cast
        assert cast is not None, "a job has a cast"  # noqa: S101
        return cast.student if stage == "distilled" and cast.student is not None else cast.base

    def artifact_folder(self, name: str) -> Path:
        """Where an artifact's files lie."""
        return self.output / "artifacts" / name

    def ship(self, model: torch.nn.Module, stage: Stage, kind: str, against: Path | None) -> Shipped:
        """Export, reopen, verify and measure a model as one artifact."""
        precision = "int8" if simulated(model) else "float32"
        device = next(model.parameters()).device
        model.cpu()  # what is shipped is for the CPU, and is held against the CPU's answers
        process.release_memory()
        reader = self.reader(stage)
        shipped = ship(
            model,
            name=f"{stage}-{kind}-{precision}",
            kind="onnx" if kind == "onnx" else "transformers",
            stage=stage,
            precision="int8" if precision == "int8" else "float32",
            task=self.spec.task,
            labels=self.dataset.labels,
            tokenizer=reader.folder,
            max_length=reader.reading.length,
            output=self.output,
            test_rows=self.test_rows,
            baseline=against,
            evaluate=self.spec.evaluate,
            sample=self.dataset.judged("validation")[:SAMPLE],
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
        state.applied.clear()
        beside = state.originals if stage == "baseline" else ()
        files = checkpoint.write(self.output / "checkpoints", state.model, self.checkpoint(stage), beside)
        yield from state.journey.mark(stage, "export and measure", done=True)
        yield StageFinished(row=row, checkpoint=files)

    def ship_checkpoint(self) -> Iterator[Event]:
        """Ship the headline's model a second time, as a checkpoint of its own library."""
        last = self.rows[-1].stage
        yield from self.state.journey.mark(last, "export the checkpoint", done=False)
        against = self.artifact_folder(self.rows[0].artifact)
        chosen, _ = choose(self.rows, self.spec.targets)
        stage, model = yield from self.model_after(chosen.stage)
        shipped = self.ship(model, stage, "transformers", against)
        self.artifacts.append(shipped.artifact)
        yield ArtifactReady(artifact=shipped.artifact)
        yield from self.state.journey.mark(last, "export the checkpoint", done=True)

    def model_after(self, stage: Stage) -> Generator[Event, None, tuple[Stage, PreTrainedModel]]:
        """Return the model as it was after a stage: the one at hand, or that of the stage's checkpoint.

        A checkpoint that was damaged since must not cost the job: then it is the last stage's model, and the log says so.
        """
        last = self.rows[-1].stage
        if stage == last:
            return last, self.state.model
        yield Log(message=f"The headline is not the last stage: the model is taken from the checkpoint of {stage}.")
        folder = self.output / "checkpoints"
        if self.spec.resume is not None and not (folder / stage).is_dir():
            folder = self.base / self.spec.resume
        try:
            return stage, checkpoint.open_model(folder, checkpoint.read(folder, stage, self.fingerprint))
        except Unusable as problem:
            yield Log(level="warning", message=f"The model of {last} is taken after all: {problem}."[:4000])
            return last, self.state.model

    def row(self, stage: Stage, shipped: Shipped, seconds: float) -> Row:
        """Put a stage's figures together."""
        parameters = families.of(self.state.model).parameters_of(self.state.model)
        before = self.rows[0] if self.rows else None
        after = (parameters, shipped.size, shipped.score)
        found = ratios((before.parameters, before.size, before.score) if before else after, after, shipped.latency)
        row = Row(
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
        state, spec = self.state, self.spec
        return judged(row, self.rows, spec.recipe, spec.targets, limit=state.budget.reached(), applied=state.applied)

    def checkpoint(self, stage: Stage) -> Checkpoint:
        """Say what must be known to go on after `stage`."""
        return Checkpoint(
            fingerprint=self.fingerprint,
            stage=stage,
            task=self.spec.task,
            labels=self.dataset.labels,
            simulated=simulated(self.state.model),
            rows=tuple(self.rows),
            artifacts=tuple(self.artifacts),
            pruning=self.state.pruning,
            spent=self.state.budget.spent,
            files=(),
        )

    def report(self) -> Report:
        """Write report.json and return it."""
        chosen, choice = choose(self.rows, self.spec.targets)
        texts = self.state.rows["train"]
        report = Report(
            task=self.spec.task,
            labels=self.dataset.labels,
            rows=tuple(self.rows),
            headline=chosen.artifact,
            choice=choice,
            ratios=chosen.ratios,
            targets=self.spec.targets,
            verdicts=verdicts(chosen.ratios, self.spec.targets),
            artifacts=tuple(self.artifacts),
            recipe=self.spec.recipe,
            splits={str(name): facts for name, facts in self.dataset.facts().items()},
            pruning=self.state.pruning,
            environment=environment(),
            notes=job_notes(
                self.rows[0], chosen, self.dataset, sum(len(row) >= self.max_length for row in texts.tokens), self.max_length
            ),
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
    seeds = recipe.distill.teachers.seeds if recipe.distill is not None else 1
    phases = [Phase("baseline", phase_of(number), recipe.prepare.epochs * train) for number in range(max(seeds, 1))]
    phases.append(Phase("baseline", "export and measure", shipping))
    if recipe.quantize is not None:
        qat = recipe.quantize.qat.epochs if recipe.quantize.qat else 0
        phases.append(Phase("quantized", "quantization-aware training", qat * train))
        phases.append(Phase("quantized", "export and measure", shipping))
    if recipe.prune is not None:
        recovery = recipe.prune.recovery.epochs if recipe.prune.recovery else 0
        phases += [Phase("pruned", "cut", 2.0), Phase("pruned", "recover", recovery * train * 0.7)]
        phases.append(Phase("pruned", "export and measure", shipping))
    if recipe.distill is not None:
        if (plain := recipe.distill.general) is not None:
            texts = (rows.get("unlabelled") or rows["train"]) * row
            phases += [
                Phase("distilled", general.ASK, texts / 3),
                Phase("distilled", general.PHASE, plain.epochs * texts * 0.5),
            ]
        if (augment := recipe.distill.augment) is not None:
            phases.append(Phase("distilled", "augment", augment_seconds(augment, rows["train"])))
            train *= 1 + augment.copies
        phases.append(Phase("distilled", ASK, max(seeds, 1) * train / 3))
        phases.append(Phase("distilled", "distill", recipe.distill.epochs * train * 0.5))
        if recipe.remedy == "apply":
            phases.append(Phase("distilled", PHASE, epochs_again(recipe.distill) * train * 0.5))
        phases.append(Phase("distilled", "export and measure", shipping))
    return Journey([*phases, Phase(planned(recipe)[-1], "export the checkpoint", shipping / 2)])
