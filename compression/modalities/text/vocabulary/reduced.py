"""Reduces a vocabulary to a job's texts, checks it on them, and adapts models and rows to it."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from compression.modalities.base import TaskAdapter
from compression.modalities.text.augmentation.source import AugmentationSource
from compression.modalities.text.batches import TokenizedDataset
from compression.modalities.text.preprocessor import TextPreprocessor
from compression.modalities.text.vocabulary.required_tokens import parts_of, required_tokens, tokens_of
from compression.modalities.text.vocabulary.tokenizer_files import write
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import SPECIAL_IDS
from compression.models.loading import as_filed
from compression.schema.errors import UnsupportedTokenizer

AT_ONCE = 512  #: texts to tokenize at once: the tokenizer's own objects take a hundred times the memory of the numbers in them
REMEDY = "Leave vocabulary out of prune.axes; the tokenizer then stays as it was sent."


@dataclass(frozen=True)
class ReducedVocabulary:
    """The old ids of the tokens that stay, in the order of their new ids, and the folder of the tokenizer with only these."""

    kept: tuple[int, ...]
    folder: Path
    tokenizer: PreTrainedTokenizerFast

    def fits(self, config: PretrainedConfig) -> bool:
        """Return whether another model can be pruned to these tokens: it has all, and they include those that it needs."""
        first = adapter_of(config).fixed_tokens(config)
        padded = config.pad_token_id is None or config.pad_token_id in self.kept
        return padded and config.vocab_size > max(self.kept) and self.kept[: len(first)] == first

    def model(self, model: PreTrainedModel) -> PreTrainedModel:
        """Build the stock model for the new ids; its outputs on the job's rows are identical to the bit."""
        return adapter_of(model).with_vocabulary(model, list(self.kept))

    def rows(self, rows: TokenizedDataset) -> TokenizedDataset:
        """Return rows with the new ids. Raises KeyError for a row that needs other tokens."""
        new_ids = {old: new for new, old in enumerate(self.kept)}
        tokens = [[new_ids[token] for token in row] for row in rows.tokens]
        return replace(rows, tokens=tokens, padding=new_ids[rows.padding])

    def preprocessor(self, preprocessor: TextPreprocessor) -> TextPreprocessor:
        """Return the preprocessor for the new ids."""
        return replace(preprocessor, tokenizer=self.tokenizer)

    def augmenter(self, augmenter: AugmentationSource, preprocessor: TextPreprocessor, task: TaskAdapter) -> AugmentationSource:
        """Return the augmenter whose words come from the new embedding table and whose rows have the new ids."""
        return replace(augmenter.read_by(preprocessor, task), tokenizer=self.tokenizer)

    def note_on_test(self, rows: TokenizedDataset) -> str:
        """Return a note on how many rows of test now have other tokens. rows: with the old ids."""
        kept = set(self.kept)
        lost = sum(not all(token in kept for token in row) for row in rows.tokens)
        return f"The vocabulary is not chosen by test: {lost} of its {len(rows)} rows are read by other tokens now."


def fit_vocabulary(
    source: Path,
    tokenizer: PreTrainedTokenizerFast,
    config: PretrainedConfig,
    texts: Sequence[str],
    folder: Path,
    ratio: float = 1.0,
) -> ReducedVocabulary:
    """Write a tokenizer with only the tokens that `texts` need to `folder`, and check it on them.

    source: folder of the old tokenizer, which `tokenizer` holds; ratio: the maximum share of tokens to remove. Raises
    UnsupportedTokenizer if it is of another kind, does not open, or does not tokenize the texts as the old one does.
    """
    spec = json.loads((source / "tokenizer.json").read_text("utf-8"))
    old = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # a copy: the truncation of the job's own must stay
    used = {number for ids in _read(old, texts) for number in ids}
    used |= set(adapter_of(config).fixed_tokens(config)) | set(map(int, tokenizer.all_special_ids))
    named = (getattr(config, key, None) for key in SPECIAL_IDS)
    used |= {number for number in named if isinstance(number, int) and 0 <= number < config.vocab_size}
    least = round((1 - ratio) * len(tokens_of(spec)))
    kept = required_tokens(spec, used, least)
    new = _opened(source, folder, kept, tokenizer.pad_token)
    other = [text for text, _ in _read_otherwise(old, new, texts, kept)]
    if other:
        # Unknown words do not show which tokens they need: all tokens that could be part of them stay.
        kept = required_tokens(spec, {*kept, *parts_of(spec, _pieces(old, other))}, least)
        new = _opened(source, folder, kept, tokenizer.pad_token)
        for text, place in _read_otherwise(old, new, texts, kept):
            cause = f"with fewer tokens the tokenizer reads {text!r:.200} otherwise, from token {place} on"
            raise UnsupportedTokenizer(cause, param="tokenizer.json", remedy=REMEDY)
    return ReducedVocabulary(tuple(kept), folder, new)


def _opened(source: Path, folder: Path, kept: Sequence[int], padding: str) -> PreTrainedTokenizerFast:
    """Write the files and open them with the stock class. padding: the padding token, which a decoder's files may lack."""
    write(source, folder, kept)
    try:
        new = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
        as_filed(new, folder)
        plain = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    except Exception as problem:  # the tokenizers library raises bare Exception
        cause = f"the tokenizer does not open with fewer tokens: {problem}"
        raise UnsupportedTokenizer(cause, param="tokenizer.json", remedy=REMEDY) from problem
    if new.pad_token is None:
        new.pad_token = padding
    wanted = tokens_of(json.loads((folder / "tokenizer.json").read_text("utf-8")))
    for found in (plain, new.get_vocab()):
        moved = next((token for token, number in wanted.items() if found.get(token) != number), None)
        if moved is not None or max(found.values()) >= len(kept):
            cause = f"with fewer tokens the stock tokenizer numbers {moved!r:.60} otherwise than tokenizer.json"
            raise UnsupportedTokenizer(cause, param="tokenizer.json", remedy=REMEDY)
    return new


def _read(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
    """Yield each text's ids, whole and without special tokens."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rest = iter(texts)
    while some := list(islice(rest, AT_ONCE)):
        for one in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            yield one.ids


def _read_otherwise(
    old: Tokenizer, new: PreTrainedTokenizerFast, texts: Sequence[str], kept: Sequence[int]
) -> Iterator[tuple[str, int]]:
    """Yield each text that two tokenizers split differently, with the first different token's position."""
    both = zip(texts, _read(old, texts), _read(new.backend_tokenizer, texts), strict=True)
    for text, before, after in both:
        back = [kept[number] for number in after]
        if back != before:
            yield text, next((at for at, pair in enumerate(zip(before, back, strict=False)) if len(set(pair)) > 1), len(back))


def _pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[str]:
    """Yield the inputs of a tokenizer's model: normalized, pre-tokenized pieces."""
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        if tokenizer.pre_tokenizer is None:
            yield normal
        else:
            yield from (piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
