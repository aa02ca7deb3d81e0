"""The model in torch, with a stock-style config, and the adapter that tells pruning and distillation which module is which.

Shows `ArchitectureAdapter`. Transformers' Auto classes know the model once this module is imported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from compression.models.adapters.adapter import ArchitectureAdapter
from compression.models.adapters.structure import Feed, Head, Tap
from compression.models.architectures.pruning_groups import Tensors
from compression.schema.report.measurements import Shape
from lathe_toy.architecture import TOY_MLP, tensors


class ToyMlpConfig(PretrainedConfig):
    """config.json of the family."""

    model_type = "toy-mlp"
    features: int = 8
    units: int = 64
    layers: int = 1
    initializer_range: float = 0.3


@dataclass
class Output(ModelOutput):
    """Logits (rows, labels); states are (rows, 1, features), a vector being one position."""

    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class Block(nn.Module):
    """x + down(relu(up(x)))."""

    def __init__(self, config: ToyMlpConfig) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(config.features, config.units), nn.Linear(config.units, config.features)

    def forward(self, states: Tensor) -> Tensor:
        """(rows, features) -> (rows, features)."""
        found: Tensor = states + self.down(nn.functional.relu(self.up(states)))
        return found


class ToyMlpForSequenceClassification(PreTrainedModel):
    """The blocks and a linear layer over the labels."""

    config_class = ToyMlpConfig

    def __init__(self, config: ToyMlpConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.classifier = nn.Linear(config.features, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> None:
        """Return None: the model has no tables. Stock code asks every model."""

    def forward(self, features: Tensor, output_hidden_states: bool = False, **_: Any) -> Output:
        """(rows, features) -> logits, and the states after each layer."""
        states = [features]
        for layer in self.layers:
            states.append(layer(states[-1]))
        hidden = tuple(state[:, None] for state in states)
        return Output(self.classifier(states[-1]), hidden[-1], hidden if output_hidden_states else None)


class ToyMlpAdapter(ArchitectureAdapter):
    """Which module is which."""

    block = "layers"
    attention = "eager"

    def shape_of(self, config: PretrainedConfig) -> Shape:
        return TOY_MLP.shape_of(config.to_dict())

    def head(self, model: PreTrainedModel) -> Head:
        return Head(dense=None, out=model.classifier)

    def observed(self, model: PreTrainedModel) -> Mapping[str, Sequence[Tap]]:
        """Observe the hidden units of each layer where `down` reads them."""
        return {f"ffn.{number}": [(layer.down, "in")] for number, layer in enumerate(model.layers)}

    def feeds(self, model: PreTrainedModel) -> list[Feed]:
        """Return the pairs whose factors SmoothQuant may move: relu(up) is read by `down` alone."""
        return [(layer.up, (layer.down,)) for layer in model.layers]

    def declared(self, config: PretrainedConfig, architecture: str, prefix: str) -> Tensors:
        return tensors(self.shape_of(config), config.num_labels)

    def _set_widths(self, config: PretrainedConfig, shape: Shape) -> None:
        config.units = shape.ffn


AutoConfig.register("toy-mlp", ToyMlpConfig)
AutoModelForSequenceClassification.register(ToyMlpConfig, ToyMlpForSequenceClassification)
ADAPTER = ToyMlpAdapter()
