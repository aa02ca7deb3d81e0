"""Which values of a network integers round: what the operators read that ONNX Runtime computes with integers."""

from compression.models.networks.graph import INPUT, Graph

ROUNDING = frozenset({"conv", "linear", "add", "mul", "concat", "max_pool", "average_pool", "reduce_mean"})
"""Operators whose inputs are rounded."""


def rounded_values(graph: Graph) -> tuple[str, ...]:
    """Return the values that are rounded, each once, in the order in which they are made. All readers read them rounded."""
    read = {name for node in graph.used() if node.op in ROUNDING for name in node.inputs}
    return tuple(name for name in (INPUT, *(node.name for node in graph.nodes)) if name in read)
