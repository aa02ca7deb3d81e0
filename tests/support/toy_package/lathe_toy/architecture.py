"""The model family: what its config.json means, which tensors its files hold, how many parameters a shape has. Torch-free.

Shows `Architecture`, which the check of an upload, the forecast and the pruning plan ask. Its pruning group is declared here
too: the hidden units of a layer are the rows of `up` and the columns of `down`, each a `Width` of the axis `ffn`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from compression.models.architectures.families import Architecture, ArchitectureSpec
from compression.models.architectures.pruning_groups import Tensors, Width
from compression.models.architectures.tensor_names import ExpectedTensors, pair
from compression.schema.errors import CompressionError, ConfigMismatch, UnsupportedShape
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Parameters, Shape

KEYS = {"features": 4096, "units": 65536, "layers": 64}
"""Key of config.json → its largest value."""


@dataclass(frozen=True)
class Described:
    """A model as its config.json describes it. It has no positions: 0."""

    kind: str
    architecture: str
    shape: Shape
    labels: tuple[str, ...]
    max_positions: int = 0
    biases: tuple[()] = ()


def tensors(shape: Shape, outputs: int) -> Tensors:
    found = pair("classifier", (outputs, shape.hidden))
    for layer in range(shape.layers):
        units = Width(shape.ffn, "ffn", layer)
        found |= pair(f"layers.{layer}.up", (units, shape.hidden)) | pair(f"layers.{layer}.down", (shape.hidden, units))
    return found


class ToyMlp(Architecture):
    """Blocks x + down(relu(up(x))) on a vector of features, then a linear layer."""

    spec = ArchitectureSpec(
        name="toy-mlp",
        model_type="toy-mlp",
        architectures=("ToyMlpForSequenceClassification",),
        axes=("ffn",),
        tasks=("vector-classification",),
        limits="Every layer has as many hidden units.",
        coupled=False,
    )
    engine = "lathe_toy.model:ADAPTER"

    def describe(self, config: Mapping[str, Any]) -> tuple[Described | None, list[CompressionError]]:
        """Read a config.json; return the reasons if it is not one of this family."""
        wrong = [key for key, most in KEYS.items() if type(config.get(key)) is not int or not 0 < config[key] <= most]
        names = config.get("id2label")
        if wrong or not isinstance(names, dict) or not all(isinstance(names.get(str(at)), str) for at in range(len(names))):
            key = next(iter(wrong), "id2label")
            return None, [ConfigMismatch(f"{key} is {config.get(key)!r:.60}", param=f"config.json:{key}")]
        labels = tuple(names[str(at)] for at in range(len(names)))
        return Described(self.spec.model_type, self.spec.architectures[0], self.shape_of(config), labels), []

    def shape_of(self, config: Mapping[str, Any]) -> Shape:
        """Return the widths: no heads, no vocabulary."""
        features, units, layers = (int(config[key]) for key in KEYS)
        return Shape(layers=layers, hidden=features, heads=0, ffn=units, vocabulary=0)

    def expected(self, described: Described) -> ExpectedTensors:
        return ExpectedTensors("", tensors(described.shape, len(described.labels)), {}, {}, {})

    def shape_at(self, shape: Shape, prune: Prune, ratios: Mapping[Any, float]) -> Shape:
        """Return the shape nearest to these ratios. Raises UnsupportedShape."""
        units = round(shape.ffn * (1 - ratios["ffn"]) / prune.multiple) * prune.multiple
        if units < 1:
            raise UnsupportedShape(f"the ratio {ratios['ffn']:g} leaves no hidden units", param="recipe.prune.ratio")
        return shape.model_copy(update={"ffn": min(units, shape.ffn)})

    def parameters_at(self, shape: Shape, outputs: int) -> Parameters:
        total = sum(prod(widths) for widths in tensors(shape, outputs).values())
        return Parameters(total=total, embedding=0, other=total)


TOY_MLP = ToyMlp()
