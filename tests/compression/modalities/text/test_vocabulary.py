"""The vocabulary made smaller: what the task's texts need is read as ever, what they do not is read by shorter pieces."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from compression.engine.context import StageContext
from compression.engine.job_models import JobModels, ModelSource
from compression.engine.stages.vocabulary import reduce_vocabulary
from compression.evaluation.validate import logits
from compression.modalities.registry import task_of
from compression.modalities.text.dataset import Dataset, TextSplit
from compression.modalities.text.preprocessor import TextPreprocessor
from compression.modalities.text.vocabulary.reduced import ReducedVocabulary, fit_vocabulary
from compression.modalities.text.vocabulary.required_tokens import required_tokens, tokens_of
from compression.models.adapters.registry import adapter_of
from compression.schema.errors import UnsupportedTokenizer
from compression.schema.recipe.recipe import Recipe
from tests.support.encoder_models import tiny, tiny_config
from tests.support.examples import real_examples
from tests.support.tiny_bert import all_phases

CORPUS = [
    "good morning, world",
    "the worldly goods of the morning",
    "mourning becomes the worldly",
    "a banana and an ananas",
] * 3
TEXTS = ["good world", "the morning banana"]
UNSEEN = ["worldly goods", "becoming an", "gnome"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def word_pieces() -> Tokenizer:
    letters = sorted({sign for text in CORPUS for sign in text} - {" "})
    words = ["good", "goods", "morning", "world", "the", "banana", "##ly", "##ing", "##na", "ab", "##bX"]
    tokens = [*SPECIAL, *letters, *(f"##{sign}" for sign in letters), *words]
    tokenizer = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    return tokenizer


def byte_pairs() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def unigrams() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=70, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    )
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    return tokenizer


MAKERS: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "WordPiece": (word_pieces, "PreTrainedTokenizerFast"),
    "byte-level BPE": (byte_pairs, "RobertaTokenizerFast"),
    "Unigram": (unigrams, "XLMRobertaTokenizerFast"),
}


def written(folder: Path, kind: str) -> PreTrainedTokenizerFast:
    make, stock = MAKERS[kind]
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=make(), **names).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": stock}))
    opened: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    return opened


def fit(
    folder: Path, kind: str, texts: list[str], ratio: float = 1.0
) -> tuple[PreTrainedTokenizerFast, ReducedVocabulary, Any]:
    old = written(folder / "old", kind)
    family = {"WordPiece": "bert", "byte-level BPE": "roberta", "Unigram": "xlm-roberta"}[kind]
    model = tiny(family, vocab_size=len(old) + 3)  # tables have more rows than there are tokens
    return old, fit_vocabulary(folder / "old", old, model.config, texts, folder / "new", ratio), model


@pytest.mark.parametrize("kind", MAKERS)
def test_the_texts_are_read_alike_and_others_without_unknowns(kind: str, tmp_path: Path) -> None:
    old, small, model = fit(tmp_path, kind, TEXTS)
    assert len(small.kept) < len(old)
    assert list(small.kept[:3]) == [0, 1, 2]
    stock = AutoTokenizer.from_pretrained(tmp_path / "new")
    plain = Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    for text in [*TEXTS, "good banana"]:
        for new in (stock(text)["input_ids"], plain.encode(text).ids):
            assert [small.kept[number] for number in new] == old(text)["input_ids"]
    assert stock("good", "world")["input_ids"] == plain.encode("good", "world").ids
    for name in ("unk_token_id", "pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        assert small.kept[getattr(stock, name)] == getattr(old, name)
    # What was one token may be several now, but nothing becomes unknown, and all of it comes back.
    for text in UNSEEN:
        assert old.unk_token_id not in old(text)["input_ids"]
        assert stock.unk_token_id not in stock(text)["input_ids"]
        assert stock.decode(stock(text, add_special_tokens=False)["input_ids"]).replace(" ", "") == text.replace(" ", "")
    assert any(len(stock(text)["input_ids"]) > len(old(text)["input_ids"]) for text in UNSEEN)
    # Tables lose their rows, and the rows of the task are answered as before, to the bit.
    assert small.model(model).config.vocab_size == len(small.kept)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_ratio_keeps_more_than_the_texts_need(kind: str, tmp_path: Path) -> None:
    old, least, _ = fit(tmp_path, kind, TEXTS)
    _, more, _ = fit(tmp_path / "again", kind, TEXTS, ratio=0.01)
    assert set(least.kept) < set(more.kept)
    assert round(0.99 * len(old)) <= len(more.kept) <= len(old)


def test_a_word_that_was_unknown_stays_so(tmp_path: Path) -> None:
    # "ab" is the longest piece of "abX", after which there is none for "X"; without "ab" it would be "a" and "##bX".
    old, small, _ = fit(tmp_path, "WordPiece", ["abX"])
    assert old.tokenize("abX") == small.tokenizer.tokenize("abX") == ["<unk>"]
    assert {"ab", "##bX"} <= set(small.tokenizer.get_vocab())
    _, other, _ = fit(tmp_path / "other", "WordPiece", ["good"])
    assert "ab" not in other.tokenizer.get_vocab()
    assert "##bX" in other.tokenizer.get_vocab()  # no other token has the X


def test_what_a_byte_pair_is_made_of_stays() -> None:
    spec = {
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(["a", "b", "c", "ab", "abc", "bc", "ca"])},
            "merges": [["a", "b"], ["ab", "c"], ["b", "c"], "c a"],
        }
    }
    assert required_tokens(spec, {4}) == [0, 1, 2, 3, 4]
    assert required_tokens(spec, set()) == [0, 1, 2]
    assert required_tokens(spec, set(), count=5) == [0, 1, 2, 3, 4]


def test_a_tokenizer_of_whole_words_cannot_shrink() -> None:
    with pytest.raises(UnsupportedTokenizer, match="WordLevel"):
        tokens_of({"model": {"type": "WordLevel", "vocab": {}}})


def test_the_cut_changes_ids_and_no_answer(tmp_path: Path) -> None:
    old, small, model = fit(tmp_path, "byte-level BPE", TEXTS)
    model.save_pretrained(tmp_path / "old")
    task = task_of("text-classification")
    data = Dataset(("LABEL_0", "LABEL_1"), {"train": TextSplit(tuple(TEXTS), ("LABEL_0", "LABEL_1"))}, frozenset())
    reading, shape = TextPreprocessor(old, 32, types=False), adapter_of(model).shape_of(model.config)
    base = ModelSource("models.base", tmp_path / "old", reading, shape, 64, model.config)
    teachers = (replace(base, param="models.teachers.0"), replace(base, param="models.teachers.1", aligned=False))
    # The same tokenizer, but padding is a token that the texts do not need.
    gone = next(number for number in range(len(old)) if number not in small.kept)
    padded = tiny_config("roberta", vocab_size=len(old), pad_token_id=gone)
    teachers += (replace(base, param="models.teachers.2", config=padded),)
    cast = JobModels(base, data, task, teachers=teachers)
    rows = cast.read(base, "train")
    other = tiny("roberta", vocab_size=len(old) + 3)
    state = StageContext(Recipe(), {"train": rows, "validation": rows}, model, all_phases(), cast, other)
    state.originals, state.unlabelled, state.input_pruner = [other], rows, small
    before = logits(model, rows)
    assert before.equal(logits(other, rows))
    reduce_vocabulary(state)
    assert state.teacher is not None
    assert state.unlabelled is not None
    named, *strangers = state.models.teachers
    alike = [state.model, state.teacher, *state.originals, state.models.opened(named, 0)]
    assert {each.config.vocab_size for each in alike} == {len(small.kept)}
    for each in alike:
        assert logits(each, state.rows["validation"]).equal(before)
    tokens = state.rows["train"].tokens
    assert max(max(row) for row in tokens) < len(small.kept)
    assert tokens == state.unlabelled.tokens == state.models.read(named, "train").tokens
    assert not any(parameter.requires_grad for parameter in state.teacher.parameters())
    # Whoever cuts texts otherwise keeps tokens, table and tokenizer, and who would lose a token that it needs.
    for stranger in strangers:
        assert state.models.opened(stranger, 0).config.vocab_size == len(old) + 3
        assert state.models.read(stranger, "train").tokens == rows.tokens


def test_a_real_tokenizer_reads_real_sentences_alike(tmp_path: Path) -> None:
    folder = real_examples()
    lines = (folder / "data" / "test.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    old = AutoTokenizer.from_pretrained(folder / "model")
    small = fit_vocabulary(folder / "model", old, tiny("bert", vocab_size=len(old), pad_token_id=0).config, texts, tmp_path)
    assert len(small.kept) < 0.3 * len(old)
    new = AutoTokenizer.from_pretrained(tmp_path)
    found = [[small.kept[number] for number in ids] for ids in new(texts)["input_ids"]]
    assert found == old(texts)["input_ids"]
    assert (tmp_path / "vocab.txt").read_text().splitlines()[new.cls_token_id] == "[CLS]"
    foreign = "Antidisestablishmentarianism zyzzyva Überraschung naïveté Grüße привет"
    assert new.unk_token_id not in new(foreign)["input_ids"]
