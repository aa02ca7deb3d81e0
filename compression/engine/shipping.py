"""Ships a model: exports it, reopens and verifies the files, and measures the downloadable artifact."""

import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from compression.evaluation.measure import FIGURE_OF, Measured, MeasureSpec, parse_line
from compression.evaluation.runtimes.runner import Kind
from compression.export import instruction_sets
from compression.export.manifest import write_before, write_manifest, write_origin
from compression.export.model_card import ModelCard, opens_with
from compression.export.onnx.exporter import plain_model, write_onnx
from compression.export.onnx.trace import inputs_of
from compression.export.package import INTEGERS, WEIGHTS, Precision, stored_as, write_config
from compression.export.parity_check import asked_of, verify
from compression.export.provenance import Origin
from compression.export.transformers.exporter import write_transformers
from compression.modalities.registry import modality_of, scorer_of
from compression.modalities.scoring.base import Row
from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.models.linear_layers import is_transposed
from compression.planning.estimator import MEASURE_SECONDS
from compression.quantization.fake_quantize import DYNAMIC, simulation_of
from compression.schema.errors import OutOfMemory
from compression.schema.recipe.base import ROUNDS_ACTIVATIONS, Scheme, Task
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.before import Before, Figures
from compression.schema.report.draws import NO_DRAWS, SplitDraws
from compression.schema.report.measurements import Latency, NotMeasured, Row as Figured, Score, Size
from compression.schema.report.report import Artifact
from compression.schema.stages import Stage
from compression.schema.tasks import TASKS
from compression.system import durable_files
from compression.system.child_process import ChildFailed, ChildLate, ChildOutOfMemory, child_lines
from compression.system.progress import Step, run_silently

TIMED_SECONDS = 3.0
"""Timing of a candidate shape and its baseline together: enough to tell neighbouring shapes' medians apart."""


@dataclass(frozen=True)
class ShippedArtifact:
    """An artifact on disk with its measured figures. Its files are listed after the folder is complete."""

    artifact: Artifact
    size: Size
    latency: Latency | NotMeasured
    score: Score | NotMeasured
    flops: int | NotMeasured
    peak_memory_bytes: int | NotMeasured
    validation: Score | NotMeasured | None = None
    draws: SplitDraws = NO_DRAWS

    @property
    def figures(self) -> Figures:
        """Return the figures for model cards and before.json."""
        return Figures(
            size=self.size,
            latency=self.latency,
            score=self.score,
            validation=self.validation,
            peak_memory_bytes=self.peak_memory_bytes,
        )


Rows = Callable[[ShippedArtifact], Sequence[Figured]]


@dataclass(frozen=True)
class Provenance:
    """The origin of an artifact, and the rows that its figures are compared with."""

    origin: Origin
    rows: Rows
    """Called once, after the artifact is measured. Returns the job's rows from the baseline to its own stage; its figures may
    complete the last one."""
    part: str | None = None
    """The artifact's dataset, if there are several."""


def ship(
    model: PreTrainedModel,
    *,
    name: str,
    kind: Kind,
    stage: Stage,
    precision: Precision,
    task: Task,
    labels: tuple[str, ...],
    tokenizer: Path,
    max_length: int,
    output: Path,
    test_rows: Path,
    baseline: Path | None,
    evaluate: Evaluate,
    sample: list[Row],
    validation_rows: Path | None = None,
    seed: int = 0,
    last_try: bool = False,
    provenance: Provenance | None = None,
    emulate_seconds: float | None = None,
) -> Generator[Step, None, ShippedArtifact]:
    """Write output/artifacts/<name>/ atomically, replacing what was there, and return its figures.

    Yields the score's progress steps.

    model: a stock model for `task`, with simulated quantization if `precision` is an integer one. tokenizer: the folder that
    holds tokenizer.json. test_rows, validation_rows: JSONL of rows in the format of `scoring`. baseline: folder of the FP32
    ONNX artifact that latency is compared with. sample: a few rows on which the reopened artifact is verified. seed: that of
    the rows' resamples. last_try: figures for which memory is too small are reported as not measured. provenance: for the
    model card and before.json. emulate_seconds: time for running an int8 ONNX file under another instruction set.

    Raises ExportMismatch if the reopened artifact's outputs differ from the model's, and OutOfMemory.
    """
    int8, half = precision in INTEGERS, precision == "bfloat16"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with durable_files.folder(output / "artifacts" / name) as folder:
        if kind == "onnx":
            write_onnx(model, folder, int8=int8)
        else:
            write_transformers(model, folder, int8=int8, half=half)
        weights = [path for pattern in WEIGHTS for path in folder.glob(pattern)]
        for path in weights:
            path.chmod(0o644)  # safetensors writes files that only the owner can read
        modality_of(task).write_preprocessor(tokenizer, folder, max_length, task, model)
        pad_id = write_config(model, folder, labels, max_length, kind)
        scorer = scorer_of(task, evaluate, labels)
        verify(model, folder, kind=kind, int8=int8, half=half, sample=sample, scorer=scorer, pad_id=pad_id)
        # If nothing is simulated, weights are quantized as dynamic-int8.
        simulation = simulation_of(model) or DYNAMIC
        compared = None
        if kind == "onnx" and int8 and simulation.scheme in ROUNDS_ACTIVATIONS:
            asked = asked_of(scorer, folder, sample, model, pad_id)
            compared = instruction_sets.compare(folder, asked, simulation, emulate_seconds)
        size = Size(
            bytes=sum(path.stat().st_size for path in weights),
            dtype=stored_as(model, kind, precision),
            bytes_at_16_bit=2 * parameters,
        )
        spec = MeasureSpec(
            kind=kind,
            folder=str(folder.resolve()),
            baseline=str(baseline.resolve()) if baseline else None,
            task=task,
            labels=labels,
            test_rows=str(test_rows.resolve()),
            validation_rows=str(validation_rows.resolve()) if validation_rows else None,
            seed=seed,
            evaluate=evaluate,
        )
        found = yield from measure_artifact(spec, last_try=last_try)
        shipped = ShippedArtifact(
            artifact=Artifact(
                name=name,
                kind=kind,
                stage=stage,
                precision=precision,
                files=(),
                score=found.score,
                validation=found.validation,
                opens_with=opens_with(kind, precision, task, beside=len(weights) > 1),
                part=provenance.part if provenance is not None else None,
                compared_on=compared,
            ),
            size=size,
            latency=found.latency,
            score=found.score,
            flops=count_flops(model, evaluate, task),
            peak_memory_bytes=found.peak_memory_bytes,
            validation=found.validation,
            draws=found.draws,
        )
        origin, rows = (provenance.origin, provenance.rows(shipped)) if provenance is not None else (None, ())
        card = ModelCard(
            artifact=shipped.artifact,
            figures=shipped.figures,
            scheme=simulation.scheme if int8 else None,
            portable=simulation.portable,
            task=task,
            labels=labels,
            max_length=max_length,
            inputs=inputs_of(model),
            pairs=any("pair" in row for row in sample),
            positions=adapter_of(model).max_positions(model.config) if TASKS[task].generates else None,
            as_filed=kind == "onnx" or loading.reads_as_filed(folder),
            origin=origin,
            rows=rows,
        )
        return complete_artifact(shipped, folder, card)


def complete_artifact(shipped: ShippedArtifact, folder: Path, card: ModelCard) -> ShippedArtifact:
    """Add card, before.json, recipe, licence and manifest to a measured artifact.

    Returns the artifact with its list of files.
    """
    origin = card.origin
    if origin is not None:
        write_origin(origin, folder)
        kept = tuple(row.model_copy(update={"ranges": ()}) for row in card.rows)
        before = Before(
            job=origin.job,
            artifact=shipped.artifact.name,
            stage=shipped.artifact.stage,
            task=card.task,
            part=shipped.artifact.part,
            figures=shipped.figures,
            baseline=kept[0],
            rows=kept,
            environment=origin.versions,
        )
        write_before(before, folder)
    (folder / "README.md").write_text(card.render(), "utf-8")
    return replace(shipped, artifact=shipped.artifact.model_copy(update={"files": write_manifest(folder)}))


def precision_of(scheme: Scheme | None, model: nn.Module, kind: Kind) -> Precision:
    """Return the precision of a scheme's weights in an artifact. scheme: None means no quantization."""
    if scheme is None:
        return "float32"
    if kind == "transformers" and any(map(is_transposed, model.modules())):
        return "mixed"  # see `export.transformers`: in GPT-2 only the embeddings and the head are quantized
    return "int4" if scheme == "weight-only-int4" else "int8"


def measure_artifact(spec: MeasureSpec, *, last_try: bool = False) -> Generator[Step, None, Measured]:
    """Measure in a fresh process, in which no training ever ran; yield the score's progress steps.

    If the machine cannot run the child process to its end, only the figures that it has not reported yet are lost, not the job.
    If it ran out of memory and an attempt is left, another machine or time may suffice: raises OutOfMemory unless `last_try`.
    """
    found: Measured | None = None
    try:
        for line in child_lines("measure", spec, timeout=MEASURE_SECONDS):
            said = parse_line.validate_json(line)
            if isinstance(said, Measured):
                found = said
            else:
                yield Step(said.done, said.total)
    except ChildFailed as problem:
        if isinstance(problem, ChildOutOfMemory) and not last_try:
            raise OutOfMemory(f"the artifact could not be measured: {problem}", param="evaluate") from problem
        if found is not None:
            remedy = f". {_sooner(spec.task)}" if isinstance(problem, ChildLate) else ""
            reason = NotMeasured(not_measured=f"{problem}{remedy}")
            lacking = [name for name in FIGURE_OF.values() if isinstance(getattr(found, name), NotMeasured)]
            return found.model_copy(update=dict.fromkeys(lacking, reason))
        reason = NotMeasured(not_measured=str(problem))
        return Measured(latency=reason, score=reason, peak_memory_bytes=reason, validation=reason)
    assert found is not None, "a child that ends well has answered"  # noqa: S101
    return found


def _sooner(task: Task) -> str:
    """Return a remedy that makes scoring faster."""
    if TASKS[task].generates:
        return "Lower evaluate.tokens: fewer tokens of validation and of test are scored then."
    return "Send fewer test rows, and fewer validation rows."


def measure_latency(
    model: PreTrainedModel,
    place: Path,
    *,
    int8: bool,
    task: Task,
    labels: tuple[str, ...],
    tokenizer: Path,
    baseline: Path,
    evaluate: Evaluate,
    last_try: bool = False,
) -> Latency | NotMeasured:
    """Export a model to ONNX, measure its latency against the baseline's, and remove the files.

    place: the parent of the temporary folder; the other arguments are those of `ship`. Raises OutOfMemory.
    """
    with tempfile.TemporaryDirectory(dir=place, prefix="timed-") as name:
        folder = Path(name)
        write_onnx(model, folder, int8=int8)
        modality_of(task).write_preprocessor(tokenizer, folder, evaluate.length, task, model)
        write_config(model, folder, labels, evaluate.length, "onnx")
        spec = MeasureSpec(
            kind="onnx",
            folder=str(folder.resolve()),
            baseline=str(baseline.resolve()),
            task=task,
            labels=labels,
            test_rows=None,
            evaluate=evaluate,
            seconds=TIMED_SECONDS,
        )
        return run_silently(measure_artifact(spec, last_try=last_try)).latency


@torch.inference_mode()
def count_flops(model: nn.Module, evaluate: Evaluate, task: Task) -> int:
    """Count the floating-point operations of one forward pass at evaluate's shape.

    Uses torch's counter: 2 per multiply-add. Quantized operations count like floating-point ones: the figure describes the
    shape, not the precision.
    """
    inputs = modality_of(task).example_inputs(model, evaluate.batch, evaluate.length)
    with FlopCounterMode(display=False) as counter:
        plain_model(model)(**inputs)
    return int(counter.get_total_flops())
