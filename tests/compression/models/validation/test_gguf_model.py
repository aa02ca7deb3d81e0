"""A model in one GGUF file: known by its facts where stock code unpacks it as it was meant, else refused by name."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind, GGUFReader, RopeScalingType
from transformers import PreTrainedModel
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.files import gguf_header, gguf_model, gguf_rope
from compression.models.files.gguf_names import SPLITS, WHOLE_WORDS
from compression.models.files.gguf_splits import LETTERS, OWN_SPLITS
from compression.schema.report.measurements import Parameters, Shape
from tests.compression.models.validation.conftest import judged, reasons
from tests.support.decoder_models import tiny
from tests.support.examples import real_examples
from tests.support.gguf_files import divisors, pieces, tokens, write

VOCABULARY = len(tokens()) + 3
NOT_IN_A_FILE = {"qwen3": {"head_dim": 128}, "gpt2": {"n_positions": 1024, "vocab_size": len(tokens())}}
"""What stock code takes for granted, or finds by itself, when it reads a file."""


def made(kind: str, **changes: Any) -> PreTrainedModel:
    return tiny(kind, **{"vocab_size": VOCABULARY, "tie_word_embeddings": True, **NOT_IN_A_FILE.get(kind, {}), **changes})


def upload(
    folder: Path, kind: str = "llama", packed: Kind = Kind.Q8_0, *, more: dict[str, Any] | None = None, **changes: Any
) -> Path:
    return write(made(kind, **changes), folder / "tiny.gguf", packed, **(more or {}))


@pytest.mark.parametrize(
    ("kind", "packed", "tied"),
    [("llama", Kind.Q4_1, True), ("qwen2", Kind.Q8_0, False), ("qwen3", Kind.Q5_0, True), ("gpt2", Kind.F32, True)],
)
def test_facts_are_those_of_the_file(kind: str, packed: Kind, tied: bool, tmp_path: Path) -> None:
    path = upload(tmp_path, kind, packed, tie_word_embeddings=tied)
    facts = judged(tmp_path)
    model = made(kind, tie_word_embeddings=tied)
    assert (facts.family, facts.architecture) == (kind, type(model).__name__)
    assert facts.shape == adapter_of(model).shape_of(model.config)
    assert facts.parameters.total == sum(parameter.numel() for parameter in model.parameters())
    assert facts.max_positions == model.config.max_position_embeddings
    assert (facts.dtype, facts.bytes) == (packed.name, path.stat().st_size)


def test_a_real_file_is_known_by_its_facts() -> None:
    facts = judged(real_examples("decoder") / "decoder")
    assert (facts.family, facts.dtype, facts.bytes) == ("llama", "Q4_1", 98_362_432)
    assert facts.shape == Shape(layers=30, hidden=576, heads=9, ffn=1536, vocabulary=49_152, groups=3, head_size=64)
    # Its tokenizer sets digits apart, which stock code does not: no token and no merge may hold two.
    said = gguf_header.read(gguf_model.files(real_examples("decoder") / "decoder")[0]).metadata["tokenizer.ggml.tokens"]
    assert not [token for token in said if sum(sign.isdigit() for sign in token) > 1]
    assert facts.parameters == Parameters(total=134_515_008, embedding=28_311_552, other=106_203_456)


def test_a_family_that_the_catalog_does_not_offer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ARCHITECTURE_SPECS, "llama")
    upload(tmp_path)
    assert "'llama'" in reasons(tmp_path)["unsupported_architecture"]


@pytest.mark.parametrize(
    ("more", "code", "cause"),
    [
        ({"add_expert_count": 8}, "unsupported_architecture", "expert_count"),
        ({"add_sliding_window": 16}, "unsupported_architecture", "sliding_window"),
        ({"add_key_length": 16}, "unsupported_architecture", "key_length"),
        ({"add_rope_scaling_type": RopeScalingType.YARN}, "unsupported_architecture", "rope.scaling.type"),
        ({"add_rope_scaling_type": RopeScalingType.LINEAR}, "unsupported_architecture", "rope.scaling.type"),
        ({"add_rope_scaling_factor": 4.0}, "unsupported_architecture", "rope.scaling.factor"),
        ({"add_logit_scale": 2.0}, "unsupported_architecture", "logit_scale"),
        ({"add_name": "mistral"}, "unsupported_architecture", "mistral"),
        ({"add_tokenizer_model": "bert"}, "unsupported_tokenizer", "bert"),
        ({"add_tokenizer_pre": "deepseek-v3"}, "unsupported_tokenizer", "deepseek-v3"),
        ({"add_head_count": 3}, "config_mismatch", "heads"),
        ({"add_head_count_kv": 3}, "config_mismatch", "groups"),
        ({"add_block_count": 3}, "config_mismatch", "lacks"),
        ({"add_block_count": 1}, "config_mismatch", "account"),
        ({"add_block_count": 10**6}, "config_mismatch", "block_count"),
        ({"add_feed_forward_length": 96}, "config_mismatch", "shape"),
        ({"add_vocab_size": 100}, "config_mismatch", "tokens for a table"),
        ({"add_layer_norm_rms_eps": -1.0}, "config_mismatch", "epsilon"),
        ({"add_eos_token_id": 10**6}, "config_mismatch", "eos"),
        ({"add_add_bos_token": True}, "config_mismatch", "bos_token_id is not there"),
        ({"add_tokenizer_pre": "llama-bpe"}, "config_mismatch", "bos_token_id is not there"),
        ({"add_string": ("tokenizer.ggml.add_space_prefix", "no")}, "config_mismatch", "neither true nor false"),
        ({"add_token_list": ["a", "a"]}, "config_mismatch", "a token of its own"),
        ({"add_token_merges": ["a zzz"]}, "config_mismatch", "pairs"),
        ({"add_token_types": [1, 2]}, "config_mismatch", "one number a token"),
    ],
)
def test_what_stock_code_would_take_otherwise_is_refused_by_name(
    more: dict[str, Any], code: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The writer refuses to say a thing twice: what the test says takes the place of what was said.
    monkeypatch.setattr("gguf.GGUFWriter.add_key_value", _replacing)
    upload(tmp_path, more=more)
    assert cause in reasons(tmp_path)[code]


def _replacing(writer: Any, key: str, value: Any, kind: Any, sub_type: Any = None) -> None:
    from gguf.gguf_writer import GGUFValue

    writer.kv_data[0][key] = GGUFValue(value=value, type=kind, sub_type=sub_type)


def test_positions_scaled_as_no_config_could_say_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, **gguf_rope.LLAMA3}
    right = divisors(made("llama", rope_parameters=said))
    others = {"another length": {"original_max_position_embeddings": 4096}, "another slope": {"high_freq_factor": 2.0}}
    wrong = {name: divisors(made("llama", rope_parameters=said | change)) for name, change in others.items()}
    wrong |= {"one off": right * np.float32([1, 1, 1.01, 1]), "none": right * np.nan, "backwards": right[::-1].copy()}
    for name, values in {"right": right, **wrong}.items():
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr("tests.support.gguf_files.divisors", lambda _, values=values: values)
        upload(folder, rope_parameters=said)
        if name == "right":
            judged(folder)
        else:
            found = reasons(folder)
            assert "rope_freqs.weight" in found["damaged_checkpoint" if name == "none" else "unsupported_architecture"], name
    monkeypatch.setattr("tests.support.gguf_files.divisors", lambda _: right[:3])
    upload(tmp_path, rope_parameters=said)
    assert "[3]" in reasons(tmp_path)["config_mismatch"]


def test_architectures_that_are_not_read_are_refused_and_so_are_two_files(tmp_path: Path) -> None:
    path = upload(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"llama", b"gemma"))
    assert "'gemma'" in reasons(tmp_path)["unsupported_architecture"]
    path.write_bytes(data)
    judged(tmp_path)
    path.with_name("other.gguf").write_bytes(data)
    assert "2 GGUF files" in reasons(tmp_path)["missing_file"]


def test_weights_that_are_no_numbers_and_code_beside_them_are_refused(tmp_path: Path) -> None:
    path = upload(tmp_path)
    tensor = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == "blk.1.ffn_up.weight")
    data = bytearray(path.read_bytes())
    data[tensor.data_offset + 34 : tensor.data_offset + 36] = np.float16(np.nan).tobytes()
    path.write_bytes(data)
    (tmp_path / "modeling_evil.py").touch()
    found = reasons(tmp_path)
    assert "blk.1.ffn_up.weight" in found["damaged_checkpoint"]
    assert "unsafe_checkpoint" in found


def test_a_vocabulary_of_sentencepiece_s_kind_is_taken(tmp_path: Path) -> None:
    write(made("llama", vocab_size=len(pieces())), tmp_path / "tiny.gguf", sentencepiece=True)
    assert judged(tmp_path).shape.vocabulary == len(pieces())
    assert WHOLE_WORDS < SPLITS


def test_ways_to_cut_text_are_those_that_stock_code_knows() -> None:
    # GPT-2's own, and one whose vocabulary has no merge that the difference could show.
    assert SPLITS - GGUF_PRE_TOKENIZER_SPLITS.keys() == {"gpt-2", "smollm", *OWN_SPLITS}
    assert not OWN_SPLITS.keys() & GGUF_PRE_TOKENIZER_SPLITS.keys()
    points = [part.partition("-") for part in LETTERS.split()]
    letters = [chr(point) for first, _, last in points for point in range(int(first, 16), int(last or first, 16) + 1)]
    assert {unicodedata.category(letter) for letter in letters} == {"Lu", "Ll", "Lt"}
    assert letters == sorted(set(letters))


def test_files_of_a_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").mkdir()
    assert [path.name for path in gguf_model.files(tmp_path)] == ["a.gguf"]
    assert gguf_model.files(tmp_path / "nowhere") == []
