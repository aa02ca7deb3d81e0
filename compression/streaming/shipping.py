"""Complete an artifact whose weights were written piece by piece, and measure it where it fits the memory that is left."""

import json
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path

from transformers import PreTrainedModel

from compression import data, durable, families, process
from compression.catalog.streaming import opened_bytes
from compression.export import artifact
from compression.export.artifact import Precision, Shipped
from compression.export.card import card, opens_with
from compression.measure import Measured, MeasureSpec
from compression.memory import resident
from compression.origin import Origin
from compression.recipe import Evaluate, Scheme, Spec
from compression.report import Artifact, NotMeasured, Size, Stage
from compression.shards import BLOCK

SMALLEST_BLOCK, BLOCKS = 1 << 16, 32
"""Bytes; and of how many such all that becomes of a block is less."""


@dataclass(frozen=True)
class Shipping:
    """What all artifacts of a job have in common.

    folder: where the model's tokenizer lies; padding: the token that pads; evaluate: how scores are taken; scored: the texts of
    test that a language model is asked, None where all are; origin: for the cards.
    """

    spec: Spec
    output: Path
    folder: Path
    dataset: data.Dataset
    padding: int
    evaluate: Evaluate
    scored: list[int] | None
    origin: Origin

    @property
    def test_rows(self) -> Path:
        """Where the measuring process finds the test split."""
        return self.output / "scratch" / "test.jsonl"

    def write_test_rows(self) -> None:
        """Write the test split for the process that measures."""
        self.test_rows.parent.mkdir(parents=True, exist_ok=True)
        rows = self.dataset.judged("test")
        if self.scored is not None:
            rows = [rows[number] for number in self.scored]
        durable.write_text(self.test_rows, "".join(json.dumps(row) + "\n" for row in rows))

    def place(self, name: str) -> Path:
        """Where an artifact's folder comes to lie."""
        return self.output / "artifacts" / name

    def complete(
        self,
        model: PreTrainedModel,
        place: Path,
        name: str,
        stage: Stage,
        precision: Precision,
        scheme: Scheme | None = None,
        stored: str | None = None,
    ) -> Shipped:
        """Put beside the weights in `place` what an artifact has, and measure it.

        model: without weights; stored: what the size says that they are stored in, where it is not the precision alone.
        """
        task, labels, family = self.spec.asked[0].task, self.dataset.labels, families.decoder_of(model)
        positions = family.max_positions(model.config)
        length = min(self.spec.recipe.train.max_length, positions)
        model.config.pad_token_id = self.padding
        artifact.write_tokenizer(self.folder, place, positions if task == "causal-lm" else length, task, model)
        artifact.write_config(model, place, labels, length, "transformers")
        files = sum(path.stat().st_size for path in place.glob("*.safetensors"))
        size = Size(bytes=files, dtype=stored or precision, bytes_at_16_bit=2 * family.parameters_of(model).total)
        found = self.figures(model, place, files)
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
            pairs=self.dataset.splits["test"].pairs is not None,
            origin=self.origin,
        )
        artifact.write_origin(self.origin, place)
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

    def figures(self, model: PreTrainedModel, place: Path, files: int) -> Measured:
        """Measure an artifact where it fits the memory that is left beside this process. files: bytes of its weights."""
        process.release_memory()
        table = max(prod(weight.shape) for weight in model.parameters())
        needed, left = opened_bytes(files, table), self.left()
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
            evaluate=self.evaluate,
        )
        return artifact.figures(spec, last_try=True)

    def left(self) -> int:
        """Return the bytes of memory that this process leaves of the engine's limit; as many as there may be without one."""
        return sys.maxsize if self.spec.memory_bytes is None else max(self.spec.memory_bytes - resident(), 0)

    def block(self) -> int:
        """Say how many bytes of a tensor to read at once: what is made of them takes a quarter of the memory that is left."""
        return min(BLOCK, max(SMALLEST_BLOCK, self.left() // (4 * BLOCKS)))
