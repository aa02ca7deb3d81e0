"""What the engine trains on are the tokens that tokenizer.json makes, whatever class the settings beside it name."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModel, AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from compression.modalities.text.artifact_tokenizer import write_tokenizer
from compression.models import loading
from compression.schema.errors import ConfigMismatch
from compression.schema.recipe.base import Task
from tests.support import decoder_models as made
from tests.support.decoder_models import END, UNKNOWN, tiny
from tests.support.gguf_files import CONTROL, MERGES, tokens

DIGITS = [("1", "2"), ("12", "3")]
TEXT = f"the 123 the12 \u00e9 e\u0301 {CONTROL}"


def write(folder: Path, kind: str, **settings: object) -> Tokenizer:
    pieces = [*tokens(), *(left + right for left, right in DIGITS)]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, [*MERGES, *DIGITS]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([CONTROL])
    tiny(kind, vocab_size=len(pieces) + 8).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": CONTROL, "pad_token": CONTROL, "unk_token": None, "bos_token": CONTROL}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, **settings}))
    return tokenizer


def write_qwen(folder: Path, pattern: str) -> Tokenizer:
    write(folder, "qwen2", tokenizer_class="Qwen2Tokenizer")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    own.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
    own.save(str(folder / "tokenizer.json"))
    return own


@pytest.mark.parametrize(
    ("kind", "name"), [("llama", "GPT2Tokenizer"), ("qwen2", "Qwen2Tokenizer"), ("llama", "LlamaTokenizerFast"), ("gpt2", None)]
)
def test_texts_are_cut_as_the_file_says(kind: str, name: str | None, tmp_path: Path) -> None:
    own = write(tmp_path, kind, **({} if name is None else {"tokenizer_class": name}))
    found = loading.load_tokenizer(tmp_path)
    assert found(TEXT)["input_ids"] == own.encode(TEXT).ids
    assert found(TEXT.upper(), add_special_tokens=False)["input_ids"] == own.encode(TEXT.upper(), add_special_tokens=False).ids
    assert "123" not in found.tokenize(TEXT)


@pytest.mark.parametrize(
    ("kind", "name"), [("llama", "GPT2Tokenizer"), ("qwen3", "Qwen2Tokenizer"), ("gpt2", None), ("mistral", "LlamaTokenizer")]
)
@pytest.mark.parametrize("task", ["causal-lm", "text-classification"])
def test_stock_code_cuts_texts_so_too_where_it_opens_them(kind: str, name: str | None, task: Task, tmp_path: Path) -> None:
    own = write(tmp_path, kind, **({} if name is None else {"tokenizer_class": name}), pad_token=None)
    model = AutoModel.from_pretrained(tmp_path)
    (tmp_path / "made").mkdir()
    model.config.save_pretrained(tmp_path / "made")
    write_tokenizer(tmp_path, tmp_path / "made", 64, task, model)
    found = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert type(found).__name__ == "TokenizersBackend"
    assert found(TEXT)["input_ids"] == own.encode(TEXT).ids
    before = AutoTokenizer.from_pretrained(tmp_path)
    assert (found.eos_token, found.bos_token) == (before.eos_token, before.bos_token) == (CONTROL, CONTROL)
    assert found.model_max_length == 64


def test_a_class_that_reads_as_the_file_says_stays(tmp_path: Path) -> None:
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    write(tmp_path, "gpt2", tokenizer_class="GPT2Tokenizer")
    own = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    stock = AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer
    own.normalizer, own.pre_tokenizer = stock.normalizer, plain
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "made").mkdir()
    write_tokenizer(tmp_path, tmp_path / "made", 64, "causal-lm", AutoModel.from_pretrained(tmp_path))
    assert json.loads((tmp_path / "made/tokenizer_config.json").read_text())["tokenizer_class"] == "GPT2Tokenizer"


def test_an_encoder_is_opened_so_too_where_the_settings_beside_it_say_otherwise(encoder: Path, tmp_path: Path) -> None:
    own = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    own.normalizer = normalizers.BertNormalizer(lowercase=True)
    for place in (tmp_path, tmp_path / "made"):
        place.mkdir(exist_ok=True)
        shutil.copyfile(encoder / "config.json", place / "config.json")
    own.save(str(tmp_path / "tokenizer.json"))
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, **names}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    write_tokenizer(tmp_path, tmp_path / "made", 64, "text-classification", AutoModel.from_pretrained(encoder))
    found, text = AutoTokenizer.from_pretrained(tmp_path / "made"), "Good Movie"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] != own.encode(text).ids
    assert found(text)["input_ids"] == own.encode(text).ids
    assert {*found(text)} == {*AutoTokenizer.from_pretrained(tmp_path)(text)}
    assert {name: getattr(found, name) for name in names} == names


@pytest.mark.parametrize(("kind", "words"), [("qwen2", "Stock AutoTokenizer opens"), ("llama", "the uploaded settings open")])
def test_a_class_that_cuts_otherwise_is_spoken_of(kind: str, words: str, tmp_path: Path) -> None:
    write(tmp_path, kind, tokenizer_class="Qwen2Tokenizer")
    (note,) = loading.tokenizer_notes(tmp_path)
    assert f"{words} Qwen2Tokenizer" in note


@pytest.mark.parametrize("lower", [True, False])
def test_settings_that_lower_letters_otherwise_than_the_file_are_spoken_of(lower: bool, encoder: Path, tmp_path: Path) -> None:
    own = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    own.normalizer = normalizers.BertNormalizer(lowercase=lower)
    shutil.copytree(encoder, tmp_path, dirs_exist_ok=True)
    own.save(str(tmp_path / "tokenizer.json"))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"tokenizer_class": "BertTokenizer"}
    for flag, count in ((lower, 0), (not lower, 1)):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": flag}))
        assert ["BertTokenizer" in note for note in loading.tokenizer_notes(tmp_path)] == [True] * count


@pytest.mark.parametrize(("pattern", "count"), [(PRETOKENIZE_REGEX, 0), (r"\p{N}{1,3}| ?[^\s\p{N}]+|\s+", 1)])
def test_a_file_with_the_rules_of_the_stock_class_is_not_spoken_of(pattern: str, count: int, tmp_path: Path) -> None:
    write_qwen(tmp_path, pattern)
    assert len(loading.tokenizer_notes(tmp_path)) == count
    opened = loading.load_tokenizer(tmp_path).backend_tokenizer.pre_tokenizer.__getstate__()
    assert b'"trim_offsets":false' in opened, "Qwen's own file says so, and the stock class does not"


def test_rows_are_padded_with_a_token_that_the_file_has(tmp_path: Path) -> None:
    own = write(tmp_path, "qwen2")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]  # the stock class then has one of its own, which this file has not
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert loading.load_tokenizer(tmp_path).pad_token_id == own.token_to_id(CONTROL)


def test_a_kind_that_the_stock_class_cannot_be_is_refused(tmp_path: Path) -> None:
    # transformers makes byte pairs of whatever a Qwen2 comes with, and so do those who open the download.
    tiny("qwen2", vocab_size=200).save_pretrained(tmp_path)
    made.write_tokenizer(tmp_path, [END, UNKNOWN, *"abcdefghijklmnopqrstuvwxyz", "quick", "brown", "fox", "lazy"])
    with pytest.raises(ConfigMismatch, match=r"Qwen2Tokenizer.* otherwise than tokenizer\.json") as caught:
        loading.load_tokenizer(tmp_path)
    assert caught.value.param == "tokenizer.json"
    assert "kind that stock transformers has" in caught.value.remedy_text
