"""Texts as a language model reads them: token ids, which of them are asked for, and the bytes that these stand for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from compression.errors import ConfigMismatch

AT_ONCE, CHARACTERS = 512, 1 << 20
"""Texts, and characters, that are tokenized together: the tokenizer's own objects take a hundred times the memory of ids."""
PROBE = "a"


@dataclass(frozen=True)
class Documents:
    """Texts in their order, one document each. Those with no token to ask for are left out, and counted in `left_out`.

    ids: (tokens,), int32, document after document; ends: (documents,), where each ends in `ids`. A document begins with `lead`
    tokens and ends with its `tails`, (documents,), that evaluation asks nobody for. bytes: (documents,), the UTF-8 bytes of the
    text that the tokens between stand for.

    What the tokenizer puts before or behind a text is not text: it is read and not scored. Where it puts nothing before, a
    document's first token has nothing to be foretold by; it is not scored either, and its bytes do not count.
    """

    ids: Tensor
    ends: Tensor
    lead: int
    tails: Tensor
    bytes: Tensor
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> Tensor:
        """Return where each document begins in `ids`, (documents,)."""
        return torch.cat([self.ends.new_zeros(1), self.ends[:-1]])

    @property
    def scored(self) -> Tensor:
        """Return how many tokens of each document evaluation asks for, (documents,), 1 or more."""
        return self.ends - self.starts - self.lead - self.tails


def affixes(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Find what a tokenizer puts before and behind each text, such as the ids of BOS and EOS.

    Its settings say it in several places, of which some are not read (`add_bos_token` beside a tokenizer.json); what it does is
    the truth. Raises ConfigMismatch where it changes the text's own ids.
    """
    own, whole = (_ids(tokenizer, special=special) for special in (False, True))
    for at in range(len(whole) - len(own) + 1):
        if whole[at : at + len(own)] == own:
            return whole[:at], whole[at + len(own) :]
    raise ConfigMismatch("the tokenizer's special tokens change the tokens of a text", param="tokenizer.json:post_processor")


def _ids(tokenizer: PreTrainedTokenizerFast, *, special: bool) -> list[int]:
    found: list[int] = tokenizer(PROBE, add_special_tokens=special, truncation=False)["input_ids"]
    return found


def read(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> Documents:
    """Tokenize whole texts; nothing is cut. An affix that a text has of its own, as a chat has, is not put there again.

    Raises ConfigMismatch as `affixes` does.
    """
    before, behind = affixes(tokenizer)
    lead = len(before) or 1
    ids, tails, sizes = [], [], []
    left_out = 0
    for group in _groups(texts):
        found = tokenizer(group, add_special_tokens=False, truncation=False, return_attention_mask=False, verbose=False)
        for text, one in zip(group, found.encodings, strict=True):
            own: list[int] = one.ids
            headed = own[: len(before)] == before
            tailed = not behind or own[-len(behind) :] == behind
            if len(own) <= (lead if headed else 0):
                left_out += 1
                continue
            ids.append(torch.tensor((own if headed else before + own) + ([] if tailed else behind), dtype=torch.int32))
            tails.append(0 if tailed else len(behind))
            unasked = text[: one.offsets[lead - 1][1]] if headed else ""
            sizes.append(len(text.encode()) - len(unasked.encode()))
    lengths = torch.tensor([len(each) for each in ids], dtype=torch.long)
    flat = torch.cat(ids) if ids else torch.empty(0, dtype=torch.int32)
    return Documents(flat, lengths.cumsum(0), lead, torch.tensor(tails).long(), torch.tensor(sizes).long(), left_out)


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for text in texts:
        group.append(text)
        held += len(text)
        if len(group) == AT_ONCE or held >= CHARACTERS:
            yield group
            group, held = [], 0
    if group:
        yield group
