"""What a network's ONNX files do without, because the layer before it does its work."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class Folding(Config):
    """Batch normalizations that are folded into the convolution before them in every ONNX file."""

    norms: Annotated[int, Field(description="Batch normalizations of the network.")]
    folded: Annotated[int, Field(description="Of them, those that no file has: operators fewer.")]
    elements: Annotated[int, Field(description="Elements of tensors fewer, the biases that take their place subtracted.")]
    activations: Annotated[int, Field(description="ReLUs and clips directly behind convolutions, which runtimes join to them.")]

    @property
    def short(self) -> str:
        """Return it as text."""
        folded = f"{self.folded} of {self.norms} batch normalizations folded ({self.elements:,} elements fewer)"
        return f"{folded}, {self.activations} activations behind convolutions"
