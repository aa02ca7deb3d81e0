"""Wraps a model to trace it for an ONNX file."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class TracedModel(nn.Module):
    """A transformers model with its inputs in a fixed order and its head's outputs as its only outputs."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, tuple(inputs), tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the model on its inputs, in their order; return the outputs in theirs."""
        found = self.model(**self.given(dict(zip(self.inputs, tensors, strict=True))))
        return tuple(found[name] for name in self.outputs)

    def given(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the model is called with."""
        return dict(inputs)
