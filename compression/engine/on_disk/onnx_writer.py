"""Writes a large decoder's ONNX file tensor by tensor, and compares it with the model, which does not fit in memory.

The model runs layer by layer (`layerwise`), in float32 and simulated; the file in its own runtime on the same inputs. A runtime
loads the whole file, so it is written only if it fits the memory that is left: a quantized file may fit although the checkpoint
does not, and the float32 file, the latency baseline, if four bytes a parameter do.
"""

from collections.abc import Generator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from compression.engine.on_disk.layerwise import LayerwiseRunner
from compression.engine.on_disk.shipping_on_disk import OnDiskShipping
from compression.engine.shipping import MeasuredArtifact, ShippedArtifact
from compression.evaluation.runtimes.runner import open_artifact
from compression.export import instruction_sets, parity_check
from compression.export.exporter import exporter_of
from compression.export.interface import interface_of
from compression.export.onnx import decoder
from compression.modalities.registry import scorer_of
from compression.modalities.scoring.base import Floats as Logits, Inputs
from compression.modalities.text.batches import Batch
from compression.modalities.text.scoring.perplexity import LOGITS_BYTES
from compression.models.adapters.registry import decoder_of
from compression.models.skeleton import generation_of
from compression.planning.on_disk import may_be_whole
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.schema.artifact_formats import ONNX
from compression.schema.manifest import Interface
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Latency, Score
from compression.schema.schemes import SCHEMES, Scheme
from compression.schema.stages import BASELINE, Stage
from compression.system import durable_files, process
from compression.system.progress import Step

OPENED: Mapping[Scheme | None, float] = {None: 6.0, "dynamic-int8": 2.2, "weight-only-int8": 5.0, "weight-only-int4": 1.5}
"""Memory of a process that opens and runs the file, in bytes a parameter. Measured on SmolLM2-135M's shape: 5.2, 1.8, 2.9, 1.2
(ONNX Runtime 1.32, which repacks matrices and unpacks those of weight-only-int8)."""
TENSORS = 5  #: memory that rounding and writing the largest tensor takes, in multiples of its float32 size
STEPS = 5  #: steps of one file: write it; run the model in float32; run it quantized; compare; measure
LARGEST = 20_000_000_000
"""Largest model, in parameters: a step takes far less than the hour after which a silent engine counts as stalled."""


class Graphs:
    """Writes one job's ONNX files. folder, parameters: of the uploaded checkpoint, the source of the float32 baseline. shipped:
    whether that baseline is among the artifacts and was measured.
    """

    def __init__(self, shipping: OnDiskShipping, folder: Path, parameters: int, split_batches: int) -> None:
        self.shipping, self.folder, self.parameters = shipping, folder, parameters
        self.split_batches = split_batches
        self.exporter, self.float32 = exporter_of(ONNX.name), shipping.request(BASELINE, ONNX.name, "float32")
        self.shipped = False

    def take_up(self, baseline: str) -> None:
        """Set `shipped` from the artifact of an earlier attempt's baseline row."""
        self.shipped = baseline == self.shipping.run.name_of(self.float32)

    def beside(
        self, stage: Stage, made: list[MeasuredArtifact], source: Path, model: PreTrainedModel, asked: Quantize | None
    ) -> Generator[Step, None, tuple[list[MeasuredArtifact], tuple[str, ...]]]:
        """Add a stage's file to its artifacts, or return a note on why there is none. Yields progress steps. asked: the
        quantization settings; None means float32. The file comes first, and is the row's artifact, if it and its float32
        baseline were measured: all figures of a row are of one file, and rows are compared in one runtime.
        """
        scheme = None if asked is None else asked.scheme
        if (cause := self.hindrance(model, scheme)) is not None:
            return made, (f"There is no ONNX artifact of this stage: {cause}.",)
        against = self.baseline() if self.shipped and self._room(model, scheme, beside=self.parameters) is None else None
        simulation = None if asked is None else Simulation.of(asked)
        graph = yield from self.ship(stage, source, model, simulation, against)
        measured = isinstance(graph.shipped.score, Score) and isinstance(graph.shipped.latency, Latency)
        if scheme is None:
            self.shipped = measured
        notes = tuple(filter(None, [instruction_sets.difference_note(graph.shipped.artifact.compared_on)]))
        if measured and (scheme is None or against is not None):
            return [graph, *made], notes
        return [*made, graph], (_note_alone(graph.shipped, against), *notes)

    def hindrance(self, model: PreTrainedModel, scheme: Scheme | None) -> str | None:
        """Return why no file can be written for a model in a scheme, or None. model: without weights."""
        parameters = decoder_of(model).parameters_of(model).total
        if (cause := decoder.hindrance(model.config)) is not None:
            return cause
        if self.split_batches > 1:
            return "an earlier attempt found too little memory"
        if parameters > LARGEST:
            return "an engine may not be silent for as long as writing it takes"
        if scheme is None and not may_be_whole(parameters):
            return "its four bytes a parameter are more disk than the estimate allows"
        return self._room(model, scheme)

    def _room(self, model: PreTrainedModel, scheme: Scheme | None, *, beside: int = 0) -> str | None:
        """Return why memory is too small to write and open a file beside a float32 file of `beside` parameters, or None."""
        parameters = decoder_of(model).parameters_of(model).total
        opened = LOGITS_BYTES + OPENED[scheme] * parameters + OPENED[None] * beside
        written = TENSORS * 4 * max(prod(weight.shape) for weight in model.parameters())
        needed, left = round(max(opened, written)), self.shipping.left()
        if needed <= left:
            return None
        return f"writing and opening it takes about {needed:,} bytes of memory, and {left:,} are left of the engine's limit"

    def baseline(self) -> Path:
        """Return the folder of the float32 file; write it again if an earlier attempt shipped it and it is missing."""
        place = self.shipping.run.place_of(self.float32)
        if place.is_dir():
            return place
        place = self.shipping.run.rows["test"].with_name(place.name)
        if not place.is_dir():
            with durable_files.folder(place) as again:
                layers = self._opened(self.folder)
                decoder.write(layers.model, again, read=layers.tensor)
                self.shipping.describe(layers.model, again, self.float32)
        return place

    def ship(
        self, stage: Stage, source: Path, model: PreTrainedModel, simulation: Simulation | None, against: Path | None
    ) -> Generator[Step, None, MeasuredArtifact]:
        """Write, verify and measure the file of the checkpoint in `source`. model: that checkpoint's model, without weights.
        Raises ExportMismatch if the file's outputs differ from the model's.
        """
        scheme = None if simulation is None else simulation.scheme
        layers = self._opened(source)
        if model.can_generate():
            layers.model.generation_config = generation_of(model, source)
        request = self.shipping.request(stage, ONNX.name, self.exporter.precision_of(scheme, layers.model), against)
        place = self.shipping.begin(request)
        decoder.write(layers.model, place, simulation=simulation, read=layers.tensor)
        yield Step(1, STEPS)
        self.shipping.describe(layers.model, place, request)
        asked, interface = yield from self._check(place, source, simulation)
        seconds = self.shipping.run.emulate_seconds
        compared = None if simulation is None else self.exporter.compare_processors(place, asked, simulation, seconds)
        measured = self.shipping.measure(layers.model, place, request, simulation, compared=compared, interface=interface)
        return (yield from measured)

    def _check(
        self, place: Path, source: Path, simulation: Simulation | None
    ) -> Generator[Step, None, tuple[Sequence[Inputs], Interface]]:
        """Compare the file with the model. Returns the inputs of the comparison, and what the file reads and answers."""
        layers = self._opened(source)
        run = self.shipping.run
        scorer = scorer_of(run.task, run.evaluate, run.labels)
        asked = parity_check.asked_of(scorer, place, list(run.sample), layers.model, self.shipping.padding)
        expected = plain = self._answers(layers, asked)
        yield Step(2, STEPS)
        if simulation is not None:
            insert_fake_quantization(layers.model, simulation=simulation)
            expected = self._answers(layers, asked)
        yield Step(3, STEPS)
        process.release_memory()
        runner = open_artifact(ONNX.name, place, threads=torch.get_num_threads())
        self.exporter.check_interface(runner, layers.model)
        exact = simulation is None or not SCHEMES[simulation.scheme].rounds_activations
        allowed = parity_check.limit(expected, plain, noise=0.0 if exact else self.exporter.rounding_noise)

        def engine() -> parity_check.Engine:
            return lambda read: self._answers(layers, read), layers.model.get_input_embeddings()

        parity_check.compare_runner(runner, layers.model, scorer, asked, expected, allowed, rounded=not exact, engine=engine)
        interface = interface_of(runner, layers.model, place, asked, longest=0)  # memory is short here
        yield Step(4, STEPS)
        return asked, interface

    def _opened(self, source: Path) -> LayerwiseRunner:
        layers = LayerwiseRunner(source, torch.float32)
        if not layers.model.can_generate():  # a classifier needs it to find a row's last token
            layers.model.config.pad_token_id = self.shipping.padding
        return layers

    def _answers(self, layers: LayerwiseRunner, asked: Sequence[Inputs]) -> Logits:
        batches = [_batch(one) for one in asked]
        found = layers.logits(batches, self.shipping.run.rows["test"].with_name("answers"))
        return np.concatenate([logits.numpy() for logits in found])


def _note_alone(graph: ShippedArtifact, against: Path | None) -> str:
    """Return a note on why a row is not of the stage's ONNX file, with that file's speed if it was timed."""
    if not isinstance(graph.latency, Latency):
        return f"{graph.artifact.name} was not timed: the row is of the checkpoint."
    if against is not None or not isinstance(graph.score, Score):
        return f"{graph.artifact.name} was not scored: the row is of the checkpoint."
    speed, generation = f"answers in {graph.latency.median_ms:,.1f} ms", graph.latency.generation
    if generation is not None:
        speed = f"reads {generation.prefill_per_second:,.0f} and writes {generation.decode_per_second:,.1f} tokens a second"
    return f"{graph.artifact.name} {speed} here; there is no float32 file to compare that with."


def _batch(asked: Inputs) -> Batch:
    ids, mask = (torch.from_numpy(asked.arrays[name]) for name in ("input_ids", "attention_mask"))
    return Batch(ids, mask, torch.zeros(len(ids), dtype=torch.int64), torch.arange(len(ids)))
