"""Completes artifacts whose weights were written in pieces, and measures those that fit in memory."""

import json
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod
from pathlib import Path

from transformers import PreTrainedModel

from compression.engine import shipping
from compression.engine.reporting.stage_rows import SCORED
from compression.engine.shipping import ShippedArtifact, complete_artifact
from compression.evaluation.measure import Measured as Found, MeasureSpec
from compression.evaluation.runtimes.runner import Kind
from compression.export import package
from compression.export.model_card import ModelCard, opens_with
from compression.export.onnx.trace import inputs_of
from compression.export.package import Precision
from compression.export.provenance import Origin
from compression.export.transformers import sharded
from compression.export.transformers.torchao_tensors import fused_experts
from compression.modalities.modality import Dataset
from compression.modalities.registry import modality_of
from compression.modalities.scoring.base import Row
from compression.models import loading
from compression.models.adapters.registry import decoder_of
from compression.models.sharded_checkpoint import BLOCK
from compression.planning.on_disk import opened_bytes
from compression.quantization.fake_quantize import Simulation
from compression.schema.job_spec import Spec
from compression.schema.recipe.base import Scheme, Split
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared
from compression.schema.report.measurements import NotMeasured, Row as Figured, Size
from compression.schema.report.report import Artifact
from compression.schema.stages import Stage
from compression.schema.tasks import TASKS
from compression.system import durable_files, process
from compression.system.memory import resident
from compression.system.progress import Step

SMALLEST_BLOCK, BLOCKS = 1 << 16, 32
"""Smallest block in bytes; processing a block takes less memory than BLOCKS blocks."""


@dataclass(frozen=True)
class Measured:
    """An artifact with its figures, in a folder that still lacks the files that contain its stage's row."""

    shipped: ShippedArtifact
    folder: Path
    card: ModelCard
    """The model card without the job's rows, which are complete only when the artifact's stage is."""


@dataclass(frozen=True)
class OnDiskShipping:
    """The inputs that all artifacts of a job share.

    folder: the folder of the model's tokenizer. padding: the id of the padding token. evaluate: the evaluation settings.
    scored: by split, the texts on which a language model is scored, if not all of them are. origin: provenance for the model
    cards. folders: those of the current stage, which are moved to their final paths together when the stack closes.
    """

    spec: Spec
    output: Path
    folder: Path
    dataset: Dataset
    padding: int
    evaluate: Evaluate
    scored: Mapping[Split, list[int]]
    origin: Origin
    folders: ExitStack = field(default_factory=ExitStack)

    @property
    def scored_rows(self) -> dict[Split, Path]:
        """Files from which the measuring process reads the splits that it scores."""
        return {split: self.output / "scratch" / f"{split}.jsonl" for split in SCORED}

    @property
    def test_rows(self) -> Path:
        """File from which the measuring process reads the test split."""
        return self.scored_rows["test"]

    def sample(self, most: int) -> list[Row]:
        """Return at most `most` of the first rows of the test split."""
        with self.test_rows.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in islice(lines, most)]

    def place(self, name: str) -> Path:
        """Return the final path of an artifact's folder."""
        return self.output / "artifacts" / name

    def begin(self, name: str) -> Path:
        """Return an empty folder that becomes the artifact's when `folders` closes without an error."""
        return self.folders.enter_context(durable_files.folder(self.place(name)))

    def measure(
        self,
        model: PreTrainedModel,
        place: Path,
        name: str,
        stage: Stage,
        precision: Precision,
        scheme: Scheme | None = None,
        stored: str | None = None,
        *,
        kind: Kind = "transformers",
        baseline: Path | None = None,
        compared: ComparedAnswers | NotCompared | None = None,
    ) -> Generator[Step, None, Measured]:
        """Write config and tokenizer beside the weights in `place`, and measure.

        Yields the score's progress steps. model: without weights. stored: the storage type that the size reports, if the
        precision alone does not describe it. baseline: folder of the ONNX file that latency is compared with. compared: the
        comparison with other processors' outputs.
        """
        task, asked, family = self.spec.asked[0].task, self.spec.recipe.quantize, decoder_of(model)
        length = self.describe(model, place, kind)
        files = sum(path.stat().st_size for pattern in package.WEIGHTS for path in place.glob(pattern))
        size = Size(bytes=files, dtype=stored or precision, bytes_at_16_bit=2 * family.parameters_of(model).total)
        found = yield from self.figures(model, place, files, kind, baseline)
        shipped = ShippedArtifact(
            artifact=Artifact(
                name=name,
                kind=kind,
                stage=stage,
                precision=precision,
                files=(),
                score=found.score,
                validation=found.validation,
                opens_with=opens_with(kind, precision, task, beside=kind == "onnx"),
                compared_on=compared,
            ),
            size=size,
            latency=found.latency,
            score=found.score,
            flops=NotMeasured(not_measured="The model was never in memory."),
            peak_memory_bytes=found.peak_memory_bytes,
            validation=found.validation,
            draws=found.draws,
        )
        card = ModelCard(
            artifact=shipped.artifact,
            figures=shipped.figures,
            scheme=scheme,
            portable=scheme is not None and asked is not None and Simulation.of(asked).portable,
            task=task,
            labels=self.dataset.labels,
            max_length=length,
            inputs=inputs_of(model) if kind == "onnx" else (),
            pairs=any("pair" in row for row in self.sample(1)),
            positions=family.max_positions(model.config) if TASKS[task].generates else None,
            as_filed=kind == "onnx" or loading.reads_as_filed(place),
            origin=self.origin,
        )
        return Measured(shipped, place, card)

    def complete(self, measured: Measured, rows: Sequence[Figured]) -> ShippedArtifact:
        """Add the model card, before.json, recipe, licence and manifest to a measured artifact.

        rows: those from the baseline to the artifact's stage.
        """
        return complete_artifact(measured.shipped, measured.folder, replace(measured.card, rows=rows))

    def describe(self, model: PreTrainedModel, place: Path, kind: Kind) -> int:
        """Write tokenizer and config beside the weights; return the maximum length in tokens."""
        task, positions = self.spec.asked[0].task, decoder_of(model).max_positions(model.config)
        length = min(self.spec.recipe.train.max_length, positions)
        if not TASKS[task].generates:  # stock classifiers need it to find the last token; language models keep theirs
            model.config.pad_token_id = self.padding
        modality_of(task).write_preprocessor(self.folder, place, length, task, model)
        package.write_config(model, place, self.dataset.labels, length, kind)
        return length

    def figures(
        self, model: PreTrainedModel, place: Path, files: int, kind: Kind, baseline: Path | None
    ) -> Generator[Step, None, Found]:
        """Measure an artifact if it fits the memory that this process leaves. files: bytes of its weights."""
        process.release_memory()
        table = max(prod(weight.shape) for weight in model.parameters())
        needed, left = opened_bytes(files, table), self.left()
        if kind == "transformers" and needed > left:  # an ONNX file was just opened here
            cause = f"Answering takes about {needed:,} bytes of memory, and {left:,} are left of the engine's limit."
            reason = NotMeasured(not_measured=cause)
            return Found(latency=reason, score=reason, peak_memory_bytes=reason, validation=reason)
        spec = MeasureSpec(
            kind=kind,
            folder=str(place.resolve()),
            baseline=str(baseline.resolve()) if baseline else None,
            task=self.spec.asked[0].task,
            labels=self.dataset.labels,
            test_rows=str(self.test_rows.resolve()),
            validation_rows=str(self.scored_rows["validation"].resolve()),
            evaluate=self.evaluate,
        )
        found = yield from shipping.measure_artifact(spec, last_try=True)
        return found

    def left(self) -> int:
        """Return the bytes that this process leaves of the engine's memory limit.

        Without a limit, return sys.maxsize.
        """
        return sys.maxsize if self.spec.memory_bytes is None else max(self.spec.memory_bytes - resident(), 0)

    def block(self) -> int:
        """Return how many bytes of a tensor to read at once.

        Processing them takes a quarter of the memory that is left.
        """
        return min(BLOCK, max(SMALLEST_BLOCK, self.left() // (4 * BLOCKS)))


def said_of(written: sharded.Written, model: PreTrainedModel) -> Iterator[str]:
    """Yield notes on parameters that are not quantized and on how experts are stored."""
    if written.unquantized:
        yield (
            f"{written.unquantized / written.parameters:.1%} of the parameters are matrices that stock code keeps in no linear "
            f"layer: they stay in {written.dtype}."
        )
    if fused_experts(model):
        yield (
            "Experts are integers too, and are multiplied one after the other: config.json says experts_implementation: eager, "
            "which a model that is saved again from memory no longer says."
        )
