"""llama.cpp gives texts the tokens that tokenizer.json gives them, or it is said why not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from compression.evaluation.runtimes import gguf as runtime
from compression.export.gguf.exporter import Q8_0
from compression.models.files.gguf_header import read
from compression.schema.errors import UnsupportedTokenizer
from tests.support.gguf_models import (
    BOS,
    DIGITS_ALONE,
    DIGITS_TOGETHER,
    EOS,
    PIECES,
    ROWS,
    TEMPLATE,
    byte_pairs,
    decoder,
    expression,
    sentence_pieces,
)

DIGITS = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
)
TEXT = "It's the 12345th naïve model,  isn't it?\n\n\tx = [1.5]</s> 東京 🦊"


def written(folder: Path, **changes: Any) -> tuple[dict[str, Any], runtime.GgufModel]:
    """Write a model with the tokenizer in a folder; return the file's keys, and llama.cpp's view of it."""
    Q8_0.write(decoder("llama", **changes), folder, "int8")
    return dict(read(folder / runtime.FILE).metadata), runtime.GgufModel(folder / runtime.FILE, vocabulary_only=True)


@pytest.mark.parametrize(
    ("split", "ignore_merges", "way"),
    [
        (None, False, "gpt-2"),
        (expression(DIGITS_ALONE), False, "qwen2"),
        (expression(DIGITS_TOGETHER), True, "llama-bpe"),
        (expression(DIGITS_TOGETHER), False, "smaug-bpe"),
        (DIGITS, False, "smollm"),
    ],
)
def test_the_way_to_split_is_found_by_what_llama_cpp_does(split: Any, ignore_merges: bool, way: str, tmp_path: Path) -> None:
    own = byte_pairs(tmp_path, split, ignore_merges=ignore_merges, begins=ignore_merges)
    metadata, opened = written(tmp_path)
    assert metadata["tokenizer.ggml.pre"] == way
    assert opened.tokenize(TEXT) == own.encode(TEXT).ids
    assert metadata["tokenizer.ggml.add_bos_token"] is ignore_merges


@pytest.mark.parametrize("prefix", [True, False])
def test_a_vocabulary_of_sentence_pieces_is_merged_in_its_order(prefix: bool, tmp_path: Path) -> None:
    own = sentence_pieces(tmp_path, prefix=prefix)
    metadata, opened = written(tmp_path)
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is prefix
    text = TEXT.replace(EOS, "")
    assert opened.tokenize(text) == own.encode(text).ids
    types = metadata["tokenizer.ggml.token_type"]
    assert (types[0], types[1], types[3], types[258], types[300]) == (2, 3, 6, 6, 1)


def test_special_tokens_the_template_and_rows_without_a_token_are_in_the_file(tmp_path: Path) -> None:
    byte_pairs(tmp_path)
    metadata, _ = written(tmp_path)
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert [tokens[metadata[f"tokenizer.ggml.{role}_token_id"]] for role in ("bos", "eos")] == [BOS, EOS]
    assert types[:3] == [3, 3, 1]
    assert tokens[PIECES:] == [f"[PAD{number}]" for number in range(PIECES, ROWS)]
    assert types[PIECES:] == [5] * (ROWS - PIECES)
    assert metadata["tokenizer.chat_template"] == TEMPLATE


def changed(folder: Path, change: Callable[[Tokenizer], None]) -> None:
    byte_pairs(folder)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(own)
    own.save(str(folder / "tokenizer.json"))


def _lower(own: Tokenizer) -> None:
    own.normalizer = normalizers.Lowercase()


def _bytes_only(own: Tokenizer) -> None:
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)


def _two_ends(own: Tokenizer) -> None:
    ends = [(EOS, own.token_to_id(EOS))]
    own.post_processor = TemplateProcessing(single=f"{EOS} $A", special_tokens=ends)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (_lower, "changes a text before it is split"),
        (_bytes_only, "gives texts other tokens than llama.cpp does in any of its ways"),
        (_two_ends, "puts other tokens around a text"),
    ],
)
def test_a_tokenizer_that_llama_cpp_lacks_hinders(change: Callable[[Tokenizer], None], cause: str, tmp_path: Path) -> None:
    changed(tmp_path, change)
    assert cause in str(Q8_0.cannot_read(decoder("llama"), tmp_path))
    with pytest.raises(UnsupportedTokenizer, match=cause):
        Q8_0.write(decoder("llama"), tmp_path, "int8")


def test_a_vocabulary_must_fit_the_table_and_name_its_end(tmp_path: Path) -> None:
    byte_pairs(tmp_path)
    assert f"has {PIECES} tokens for a table of 512" in str(Q8_0.cannot_read(decoder("llama", vocab_size=512), tmp_path))
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["eos_token"]
    path.write_text(json.dumps(settings))
    assert Q8_0.cannot_read(decoder("llama", eos_token_id=[1]), tmp_path) is None
    assert "names no token that ends a text" in str(Q8_0.cannot_read(decoder("llama", eos_token_id=None), tmp_path))
