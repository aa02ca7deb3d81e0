"""Predicts replacements for a word with a masked language model (TinyBERT, Jiao et al. 2020, algorithm 1)."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from compression.modalities.text.augmentation.embedding_neighbours import SPARE, Neighbours, Vocabulary
from compression.modalities.text.augmentation.words import WordSpan
from compression.models.adapters.registry import ADAPTERS

AT_ONCE = 64  #: texts in a batch


class MaskedLM:
    """Predicts words of a single piece; others get embedding neighbours, because one mask cannot stand for them."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, most: int) -> None:
        self.model, self.tokenizer, self.most = model, tokenizer, most
        self.vocabulary = Vocabulary(tokenizer)
        self.neighbours = Neighbours(self.vocabulary, model.get_input_embeddings().weight, most, pieced=True)
        self.whole = [number for number in self.vocabulary.words if number < model.config.vocab_size]
        family = ADAPTERS.get(model.config.model_type)  # some count positions from the padding token's id
        positions = family.max_positions(model.config) if family else getattr(model.config, "max_position_embeddings", 512)
        self.longest = min(tokenizer.model_max_length, positions)

    def candidates(self, places: Sequence[WordSpan]) -> list[list[str]]:
        """Return the words that fit each place, with its own word masked and all others visible."""
        candidates = self.neighbours.candidates(places)
        pieces = self.vocabulary.pieces([place.word for place in places])
        single = [i for i, own in enumerate(pieces) if len(own) == 1]
        # Texts of similar length share a batch; the order is the same in each run.
        single.sort(key=lambda i: len(places[i].text))
        for start in range(0, len(single), AT_ONCE):
            some = single[start : start + AT_ONCE]
            for i, words in zip(some, self._predicted([places[i] for i in some]), strict=True):
                candidates[i] = words
        return candidates

    @torch.no_grad()
    def _predicted(self, places: Sequence[WordSpan]) -> list[list[str]]:
        hidden = [place.text[: place.start] + str(self.tokenizer.mask_token) + place.text[place.end :] for place in places]
        inputs: Any = self.tokenizer(hidden, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        masks = inputs["input_ids"] == self.tokenizer.mask_token_id
        positions = masks.int().argmax(dim=1)

        def only_masked(_module: Any, _inputs: Any, output: Any) -> Any:
            states = output.last_hidden_state
            output["last_hidden_state"] = states[torch.arange(len(states)), positions.to(states.device)][:, None]
            return output

        # With the states of all positions, the head's product with the vocabulary would be half the work.
        with self.model.base_model.register_forward_hook(only_masked):
            scores = self.model(**inputs.to(self.model.device)).logits[:, 0]
        # Pieces and punctuation are left out before the top k, so that `most` words remain.
        best = scores[:, self.whole].topk(min(self.most + SPARE, len(self.whole)), dim=-1).indices.tolist()
        predictions: list[list[str]] = []
        for place, lines, is_read in zip(places, best, masks.any(dim=1).tolist(), strict=True):
            words = [self.vocabulary.words[self.whole[line]] for line in lines] if is_read else []
            predictions.append([word for word in words if word.lower() != place.word.lower()][: self.most])
        return predictions
