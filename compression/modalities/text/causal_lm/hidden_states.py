"""A stock causal model in two parts: what comes before its head, and the head, which is asked of some tokens at a time."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from compression.modalities.text.causal_lm.batches import PackedBatch

Head = Callable[[Tensor], Tensor]
"""(tokens, width) -> (tokens, vocabulary) of logits: an output layer, simulated or not."""
SEPARATING = ("eager", "flex_attention", "sdpa")
"""Attention that is given a mask, which keeps documents of a row apart. Flash attention finds them in batches of one row."""


def last_hidden_states(model: PreTrainedModel, sequences: PackedBatch) -> Tensor:
    """Return what the head reads: states after the last norm, (rows, tokens, width). Raises ValueError as `output` does."""
    found: Tensor = base_output(model, sequences).last_hidden_state
    return found


def base_output(model: PreTrainedModel, sequences: PackedBatch, **options: Any) -> Any:
    """Return what the stock model says before its head. options: of its forward, such as output_hidden_states.

    Documents of a row do not see each other: without a mask and a cache, stock masks (transformers 5, masking_utils) are cut
    where positions begin anew. Raises ValueError where the model's attention takes no such mask.
    """
    attention = model.config._attn_implementation
    if attention not in SEPARATING:
        raise ValueError(f"{attention} would let documents of a row see each other")
    return model.base_model(**sequences.inputs, **options)


def scored_states(model: PreTrainedModel, sequences: PackedBatch) -> Tensor:
    """Return the states of the places where a token is asked for alone, row after row, (asked, width)."""
    return last_hidden_states(model, sequences)[sequences.asked]


def output_layer(model: PreTrainedModel) -> Head:
    """Return the output layer. Of the families here none does more to a state than this."""
    found: Head = model.get_output_embeddings()
    return found
