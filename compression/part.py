"""One dataset's part of a job: its rows, the model that is made for it, and how that is shipped and taken up again."""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from compression import checkpoint, data, durable, families, load, numerics, process, tasks
from compression.augment.material import Material
from compression.augment.resources import Resources
from compression.batches import encode
from compression.budget import Budget
from compression.catalog import check_task
from compression.checkpoint import Checkpoint, Unusable
from compression.encoding import encoded, side_by_side
from compression.errors import InvalidSpec
from compression.export.artifact import Shipped, ship, timed
from compression.notes import row_notes
from compression.phases import journey
from compression.plan import check_precision
from compression.recipe import Spec
from compression.report import Artifact, Event, Latency, Log, NotMeasured, Row, Stage, ratios
from compression.saving import Saver
from compression.stages.prune import aimed
from compression.stages.trim import trim
from compression.state import State
from compression.verdicts import judged
from compression.vocabulary import Encode, fitted

SAMPLE = 64
"""Rows of validation on which an artifact must answer as the engine does."""
AFTER_CUT: tuple[Stage, ...] = ("pruned", "distilled")
"""Stages whose models have the cut vocabulary, where there is one."""


@dataclass
class Part:
    """A dataset, the state of its model between stages, and its own rows so far."""

    spec: Spec
    base: Path
    output: Path
    dataset: data.Dataset
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    state: State
    fingerprint: str = ""
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def open(cls, spec: Spec, base: Path) -> "Part":
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
        output = base / spec.output
        vocabulary = None
        if recipe.prune is not None:
            if ratio := recipe.prune.vocabulary_ratio:
                place = output / "scratch" / "tokenizer"
                vocabulary = fitted(folder, tokenizer, model.config, dataset.texts, place, ratio)
            aimed(model, recipe.prune, vocabulary)
        length = min(recipe.train.max_length, positions)
        task, types = tasks.of(spec.task, dataset.labels, spec.evaluate), family.types(model.config) > 1
        rows = {name: encoded(dataset, name, tokenizer, length, task, types=types) for name in dataset.splits}

        def encoder(reader: PreTrainedTokenizerFast) -> Encode:
            return lambda texts, labels: encode(reader, *side_by_side(texts), labels, length, task, types=types)

        if vocabulary is not None:
            vocabulary = replace(vocabulary, encode=encoder(vocabulary.tokenizer))
        resources = Resources.of(spec, base)
        if recipe.distill is not None and recipe.distill.augment is not None:
            resources.check(recipe.distill.augment)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        check_precision(recipe.train.precision, device)
        state = State(
            recipe,
            rows,
            model.to(device),
            journey(recipe, {name: len(r) for name, r in rows.items()}),
            parts=spec.split_batches,
            budget=Budget(recipe.train.max_steps, recipe.train.max_minutes),
            targets=spec.targets,
            material=Material(
                dataset.splits["train"].columns,
                encoder(tokenizer),
                tokenizer,
                resources,
            ),
            vocabulary=vocabulary,
        )
        part = cls(spec, base, output, dataset, tokenizer, length, state)
        state.timed = part.timed
        part.write_test_rows()
        return part

    def save_with(self, saver: Saver) -> None:
        """Keep training in progress by `saver`, whose fingerprint is that of the job."""
        self.state.saver, self.fingerprint = saver, saver.fingerprint

    @property
    def test_rows(self) -> Path:
        """Where the measuring process finds the test split."""
        return self.output / "scratch" / "test.jsonl"

    @property
    def cut(self) -> int:
        """Count the training texts that reach the greatest length, and were cut there."""
        return sum(len(row) >= self.max_length for row in self.state.rows["train"].tokens)

    def write_test_rows(self) -> None:
        """Write the test split for the process that measures."""
        self.test_rows.parent.mkdir(parents=True, exist_ok=True)
        durable.write_text(self.test_rows, "".join(json.dumps(row) + "\n" for row in self.dataset.judged("test")))

    def take_up(self, folder: Path, done: Checkpoint) -> None:
        """Go on from an earlier attempt's stage: its rows, its model and its teacher. Raises Unusable, and changes nothing."""
        model = checkpoint.open_model(folder, done)
        first = checkpoint.read(folder, "baseline", self.fingerprint)
        teacher = checkpoint.open_model(folder, first)
        device = self.state.device
        self.state.model = model.to(device)
        self.state.teacher = teacher.to(device).requires_grad_(False)
        self.state.pruning, self.state.budget.spent = done.pruning, done.spent
        self.state.sensitivity = done.sensitivity
        self.rows = list(done.rows)

    def restore_baseline(self) -> Iterator[Event]:
        """Write the baseline's artifact again where it is not there, from the teacher."""
        assert self.state.teacher is not None, "the pipeline takes up a checkpoint first"  # noqa: S101
        if not (self.artifact_folder(self.rows[0].artifact) / "model.onnx").is_file():
            yield Log(message="The baseline's artifact is written again: latency is held against it.")
            self.ship(self.state.teacher, "baseline", "onnx")

    def follow_cut(self) -> None:
        """Read the new ids where an earlier attempt has cut the vocabulary: its model knows no others."""
        if self.rows[-1].stage in AFTER_CUT:
            trim(self.state, model=False)

    def tokenizer_of(self, stage: Stage) -> Path:
        """Where the tokenizer lies that a stage's model is for."""
        vocabulary = self.state.vocabulary if stage in AFTER_CUT else None
        return vocabulary.folder if vocabulary is not None else self.base / self.spec.model

    def artifact_folder(self, name: str) -> Path:
        """Where an artifact's files lie."""
        return self.output / "artifacts" / name

    def ship(self, model: torch.nn.Module, stage: Stage, kind: str) -> Shipped:
        """Export, reopen, verify and measure a model as one artifact; latency is held against the baseline's."""
        precision = "int8" if simulated(model) else "float32"
        is_baseline = stage == "baseline" and kind == "onnx"
        device = next(model.parameters()).device
        model.cpu()  # what is shipped is for the CPU, and is held against the CPU's answers
        process.release_memory()
        shipped = ship(
            model,
            name=f"{stage}-{kind}-{precision}",
            kind="onnx" if kind == "onnx" else "transformers",
            stage=stage,
            precision="int8" if precision == "int8" else "float32",
            task=self.spec.task,
            labels=self.dataset.labels,
            tokenizer=self.tokenizer_of(stage),
            max_length=self.max_length,
            output=self.output,
            test_rows=self.test_rows,
            baseline=None if is_baseline else self.artifact_folder(self.rows[0].artifact),
            evaluate=self.spec.evaluate,
            sample=self.dataset.judged("validation")[:SAMPLE],
            last_try=self.spec.split_batches > 1,
        )
        model.to(device)
        return shipped

    def timed(self, model: PreTrainedModel) -> Latency | NotMeasured:
        """Export a model as an artifact would be and measure its latency alone, against the baseline's artifact."""
        process.release_memory()
        return timed(
            model,
            self.test_rows.parent,
            int8=simulated(model),
            task=self.spec.task,
            labels=self.dataset.labels,
            tokenizer=self.tokenizer_of("pruned"),
            baseline=self.artifact_folder(self.rows[0].artifact),
            evaluate=self.spec.evaluate,
            last_try=self.spec.split_batches > 1,
        )

    def finish(self, stage: Stage, shipped: Shipped, seconds: float) -> Row:
        """Complete a stage's row; what was noted for it is used up."""
        row = self.row(stage, shipped, seconds)
        self.rows.append(row)
        self.state.notes.clear()
        self.state.applied.clear()
        return row

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

    def checkpoint(self, stage: Stage, artifacts: Sequence[Artifact]) -> Checkpoint:
        """Say what must be known to go on after `stage`."""
        return Checkpoint(
            fingerprint=self.fingerprint,
            stage=stage,
            task=self.spec.task,
            labels=self.dataset.labels,
            simulated=simulated(self.state.model),
            rows=tuple(self.rows),
            artifacts=tuple(artifacts),
            pruning=self.state.pruning,
            sensitivity=self.state.sensitivity,
            spent=self.state.budget.spent,
            files=(),
        )


def simulated(model: torch.nn.Module) -> bool:
    """Say whether a model computes with fake-quantized integers."""
    return any(isinstance(module, numerics.FakeQuantLinear) for module in model.modules())
