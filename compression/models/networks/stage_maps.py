"""The maps that the stages of a network hand on, which distillation compares with another network's."""

from collections.abc import Iterator, Mapping

from compression.models.networks.graph import INPUT, Graph, Node, Shape

_MAKE_MAPS = frozenset({"conv", "batch_norm", "max_pool", "average_pool", "resize"})
_MAKE_OTHERS = frozenset({"linear", "layer_norm", "matmul", "softmax", "reshape", "transpose", "expand", "constant"})


def stage_maps(graph: Graph, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """Return the last value of each size that all that follows depends on through it alone, in order.

    Those are maps (1, channels, height, width) or tokens (1, tokens, channels) of more than one place. If there are residual
    sums among them, they alone count, each with the ReLU behind it: the ends of the residual stages. shapes: of `value_shapes`.
    """
    maps, sums, found = {INPUT}, set[str](), list[tuple[Shape, str]]()
    for node, is_alone in _alone(graph):
        if node.op in _MAKE_MAPS or (node.op not in _MAKE_OTHERS and maps.intersection(node.inputs)):
            maps.add(node.name)
        if node.op == "add" or (node.op == "relu" and sums.intersection(node.inputs)):
            sums.add(node.name)
        factor, *sizes = shapes[node.name] or (0,)  # a constant may have no axis
        places = tuple(sizes[1:]) if len(sizes) == 3 and node.name in maps else tuple(sizes[:-1])
        is_stage = len(sizes) == 3 if node.name in maps else len(sizes) == 2 and node.name in sums
        if is_alone and is_stage and factor == 1 and any(size > 1 for size in places):
            found.append((places, node.name))
    chosen = [(places, name) for places, name in found if name in sums] or found
    return tuple(dict(chosen).values())


def _alone(graph: Graph) -> Iterator[tuple[Node, bool]]:
    """Yield each node and whether later nodes read no earlier value, constants aside."""
    nodes = tuple(graph.used())
    last = {name: number for number, node in enumerate(nodes) for name in node.inputs}
    live = {INPUT}
    for number, node in enumerate(nodes):
        if node.op != "constant":
            live.add(node.name)
        live = {name for name in live if last.get(name, -1) > number}
        yield node, live == {node.name}
