"""Predicts a model's latency from a device table: the sum of its layers' times, interpolated. Torch-free.

A layer's time is read from the timed layers of its kind: between two of them the logarithm of the time is a straight line over
that of the width or of the places, and beyond the last ones the line goes on. Layers that multiply have a sum with weights
instead (`product_times`). What a call of the runtime takes is subtracted from each timed layer that contains it, and counted
once for the model. Lookups of embeddings and outputs of one row are not in the sum.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, inf, log

from compression.models.architectures.families import INSTALLED, ArchitectureSpec
from compression.models.architectures.network_shapes import spared_blocks
from compression.planning.product_times import Grains, ProductTimes, grains_of
from compression.schema.device_table import (
    FORMS,
    GRAINS,
    OF_IMAGES,
    RUNTIMES,
    DeviceTable,
    Form,
    Operation,
    TableRow,
    TableRuntime,
)
from compression.schema.report.measurements import Shape
from compression.schema.report.network import LayerFacts, NetworkFacts

NOISE = 0.02  #: of a row's time: a layer that takes less beside the call tells nothing of other sizes
EVEN = 16
"""Of linear layers only multiples of this are interpolated between: others are timed to see what odd widths cost."""
AREA = 9  #: of the timed convolutions' kernels
LEAST = 1e-3  #: microseconds of a layer, at least: the time of a small one may be less than that of a call
EVENEST: Grains = (GRAINS[0], GRAINS[0])
PRODUCTS: tuple[Operation, ...] = ("linear", "convolution")
STEEPEST = 1.5
"""The most that the time may grow, in powers of the work, beyond what is timed: two noisy rows give any slope."""
Point = tuple[float, float]


@dataclass(frozen=True)
class LayerWork:
    """A layer of a model: `count` of the same size. The other fields are those of `TableRow`."""

    operation: Operation
    inputs: float
    outputs: float
    places: float
    count: int = 1
    rounded: bool = False  #: whether a quantization scheme rounds it
    grains: Grains = EVENEST  #: of a convolution's channels


@dataclass(frozen=True)
class DeviceTimes:
    """The times of one runtime in a table."""

    table: DeviceTable
    runtime: TableRuntime

    @cached_property
    def _rows(self) -> Mapping[tuple[Operation, Form], Sequence[TableRow]]:
        found: dict[tuple[Operation, Form], list[TableRow]] = {}
        for row in self.table.rows:
            odd = row.inputs % EVEN or row.outputs % EVEN
            if row.runtime == self.runtime and not (odd and row.operation == "linear"):
                found.setdefault((row.operation, row.form), []).append(row)
        return found

    @cached_property
    def call(self) -> float:
        """Return the microseconds of a call that computes nothing; 0 if it was not timed."""
        return min((row.microseconds for row in self._rows.get(("call", "float32"), ())), default=0.0)

    def has(self, form: Form) -> bool:
        """Return whether linear layers or convolutions were timed in this form."""
        return any((operation, form) in self._rows for operation in ("linear", "convolution"))

    def milliseconds(self, layers: Iterable[LayerWork], form: Form, batch: int = 1) -> float | None:
        """Return the predicted time of a pass over `batch` rows; None if a kind of layer was not timed here."""
        total = self.call
        for layer in layers:
            found = self._layer(layer, form, batch)
            if found is None:
                return None
            total += layer.count * found
        return total / 1000

    def _layer(self, layer: LayerWork, form: Form, batch: int) -> float | None:
        """Return the microseconds of a layer without the call."""
        if layer.operation == "attention":
            found = self._attention(layer, form)
            return None if found is None else batch * found
        used = form if layer.rounded else "float32"
        if layer.operation in OF_IMAGES and used == "dynamic-int8":
            used = "static-int8"  # whose integers they have
        if layer.operation in PRODUCTS:
            times = self._product(layer.operation, used, layer.grains) or self._product(layer.operation, used, EVENEST)
            return None if times is None else times.microseconds(layer.inputs, layer.outputs, layer.places * batch)
        rows = self._rows.get((layer.operation, used), ())
        return self._curve(rows, layer.inputs, layer.places * batch)

    def _product(self, operation: Operation, form: Form, grains: Grains) -> ProductTimes | None:
        """Return the times of linear layers or convolutions; None if none of these grains is timed."""
        key = operation, form, grains
        if key not in self._products:
            alike = operation == "convolution"
            rows = [
                ((float(row.inputs), float(row.outputs), float(row.places * row.batch)), self._alone(row))
                for row in self._rows.get((operation, form), ())
                if self._alone(row) > NOISE * row.microseconds
                if not alike or grains_of(row.inputs, row.outputs) == grains
            ]
            self._products[key] = ProductTimes.of(rows, alike=alike) if rows else None
        return self._products[key]

    @cached_property
    def _products(self) -> dict[tuple[Operation, Form, Grains], ProductTimes | None]:
        return {}

    def _alone(self, row: TableRow) -> float:
        """Return a row's microseconds without the call."""
        return max(row.microseconds - (0.0 if row.operation in OF_IMAGES else self.call), LEAST)

    def _attention(self, layer: LayerWork, form: Form) -> float | None:
        """Return the time of one row's attention: a line over the heads of each timed size, and one over the sizes."""
        rows = self._rows.get(("attention", "float32" if form == "float32" else "static-int8"))
        rows = rows or self._rows.get(("attention", "float32"), ())
        sizes: dict[float, list[TableRow]] = {}
        for row in rows:
            if row.batch == 1:
                sizes.setdefault(row.inputs / row.outputs, []).append(row)
        # Rare places are timed of few sizes, which a line over places may stand for.
        timed = {row.places for some in sizes.values() for row in some}
        near = min(timed, key=lambda places: abs(log(places / layer.places)), default=0)
        whole = {size: some for size, some in sizes.items() if near in {row.places for row in some}}
        found = [(log(size), self._curve(some, layer.outputs * size, layer.places)) for size, some in whole.items()]
        points = [(size, log(time)) for size, time in found if time is not None]
        return exp(_line(points, log(layer.inputs / layer.outputs))) if points else None

    def _curve(self, rows: Sequence[TableRow], width: float, places: float) -> float | None:
        curves: dict[int, dict[float, list[float]]] = {}
        for row in rows:
            times = curves.setdefault(row.places * row.batch, {}).setdefault(row.inputs, [])
            times.append(log(self._alone(row)))
        if not curves:
            return None
        over = [
            (log(at), _line([(log(each), sum(times) / len(times)) for each, times in points.items()], log(width)))
            for at, points in curves.items()
        ]
        return exp(_line(over, log(places)))


def _line(points: Sequence[Point], at: float) -> float:
    """Interpolate between points; beyond them their last line goes on, neither falling nor steeper than STEEPEST."""
    points = sorted(points)
    if len(points) == 1:
        return points[0][1] + at - points[0][0]
    place = min(max(bisect_left(points, (at, 0.0)), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[place - 1], points[place]
    slope = (y1 - y0) / (x1 - x0)
    if x0 <= at <= x1:
        return y0 + slope * (at - x0)
    slope = min(max(slope, 0.0), STEEPEST)
    return y0 + slope * (at - x0) if at < x0 else y1 + slope * (at - x1)


@dataclass(frozen=True)
class ShapeTimes:
    """The predicted times of a model's shapes, at a job's batch and length."""

    table: DeviceTable
    family: ArchitectureSpec
    network: NetworkFacts | None
    tokens: int  #: of a row of text
    batch: int = 1

    def milliseconds(self, shape: Shape, scheme: str | None, runtime: TableRuntime = "onnxruntime") -> float | None:
        """Return the predicted time of a pass; None for models of other kinds than encoders of text and networks of images, and
        for schemes that the table has no times of. scheme: None is float32.
        """
        form, times = self.form_of(scheme, runtime), self._times[runtime]
        if form is None:
            return None
        if self.network is not None:
            without = spared_blocks(self.network, shape, self.network.multiply_adds)
            return times.milliseconds(network_layers(self.network, shape, without), form, self.batch)
        return times.milliseconds(encoder_layers(shape, self.tokens), form, self.batch)

    def form_of(self, scheme: str | None, runtime: TableRuntime = "onnxruntime") -> Form | None:
        """Return the form that a scheme is timed in; None if the table has no times of it, or of such models."""
        form = next((form for form in FORMS if form == (scheme or "float32")), None)
        if self.network is None and (self.family.decodes or self.family.name in INSTALLED):
            return None
        return form if form is not None and self._times[runtime].has(form) else None

    def of_layer(self, layer: LayerFacts, widths: Mapping[str, int], form: Form) -> float:
        """Return the milliseconds of one layer of a network, without the call; infinite if its kind was not timed.

        widths: of all groups.
        """
        found = self.onnxruntime.milliseconds(_network_layer(layer, widths), form, self.batch)
        return inf if found is None else found - self.call_ms

    @property
    def call_ms(self) -> float:
        """Return the milliseconds of a call that computes nothing."""
        return self.onnxruntime.call / 1000

    @cached_property
    def onnxruntime(self) -> DeviceTimes:
        """Return the times in ONNX Runtime."""
        return self._times["onnxruntime"]

    @cached_property
    def _times(self) -> Mapping[TableRuntime, DeviceTimes]:
        return {runtime: DeviceTimes(self.table, runtime) for runtime in RUNTIMES}


def encoder_layers(shape: Shape, tokens: int) -> list[LayerWork]:
    """Return the layers of an encoder of text that take its time, for rows of so many tokens."""
    n, hidden, inner = shape.layers, shape.hidden, shape.attended
    found = [
        # Queries, keys and values are one product of three widths: they share the quantization of their input.
        LayerWork("linear", hidden, 3 * inner, tokens, n, rounded=True),
        LayerWork("attention", inner, shape.heads, tokens, n),
        LayerWork("linear", inner, hidden, tokens, n, rounded=True),
        LayerWork("normalization", hidden, hidden, tokens, 2 * n + 1),
    ]
    for ffn, count in Counter(shape.each_ffn).items():
        found += [
            LayerWork("linear", hidden, ffn, tokens, count, rounded=True),
            LayerWork("activation", ffn, ffn, tokens, count),
            LayerWork("linear", ffn, hidden, tokens, count, rounded=True),
        ]
    return found


def network_layers(network: NetworkFacts, shape: Shape, without: Iterable[str] = ()) -> list[LayerWork]:
    """Return the layers of a network of images that take its time. without: names of the residual blocks that are cut out."""
    widths = {**network.widths, **(shape.widths or {})}
    gone = {name for block in network.blocks if block.name in {*without} for name in block.layers}
    return [found for layer in network.layers if layer.name not in gone for found in _network_layer(layer, widths)]


def _network_layer(layer: LayerFacts, widths: Mapping[str, int]) -> Iterator[LayerWork]:
    inputs, outputs = layer.inputs.at(widths), layer.outputs.at(widths)
    if not layer.positions:
        return
    if layer.kind == "move":
        yield LayerWork("addition", outputs, outputs, layer.positions, rounded=True)
    elif not inputs:
        return
    elif layer.grouped and inputs == 1:
        yield LayerWork("depthwise", outputs * layer.area / AREA, outputs, layer.positions, rounded=True)
    elif layer.kind == "conv":
        grains = grains_of(inputs, outputs)
        yield LayerWork("convolution", inputs * layer.area / AREA, outputs, layer.positions, rounded=True, grains=grains)
    elif layer.kind == "linear":
        yield LayerWork("linear", inputs, outputs, layer.positions, rounded=True)
    elif layer.kind == "matmul":
        yield LayerWork("linear", inputs, outputs, layer.positions)
