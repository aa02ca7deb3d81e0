"""What a cut may cost at most: parameters, multiply-adds, bytes and milliseconds, as costs of a search space. Torch-free."""

from collections.abc import Callable
from math import inf

from compression.models.architectures.network_shapes import multiply_adds as operations_of
from compression.models.architectures.shapes import Count
from compression.planning.device_times import ShapeTimes
from compression.planning.estimator import artifact_bytes
from compression.planning.search.space import Cost
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import LayerFacts, NetworkFacts, Widths


def parameters(most: float, count: Count) -> Cost:
    """Return the number of parameters as a cost. count: of a model of a shape, head included."""
    return Cost("parameters", most, count, LayerFacts.parameters)


def multiply_adds(most: float, network: NetworkFacts) -> Cost:
    """Return the multiply-adds of one row of a network as a cost."""
    return Cost("multiply-adds", most, lambda shape: operations_of(network, shape), LayerFacts.multiply_adds)


def stored_bytes(most: float, parameters_at: Callable[[Shape], Parameters], quantize: Quantize | None) -> Cost:
    """Return the bytes of an artifact's weights as a cost, as forecasts count them."""

    def of_layer(layer: LayerFacts, widths: Widths) -> float:
        count = layer.parameters(widths)
        return artifact_bytes(Parameters(total=count, embedding=0, other=count), quantize)

    return Cost("bytes", most, lambda shape: artifact_bytes(parameters_at(shape), quantize), of_layer)


def milliseconds(most: float, times: ShapeTimes, scheme: str | None) -> Cost | None:
    """Return the predicted time of a pass as a cost; None if the device table has no times of such a model or scheme."""
    form = times.form_of(scheme)
    if form is None:
        return None

    def of_shape(shape: Shape) -> float:
        found = times.milliseconds(shape, scheme)
        return inf if found is None else found

    return Cost("milliseconds", most, of_shape, lambda layer, widths: times.of_layer(layer, widths, form), times.call_ms)
