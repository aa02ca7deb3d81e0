"""What a cut may cost at most: parameters, multiply-adds, bytes and milliseconds, as costs of a search space. Torch-free."""

from math import inf

from compression.models.architectures.families import ArchitectureSpec
from compression.models.architectures.network_shapes import multiply_adds as operations_of, network_parameters
from compression.models.architectures.shapes import Count, CountParts, allowed, parameters_at
from compression.planning.device_times import ShapeTimes
from compression.planning.estimator import artifact_bytes, exact_bytes
from compression.planning.search.space import Cost
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import LayerFacts, NetworkFacts, Widths
from compression.schema.solved_search import ParameterFacts


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


def multiply_adds(most: float, network: NetworkFacts) -> Cost:
    """Return the multiply-adds of one row of a network as a cost."""
    return Cost(
        "multiply-adds", most, lambda shape: operations_of(network, shape), LayerFacts.multiply_adds, key="target_flops"
    )


def stored_bytes(most: float, parts: CountParts, quantize: Quantize | None) -> Cost:
    """Return the bytes of an artifact's weights as a cost, as forecasts count them, but not rounded: of parts they add up."""

    def of_layer(layer: LayerFacts, widths: Widths) -> float:
        count = layer.parameters(widths)
        return exact_bytes(Parameters(total=count, embedding=0, other=count), quantize)

    return Cost("bytes", most, lambda shape: exact_bytes(parts(shape), quantize), of_layer, key="target_bytes")


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


def size_limits(
    prune: Prune, before: Shape, parts: CountParts, network: NetworkFacts | None, quantize: Quantize | None
) -> list[Cost]:
    """Return the limits of target_params, target_bytes and a network's target_flops. before: the shape of which shares are
    removed; quantize: by which bytes are counted.
    """
    limits, whole = list[Cost](), parts(before)
    if prune.target_params is not None:
        limits.append(parameters(allowed(prune.target_params, whole.total), parameter_count(parts)))
    if prune.target_flops is not None and network is not None:
        limits.append(multiply_adds(allowed(prune.target_flops, network.multiply_adds()), network))
    if prune.target_bytes is not None:
        limits.append(stored_bytes(allowed(prune.target_bytes, artifact_bytes(whole, quantize)), parts, quantize))
    return limits


def parameter_count(parts: CountParts) -> Count:
    """Return what counts all parameters of a shape together."""
    return lambda shape: parts(shape).total


def byte_count(parts: CountParts, quantize: Quantize | None) -> Count:
    """Return what counts the bytes of an artifact's weights at a shape."""
    return lambda shape: artifact_bytes(parts(shape), quantize)
