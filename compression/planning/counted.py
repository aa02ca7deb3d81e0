"""A model's shape and parameters, as a forecast reads them. Torch-free."""

from dataclasses import dataclass
from functools import cached_property

from compression.models.architectures.network_shapes import multiply_adds
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts


@dataclass(frozen=True)
class Counted:
    """The parameters of a model, including its head for the data's task."""

    shape: Shape
    parameters: Parameters
    tied: bool = False  #: whether its token table is also its output layer
    spoken: int = 0  #: elements of a language model's output layer that is not a table
    network: NetworkFacts | None = None  #: of a network of images, uncut
    recomputes: bool = True  #: whether its layers can be computed again in the backward pass
    curves: int = 3  #: axes that `prune.sensitivity` cuts one by one: an encoder's

    @cached_property
    def multiply_adds(self) -> int | None:
        """Return the multiply-adds of one image; None if the model is no network of images."""
        return None if self.network is None else multiply_adds(self.network, self.shape)

    @property
    def active(self) -> int:
        """Count the parameters in a token's products: no table, and of experts only the chosen; a network's multiply-adds."""
        if self.multiply_adds is not None:
            return self.multiply_adds
        experts, found = self.shape.experts, self.parameters.other + self.parameters.embedding * self.tied
        if experts is None:
            return found
        left_out = (self.shape.layers - experts.dense_layers) * (experts.count - experts.chosen)
        return found - left_out * 3 * self.shape.hidden * experts.ffn
