"""What a cut may cost at most: parameters, multiply-adds, bytes and milliseconds, as costs of a search space. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

from compression.models.architectures.families import INSTALLED, ArchitectureSpec
from compression.models.architectures.network_shapes import multiply_adds as operations_of, network_parameters
from compression.models.architectures.shapes import Count, CountParts, allowed, parameters_at
from compression.models.architectures.text_operations import text_operations
from compression.planning.device_times import ShapeTimes
from compression.planning.estimator import exact_bytes
from compression.planning.search.space import Cost
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import LayerFacts, NetworkFacts, Widths
from compression.schema.solved_search import ParameterFacts

FINER = Quantize(scheme="weight-only-int8")
"""How layers are stored that have 8 bits where others have 4."""


def count_parameters(facts: ParameterFacts, kind: ArchitectureSpec, network: NetworkFacts | None, shape: Shape) -> Parameters:
    """Count the parameters of a model at a shape, head included."""
    if network is not None:
        total = network_parameters(network, shape)
        return Parameters(total=total, embedding=0, other=total)
    return parameters_at(
        kind, shape, rows=facts.rows, outputs=facts.outputs, dense=facts.dense, biases=facts.biases, biased=facts.biased
    )


def parameters(most: float, count: Count) -> Cost:
    """Return the number of parameters as a cost. count: of a model of a shape, head included."""
    return Cost("parameters", most, count, LayerFacts.parameters, key="target_params")


def count_operations(facts: ParameterFacts, kind: ArchitectureSpec, network: NetworkFacts | None, tokens: int) -> Count | None:
    """Return what counts the multiply-adds of one row at a shape, head included; None for families of installed packages, whose
    are not known. tokens: of a row of text.
    """
    if network is not None:
        return partial(operations_of, network)
    if kind.name in INSTALLED:
        return None
    return lambda shape: text_operations(kind, shape, tokens, outputs=facts.outputs, dense=facts.dense)


def multiply_adds(most: float, count: Count) -> Cost:
    """Return the multiply-adds of one row as a cost. count: of a model of a shape."""
    return Cost("multiply-adds", most, count, LayerFacts.multiply_adds, key="target_flops")


def bytes_of(shape: Shape, parts: CountParts, quantize: Quantize | None) -> float:
    """Return the bytes of an artifact's weights at a shape, of which some layers may have 8 bits. parts: its parameters."""
    count = parts(shape)
    found = exact_bytes(count, quantize)
    if not shape.eight_bits:
        return found
    one = count.other - parts(shape.model_copy(update={"layers": shape.layers - 1})).other
    layer = Parameters(total=one, embedding=0, other=one)
    return found + len(shape.eight_bits) * (exact_bytes(layer, FINER) - exact_bytes(layer, quantize))


def stored_bytes(most: float, parts: CountParts, quantize: Quantize | None) -> Cost:
    """Return the bytes of an artifact's weights as a cost, as forecasts count them, but not rounded: of parts they add up."""

    def of_layer(layer: LayerFacts, widths: Widths) -> float:
        count = layer.parameters(widths)
        return exact_bytes(Parameters(total=count, embedding=0, other=count), quantize)

    return Cost("bytes", most, lambda shape: bytes_of(shape, parts, quantize), of_layer, key="target_bytes")


def milliseconds(most: float, times: ShapeTimes, scheme: str | None) -> Cost | None:
    """Return the predicted time of a pass as a cost; None if the device table has no times of such a model or scheme."""
    form = times.form_of(scheme)
    if form is None:
        return None

    def of_shape(shape: Shape) -> float:
        found = times.milliseconds(shape, scheme)
        return inf if found is None else found

    def of_layer(layer: LayerFacts, widths: Widths) -> float:
        return times.of_layer(layer, widths, form)

    return Cost("milliseconds", most, of_shape, of_layer, times.call_ms, key="target_latency", predicted=True)


@dataclass(frozen=True)
class Sizes:
    """What counts a model's sizes at any shape, head included."""

    parts: CountParts  #: its parameters
    operations: Count | None = None  #: multiply-adds of one row; None if they are not known
    quantize: Quantize | None = None  #: by which bytes are counted
    network: NetworkFacts | None = None  #: of a network of images

    def parameters(self, shape: Shape) -> int:
        """Return the number of parameters."""
        return self.parts(shape).total

    def bytes(self, shape: Shape) -> int:
        """Return the bytes of an artifact's weights."""
        return round(bytes_of(shape, self.parts, self.quantize))

    @property
    def counts(self) -> Mapping[str, Count]:
        """Return what counts each size that a cut may aim at, by its key."""
        found: dict[str, Count] = {"target_params": self.parameters, "target_bytes": self.bytes}
        return found if self.operations is None else {**found, "target_flops": self.operations}

    def limits(self, prune: Prune, before: Shape) -> list[Cost]:
        """Return the limits of a cut's sizes. before: the shape of which targets remove shares. Raises ValueError if one asks
        for what is not counted.
        """
        found = list[Cost]()
        if prune.target_params is not None:
            found.append(parameters(allowed(prune.target_params, self.parameters(before)), self.parameters))
        if prune.target_flops is not None:
            if self.operations is None:
                raise ValueError("target_flops cannot be aimed at without counting")
            found.append(multiply_adds(allowed(prune.target_flops, self.operations(before)), self.operations))
        if prune.target_bytes is not None:
            found.append(stored_bytes(allowed(prune.target_bytes, self.bytes(before)), self.parts, self.quantize))
        return found


def sizes_of(
    facts: ParameterFacts, kind: ArchitectureSpec, network: NetworkFacts | None, quantize: Quantize | None, tokens: int
) -> Sizes:
    """Return what counts the sizes of models with these facts. tokens: of a row of text."""
    parts = partial(count_parameters, facts, kind, network)
    return Sizes(parts, count_operations(facts, kind, network, tokens), quantize, network)
