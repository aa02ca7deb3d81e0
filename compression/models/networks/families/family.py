"""What each family of stock image classifiers gives: its graph from a config.json, and the config.json of a narrower graph."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from compression.models.architectures.stock_networks import HEADED, STOCK_NETWORKS, StockClasses
from compression.models.networks.families.builder import Builder, StockNetwork
from compression.models.networks.families.settings import FRACTIONS, MOST_PIXELS, Settings
from compression.models.networks.graph import Graph, Shape
from compression.models.networks.value_shapes import value_shapes
from compression.schema.errors import CompressionError, ConfigMismatch

Size = tuple[int, int]
"""Height and width of the images in pixels."""
Sizes = TypeVar("Sizes")
"""The settings that a family's computation depends on."""


class StockFamily(ABC, Generic[Sizes]):
    """A model_type of transformers. `registry.FAMILIES` has one of each."""

    kind: ClassVar[str]  #: the model_type
    renamed: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Parts of tensor names in checkpoints, and what stock code calls them once they are loaded, in the order of renaming."""

    @property
    def stock(self) -> StockClasses:
        """Return the stock classes, and what their config can express."""
        return STOCK_NETWORKS[self.kind]

    @property
    def prefix(self) -> str:
        """Return the prefix of the bare model's tensors in a model with its head."""
        return f"{self.kind}."

    @abstractmethod
    def read(self, settings: Settings, size: Size | None) -> Sizes:
        """Read what the computation depends on. size: of the images; None for the model's own. Adds to the problems."""

    @abstractmethod
    def build(self, sizes: Sizes, outputs: int) -> tuple[Builder, tuple[str, ...]]:
        """Build the graph; return it with the stock names of the head's tensors."""

    @abstractmethod
    def narrower(self, config: Mapping[str, Any], graph: Graph) -> dict[str, Any] | None:
        """Return the settings that could express a graph that was cut from this family's; `stock_form` compares the graphs."""

    @abstractmethod
    def ties(self, graph: Graph) -> list[list[str]]:
        """Return lists of weights whose outputs keep their proportions in every model of the family."""

    def spare(self, sizes: Sizes) -> dict[str, Shape]:  # noqa: ARG002 (some families' own)
        """Return tensors that checkpoints of bare models have too, and that a classifier does not read; without the prefix."""
        return {}

    def describe(
        self, config: Mapping[str, Any], size: Size | None = None, outputs: int | None = None
    ) -> tuple[StockNetwork | None, list[CompressionError]]:
        """Describe a config.json, or return None and every reason to refuse it.

        size: of the images that the model gets; None for the model's own. outputs: of the new head of a bare model.
        """
        settings = Settings(config)
        sizes, labels, architecture = self.read(settings, size), settings.labels(), self._architecture(config, settings)
        if len(labels) < 2:
            settings.unsupported("id2label", "the model has one output, and not one for each of at least two labels")
        if settings.problems:
            return None, settings.problems
        headed = architecture.endswith(HEADED)
        builder, head = self.build(sizes, len(labels) if headed else outputs or len(labels))
        found = builder.network(architecture, labels if headed else None, head)
        try:
            value_shapes(found.graph)
        except ValueError as problem:
            return None, [ConfigMismatch(f"no image passes this network: {problem}", param="config.json")]
        return found, []

    def graph_of(self, config: Mapping[str, Any], size: Size | None = None, outputs: int | None = None) -> StockNetwork:
        """Return the network of a config.json. Raises UnsupportedArchitecture or ConfigMismatch, with the key."""
        found, problems = self.describe(config, size, outputs)
        if found is None:
            raise problems[0]
        return found

    def beside(self, config: Mapping[str, Any]) -> dict[str, Shape]:
        """Return the tensors that a checkpoint of this valid config.json may hold beside those of the network."""
        return {self.prefix + name: shape for name, shape in self.spare(self.read(Settings(config), None)).items()}

    def known(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a valid config.json says of the computation and its training, without keys that stock code ignores."""
        settings = Settings(config)
        self.read(settings, None)
        found = {key: value for key, value in config.items() if key in {"model_type", *settings.read, *FRACTIONS}}
        # Stock code takes no whole number where it declares a float.
        return {key: float(value) if key in settings.floats else value for key, value in found.items()}

    def loaded(self, name: str) -> str:
        """Return what stock code calls a checkpoint's tensor once it is loaded."""
        for old, new in self.renamed:
            name = name.replace(old, new)
        return name

    def filed(self, name: str) -> str:
        """Return what checkpoints call a tensor that may have its name of a loaded model."""
        for old, new in reversed(self.renamed):
            name = name.replace(new, old)
        return name

    def _architecture(self, config: Mapping[str, Any], settings: Settings) -> str:
        known = self.stock.architectures
        names = config.get("architectures") or known[1:]
        found = next((name for name in known if name in names), None)
        if found is None:
            settings.unsupported("architectures", f"architectures names none of: {', '.join(known)}")
        return found or known[0]


def image_size(settings: Settings, size: Size | None, *, fixed: bool) -> Size:
    """Return the size of the images. fixed: whether the model takes no other than its config's."""
    own = settings.sides("image_size", 224, MOST_PIXELS)
    if size is None:
        return own
    if fixed and size != own:
        settings.mismatched("image_size", f"image_size is {own}, and the preprocessor makes images of {size}")
    return size


def named_in(graph: Graph, pattern: str) -> Iterator[tuple[str, ...]]:
    """Yield the groups of a pattern for each node whose name it matches whole, in the order of the graph."""
    return (match.groups() for node in graph.used() if (match := re.fullmatch(pattern, node.name)))


def by_stage(graph: Graph, pattern: str) -> dict[int, list[int]]:
    """Return the numbers of each stage's blocks. pattern: of a node that each block has; its groups are stage and block."""
    found: dict[int, list[int]] = {}
    for stage, block in named_in(graph, pattern):
        found.setdefault(int(stage), []).append(int(block))
    return found


def outputs_of(graph: Graph, name: str) -> int:
    """Return the outputs of a convolution or linear layer."""
    return graph.named(name).tensors["weight"][0]
