"""Runs one job on disk: ships the uploaded checkpoint, quantized, and pruned and quantized. Rows and artifacts have the usual
form.

Each written number is compared with its source. An artifact is scored if it fits the memory that is left, else not measured.
"""

import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from transformers import PreTrainedModel

from compression.engine import checkpoints
from compression.engine.backend import Finish
from compression.engine.checkpoints import Fingerprints, StageCheckpoint
from compression.engine.job_data import UNPACKED, JobData, read_dataset
from compression.engine.on_disk.layerwise import TOGETHER, LayerwiseRunner
from compression.engine.on_disk.onnx_writer import Graphs
from compression.engine.on_disk.shipping_on_disk import OnDiskShipping, first_rows, storage_notes
from compression.engine.paired_test import original_of
from compression.engine.reporting.dataset_facts import DatasetSummary
from compression.engine.scoring_limits import scoring_limits
from compression.engine.shipping import MeasuredArtifact
from compression.engine.stage_clock import StageClock
from compression.engine.stage_result import StageResult
from compression.engine.stages.cut_facts import taken
from compression.engine.stages.prune import model_sizes, plan_shape
from compression.engine.stages.registry import planned
from compression.export.exporter import exporter_of
from compression.export.transformers import sharded
from compression.modalities.sampling import shuffled_rows
from compression.models import loading, sanitized_folder
from compression.models.adapters.registry import DECODER_ADAPTERS, decoder_of
from compression.models.architectures import heads
from compression.models.files import gguf_model, safetensors_header
from compression.models.files.uploaded import uploaded
from compression.models.skeleton import generation_of, skeleton
from compression.planning.distillation_rules import check_models
from compression.planning.on_disk import may_be_whole, untrained, whole_bytes
from compression.pruning.scores import CALIBRATION_BATCH
from compression.quantization.fake_quantize import Simulation
from compression.schema.artifact_formats import ONNX, TRANSFORMERS, ArtifactPrecision
from compression.schema.events import Event, Log
from compression.schema.job_spec import DatasetSpec, Spec
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.draws import SplitDraws
from compression.schema.report.measurements import Row, Shape
from compression.schema.report.report import Artifact, File
from compression.schema.stages import BASELINE, PRUNED, QUANTIZED, Stage
from compression.system.interrupts import Pause, never
from compression.system.progress import Phase, ProgressTracker, Result, Returning, Step
from compression.training.budget import Budget
from compression.training.save import TrainingCheckpointer
from compression.training.work import Processes

SCORE, CUT, QUANTIZE, VERIFY, MEASURE = "score", "cut", "quantize", "verify", "export and measure"
PLAIN, GRAPH = "measure in 16 bits", "write ONNX"  #: names of phases, like those above
PHASES = [
    *(Phase(BASELINE, name, weight) for name, weight in ((MEASURE, 2.0), (GRAPH, 4.0))),
    *(Phase(QUANTIZED, name, weight) for name, weight in ((QUANTIZE, 4.0), (VERIFY, 2.0), (MEASURE, 1.0), (GRAPH, 4.0))),
    *(
        Phase(PRUNED, name, weight)
        for name, weight in zip((SCORE, CUT, PLAIN, QUANTIZE, VERIFY, MEASURE, GRAPH), (20, 2, 1, 3, 2, 1, 3), strict=True)
    ),
]
FILES = (safetensors_header.INDEX, "config.json", "generation_config.json")
SAMPLE = 8  #: number of test rows whose first tokens are the inputs of the parity check
HALF = 2  #: bytes of a 16-bit number
Made = tuple[list[MeasuredArtifact], PreTrainedModel, tuple[str, ...]]
"""A stage's artifacts (the row's artifact first), their model without weights, and the row's notes."""


def fits_on_disk_only(spec: Spec, base: Path) -> bool:
    """Return whether a job runs on disk. Reads config.json, or the header of a GGUF file. The model must have the task's head,
    for a missing one is initialised at random, with the model in memory, and no device table may have decided some of the
    recipe, for the model is opened for that. The preflight forecasts such jobs in memory too. Raises the errors of
    `loading.read_config`, `skeleton` and `gguf_model.read_model`.
    """
    if spec.parts or spec.resolved is not None or not untrained(spec.recipe):
        return False
    folder, head = base / spec.model, heads.of_task(spec.asked[0].task)
    if gguf_model.is_one(folder):
        if head != heads.LANGUAGE:
            return False  # a GGUF file holds a language model
        parameters = gguf_model.parameters(gguf_model.read_model(folder)[1]).total
    else:
        folder = sanitized_folder.sanitized_folder(folder, base / spec.output / UNPACKED / "model")
        config = loading.read_config(folder)
        if config["model_type"] not in DECODER_ADAPTERS or not loading.has_head(config, head):
            return False
        parameters = sum(parameter.numel() for parameter in skeleton(folder).parameters())
    # Batches are split after an attempt ran out of memory: the estimate for the model was too low then.
    if spec.split_batches > 1 or not may_be_whole(parameters):
        return True
    return spec.memory_bytes is not None and whole_bytes(parameters) > spec.memory_bytes


@dataclass
class OnDiskRun:
    """A job that runs on disk. Its model is never in memory as a whole. folder: of the checkpoint as it was sent, in a form
    that stock transformers opens; dtype: of its weights; model: the stock model without weights.
    """

    folder: Path
    dtype: ArtifactPrecision
    model: PreTrainedModel
    data: JobData
    shipping: OnDiskShipping
    graphs: Graphs
    result: StageResult = field(default_factory=StageResult)
    rows: list[Row] = field(default_factory=list)
    draws: dict[Stage, SplitDraws] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    clock: StageClock = field(default_factory=StageClock)
    tracker: ProgressTracker = field(default_factory=lambda: ProgressTracker([]))
    pause_asked: Callable[[], bool] = never
    simulation: ClassVar[Simulation | None] = None  # checkpoints have no model
    suffix: ClassVar[str] = "-files"
    on_disk: ClassVar[bool] = True

    @classmethod
    def open(cls, spec: Spec, base: Path, asked: DatasetSpec) -> "OnDiskRun":
        """Read configuration, preprocessor and data, and refuse an impossible job. Raises the readers' errors, InvalidSpec, and
        UnsupportedShape for a shape that the config cannot express.
        """
        check_models(spec.recipe, student=spec.student is not None, teachers=len(spec.teachers))
        folder = sanitized_folder.sanitized_folder(base / spec.model, base / spec.output / UNPACKED / "model")
        dtype, read, model = cast(ArtifactPrecision, uploaded(folder).dtype), read_dataset(spec, base, asked), skeleton(folder)
        if model.can_generate():
            generation_of(model, folder)  # read before anything is written
        labels = loading.own_labels(model.config, read[0].labels, asked.task) if read[0].labels else ()
        data, family = JobData.of(spec, base, asked, read, folder, model.config, labels), decoder_of(model)
        length = min(spec.recipe.train.max_length, family.max_positions(model.config))
        settings = data.settings(first_rows(data.files["test"], SAMPLE), last_try=True)
        rows: list[Row] = []  # shared: a later artifact is scored on the rows that the first was scored on
        limits = partial(scoring_limits, spec, rows, 0.0)  # nothing is trained
        draws: dict[Stage, SplitDraws] = {}  # shared too
        original = partial(original_of, rows, draws)
        shipping = OnDiskShipping(settings, spec.memory_bytes, folder, length, data.reading.padding, limits, original)
        graphs = Graphs(shipping, folder, family.parameters_of(model).total, spec.split_batches)
        job = cls(folder, dtype, model, data, shipping, graphs, rows=rows, draws=draws)
        if spec.recipe.prune is not None:
            job.aim(spec.recipe.prune)
        return job

    @staticmethod
    def progress(spec: Spec, rows: Mapping[str, Mapping[str, int]]) -> ProgressTracker:  # noqa: ARG004
        """Return the tracker of a job's phases."""
        stages = planned(spec.recipe)
        return ProgressTracker([phase for phase in PHASES if phase.stage in stages])

    def begin(
        self,
        checkpointer: TrainingCheckpointer,
        tracker: ProgressTracker,
        fingerprints: Fingerprints,  # noqa: ARG002
        processes: Processes,  # noqa: ARG002
    ) -> None:
        """Set the job's tracker, and how a pause is requested. There is no training to save."""
        self.tracker, self.pause_asked = tracker, checkpointer.pause_asked

    def leave_device(self) -> None:
        """Do nothing: no model is on a device between layers."""

    def summary(self) -> DatasetSummary:
        """Return the report's facts about the dataset."""
        dataset, samples = self.data.dataset, tuple(self.data.samples.values())
        return DatasetSummary(dataset.task, dataset.labels, dataset.facts(), rows={}, cut=None, samples=samples)

    def take_up(self, folder: Path, done: StageCheckpoint, beginning: Path) -> None:  # noqa: ARG002
        """Restore the rows of a finished stage. Every stage begins at the checkpoint as it was sent."""
        self.rows[:] = done.rows
        self.draws.clear()
        self.draws.update(done.draws)
        self.result = StageResult(pruning=done.pruning)
        self.graphs.take_up(self.rows[0].artifact)

    def restore(self) -> Iterator[Event]:
        """Restore nothing: the ONNX file that latency is compared with is written again when it is needed."""
        return iter(())

    def run(self, stage: Stage, finish: Finish) -> Generator[Event, None, Sequence[Artifact]]:
        """Write a stage's artifacts and measure what fits in memory. After a Pause the stage restarts from its beginning."""
        self.tracker.stage, self.result = stage, self.result.next()
        make = {BASELINE: self.as_sent, QUANTIZED: self.quantized, PRUNED: self.pruned}[stage]
        with self.shipping.folders:
            for event in (making := Returning(make())):
                yield event
                if self.pause_asked():
                    raise Pause
            measured, model, notes = making.result
            self.result.notes += notes
            if self.data.spec.evaluate.lm_eval is not None:
                self.result.notes.append("lm-eval's tasks were not asked: the model is never in memory as a whole.")
            rows = finish(measured[0].shipped, model)
            kept, unasked = self.asked_for(measured)
            shipped = [one.complete(rows).artifact for one in kept]
        for one in unasked:
            shutil.rmtree(self.shipping.run.output / "artifacts" / one.shipped.artifact.name)
        return shipped

    def asked_for(self, made: Sequence[MeasuredArtifact]) -> tuple[list[MeasuredArtifact], list[MeasuredArtifact]]:
        """Return which of a stage's artifacts are shipped, the row's first, and which only made others: checkpoints beside the
        row's artifact, if the recipe names formats and not theirs.
        """
        asked = self.data.spec.recipe.artifacts
        row, *others = made
        unasked = [one for one in others if asked is not None and one.shipped.artifact.kind not in (ONNX.name, *asked)]
        return [row, *(one for one in others if one not in unasked)], unasked

    def save(self, folder: Path, facts: StageCheckpoint) -> Generator[Event, None, tuple[File, ...]]:
        """Write the facts alone: no later stage needs this one's model."""
        yield from ()
        return checkpoints.write_whole(folder, facts)

    def ship_more(self, chosen: Stage, rows: Sequence[Row], folder_of: Callable[[Stage], Path]) -> Iterator[Event]:  # noqa: ARG002
        """Ship nothing more: each stage has shipped what fits and is asked for. The log names formats that are left out."""
        for kind in self.data.spec.recipe.artifacts or ():
            if kind not in (ONNX.name, TRANSFORMERS.name):
                why = "a model that goes from file to file has ONNX files and checkpoints of transformers alone"
                yield Log(level="warning", message=f"There is no {kind} artifact: {why}.")

    def as_sent(self) -> Generator[Event, None, Made]:
        """Ship the uploaded checkpoint unchanged, as the baseline."""
        yield from self.tracker.emit_boundary(MEASURE, done=False)
        request = self.shipping.request(BASELINE, TRANSFORMERS.name, self.dtype)
        place = self.shipping.begin(request)
        for path in (*self.folder.glob("*.safetensors"), *(self.folder / file for file in FILES)):
            if path.is_file():
                shutil.copyfile(path, place / path.name)
        measuring = self.shipping.measure(self.model, place, request)
        shipped = yield from self.tracker.relay(MEASURE, measuring)
        yield from self.tracker.emit_boundary(MEASURE, done=True)
        graph = self.graphs.beside(BASELINE, [shipped], self.folder, self.model, None)
        made, more = yield from self.relay_phase(GRAPH, graph)
        note = "The model takes more memory than an engine may: it went from file to file."
        if made[0] is shipped:
            note += " The baseline is the checkpoint as it was sent."
        opened = self.data.modality.preprocessor_notes(self.folder)
        return made, self.model, (note, *more, *sanitized_folder.notes(self.data.spec, self.data.base), *opened)

    def quantized(self) -> Generator[Event, None, Made]:
        """Ship the quantized checkpoint."""
        shipped, notes = yield from self.integers(QUANTIZED, self.folder)
        asked = self.data.spec.recipe.quantize
        graph = self.graphs.beside(QUANTIZED, [shipped], self.folder, self.model, asked)
        made, more = yield from self.relay_phase(GRAPH, graph)
        notes = (*notes, *more)
        if asked is not None and asked.smoothing is not None:
            notes = (*notes, "Nothing was smoothed: factors are not searched for where a model goes from file to file.")
        return made, self.model, notes

    def pruned(self) -> Generator[Event, None, Made]:
        """Score layer by layer, prune, and ship the pruned model quantized and in 16 bits."""
        data, recipe = self.data, self.data.spec.recipe
        settings, seed = cast(Prune, recipe.prune), recipe.train.seed
        to = self.aim(settings)
        layers = LayerwiseRunner(self.folder)
        train = data.modality.encode(data.dataset, data.reading, data.task, ("train",))["train"]
        rows = shuffled_rows(train, settings.calibration_rows, seed)
        batches = list(rows.by_length(max(1, min(CALIBRATION_BATCH, TOGETHER // recipe.train.max_length))))
        norm: Literal["l1", "l2"] = "l2" if settings.importance == "l2" else "l1"
        scores = yield from self.follow(SCORE, layers.scores(batches, self.data.scratch / "states", norm))
        dtype = layers.dtype if layers.dtype.itemsize == HALF else torch.bfloat16
        precision, whole = cast(ArtifactPrecision, str(dtype).removeprefix("torch.")), self.data.scratch / "cut"
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
        graph = self.graphs.beside(PRUNED, [shipped, plain], source, model, recipe.quantize)
        made, more = yield from self.relay_phase(GRAPH, graph)
        shutil.rmtree(whole, ignore_errors=True)
        chosen = f"Units were chosen on {len(rows)} rows of train, in the checkpoint's own type; nothing was trained."
        return made, model, (*notes, chosen, *more)

    def relay_phase(self, phase: str, ticks: Generator[Step, None, Result]) -> Generator[Event, None, Result]:
        """Emit a phase's begin, steps and end; return the generator's result."""
        yield from self.tracker.emit_boundary(phase, done=False)
        result = yield from self.tracker.relay(phase, ticks)
        yield from self.tracker.emit_boundary(phase, done=True)
        return result

    def aim(self, settings: Prune) -> Shape:
        """Return the shape after pruning, and store the report's facts about it. Raises UnsupportedShape."""
        shape = decoder_of(self.model).shape_of(self.model.config)
        counts = model_sizes(self.model, self.data.spec.recipe.quantize, self.data.evaluate.length).counts
        found, to = plan_shape(self.model, settings, counts)
        self.result.pruning = taken(shape, to, settings, found)
        return to

    def integers(self, stage: Stage, source: Path) -> Generator[Event, None, tuple[MeasuredArtifact, tuple[str, ...]]]:
        """Quantize the checkpoint in `source`, compare the result with it, and ship it."""
        asked = cast(Quantize, self.data.spec.recipe.quantize)
        scheme, size = asked.scheme, asked.group_size
        precision = exporter_of(TRANSFORMERS.name).precision_of(scheme, self.model)
        request, simulation = self.shipping.request(stage, TRANSFORMERS.name, precision), Simulation.of(asked)
        place = self.shipping.begin(request)
        made, block, portable = place / "made", self.shipping.block(), simulation.portable
        steps = sharded.quantizing(source, made, scheme=scheme, group_size=size, portable=portable, block=block)
        written = yield from self.follow(QUANTIZE, steps)
        checks = sharded.verifying(source, made, scheme=scheme, group_size=size, portable=portable, block=block)
        yield from self.follow(VERIFY, checks)
        _lift(made)
        model = skeleton(place)
        stored = f"int8, {written.unquantized:,} parameters {written.dtype}" if written.unquantized else "int8"
        measuring = self.shipping.measure(model, place, request, simulation, stored=stored)
        shipped = yield from self.relay_phase(MEASURE, measuring)
        return shipped, tuple(storage_notes(written, model))

    def follow(self, phase: str, steps: Generator[tuple[int, int], None, Result]) -> Generator[Event, None, Result]:
        """Emit each (done, total) as progress; return the generator's result."""
        for done, total in (each := Returning(steps)):
            yield from self.tracker.emit(phase, Step(step=done, total=total))
        return each.result


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
