"""What the engine trains on are the tokens that tokenizer.json makes, whatever class the settings beside it name."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from compression import load
from compression.errors import ConfigMismatch
from tests.compression.decoders import END, UNKNOWN, tiny, write_tokenizer
from tests.compression.ggufs import CONTROL, MERGES, tokens

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


@pytest.mark.parametrize(
    ("kind", "name"), [("llama", "GPT2Tokenizer"), ("qwen2", "Qwen2Tokenizer"), ("llama", "LlamaTokenizerFast"), ("gpt2", None)]
)
def test_texts_are_cut_as_the_file_says(kind: str, name: str | None, tmp_path: Path) -> None:
    own = write(tmp_path, kind, **({} if name is None else {"tokenizer_class": name}))
    found = load.load_tokenizer(tmp_path)
    assert found(TEXT)["input_ids"] == own.encode(TEXT).ids
    assert found(TEXT.upper(), add_special_tokens=False)["input_ids"] == own.encode(TEXT.upper(), add_special_tokens=False).ids
    assert "123" not in found.tokenize(TEXT)


def test_rows_are_padded_with_a_token_that_the_file_has(tmp_path: Path) -> None:
    own = write(tmp_path, "qwen2")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]  # the stock class then has one of its own, which this file has not
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load.load_tokenizer(tmp_path).pad_token_id == own.token_to_id(CONTROL)


def test_a_kind_that_the_stock_class_cannot_be_is_refused(tmp_path: Path) -> None:
    # transformers makes byte pairs of whatever a Qwen2 comes with, and so do those who open the download.
    tiny("qwen2", vocab_size=200).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, [END, UNKNOWN, *"abcdefghijklmnopqrstuvwxyz", "quick", "brown", "fox", "lazy"])
    with pytest.raises(ConfigMismatch, match=r"Qwen2Tokenizer.* otherwise than tokenizer\.json") as caught:
        load.load_tokenizer(tmp_path)
    assert caught.value.param == "tokenizer.json"
    assert "kind that stock transformers has" in caught.value.remedy_text
