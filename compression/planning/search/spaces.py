"""Chooses the search space of a model. Torch-free."""

from collections.abc import Mapping

from compression.models.architectures.families import ArchitectureSpec
from compression.planning.search.free_space import FreeSpace
from compression.planning.search.mixed_space import MixedSpace
from compression.planning.search.network_space import NetworkSpace
from compression.planning.search.space import SearchSpace, UniformSpace
from compression.schema.error_tables import ErrorTables
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.network import NetworkFacts


def space_of(
    tables: ErrorTables,
    family: ArchitectureSpec,
    whole: Shape,
    prune: Prune,
    network: NetworkFacts | None = None,
    weights: Mapping[str, float] | None = None,
) -> SearchSpace:
    """Return what can be chosen of a model: each group's width where a network's facts are known, else one width on each axis,
    or with `free_widths` the feed-forward units of each layer; with `mixed_bits` the bits of each layer too.

    weights: what errors count, by the key of a group or the name of a layer; others 1. Raises UnsupportedShape.
    """
    if network is not None:
        return NetworkSpace(tables, network, whole, prune, weights)
    widths = (FreeSpace if prune.free_widths else UniformSpace)(tables, family, whole, prune, weights)
    return MixedSpace(widths) if prune.mixed_bits else widths
