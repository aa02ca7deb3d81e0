"""Ships artifacts whose weights were written in pieces, and measures those that fit in memory."""

import json
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from pathlib import Path

from transformers import PreTrainedModel

from compression.engine import shipping
from compression.engine.paired_test import Original
from compression.engine.scoring_limits import UNLIMITED, ScoringLimits
from compression.engine.shipping import ArtifactRequest, MeasuredArtifact, RunSettings
from compression.export.transformers import sharded
from compression.export.transformers.torchao_tensors import fused_experts
from compression.modalities.scoring.base import Row
from compression.models.sharded_checkpoint import BLOCK
from compression.planning.on_disk import opened_bytes
from compression.quantization.fake_quantize import Simulation
from compression.schema.artifact_formats import ARTIFACT_FORMATS, ArtifactPrecision, Kind
from compression.schema.manifest import Interface
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared
from compression.schema.report.measurements import NotMeasured
from compression.schema.stages import Stage
from compression.schema.tasks import TASKS
from compression.system import durable_files, process
from compression.system.memory import resident
from compression.system.progress import Step

SMALLEST_BLOCK, BLOCKS = 1 << 16, 32  #: smallest block in bytes; processing a block takes less memory than BLOCKS blocks


@dataclass(frozen=True)
class OnDiskShipping:
    """What the artifacts of a job on disk share. memory: the engine's limit in bytes. folder: that of the model's tokenizer.
    max_length: tokens that texts are truncated to. padding: the id of the padding token. limits: returns those of the next
    artifact's scores. original: returns what a quality gate compares it with. folders: those of the current stage, which are
    moved to their final paths together when the stack closes.
    """

    run: RunSettings
    memory: int | None
    folder: Path
    max_length: int
    padding: int
    limits: Callable[[], ScoringLimits] = lambda: UNLIMITED
    original: Callable[[], Original | None] = lambda: None
    folders: ExitStack = field(default_factory=ExitStack)

    def request(self, stage: Stage, kind: Kind, precision: ArtifactPrecision, baseline: Path | None = None) -> ArtifactRequest:
        """Return the request for an artifact. baseline: folder of the ONNX file that latency is compared with."""
        return ArtifactRequest(
            kind=kind,
            stage=stage,
            precision=precision,
            preprocessor=self.folder,
            max_length=self.max_length,
            baseline=baseline,
            scoring=self.limits(),
            original=self.original(),
        )

    def begin(self, request: ArtifactRequest) -> Path:
        """Return an empty folder that becomes the artifact's when `folders` closes without an error."""
        return self.folders.enter_context(durable_files.folder(self.run.place_of(request)))

    def describe(self, model: PreTrainedModel, folder: Path, request: ArtifactRequest) -> None:
        """Write tokenizer and config beside the weights."""
        if not TASKS[self.run.task].generates:  # stock classifiers need it to find the last token; language models keep theirs
            model.config.pad_token_id = self.padding
        self.run.describe(model, folder, request)

    def measure(
        self,
        model: PreTrainedModel,
        folder: Path,
        request: ArtifactRequest,
        simulation: Simulation | None = None,
        *,
        stored: str | None = None,
        compared: ComparedAnswers | NotCompared | None = None,
        interface: Interface | None = None,
    ) -> Generator[Step, None, MeasuredArtifact]:
        """Write config and tokenizer beside the weights in `folder`, and measure. Yields the score's progress steps. model:
        without weights. stored: the storage type of the size, if not the precision. compared: with other processors' outputs.
        interface: what the files read and answer.
        """
        self.describe(model, folder, request)
        process.release_memory()
        written = shipping.WrittenArtifact(
            request=request,
            model=model,
            folder=folder,
            stored=stored or request.precision,
            simulation=simulation,
            flops=NotMeasured(not_measured="The model was never in memory."),
            compared=compared,
            interface=interface,
            # An artifact of the primary format was just opened here.
            unmeasured=None if ARTIFACT_FORMATS[request.kind].primary else self.too_large(model, folder, request.kind),
        )
        return (yield from shipping.measure_written(written, self.run))

    def too_large(self, model: PreTrainedModel, folder: Path, kind: Kind) -> str | None:
        """Return why an artifact does not fit the memory that this process leaves, or None."""
        table = max(prod(weight.shape) for weight in model.parameters())
        needed, left = opened_bytes(sum(path.stat().st_size for path in shipping.weights_of(folder, kind)), table), self.left()
        if needed <= left:
            return None
        return f"Answering takes about {needed:,} bytes of memory, and {left:,} are left of the engine's limit."

    def left(self) -> int:
        """Return the bytes that this process leaves of the engine's memory limit, or sys.maxsize without a limit."""
        return sys.maxsize if self.memory is None else max(self.memory - resident(), 0)

    def block(self) -> int:
        """Return how many bytes of a tensor to read at once: processing them takes a quarter of the memory that is left."""
        return min(BLOCK, max(SMALLEST_BLOCK, self.left() // (4 * BLOCKS)))


def first_rows(path: Path, most: int) -> list[Row]:
    """Return at most `most` of the first rows of a file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, most)]


def storage_notes(written: sharded.Written, model: PreTrainedModel) -> Iterator[str]:
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
