"""Training and scoring of next tokens on packed texts (`modalities.base.PackedLanguageModel`)."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Batch, Examples, StatesOf, Targets
from compression.modalities.sampling import BATCH, micro_batch_size
from compression.modalities.text.causal_lm import chunked_head, hidden_states, losses, next_token_cache
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.next_token_cache import TopKTargetFile
from compression.modalities.text.causal_lm.packed_examples import TOGETHER, packed_split
from compression.modalities.text.causal_lm.token_losses import token_losses

MOST_TOKENS = 32_768  #: tokens whose states are all in memory during the quantization of layers, one after the other


class PackedTexts:
    """Next-token prediction on packed texts. Rows are `PackedDataset`, batches `PackedBatch`."""

    @torch.inference_mode()
    def loss(self, model: nn.Module, rows: Examples, parts: int = 1) -> float:
        """Return the loss on packed rows, in nats per token. Unlike the reported score, it uses no windows."""
        training, own = model.training, cast(PreTrainedModel, model)
        model.eval()
        device, head = next(model.parameters()).device, hidden_states.output_layer(own)
        size, total = chunked_head.chunk_size(own.config.vocab_size), 0.0
        for batch in packed_split(rows).by_length(micro_batch_size(BATCH, parts)):
            here = batch.to(device)
            nats, _ = token_losses(hidden_states.scored_states(own, here), head, here.wanted, size=size)
            total += nats.double().sum().item()
        model.train(training)
        return total / self.count(rows)

    def count(self, rows: Examples) -> int:
        """Return the number of scored tokens."""
        return packed_split(rows).asked

    def change(self, model: PreTrainedModel, rows: Examples, parts: int = 1) -> Callable[[], float]:
        """Return a function that computes the change of the logits on the first rows, in chunks from stored states."""
        own = packed_split(rows)
        some = own.at(list(range(min(len(own), max(MOST_TOKENS // own.length, 1)))))
        weights = hidden_states.output_layer(model).weight.detach().clone()  # type: ignore[attr-defined]  # a linear layer
        size = chunked_head.chunk_size(model.config.vocab_size)

        @torch.inference_mode()
        def states() -> list[Tensor]:
            device = next(model.parameters()).device
            model.eval()
            batches = some.by_length(micro_batch_size(BATCH, parts))
            return [hidden_states.scored_states(model, batch.to(device)) for batch in batches]

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

    def forward(self, model: PreTrainedModel, batch: Batch, **options: Any) -> tuple[Any, Tensor]:
        """Run a model without its output layer -> its output, and the last states of the scored positions."""
        own = cast(PackedBatch, batch)
        out = hidden_states.base_output(model, own, **options)
        return out, out.last_hidden_state[own.asked]

    def scored(self, states: Tensor, batch: Batch) -> Tensor:
        """Return the states of the scored positions."""
        return states[cast(PackedBatch, batch).asked[batch.mask.bool()]]

    def terms(
        self,
        asked: Collection[str],
        student: tuple[PreTrainedModel, Tensor],
        teachers: Sequence[StatesOf],
        batch: Batch,
        temperature: float,
        targets: Targets | None,
    ) -> dict[str, Tensor]:
        """Return the loss terms that `asked` names, means over tokens (`losses.next_token_terms`)."""
        own, (model, states) = cast(PackedBatch, batch), student
        wanted: losses.NextTokenTargets | None = None
        if "soft" in asked and targets is not None:
            wanted = targets.get(own.rows.tolist(), own.ids.device)
        elif "soft" in asked:
            heads = tuple(hidden_states.output_layer(teacher) for teacher, *_ in teachers)
            weights = torch.tensor([weight for *_, weight in teachers], device=states.device)
            wanted = losses.FullTargets(tuple(own for _, own, _ in teachers), heads, temperature, weights)
        size, head = chunked_head.chunk_size(model.config.vocab_size), hidden_states.output_layer(model)
        return losses.next_token_terms(states, head, own.wanted, wanted, asked, size=size)

    def relation_loss(self, student: Tensor, teacher: Tensor, batch: Batch, heads: int) -> Tensor:
        """Return the relation loss, document by document."""
        return losses.document_relation_loss(student, teacher, cast(PackedBatch, batch), heads)

    def keep(
        self,
        teachers: Sequence[tuple[PreTrainedModel, float]],
        rows: Examples,
        path: Path,
        kept: int,
        temperature: float,
        parts: int = 1,
        *,
        half: bool = False,
    ) -> tuple[TopKTargetFile, Iterator[int]]:
        """Open a file of the most likely tokens -> the file, and an iterator that fills it."""
        own, vocabulary = packed_split(rows), teachers[0][0].config.vocab_size
        store = TopKTargetFile(path, own.packed.asked, vocabulary, kept, temperature)
        batch = max(micro_batch_size(BATCH, parts) * TOGETHER // (BATCH * own.length), 1)
        size = chunked_head.chunk_size(vocabulary)
        return store, next_token_cache.keeping(teachers, own.packed, store, batch=batch, size=size, half=half)


PACKED_TEXTS = PackedTexts()
