"""Tokenizes texts for a language model: token ids, the scored ones among them, and their bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from compression.modalities.text import text_reader


@dataclass(frozen=True)
class TokenizedDocuments:
    """Tokenized texts with a scored token in their order, one document each."""

    ids: Tensor  #: (tokens,), int32, document after document
    ends: Tensor  #: (documents,), where each ends in `ids`
    lead: int  #: first tokens of each that are not scored: the affix before a text, else one, which nothing precedes
    tails: Tensor  #: (documents,), last tokens that are not scored: the affix after a text
    bytes: Tensor  #: (documents,), UTF-8 bytes of the text that the tokens between stand for
    left_out: int = 0  #: texts without a scored token

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> Tensor:
        """Return where each document begins in `ids`, (documents,)."""
        return torch.cat([self.ends.new_zeros(1), self.ends[:-1]])

    @property
    def scored(self) -> Tensor:
        """Return how many tokens of each document evaluation scores, (documents,), 1 or more."""
        return self.ends - self.starts - self.lead - self.tails


def affixes(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after each text (`text_reader.affixes`). Raises ConfigMismatch."""
    return text_reader.affixes(_encoder(tokenizer))


def read(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> TokenizedDocuments:
    """Tokenize whole texts; an affix that the text itself contains is not added again. Raises ConfigMismatch."""
    ids, tails, sizes = [], [], []
    lead, left_out = len(affixes(tokenizer)[0]) or 1, 0
    for one in text_reader.read(texts, _encoder(tokenizer)):
        if one is None:
            left_out += 1
            continue
        ids.append(torch.tensor(one.ids, dtype=torch.int32))
        tails.append(one.tail)
        sizes.append(one.bytes)
    lengths = torch.tensor([len(each) for each in ids], dtype=torch.long)
    flat = torch.cat(ids) if ids else torch.empty(0, dtype=torch.int32)
    return TokenizedDocuments(flat, lengths.cumsum(0), lead, torch.tensor(tails).long(), torch.tensor(sizes).long(), left_out)


def _encoder(tokenizer: PreTrainedTokenizerFast) -> text_reader.Encode:
    options = {"truncation": False, "return_attention_mask": False, "verbose": False}
    return lambda texts, special: tokenizer(texts, add_special_tokens=special, **options).encodings
