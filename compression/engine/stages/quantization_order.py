"""Sensitivity: how much a model's answers change when one depth alone is quantized."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.evaluation.validate import BATCH, logits
from compression.modalities.sampling import micro_batch_size
from compression.modalities.text.batches import TokenizedDataset
from compression.modalities.text.causal_lm import chunked_head, hidden_states
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, quantizable, remove_fake_quantization

MOST_TOKENS = 32_768
"""Of a language model, whose states are all kept meanwhile."""


def depths(model: PreTrainedModel) -> list[int]:
    """List the depths that a scheme quantizes, ascending: 0 the embeddings, then the layers, last what follows them."""
    depth = adapter_of(model).quantization_group
    return sorted({depth(name) for name, _ in quantizable(model)})


def only(model: PreTrainedModel, chosen: set[int], simulation: Simulation) -> None:
    """Simulate integers in the chosen depths, and in no others."""
    depth = adapter_of(model).quantization_group
    remove_fake_quantization(model)
    insert_fake_quantization(model, lambda name: depth(name) in chosen, simulation)


def sensitivities(model: PreTrainedModel, rows: TokenizedDataset, simulation: Simulation, parts: int = 1) -> dict[int, float]:
    """Measure each depth: the mean square by which the logits change, as a share of their own mean square. -> depth → share

    rows: of train. The model is left without simulated integers; layers of a static scheme must have been calibrated.
    """
    remove_fake_quantization(model)
    change = _of_tokens(model, rows, parts) if isinstance(rows, PackedDataset) else _of_answers(model, rows, parts)
    found = {}
    for depth in depths(model):
        only(model, {depth}, simulation)
        found[depth] = change()
    remove_fake_quantization(model)
    return found


def _of_answers(model: PreTrainedModel, rows: TokenizedDataset, parts: int) -> Callable[[], float]:
    """Return what tells how much the logits of all rows have changed since now."""
    plain = logits(model, rows, parts)
    scale = plain.square().mean().clamp_min(1e-12)
    return lambda: ((logits(model, rows, parts) - plain).square().mean() / scale).item()


def _of_tokens(model: PreTrainedModel, rows: PackedDataset, parts: int) -> Callable[[], float]:
    """The same of a language model, on the first rows: kept are its last states, and the logits are made of them by chunks."""
    some = rows.at(list(range(min(len(rows), max(MOST_TOKENS // rows.length, 1)))))
    weights = hidden_states.output_layer(model).weight.detach().clone()  # type: ignore[attr-defined]  # a linear layer
    size = chunked_head.chunk_size(model.config.vocab_size)

    @torch.inference_mode()
    def states() -> list[Tensor]:
        device = next(model.parameters()).device
        model.eval()
        return [
            hidden_states.scored_states(model, batch.to(device)) for batch in some.by_length(micro_batch_size(BATCH, parts))
        ]

    plain = states()

    @torch.inference_mode()
    def change() -> float:
        moved = whole = 0.0
        head = hidden_states.output_layer(model)
        for before, after in zip(plain, states(), strict=True):
            for one, other in zip(torch.split(before, size), torch.split(after, size), strict=True):
                was = one @ weights.t()
                moved += (head(other) - was).square().sum().item()
                whole += was.square().sum().item()
        return moved / max(whole, 1e-12)

    return change


def named(depth: int, layers: int) -> str:
    """Name a depth for a reader. layers: how many the encoder has."""
    return "embeddings" if depth == 0 else f"layer {depth}" if depth <= layers else "head"
