"""Runs a stock causal model in two parts: the base model, and the head on some tokens at a time."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from compression.modalities.text.causal_lm.batches import PackedBatch

Head = Callable[[Tensor], Tensor]
"""(tokens, width) -> (tokens, vocabulary) of logits: an output layer, with or without simulated quantization."""
SEPARATING = ("eager", "flex_attention", "sdpa")
"""Attention that takes a mask, which separates the documents of a row. Flash attention does so in batches of one row only."""


def last_hidden_states(model: PreTrainedModel, sequences: PackedBatch) -> Tensor:
    """Return the head's input: states after the last norm, (rows, tokens, width). Raises ValueError as `base_output` does."""
    found: Tensor = base_output(model, sequences).last_hidden_state
    return found


def base_output(model: PreTrainedModel, sequences: PackedBatch, **options: Any) -> Any:
    """Return the output of the base model. options: arguments of its forward, such as output_hidden_states.

    Documents of a row do not attend to each other: without a mask and a cache, stock masks (transformers 5, masking_utils) end
    where positions restart. Raises ValueError for attention that takes no mask.
    """
    attention = model.config._attn_implementation
    if attention not in SEPARATING:
        raise ValueError(f"{attention} would let documents of a row see each other")
    return model.base_model(**sequences.inputs, **options)


def scored_states(model: PreTrainedModel, sequences: PackedBatch) -> Tensor:
    """Return only the states of the scored positions, row after row, (asked, width)."""
    return last_hidden_states(model, sequences)[sequences.asked]


def output_layer(model: PreTrainedModel) -> Head:
    """Return the output layer. In all supported families it is the whole head."""
    found: Head = model.get_output_embeddings()
    return found
