"""A job that only quantizes, of a decoder that the engine's memory does not hold: from file to file, a few rows at a time.

Its rows and artifacts are those of any job, as far as they can be had without the model in memory: the checkpoint as it was
sent, and torchao's. What was written is held against its source number by number; a score is taken where the artifact, which
is smaller than what it was made of, fits the memory that is left, and else told as not measured, with the reason.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel

from compression import catalog, checkpoint, data, durable, families, gguf, heads, load, process
from compression.catalog.streaming import fits_a_graph, opened_bytes, quantizes_only, whole_bytes
from compression.checkpoint import Checkpoint
from compression.checks import gguf_model, weights
from compression.errors import InvalidSpec
from compression.export import artifact, streamed, streamed_check
from compression.export.artifact import Precision, Shipped, precision_of
from compression.export.card import card, opens_with
from compression.facts import PartFacts, job_report
from compression.measure import Measured, MeasureSpec
from compression.memory import resident
from compression.notes import row_notes
from compression.plan import Tick
from compression.progress import Journey, Phase
from compression.recipe import Quantize, Scheme, Spec
from compression.recipe.base import StreamedScheme
from compression.report import (
    Artifact,
    ArtifactReady,
    Event,
    Finished,
    Log,
    NotMeasured,
    Report,
    Row,
    Size,
    Stage,
    StageFinished,
    StageStarted,
    Uploaded,
    ratios,
)
from compression.saving import Pause, never
from compression.shards import BLOCK
from compression.uploaded import uploaded
from compression.verdicts import judged

STAGES: tuple[Stage, ...] = ("baseline", "quantized")
QUANTIZE, VERIFY, MEASURE = "quantize", "verify", "export and measure"
"""Names of phases."""
SMALLEST_BLOCK, BLOCKS = 1 << 16, 32
"""Bytes; and of how many such all that becomes of a block is less."""
FILES = (weights.SINGLE, weights.INDEX, "config.json", "generation_config.json")


def is_for(spec: Spec, base: Path) -> bool:
    """Say whether a job is to be done so. Reads config.json, or the header of a GGUF file.

    Raises what `load.read_config`, `streamed.skeleton` and `checks.gguf_model.read_model` do.
    """
    if spec.parts or not quantizes_only(spec.recipe):
        return False
    folder = base / spec.model
    if gguf_model.is_one(folder):
        parameters = gguf_model.parameters(gguf_model.read_model(folder)[1]).total
    elif load.read_config(folder)["model_type"] in families.DECODERS:
        parameters = sum(parameter.numel() for parameter in streamed.skeleton(folder).parameters())
    else:
        return False
    return not fits_a_graph(parameters) or (spec.memory_bytes is not None and whole_bytes(parameters) > spec.memory_bytes)


@dataclass
class FileToFile:
    """One such job. model: the stock model without any weights; folder: where its checkpoint lies; rows: those so far."""

    spec: Spec
    base: Path
    folder: Path
    model: PreTrainedModel
    dataset: data.Dataset
    uploaded: Uploaded
    fingerprint: str
    rows: list[Row] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    journey: Journey = field(
        default_factory=lambda: Journey(
            [
                Phase("baseline", MEASURE, 2.0),
                Phase("quantized", QUANTIZE, 4.0),
                Phase("quantized", VERIFY, 2.0),
                Phase("quantized", MEASURE, 1.0),
            ]
        )
    )

    @classmethod
    def open(cls, spec: Spec, base: Path) -> "FileToFile":
        """Read configuration, tokenizer and data, and refuse what cannot be done. Raises what these do, and InvalidSpec."""
        task, output = spec.asked[0].task, base / spec.output
        sent = uploaded(base / spec.model)
        folder = gguf.stock_folder(base / spec.model, output / "scratch" / "unpacked" / "model")
        config = load.read_config(folder)
        if not load.has_head(config, heads.of_task(task)):
            raise InvalidSpec(
                f"the model has no head for {task}, and the recipe trains none",
                param="recipe.prepare.epochs",
                remedy="Send a model with a head for the task, or let prepare train one on a worker whose memory holds it.",
            )
        dataset = data.load(spec.asked[0].data, base, seed=spec.recipe.train.seed, task=task)
        catalog.check_task(task, spec.recipe, spec.evaluate, dataset.labels)
        model = streamed.skeleton(folder)
        if dataset.labels:
            dataset = dataset.in_order(load.own_labels(model.config, dataset.labels, task))
        positions = families.decoder_of(model).max_positions(model.config)
        if spec.evaluate.length > positions:
            raise InvalidSpec(f"the model takes at most {positions} tokens", param="evaluate.length")
        model.config.pad_token_id = load.load_tokenizer(folder).pad_token_id
        # Never taken up by a job with its model in memory, nor the other way about: their checkpoints are others.
        work = f"{checkpoint.fingerprint(spec, base)}-files"
        job = cls(spec, base, folder, model, dataset, sent, work)
        job.test_rows.parent.mkdir(parents=True, exist_ok=True)
        durable.write_text(job.test_rows, "".join(json.dumps(row) + "\n" for row in dataset.judged("test")))
        return job

    @property
    def output(self) -> Path:
        """Where checkpoints, artifacts and the report go."""
        return self.base / self.spec.output

    @property
    def test_rows(self) -> Path:
        """Where the measuring process finds the test split."""
        return self.output / "scratch" / "test.jsonl"

    def look_for_checkpoint(self) -> Iterator[Event]:
        """Take up what an earlier attempt finished."""
        if self.spec.resume is None:
            return
        done, problems = checkpoint.latest(self.base / self.spec.resume, STAGES, self.fingerprint)
        for problem in problems:
            yield Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])
        if done is not None:
            self.rows, self.artifacts = list(done.rows), list(done.artifacts)
            for row in self.rows:
                self.journey.skip(row.stage)
                yield StageStarted(stage=row.stage, resumed=True)

    def do(self, stage: Stage) -> Iterator[Event]:
        """Write a stage's artifact, measure what can be measured, and end the stage with its row."""
        started = time.monotonic()
        shipped, notes = yield from (self.as_sent() if stage == "baseline" else self.quantized())
        self.artifacts.append(shipped.artifact)
        yield ArtifactReady(artifact=shipped.artifact)
        self.rows.append(self.row(stage, shipped, notes, time.monotonic() - started))
        facts = Checkpoint(
            fingerprint=self.fingerprint,
            stage=stage,
            task=self.spec.task,
            labels=self.dataset.labels,
            simulation=None,
            rows=tuple(self.rows),
            artifacts=tuple(self.artifacts),
            pruning=None,
            files=(),
        )
        (self.output / "checkpoints" / stage).mkdir(parents=True, exist_ok=True)
        yield StageFinished(row=self.rows[-1], checkpoint=checkpoint.write_whole(self.output / "checkpoints", facts))

    def as_sent(self) -> Generator[Event, None, tuple[Shipped, tuple[str, ...]]]:
        """Ship the checkpoint as it is: the baseline."""
        yield from self.journey.mark("baseline", MEASURE, done=False)
        sent = uploaded(self.folder)
        precision = cast(Precision, sent.dtype)
        name = f"baseline-transformers-{precision}"
        with durable.folder(self.output / "artifacts" / name) as place:
            for path in (*self.folder.glob("*.safetensors"), *(self.folder / file for file in FILES)):
                if path.is_file():
                    shutil.copyfile(path, place / path.name)
            shipped = self.ship(self.model, place, name, "baseline", precision, None)
        yield from self.journey.mark("baseline", MEASURE, done=True)
        note = (
            "The model takes more memory than the engine may, or more bytes than an ONNX file can have: it went from file to file, "
            "and there is no ONNX artifact. The baseline is the checkpoint as it was sent."
        )
        return shipped, (note,)

    def quantized(self) -> Generator[Event, None, tuple[Shipped, tuple[str, ...]]]:
        """Write the integers, hold them against their source, and ship them."""
        asked = cast(Quantize, self.spec.recipe.quantize)
        scheme, stage = cast(StreamedScheme, asked.scheme), "quantized"
        name = f"{stage}-transformers-{precision_of(scheme)}"
        with durable.folder(self.output / "artifacts" / name) as place:
            made = place / "made"
            block = self.block()
            steps = streamed.quantizing(self.folder, made, scheme=scheme, group_size=asked.group_size, block=block)
            written = yield from self.follow(QUANTIZE, steps)
            checks = streamed_check.verifying(self.folder, made, scheme=scheme, group_size=asked.group_size, block=block)
            yield from self.follow(VERIFY, checks)
            for path in made.iterdir():
                path.rename(place / path.name)
            made.rmdir()
            yield from self.journey.mark("quantized", MEASURE, done=False)
            shipped = self.ship(streamed.skeleton(place), place, name, "quantized", precision_of(scheme), scheme)
        yield from self.journey.mark("quantized", MEASURE, done=True)
        return shipped, tuple(_said_of(written, self.model))

    def block(self) -> int:
        """Say how many bytes of a tensor to read at once: what is made of them takes half of the memory that is left."""
        return min(BLOCK, max(SMALLEST_BLOCK, self.left() // (2 * BLOCKS)))

    def left(self) -> int:
        """Return the bytes of memory that this process leaves of the engine's limit; as many as there may be without one."""
        return sys.maxsize if self.spec.memory_bytes is None else max(self.spec.memory_bytes - resident(), 0)

    def follow(
        self, phase: str, steps: Generator[tuple[int, int], None, streamed.Written | None]
    ) -> Generator[Event, None, streamed.Written]:
        """Pass (done, total) on as progress. Raises Pause where one is asked for."""
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                return cast(streamed.Written, end.value)
            yield from self.journey.at("quantized", phase, Tick(step=done, total=total))

    def ship(
        self, model: PreTrainedModel, place: Path, name: str, stage: Stage, precision: Precision, scheme: Scheme | None
    ) -> Shipped:
        """Complete an artifact's folder, in which the weights lie, and measure it. model: whose config it is."""
        task, labels = self.spec.asked[0].task, self.dataset.labels
        length = min(self.spec.recipe.train.max_length, families.decoder_of(model).max_positions(model.config))
        model.config.pad_token_id = self.model.config.pad_token_id
        artifact.write_tokenizer(self.folder, place, length, task, artifact.padding_of(model))
        artifact.write_config(model, place, labels, length, "transformers")
        files = sum(path.stat().st_size for path in place.glob("*.safetensors"))
        parameters = families.decoder_of(self.model).parameters_of(self.model).total
        stored = "int8" if precision == "int4" else precision  # see `export.transformers`
        size = Size(bytes=files, dtype=stored, bytes_at_16_bit=2 * parameters)
        found = self.figures(place, files)
        about = card(
            name=name,
            kind="transformers",
            stage=stage,
            scheme=scheme,
            task=task,
            labels=labels,
            max_length=length,
            size=size,
            latency=found.latency,
            score=found.score,
            memory=found.peak_memory_bytes,
            inputs=(),
        )
        (place / "README.md").write_text(about, "utf-8")
        return Shipped(
            artifact=Artifact(
                name=name,
                kind="transformers",
                stage=stage,
                precision=precision,
                files=artifact.write_manifest(place),
                score=found.score,
                opens_with=opens_with("transformers", precision, task),
            ),
            size=size,
            latency=found.latency,
            score=found.score,
            flops=NotMeasured(not_measured="The model was never in memory."),
            peak_memory_bytes=found.peak_memory_bytes,
        )

    def figures(self, place: Path, files: int) -> Measured:
        """Measure an artifact where it fits the memory that is left beside this process. files: bytes of its weights."""
        process.release_memory()
        tables = [prod(table.shape) for table in self.model.parameters() if table.ndim > 1]
        needed, left = opened_bytes(files, max(tables)), self.left()
        if needed > left:
            cause = f"Answering takes about {needed:,} bytes of memory, and {left:,} are left of the engine's limit."
            reason = NotMeasured(not_measured=cause)
            return Measured(latency=reason, score=reason, peak_memory_bytes=reason)
        spec = MeasureSpec(
            kind="transformers",
            folder=str(place.resolve()),
            task=self.spec.asked[0].task,
            labels=self.dataset.labels,
            test_rows=str(self.test_rows.resolve()),
            evaluate=self.spec.evaluate,
        )
        return artifact.figures(spec, last_try=True)

    def row(self, stage: Stage, shipped: Shipped, notes: tuple[str, ...], seconds: float) -> Row:
        """Put a stage's figures together."""
        family = families.decoder_of(self.model)
        parameters, before = family.parameters_of(self.model), self.rows[0] if self.rows else None
        after = (parameters, shipped.size, shipped.score)
        first = (before.parameters, before.size, before.score) if before else after
        found = ratios(first, after, shipped.latency, self.uploaded)
        row = Row(
            stage=stage,
            artifact=shipped.artifact.name,
            shape=family.shape_of(self.model.config),
            parameters=parameters,
            size=shipped.size,
            latency=shipped.latency,
            score=shipped.score,
            flops=shipped.flops,
            peak_memory_bytes=shipped.peak_memory_bytes,
            ratios=found,
            seconds=seconds,
            notes=(*notes, *row_notes(found, shipped.score, before)),
        )
        return judged(row, self.rows, self.spec.recipe, self.spec.targets)

    def report(self) -> Report:
        """Write report.json and return it."""
        about = PartFacts(
            task=self.spec.asked[0].task,
            labels=self.dataset.labels,
            splits={str(name): facts for name, facts in self.dataset.facts().items()},
            rows={},
            max_length=self.spec.recipe.train.max_length,
            cut=0,
        )
        report = job_report(self.spec, self.rows, self.artifacts, {"": about}, self.uploaded)
        durable.write_text(self.output / "report.json", report.model_dump_json(indent=2))
        shutil.rmtree(self.output / "scratch", ignore_errors=True)
        return report


def _said_of(written: streamed.Written, model: torch.nn.Module) -> Iterator[str]:
    if written.unquantized:
        yield (
            f"{written.unquantized / written.parameters:.1%} of the parameters are matrices that stock code keeps in no linear "
            f"layer: they stay in {written.dtype}."
        )
    if streamed.fused_experts(model):
        yield (
            "Experts are int8, and are multiplied one after the other: config.json says experts_implementation: eager, which a "
            "model that is saved again from memory no longer says."
        )


def run(spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> Iterator[Event]:
    """Do one such job; yield what happens after `started`.

    Raises CompressionError, and Pause, after which the stage at work begins anew.
    """
    job = FileToFile.open(spec, base)
    yield from job.look_for_checkpoint()
    for stage in STAGES[len(job.rows) :]:
        yield StageStarted(stage=stage)
        for event in job.do(stage):
            yield event
            if pause_asked():
                raise Pause
    yield Finished(report=job.report())
