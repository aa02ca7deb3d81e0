"""The cost of a network of convolutions as a function of its widths: parameters and multiply-adds of any cut. Torch-free.

A width is the number of units that a group of channels keeps; `models.networks.channels` derives the groups of a graph, and
`models.networks.costs` these facts. Both figures are exact: they equal those of the graph that a cut makes.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from compression.schema.config import Config

Widths = Mapping[str, int]
"""Key of a group → units that stay. A group that is not named keeps all."""


class Count(Config):
    """The size of a dimension: indices that always stay, and those of the groups' units."""

    fixed: int = 0
    units: dict[str, int] = Field(default_factory=dict, description="Key of a group → indices of each of its units.")

    def at(self, widths: Widths) -> int:
        """Return the size at these widths, which must name all groups."""
        return self.fixed + sum(each * widths[key] for key, each in self.units.items())


class LayerFacts(Config):
    """One operator that takes memory or time: what its size and its work depend on.

    Its weight has `outputs` × `inputs` × `area` elements, and each is used at `positions` places of a row. A matmul has none:
    it computes `outputs` numbers at each of its places, of `inputs` products each. A move multiplies nothing: it is a sum of
    two values or another operator without tensors, and its `outputs` and `positions` are of the largest value that it touches.
    """

    name: str
    kind: Literal["conv", "linear", "matmul", "norm", "slope", "constant", "move"]
    outputs: Annotated[Count, Field(description="Channels that it makes.")]
    inputs: Annotated[
        Count, Field(description="Channels that each output reads: of its group, 1 if depthwise. A norm's and a move's: 0.")
    ]
    grouped: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Whether a convolution's outputs read only the inputs of their group: with one input each it is depthwise."""
    area: Annotated[int, Field(description="Of a convolution: height × width of its kernel.")] = 1
    positions: Annotated[
        int, Field(description="Places of a row where it computes an output; 0 of norms, slopes and constants.")
    ] = 0
    vectors: Annotated[int, Field(description="Parameters with one element for each output: a bias, a norm's weight.")] = 0
    statistics: Annotated[int, Field(description="Buffers with one element for each output: a norm's running ones.")] = 0

    def parameters(self, widths: Widths) -> int:
        """Return the number of elements of its parameters."""
        outputs = self.outputs.at(widths)
        weight = 0 if self.kind == "matmul" else outputs * self.inputs.at(widths) * self.area
        if self.kind == "constant" and weight == 1:
            return 0  # a single number is a part of a formula
        return weight + self.vectors * outputs

    def multiply_adds(self, widths: Widths) -> int:
        """Return its multiplications with an addition, for one row."""
        return self.positions and self.positions * self.area * self.outputs.at(widths) * self.inputs.at(widths)


class GroupFacts(Config):
    """Channels that shrink together, throughout the network, in whole units."""

    key: Annotated[str, Field(description="Axis and number, for example channels.3.")]
    axis: Annotated[str, Field(description="hidden (a residual stream), heads, channels (of convolutions) or ffn.")]
    units: Annotated[int, Field(ge=2, description="All of them. One at least must stay.")]
    unit_size: Annotated[int, Field(description="Channels of a unit where it is made: of a head, of a whole group.")] = 1
    normalized: Annotated[bool, Field(description="Whether a layer_norm reads it, whose statistics a cut changes.")] = False


class BlockFacts(Config):
    """A residual block that can be taken out."""

    name: str
    layers: Annotated[tuple[str, ...], Field(description="Names of the layers that go with it.")]


class NetworkFacts(Config):
    """A cost model of a network: its layers, its groups of channels, its residual blocks."""

    layers: tuple[LayerFacts, ...]
    groups: tuple[GroupFacts, ...]
    blocks: tuple[BlockFacts, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    """Keys of groups that the stock config of its library gives one width, or widths in one proportion. Empty where there is no
    such config."""
    inputs: Annotated[int, Field(description="Numbers of one row of its input: channels × height × width.")] = 0
    outputs: Annotated[int, Field(description="Logits of a row.")] = 0
    values: Annotated[int, Field(description="Numbers of all values of one row: about what a backward pass needs.")] = 0

    @property
    def widths(self) -> dict[str, int]:
        """Return the units of each group."""
        return {group.key: group.units for group in self.groups}

    @property
    def block_kinds(self) -> int:
        """Return how many kinds of residual blocks it has, blocks of a kind having the same costs."""
        whole, layers = self.widths, {layer.name: layer for layer in self.layers}
        costs = (
            tuple((layers[name].parameters(whole), layers[name].multiply_adds(whole)) for name in block.layers)
            for block in self.blocks
        )
        return len(set(costs))

    def parameters(self, widths: Widths | None = None, without: Collection[str] = ()) -> int:
        """Return the number of elements of all parameters at these widths, of the network without some blocks.

        Raises ValueError if a width is none that its group can have, KeyError if there is no such group or block.
        """
        full = self._checked(widths)
        return sum(layer.parameters(full) for layer in self._left(without))

    def multiply_adds(self, widths: Widths | None = None, without: Collection[str] = ()) -> int:
        """Return the multiply-adds of convolutions, linear layers and products, for one row. Raises as `parameters`."""
        full = self._checked(widths)
        return sum(layer.multiply_adds(full) for layer in self._left(without))

    def features(self, widths: Widths | None = None) -> int:
        """Return the inputs of its last linear layer; 0 if it has none."""
        full = self._checked(widths)
        return next((layer.inputs.at(full) for layer in reversed(self.layers) if layer.kind == "linear"), 0)

    def statistics(self, widths: Widths | None = None, without: Collection[str] = ()) -> int:
        """Return the number of elements of all running statistics, which are stored but are no parameters."""
        full = self._checked(widths)
        return sum(layer.statistics * layer.outputs.at(full) for layer in self._left(without) if layer.statistics)

    def _checked(self, widths: Widths | None) -> Widths:
        full = self.widths
        for key, units in (widths or {}).items():
            if not 1 <= units <= full[key]:
                raise ValueError(f"{key} has {full[key]} units: {units} cannot stay")
        return {**full, **(widths or {})}

    def _left(self, without: Collection[str]) -> Iterator[LayerFacts]:
        blocks = {block.name: block.layers for block in self.blocks}
        gone = {name for block in without for name in blocks[block]}
        return (layer for layer in self.layers if layer.name not in gone)
