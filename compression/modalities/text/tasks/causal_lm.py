"""Causal language modelling: predicts each next token."""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compression.modalities import losses
from compression.modalities.base import Batch, Examples, PackedLanguageModel
from compression.modalities.text.causal_lm import chunked_head, hidden_states, losses as language
from compression.modalities.text.causal_lm.batches import NOBODY, PackedBatch
from compression.modalities.text.causal_lm.packed_language_model import PACKED_TEXTS
from compression.modalities.text.scoring.perplexity import LanguageScorer, chance
from compression.schema.recipe.base import Task as Name


@dataclass(frozen=True)
class CausalLM:
    """Causal language modelling. Rows are packed documents; labels: (rows, tokens), the next token's id, or NOBODY.

    logits: (rows, tokens, vocabulary), of few rows; `learned`, `run` and `evaluation.validate` run the head on chunks.
    """

    scorer: LanguageScorer
    name: Name = "causal-lm"
    packed: PackedLanguageModel = PACKED_TEXTS

    @property
    def metric(self) -> str:
        """Return the headline metric."""
        return self.scorer.metric

    def counts(self, labels: Tensor) -> Tensor:
        """Return the number of scored tokens of each row."""
        return (labels != NOBODY).sum(dim=1)

    def logits(self, output: Any) -> Tensor:
        """Return the logits, (rows, tokens, vocabulary)."""
        found: Tensor = output.logits
        return found

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of the next tokens, mean over the scored ones."""
        return functional.cross_entropy(chunked_head.widen(logits).flatten(0, 1), batch.labels.flatten(), ignore_index=NOBODY)

    def learned(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run a model and return the same loss, computed in chunks of tokens."""
        own, rows = cast(PreTrainedModel, model), cast(PackedBatch, batch)
        states, head = hidden_states.scored_states(own, rows), hidden_states.output_layer(own)
        return language.next_token_loss(states, head, rows.wanted, size=chunked_head.chunk_size(own.config.vocab_size))

    @torch.no_grad()
    def run(self, model: nn.Module, batch: Batch) -> None:
        """Run a model and its head on every real token; the logits of each chunk are discarded."""
        own, rows = cast(PreTrainedModel, model), cast(PackedBatch, batch)
        states, head = hidden_states.last_hidden_states(own, rows)[rows.mask.bool()], hidden_states.output_layer(own)
        for some in torch.split(states, chunked_head.chunk_size(own.config.vocab_size)):
            head(some)

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Return the KL divergence over the vocabulary, mean over the scored tokens."""
        asked = batch.labels != NOBODY
        return losses.soft_target_loss(student[asked], teacher[asked], temperature)

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:  # noqa: ARG002
        """Return the mean of the softened distributions over the vocabulary."""
        return losses.fuse_teachers(logits, weights, temperature)

    def score(self, logits: Tensor, rows: Examples) -> float:
        """Return the perplexity of the packed rows. logits: (rows, tokens, vocabulary)."""
        whole = rows.batch(list(range(len(rows))))
        return math.exp(min(self.loss(logits[:, : whole.mask.shape[1]], whole).item(), 690.0))

    def chance(self, rows: Examples) -> float:
        """Return the perplexity of a unigram model (the chance level)."""
        batches = (cast(PackedBatch, rows.batch([row])) for row in range(len(rows)))
        return chance(batch.wanted.tolist() for batch in batches)
