"""The schemes' linear layers with a transposed weight, as in GPT-2 (Conv1D). Nothing else differs."""

from transformers.pytorch_utils import Conv1D

from compression.quantization.dynamic_int8 import FakeQuantLinear, SimulatedLinear
from compression.quantization.static_int8 import StaticLinear
from compression.quantization.weight_only import WeightOnlyLinear
from compression.schema.schemes import Scheme


class FakeQuantConv1D(FakeQuantLinear, Conv1D):  # type: ignore[misc]  # transformers has no types for it
    """Conv1D in dynamic-int8."""


class StaticConv1D(StaticLinear, Conv1D):  # type: ignore[misc]
    """Conv1D in static-int8."""


class WeightOnlyConv1D(WeightOnlyLinear, Conv1D):  # type: ignore[misc]
    """Conv1D in weight-only-int8 or weight-only-int4."""


TRANSPOSED: dict[Scheme, type[SimulatedLinear]] = {
    "dynamic-int8": FakeQuantConv1D,
    "static-int8": StaticConv1D,
    "weight-only-int8": WeightOnlyConv1D,
    "weight-only-int4": WeightOnlyConv1D,
}
