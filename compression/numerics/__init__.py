"""The integers of every scheme: one definition each, simulated in training exactly as the shipped artifact computes them.

`dynamic`, `static` and `weights` are the schemes (docs/numerics.md), `observers` the pure mathematics of ranges, `simulation`
puts a scheme into a model, `held` keeps in 8 bits what is only read. Nothing here runs a model or reads data.
"""

from compression.numerics.dynamic import (
    LEVELS,
    PORTABLE_LEVELS,
    SMALLEST_SCALE,
    FakeQuantEmbedding,
    FakeQuantLinear,
    SimulatedLinear,
    fake_quantize_rows,
    integer_product,
    integers,
    levels_of,
    row_scales,
)
from compression.numerics.experts import SimulatedExperts, fused
from compression.numerics.floating import gradient_dtype, has_bfloat16, precision
from compression.numerics.held import hold, let_go, to_hold
from compression.numerics.matrices import is_linear, is_transposed, matrix
from compression.numerics.simulation import (
    DYNAMIC,
    Simulation,
    insert,
    is_simulated,
    left_in_float,
    quantizable,
    ranges_of,
    remove,
    set_ranges,
    simulated_layers,
    simulation_of,
)
from compression.numerics.static import Range, StaticLinear, affine, static_weights
from compression.numerics.weights import WeightOnlyLinear, grouped_integers, stored

__all__ = [
    "DYNAMIC",
    "LEVELS",
    "PORTABLE_LEVELS",
    "SMALLEST_SCALE",
    "FakeQuantEmbedding",
    "FakeQuantLinear",
    "Range",
    "SimulatedExperts",
    "SimulatedLinear",
    "Simulation",
    "StaticLinear",
    "WeightOnlyLinear",
    "affine",
    "fake_quantize_rows",
    "fused",
    "gradient_dtype",
    "grouped_integers",
    "has_bfloat16",
    "hold",
    "insert",
    "integer_product",
    "integers",
    "is_linear",
    "is_simulated",
    "is_transposed",
    "left_in_float",
    "let_go",
    "levels_of",
    "matrix",
    "precision",
    "quantizable",
    "ranges_of",
    "remove",
    "row_scales",
    "set_ranges",
    "simulated_layers",
    "simulation_of",
    "static_weights",
    "stored",
    "to_hold",
]
