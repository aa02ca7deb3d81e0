"""What a network costs some of whose parts stay as they are: groups that are never cut, constants that are never trained."""

from collections.abc import Set as AbstractSet

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


def without_fixed(facts: NetworkFacts, tensors: AbstractSet[str]) -> NetworkFacts:
    """Return the facts of a network of which no training changes some constants, "node.value": they are no parameters."""
    layers = tuple(layer for layer in facts.layers if layer.kind != "constant" or f"{layer.name}.value" not in tensors)
    return facts.model_copy(update={"layers": layers})
