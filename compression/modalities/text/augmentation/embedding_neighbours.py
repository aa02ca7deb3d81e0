"""Finds words with similar vectors in a model's input embeddings, a substitute for a thesaurus."""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from compression.modalities.text.augmentation.words import WordSpan

SPARE = 8  #: neighbours to compute beyond the requested number: other spellings of the word itself are among them
AT_ONCE = 512  #: words whose similarities are in memory at a time
TRIED = 200  #: words by which the form of a word inside a text is found
MARKERS = ("Ġ", "▁")  #: markers of the space before a word in BPE and SentencePiece vocabularies


class Vocabulary:
    """The tokens of a tokenizer that are whole words, whatever its kind."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        marker = next((mark for mark in MARKERS if sum(str(token).startswith(mark) for token in tokens) > len(tokens) / 10), "")
        special = set(tokenizer.all_special_ids)
        self.words: dict[int, str] = {}
        for number, token in enumerate(tokens):
            if number in special or not token or not token.startswith(marker):
                continue
            word = tokenizer.convert_tokens_to_string([token]).strip() if marker else token
            if len(word) > 1 and word.isalpha():  # the ## of a WordPiece inside a word is no letter
                self.words[number] = word
        self._space = self._spacing() if marker else ""
        self._pieces: dict[str, list[int]] = {}

    def _spacing(self) -> str:
        """Return what a word needs before it to have the tokens that it has inside a text: nothing where a normalizer puts the
        space there itself, as in early vocabularies of SentencePiece.
        """
        some = dict(islice(self.words.items(), TRIED))

        def whole(space: str) -> int:
            found = self.tokenizer([space + word for word in some.values()], add_special_tokens=False)["input_ids"]
            return sum(ids == [number] for number, ids in zip(some, found, strict=True))

        return max((" ", ""), key=whole) if some else " "

    def pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Return each word's tokens inside a text."""
        new = [word for word in dict.fromkeys(words) if word not in self._pieces]
        if new:
            found = self.tokenizer([self._space + word for word in new], add_special_tokens=False)["input_ids"]
            self._pieces |= dict(zip(new, found, strict=True))
        return [self._pieces[word] for word in words]


class Neighbours:
    """Finds the nearest whole words by cosine similarity; `pieced`: also for words of several pieces, by their mean vector."""

    def __init__(self, vocabulary: Vocabulary, table: Tensor, most: int, *, pieced: bool = False) -> None:
        self.vocabulary, self.most, self.pieced = vocabulary, most, pieced
        self._table = functional.normalize(table.detach().float(), dim=-1)
        # A table may have fewer or more rows than the tokenizer has tokens.
        self._numbers = [number for number in vocabulary.words if number < len(self._table)]
        self._whole = self._table[self._numbers]
        self._known: dict[str, list[str]] = {}

    def candidates(self, places: Sequence[WordSpan]) -> list[list[str]]:
        """Return the nearest words of each word, whatever its context."""
        new = [word for word in dict.fromkeys(place.word for place in places) if word not in self._known]
        pieces = dict(zip(new, self.vocabulary.pieces(new), strict=True))
        asked = [word for word in new if self._is_answered(pieces[word])]
        self._known |= {word: [] for word in new}
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            queries = torch.stack([self._table[pieces[word]].mean(dim=0) for word in some])
            best = nearest(self._whole, queries, self.most + SPARE).tolist()
            for word, lines in zip(some, best, strict=True):
                others = [self.vocabulary.words[self._numbers[line]] for line in lines]
                self._known[word] = [other for other in others if other.lower() != word.lower()][: self.most]
        return [self._known[place.word] for place in places]

    def _is_answered(self, pieces: list[int]) -> bool:
        if not self._numbers or not pieces or max(pieces) >= len(self._table):
            return False
        unknown = self.vocabulary.tokenizer.unk_token_id
        return unknown not in pieces and (self.pieced or (len(pieces) == 1 and pieces[0] in self.vocabulary.words))


def nearest(table: Tensor, queries: Tensor, most: int) -> Tensor:
    """Return the rows of a table of norm 1 nearest to each query by cosine, nearest first -> (queries, min(`most`, rows))."""
    return (functional.normalize(queries, dim=-1) @ table.T).topk(min(most, len(table)), dim=-1).indices
