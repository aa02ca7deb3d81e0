"""The ONNX file of a language model that memory does not hold: written tensor by tensor, then held against the model.

The model answers layer by layer (`layerwise`), in float32 and with its integers simulated, what the file answers in its own
runtime. A runtime holds the file whole, so there is one only where that fits the memory that is left: integers where the
checkpoint does not, and the float32 that latencies are held against where four bytes a parameter do.
"""

from collections.abc import Generator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from compression import durable, families, numerics, process, scoring
from compression.batches import Batch
from compression.catalog.streaming import may_be_whole
from compression.export import artifact, decoder, streamed, verify
from compression.export.artifact import Shipped
from compression.layerwise import Layerwise
from compression.numerics import Simulation
from compression.plan import Tick
from compression.recipe import Quantize, Scheme
from compression.report import Latency, Stage
from compression.runtimes import runner as runtimes
from compression.runtimes.decoder import Decoder
from compression.runtimes.onnx import OnnxDecoder
from compression.runtimes.runner import Logits, open_artifact, tokenizer_of
from compression.streaming.shipping import Shipping

BYTES: Mapping[Scheme | None, float] = {None: 4.0, "dynamic-int8": 1.1, "weight-only-int8": 1.1, "weight-only-int4": 0.9}
"""Of a file, for a parameter, at the most."""
OPENED: Mapping[Scheme | None, float] = {None: 6.0, "dynamic-int8": 2.2, "weight-only-int8": 5.0, "weight-only-int4": 1.5}
"""What a process takes that opens the file and answers, bytes a parameter: measured on SmolLM2-135M's shape, 5.2, 1.8, 2.9 and
1.2 (ONNX Runtime 1.32; it packs matrices anew, and unfolds those of weight-only-int8)."""
TENSORS = 5
"""Of the largest tensor in float32: what rounding it and writing it takes beside it."""
BASELINE = "baseline-onnx-float32"
SAMPLE = 8
"""Rows of test whose beginnings the file is asked."""


class Graphs:
    """Writes ONNX files for one job. baseline: the folder of the float32 one, once there is one."""

    def __init__(self, shipping: Shipping) -> None:
        self.shipping = shipping
        self.baseline: Path | None = None
        self._baseline_bytes = 0

    def take_up(self, artifacts: Sequence[str], source: Path, model: PreTrainedModel) -> None:
        """Find the baseline that an earlier attempt shipped; where its files are not here, write them again."""
        if BASELINE not in artifacts:
            return
        place = self.shipping.place(BASELINE)
        if not place.is_dir():
            place = self.shipping.test_rows.with_name(BASELINE)
            with durable.folder(place) as again:
                layers = Layerwise(source, torch.float32)
                decoder.write(layers.model, again, read=layers.tensor)
                self.shipping.describe(model, again, "onnx")
        self.baseline, self._baseline_bytes = place, _bytes(place)

    def beside(
        self, stage: Stage, made: list[Shipped], source: Path, model: PreTrainedModel, asked: Quantize | None
    ) -> Generator[Tick, None, tuple[list[Shipped], tuple[str, ...]]]:
        """Put a stage's file to its artifacts, or say why there is none. asked: the integers; None is float32.

        Ticks tell how far its score is.

        It comes first, so that the row is of it, where the baseline's is: what is held against it is of one runtime then.
        """
        scheme = None if asked is None else asked.scheme
        cause = self.hindered(model, scheme)
        if cause is not None:
            # Of a classifier the baseline's row says it for all.
            told = stage == "baseline" or model.can_generate()
            return made, (f"There is no ONNX artifact of this stage: {cause}.",) if told else ()
        graph = yield from self.ship(stage, source, model, scheme, asked.group_size if asked is not None else None)
        if scheme is None or self.baseline is not None:
            return [graph, *made], ()
        return [*made, graph], (_alone(graph),)

    def hindered(self, model: PreTrainedModel, scheme: Scheme | None) -> str | None:
        """Say why there can be no file of a model in a scheme, None where there can. model: without weights."""
        if not model.can_generate():
            return "a classifier's graph is traced, with the model in memory"
        if not decoder.can_write(model.config):
            return "its graph is not known"
        if self.shipping.spec.split_batches > 1:
            return "an earlier attempt found too little memory"
        parameters = families.decoder_of(model).parameters_of(model).total
        if scheme is None and not may_be_whole(parameters, "causal-lm"):
            return "its four bytes a parameter are more disk than the forecast allows"
        opened = OPENED[scheme] * parameters
        if self.baseline is not None and scheme is not None:
            opened += OPENED[None] / BYTES[None] * self._baseline_bytes
        written = TENSORS * 4 * max(prod(weight.shape) for weight in model.parameters())
        needed, left = round(max(opened, written)), self.shipping.left()
        if needed > left:
            return (
                f"about {needed:,} bytes of memory are needed to write and open it, and {left:,} are left of the engine's limit"
            )
        return None

    def ship(
        self, stage: Stage, source: Path, model: PreTrainedModel, scheme: Scheme | None, group_size: int | None = None
    ) -> Generator[Tick, None, Shipped]:
        """Write, verify and measure the file of the checkpoint in `source`. model: without weights, of that checkpoint.

        Raises ExportMismatch where the file does not answer as the model does.
        """
        of_groups = group_size if scheme == "weight-only-int4" else None
        simulation = None if scheme is None else Simulation(scheme=scheme, group_size=of_groups)
        layers = Layerwise(source, torch.float32)
        layers.model.generation_config = streamed.generation_of(model, source)
        precision = artifact.precision_of(scheme, layers.model, "onnx")
        name = f"{stage}-onnx-{precision}"
        with durable.folder(self.shipping.place(name)) as place:
            decoder.write(layers.model, place, simulation=simulation, read=layers.tensor)
            shipped = yield from self.shipping.complete(
                layers.model,
                place,
                name,
                stage,
                precision,
                scheme,
                kind="onnx",
                baseline=self.baseline,
                check=lambda: self._check(place, source, simulation),
            )
        if scheme is None:
            self.baseline, self._baseline_bytes = self.shipping.place(name), _bytes(self.shipping.place(name))
        return shipped

    def _check(self, place: Path, source: Path, simulation: Simulation | None) -> None:
        scorer = scoring.of(self.shipping.spec.asked[0].task, self.shipping.evaluate, ())
        assert isinstance(scorer, scoring.LanguageScorer)  # noqa: S101 (`hindered` lets no others come here)
        layers = Layerwise(source, torch.float32)
        vocabulary, rows = int(layers.model.config.vocab_size), self.shipping.sample(SAMPLE)
        asked = verify.begun(scorer.windows(tokenizer_of(place), rows), vocabulary, self.shipping.padding)
        plain = self._answers(layers, asked)
        exact = simulation is None or simulation.scheme.startswith("weight-only")
        expected = plain
        if simulation is not None:
            numerics.insert(layers.model, simulation=simulation)
            expected = self._answers(layers, asked)
        process.release_memory()
        runner = open_artifact("onnx", place, threads=torch.get_num_threads())
        assert isinstance(runner, OnnxDecoder)  # noqa: S101 (its config is a language model's)
        verify.check_cache(runner, layers.model)
        allowed = verify.limit(expected, plain, noise=0.0 if exact else verify.ROUNDING_NOISE["onnx"])
        routed = families.of(layers.model).shape_of(layers.model.config).experts is not None
        verify.compare(expected, verify.stacked(runner, asked), allowed, choice=not routed, places=True, routed=routed)
        assert isinstance(runner, Decoder)  # noqa: S101 (as above)
        both = verify.at_once_and_stepwise(runner, asked[-1].input_ids[:1])
        verify.compare(*both, allowed, choice=not routed, places=True, routed=routed)

    def _answers(self, layers: Layerwise, asked: list[runtimes.Batch]) -> Logits:
        batches = [_batch(one) for one in asked]
        found = layers.logits(batches, self.shipping.test_rows.with_name("answers"))
        return np.concatenate([logits.numpy() for logits in found])


def _alone(graph: Shipped) -> str:
    """Tell how fast a file is that there is no baseline for."""
    if not isinstance(graph.latency, Latency) or graph.latency.generation is None:
        return f"{graph.artifact.name} was not timed."
    told = graph.latency.generation
    return (
        f"{graph.artifact.name} reads {told.prefill_per_second:,.0f} and writes {told.decode_per_second:,.1f} tokens a second "
        "here; there is no float32 file to hold that against."
    )


def _bytes(place: Path) -> int:
    return sum(path.stat().st_size for pattern in artifact.WEIGHTS for path in place.glob(pattern))


def _batch(asked: runtimes.Batch) -> Batch:
    ids, mask = torch.from_numpy(asked.input_ids), torch.from_numpy(asked.attention_mask)
    return Batch(ids, mask, torch.zeros(len(ids), dtype=torch.int64), torch.arange(len(ids)))
