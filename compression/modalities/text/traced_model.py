"""Wraps a text model to trace it for an ONNX file."""

import torch
from torch import Tensor, nn

TYPES = "token_type_ids"


class TracedTextModel(nn.Module):
    """A transformers model with its inputs in a fixed order and its head's outputs as its only outputs."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...], types: int) -> None:
        super().__init__()
        self.model, self.outputs, self.types = model, outputs, types

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Run the model on two or three (batch, sequence) int64 inputs; return the outputs in their order."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.types:
            # With a single type every token has it: set here, it needs no input from the user.
            given[TYPES] = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        out = self.model(**given)
        return tuple(out[name] for name in self.outputs)
