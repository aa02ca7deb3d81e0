"""Runs one job on disk: ships the uploaded checkpoint, quantized, and pruned and quantized.

Rows and artifacts have the same form as in any job. Each written number is compared with its source. An artifact is smaller
than its source: it is scored if it fits the memory that is left; otherwise the row reports it as not measured.
"""

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel

from compression.engine import checkpoints
from compression.engine.checkpoints import Fingerprints, StageCheckpoint
from compression.engine.on_disk.layerwise import TOGETHER, LayerwiseRunner
from compression.engine.on_disk.onnx_writer import Graphs
from compression.engine.on_disk.shipping_on_disk import OnDiskShipping, first_rows, storage_notes
from compression.engine.reporting.dataset_facts import DatasetSummary, job_report
from compression.engine.reporting.stage_rows import SCORED, stage_row, write_scored_rows
from compression.engine.shipping import MeasuredArtifact, RunSettings, ShippedArtifact
from compression.engine.stages.prune import plan_shape, taken
from compression.engine.stages.registry import planned as stages_of
from compression.export.exporter import exporter_of
from compression.export.provenance import Origin
from compression.export.transformers import sharded, sharded_check
from compression.modalities.base import Examples
from compression.modalities.modality import Dataset
from compression.modalities.registry import modality_of
from compression.modalities.sampling import shuffled_rows
from compression.models import loading, sanitized_folder
from compression.models.adapters.registry import DECODER_ADAPTERS, decoder_of
from compression.models.architectures import heads
from compression.models.files import gguf_model, safetensors_header
from compression.models.files.uploaded import uploaded
from compression.models.skeleton import generation_of, skeleton
from compression.planning.distillation_rules import check_models
from compression.planning.on_disk import may_be_whole, untrained, whole_bytes
from compression.planning.preflight import check_task, evaluation_settings
from compression.planning.verdicts import judged
from compression.pruning.scores import CALIBRATION_BATCH
from compression.quantization.fake_quantize import Simulation
from compression.schema.artifact_formats import TRANSFORMERS, ArtifactPrecision
from compression.schema.events import ArtifactReady, Event, Finished, Log, StageFinished, StageStarted
from compression.schema.job_spec import Spec
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.draws import SplitDraws
from compression.schema.report.measurements import Row, Shape, Uploaded
from compression.schema.report.report import Artifact, Report
from compression.schema.stages import BASELINE, PRUNED, QUANTIZED, Stage
from compression.system import durable_files
from compression.system.interrupts import Pause, never
from compression.system.progress import Phase, ProgressTracker, Result, Returning, Step

SCORE, CUT, QUANTIZE, VERIFY, MEASURE = "score", "cut", "quantize", "verify", "export and measure"
PLAIN, GRAPH = "measure in 16 bits", "write ONNX"
"""Names of phases, like those above."""
PHASES = [
    *(Phase(BASELINE, name, weight) for name, weight in ((MEASURE, 2.0), (GRAPH, 4.0))),
    *(Phase(QUANTIZED, name, weight) for name, weight in ((QUANTIZE, 4.0), (VERIFY, 2.0), (MEASURE, 1.0), (GRAPH, 4.0))),
    *(
        Phase(PRUNED, name, weight)
        for name, weight in zip((SCORE, CUT, PLAIN, QUANTIZE, VERIFY, MEASURE, GRAPH), (20, 2, 1, 3, 2, 1, 3), strict=True)
    ),
]
FILES = (safetensors_header.INDEX, "config.json", "generation_config.json")
UNPACKED = Path("scratch", "unpacked", "model")
"""Folder in the job's output of a model that stock transformers opens, if it cannot open the uploaded one."""
SAMPLE = 8
"""Number of test rows whose first tokens are the inputs of the parity check."""
HALF = 2
"""Bytes of a 16-bit number."""
Made = tuple[list[MeasuredArtifact], PreTrainedModel, tuple[str, ...]]
"""A stage's artifacts (the row's artifact first), their model without weights, and the row's notes."""


def fits_on_disk_only(spec: Spec, base: Path) -> bool:
    """Return whether a job runs on disk. Reads config.json, or the header of a GGUF file.

    The model must have the task's head: a missing head has to be initialised at random, which needs the model in memory. The
    preflight forecasts such a job in memory too.

    Raises the errors of `loading.read_config`, `skeleton` and `gguf_model.read_model`.
    """
    if spec.parts or not untrained(spec.recipe):
        return False
    folder, head = base / spec.model, heads.of_task(spec.asked[0].task)
    if gguf_model.is_one(folder):
        if head != heads.LANGUAGE:
            return False  # a GGUF file holds a language model
        parameters = gguf_model.parameters(gguf_model.read_model(folder)[1]).total
    else:
        folder = sanitized_folder.sanitized_folder(folder, base / spec.output / UNPACKED)
        config = loading.read_config(folder)
        if config["model_type"] not in DECODER_ADAPTERS or not loading.has_head(config, head):
            return False
        parameters = sum(parameter.numel() for parameter in skeleton(folder).parameters())
    # Batches are split after an attempt ran out of memory: the estimate for the model was too low then.
    if spec.split_batches > 1 or not may_be_whole(parameters):
        return True
    return spec.memory_bytes is not None and whole_bytes(parameters) > spec.memory_bytes


@dataclass
class OnDiskJob:
    """One job that runs on disk.

    model: the stock model without weights; folder: its checkpoint's folder; rows, artifacts: those so far.
    """

    spec: Spec
    base: Path
    folder: Path
    model: PreTrainedModel
    dataset: Dataset
    sent: Uploaded
    shipping: OnDiskShipping
    fingerprints: Fingerprints
    rows: list[Row] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    pruning: dict[str, Any] | None = None
    draws: dict[Stage, SplitDraws] = field(default_factory=dict)
    tracker: ProgressTracker = field(default_factory=lambda: ProgressTracker([]))
    graphs: Graphs = field(init=False)

    def __post_init__(self) -> None:
        """Create the writer of the job's ONNX files."""
        parameters = decoder_of(self.model).parameters_of(self.model).total
        self.graphs = Graphs(self.shipping, self.folder, parameters, self.spec.split_batches)

    @classmethod
    def open(cls, spec: Spec, base: Path) -> "OnDiskJob":
        """Read configuration, tokenizer and data, and refuse an impossible job.

        Raises the readers' errors, and InvalidSpec.
        """
        task, output = spec.asked[0].task, base / spec.output
        check_models(spec.recipe, student=spec.student is not None, teachers=len(spec.teachers))
        sent = uploaded(base / spec.model)
        folder = sanitized_folder.sanitized_folder(base / spec.model, output / UNPACKED)
        modality = modality_of(task)
        dataset = modality.read(spec.asked[0].data, base, task, spec.recipe.train.seed)
        evaluate = evaluation_settings(spec.evaluate, 0, 1, task, dataset.labels)
        check_task(task, spec.recipe, evaluate)
        model = skeleton(folder)
        if model.can_generate():
            generation_of(model, folder)  # read before anything is written
        if dataset.labels:
            dataset = dataset.in_order(loading.own_labels(model.config, dataset.labels, task))
        positions = decoder_of(model).max_positions(model.config)
        evaluate = modality.evaluation(evaluate, task, spec.recipe.train.max_length, positions)
        reading = modality.preprocessor(folder, model.config, spec.recipe.train.max_length)
        scored = modality.scored(dataset, reading, evaluate, task, spec.recipe.train.seed)
        rows = {split: output / "scratch" / f"{split}.jsonl" for split in SCORED}
        write_scored_rows(rows, dataset, scored)
        run = RunSettings(
            task=task,
            labels=dataset.labels,
            evaluate=evaluate,
            output=output,
            rows=rows,
            sample=first_rows(rows["test"], SAMPLE),
            origin=Origin.of(spec, base),
            last_try=True,
            emulate_seconds=spec.emulate_seconds,
        )
        length = min(spec.recipe.train.max_length, positions)
        shipping = OnDiskShipping(run, spec.memory_bytes, folder, length, reading.padding)
        # A job in memory never resumes from these checkpoints, nor the other way round: their contents differ.
        work = {stage: f"{found}-files" for stage, found in checkpoints.fingerprints(spec, base).items()}
        stages = stages_of(spec.recipe)
        tracker = ProgressTracker([phase for phase in PHASES if phase.stage in stages])
        job = cls(spec, base, folder, model, dataset, sent, shipping, work, tracker=tracker)
        if spec.recipe.prune is not None:
            job.aim(spec.recipe.prune)  # before anything is written, refuses a shape that the config cannot express
        return job

    def look_for_checkpoint(self) -> Iterator[Event]:
        """Resume from the stages that an earlier attempt finished."""
        if self.spec.resume is None:
            return
        stages = stages_of(self.spec.recipe)
        done, problems = checkpoints.latest(self.base / self.spec.resume, stages, self.fingerprints)
        for problem in problems:
            yield Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])
        if done is not None:
            self.rows, self.artifacts, self.pruning = list(done.rows), list(done.artifacts), done.pruning
            self.draws = dict(done.draws)
            self.graphs.take_up(self.rows[0].artifact)
            for row in self.rows:
                self.tracker.skip(row.stage)
                yield StageStarted(stage=row.stage, resumed=True)

    def do(self, stage: Stage) -> Iterator[Event]:
        """Write a stage's artifacts, measure what fits in memory, and end the stage with its row."""
        started, self.tracker.stage = time.monotonic(), stage
        made = {BASELINE: self.as_sent, QUANTIZED: self.quantized, PRUNED: self.pruned}[stage]()
        with self.shipping.folders:
            measured, model, notes = yield from made
            self.rows.append(self.row(stage, measured[0].shipped, model, notes, time.monotonic() - started))
            shipped = [one.complete(self.rows) for one in measured]
        for one in shipped:
            self.artifacts.append(one.artifact)
            yield ArtifactReady(artifact=one.artifact)
        facts = StageCheckpoint(
            fingerprint=self.fingerprints[stage],
            stage=stage,
            task=self.spec.task,
            labels=self.dataset.labels,
            simulation=None,
            rows=tuple(self.rows),
            artifacts=tuple(self.artifacts),
            pruning=self.pruning,
            draws=self.draws,
            files=(),
        )
        place = self.shipping.run.output / "checkpoints"
        (place / stage).mkdir(parents=True, exist_ok=True)
        yield StageFinished(row=self.rows[-1], checkpoint=checkpoints.write_whole(place, facts))

    def as_sent(self) -> Generator[Event, None, Made]:
        """Ship the uploaded checkpoint unchanged, as the baseline."""
        yield from self.tracker.emit_boundary(MEASURE, done=False)
        precision = cast(ArtifactPrecision, uploaded(self.folder).dtype)
        request = self.shipping.request(BASELINE, TRANSFORMERS.name, precision)
        place = self.shipping.begin(request)
        for path in (*self.folder.glob("*.safetensors"), *(self.folder / file for file in FILES)):
            if path.is_file():
                shutil.copyfile(path, place / path.name)
        measuring = self.shipping.measure(self.model, place, request)
        shipped = yield from self.tracker.relay(MEASURE, measuring)
        yield from self.tracker.emit_boundary(MEASURE, done=True)
        made, more = yield from self.with_graph(BASELINE, [shipped], self.folder, self.model, None)
        note = "The model takes more memory than an engine may: it went from file to file."
        if made[0] is shipped:
            note += " The baseline is the checkpoint as it was sent."
        return (
            made,
            self.model,
            (
                note,
                *more,
                *sanitized_folder.notes(self.spec, self.base),
                *modality_of(self.spec.asked[0].task).preprocessor_notes(self.folder),
            ),
        )

    def quantized(self) -> Generator[Event, None, Made]:
        """Ship the quantized checkpoint."""
        shipped, notes = yield from self.integers(QUANTIZED, self.folder)
        asked = self.spec.recipe.quantize
        made, more = yield from self.with_graph(QUANTIZED, [shipped], self.folder, self.model, asked)
        notes = (*notes, *more)
        if asked is not None and asked.smoothing is not None:
            notes = (*notes, "Nothing was smoothed: factors are not searched for where a model goes from file to file.")
        return made, self.model, notes

    def pruned(self) -> Generator[Event, None, Made]:
        """Score layer by layer, prune, and ship the pruned model quantized and in 16 bits."""
        settings, seed = cast(Prune, self.spec.recipe.prune), self.spec.recipe.train.seed
        scratch = self.shipping.run.output / "scratch"
        to = self.aim(settings)
        layers = LayerwiseRunner(self.folder)
        rows = shuffled_rows(self.train_rows(), settings.calibration_rows, seed)
        batches = list(rows.by_length(max(1, min(CALIBRATION_BATCH, TOGETHER // self.spec.recipe.train.max_length))))
        norm: Literal["l1", "l2"] = "l2" if settings.importance == "l2" else "l1"
        scores = yield from self.follow(SCORE, layers.scores(batches, scratch / "states", norm))
        dtype = layers.dtype if layers.dtype.itemsize == HALF else torch.bfloat16
        precision, whole = cast(ArtifactPrecision, str(dtype).removeprefix("torch.")), scratch / "cut"
        request = self.shipping.request(PRUNED, TRANSFORMERS.name, precision)
        plan = scores.choose(layers.family, to)
        place = self.shipping.begin(request)
        cuts = [layers.cut(plan, place / "cut", dtype=dtype)]
        # Quantization starts from the weights at their uploaded precision, not from their 16-bit rounding.
        cuts += [layers.cut(plan, whole)] if dtype != layers.dtype else []
        yield from self.follow(CUT, _in_turn(cuts))
        _lift(place / "cut")
        model = skeleton(place)
        measuring = self.shipping.measure(model, place, request)
        plain = yield from self.tracker.relay(PLAIN, measuring)
        source = place if len(cuts) == 1 else whole
        shipped, notes = yield from self.integers(PRUNED, source)
        made, more = yield from self.with_graph(PRUNED, [shipped, plain], source, model, self.spec.recipe.quantize)
        shutil.rmtree(whole, ignore_errors=True)
        chosen = f"Units were chosen on {len(rows)} rows of train, in the checkpoint's own type; nothing was trained."
        return made, model, (*notes, chosen, *more)

    def with_graph(
        self, stage: Stage, made: list[MeasuredArtifact], source: Path, model: PreTrainedModel, asked: Quantize | None
    ) -> Generator[Event, None, tuple[list[MeasuredArtifact], tuple[str, ...]]]:
        """Add a stage's ONNX file to its artifacts, as `Graphs.beside` does."""
        yield from self.tracker.emit_boundary(GRAPH, done=False)
        found = yield from self.tracker.relay(GRAPH, self.graphs.beside(stage, made, source, model, asked))
        yield from self.tracker.emit_boundary(GRAPH, done=True)
        return found

    def aim(self, settings: Prune) -> Shape:
        """Return the shape after pruning, and store the report's facts about it. Raises UnsupportedShape."""
        shape = decoder_of(self.model).shape_of(self.model.config)
        found, to = plan_shape(self.model, settings)
        self.pruning = taken(shape, to, settings, found)
        return to

    def train_rows(self) -> Examples:
        """Encode the train split for the model."""
        task, modality = self.spec.asked[0].task, modality_of(self.spec.asked[0].task)
        reading = modality.preprocessor(self.folder, self.model.config, self.spec.recipe.train.max_length)
        asked = modality.task(task, self.shipping.run.evaluate, self.dataset.labels)
        return modality.encode(self.dataset, reading, asked, ("train",))["train"]

    def integers(self, stage: Stage, source: Path) -> Generator[Event, None, tuple[MeasuredArtifact, tuple[str, ...]]]:
        """Quantize the checkpoint in `source`, compare the result with it, and ship it."""
        asked = cast(Quantize, self.spec.recipe.quantize)
        scheme, size = asked.scheme, asked.group_size
        precision = exporter_of(TRANSFORMERS.name).precision_of(scheme, self.model)
        request, simulation = self.shipping.request(stage, TRANSFORMERS.name, precision), Simulation.of(asked)
        place = self.shipping.begin(request)
        made, block, portable = place / "made", self.shipping.block(), simulation.portable
        steps = sharded.quantizing(source, made, scheme=scheme, group_size=size, portable=portable, block=block)
        written = yield from self.follow(QUANTIZE, steps)
        checks = sharded_check.verifying(source, made, scheme=scheme, group_size=size, portable=portable, block=block)
        yield from self.follow(VERIFY, checks)
        _lift(made)
        yield from self.tracker.emit_boundary(MEASURE, done=False)
        model = skeleton(place)
        stored = f"int8, {written.unquantized:,} parameters {written.dtype}" if written.unquantized else "int8"
        measuring = self.shipping.measure(model, place, request, simulation, stored=stored)
        shipped = yield from self.tracker.relay(MEASURE, measuring)
        yield from self.tracker.emit_boundary(MEASURE, done=True)
        return shipped, tuple(storage_notes(written, model))

    def follow(self, phase: str, steps: Generator[tuple[int, int], None, Result]) -> Generator[Event, None, Result]:
        """Emit each (done, total) as progress; return the generator's result."""
        for done, total in (each := Returning(steps)):
            yield from self.tracker.emit(phase, Step(step=done, total=total))
        return each.result

    def _unasked(self) -> tuple[str, ...]:
        asked = self.spec.evaluate.lm_eval is not None
        return ("lm-eval's tasks were not asked: the model is never in memory as a whole.",) if asked else ()

    def row(
        self, stage: Stage, shipped: ShippedArtifact, model: PreTrainedModel, notes: tuple[str, ...], seconds: float
    ) -> Row:
        """Build a stage's row."""
        self.draws[stage] = shipped.draws
        said = (*notes, *self._unasked())
        row = stage_row(stage, shipped, model, self.rows, self.draws, sent=self.sent, seconds=seconds, notes=said)
        task = self.spec.asked[0].task
        return judged(row, self.rows, self.spec.recipe, self.spec.targets, task=task, streamed=True, draws=self.draws)

    def report(self) -> Report:
        """Write report.json and return it."""
        about = DatasetSummary(
            task=self.spec.asked[0].task,
            labels=self.dataset.labels,
            splits=self.dataset.facts(),
            rows={},
            cut=None,
            pruning=self.pruning,
        )
        output = self.shipping.run.output
        report = job_report(self.spec, self.rows, self.artifacts, {"": about}, self.sent)
        durable_files.write_text(output / "report.json", report.model_dump_json(indent=2))
        shutil.rmtree(output / "scratch", ignore_errors=True)
        return report


def _in_turn(steps: Sequence[Generator[tuple[int, int], None, None]]) -> Generator[tuple[int, int], None, None]:
    """Run generators of the same length one after the other; yield (done, total over all)."""
    for number, one in enumerate(steps):
        for done, total in one:
            yield number * total + done, len(steps) * total


def _lift(folder: Path) -> None:
    """Move a folder's files to its parent and remove the folder."""
    for path in folder.iterdir():
        path.rename(folder.parent / path.name)
    folder.rmdir()


def run(spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> Iterator[Event]:
    """Run one job on disk; yield the events after `started`.

    Raises CompressionError, and Pause, after which the current stage restarts from its beginning.
    """
    job = OnDiskJob.open(spec, base)
    yield from job.look_for_checkpoint()
    for stage in stages_of(spec.recipe)[len(job.rows) :]:
        yield StageStarted(stage=stage)
        for event in job.do(stage):
            yield event
            if pause_asked():
                raise Pause
    yield Finished(report=job.report())
