"""Which integers are simulated, and how a model is trained to live with them."""

from typing import Annotated, Literal

from pydantic import Field

from compression.recipe.base import Config, Epochs, Rate


class Qat(Config):
    """Quantization-aware training on the progressive schedule: full precision, a growing share of layers, all layers."""

    full: Epochs = 5
    ramp: Epochs = 10
    quantized: Epochs = 5
    rate: Rate = 2e-5

    @property
    def epochs(self) -> int:
        """All three phases together."""
        return self.full + self.ramp + self.quantized


class Quantize(Config):
    """Simulate the integers of the shipped artifact from here on; docs/numerics.md defines each scheme."""

    scheme: Annotated[
        Literal["dynamic-int8"],
        Field(description="int8 weights per output channel, 8-bit activations per token, int8 embeddings per row."),
    ] = "dynamic-int8"
    qat: Annotated[Qat | None, Field(description="Train with the simulated integers before pruning.")] = None
