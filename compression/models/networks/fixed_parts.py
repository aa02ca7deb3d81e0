"""What a network costs some of whose parts are held: groups never cut, constants never trained, numbers that are shared."""

from collections.abc import Mapping, Set as AbstractSet

from compression.schema.report.network import Count, NetworkFacts


def without_groups(facts: NetworkFacts, keys: AbstractSet[str]) -> NetworkFacts:
    """Return the facts of a network of which some groups always stay whole."""
    widths = facts.widths

    def fixed(count: Count) -> Count:
        more = sum(each * widths[key] for key, each in count.units.items() if key in keys)
        return Count(fixed=count.fixed + more, units={key: each for key, each in count.units.items() if key not in keys})

    layers = [
        layer.model_copy(update={"outputs": fixed(layer.outputs), "inputs": fixed(layer.inputs)}) for layer in facts.layers
    ]
    groups = tuple(group for group in facts.groups if group.key not in keys)
    tied = tuple(each for each in facts.tied if keys.isdisjoint(each))
    return facts.model_copy(update={"layers": tuple(layers), "groups": groups, "tied": tied})


def without_fixed(facts: NetworkFacts, tensors: AbstractSet[str], windows: Mapping[str, int]) -> NetworkFacts:
    """Return the facts of a network some of whose constants, "node.value", are no parameters or have fewer.

    tensors: what no training changes. windows: the height of the window of each value (..., places, places) with one number
    for all pairs of places that lie equally far apart.
    """
    found = []
    for layer in facts.layers:
        name = f"{layer.name}.value" if layer.kind == "constant" else ""
        if name in windows:
            height = windows[name]
            found.append(layer.model_copy(update={"area": layer.area // height**4 * (2 * height - 1) ** 2}))
        elif name not in tensors:
            found.append(layer)
    return facts.model_copy(update={"layers": tuple(found)})
