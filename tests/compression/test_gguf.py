"""A GGUF file becomes a stock folder that answers as the file's integers say, and reads texts by the file's vocabulary."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, AutoTokenizer

from compression import gguf
from compression.errors import ConfigMismatch, MissingFile
from compression.part import Part
from compression.recipe import Spec
from compression.report import Uploaded
from compression.uploaded import uploaded
from tests.compression.conftest import sentences, write_rows
from tests.compression.decoders import tiny
from tests.compression.ggufs import CONTROL, tokens, write
from tests.compression.jobs import write_spec

VOCABULARY = len(tokens())


@pytest.mark.parametrize(
    ("kind", "packed", "more"),
    [
        ("llama", Kind.Q4_1, {"tie_word_embeddings": True}),
        ("llama", Kind.F16, {"tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
        ("qwen2", Kind.Q5_1, {"tie_word_embeddings": False}),
        ("qwen3", Kind.Q8_0, {"tie_word_embeddings": True, "head_dim": 128}),
        ("gpt2", Kind.Q4_0, {"n_positions": 1024}),
    ],
)
def test_it_answers_as_the_file_says(kind: str, packed: Kind, more: dict[str, object], tmp_path: Path) -> None:
    model = tiny(kind, vocab_size=VOCABULARY, **more)
    before = model.get_input_embeddings().weight.detach().clone()
    write(model, tmp_path / "tiny.gguf", packed)
    assert not model.get_input_embeddings().weight.equal(before)  # the file is not the model that it was made of
    gguf.unpack(tmp_path, tmp_path / "stock")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "stock", dtype=torch.float32).eval()
    assert type(opened) is type(model)
    assert opened.config.tie_word_embeddings == model.config.tie_word_embeddings
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.allclose(opened(ids).logits, model(ids).logits, atol=1e-5)


def test_texts_are_read_by_the_file_s_vocabulary(tmp_path: Path) -> None:
    write(tiny("llama", vocab_size=VOCABULARY), tmp_path / "tiny.gguf")
    gguf.unpack(tmp_path, tmp_path / "stock")
    assert (tmp_path / "stock" / "tokenizer.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "stock")
    ids = tokenizer(f"is the th{CONTROL}")["input_ids"]
    assert [tokens()[number] for number in ids] == ["i", "s", "Ġthe", "Ġ", "th", CONTROL]
    assert (tokenizer.eos_token, tokenizer.pad_token) == (CONTROL, CONTROL)


def test_a_file_that_lacks_a_tensor_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        gguf.unpack(tmp_path, tmp_path / "stock")
    model = tiny("llama", vocab_size=VOCABULARY)
    model.config.num_hidden_layers = 3  # says the file; the third layer is not there
    write(model, tmp_path / "tiny.gguf")
    with pytest.raises(ConfigMismatch, match=r"layers\.2"):
        gguf.unpack(tmp_path, tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_job_works_on_what_the_file_holds_and_says_what_was_sent(tmp_path: Path) -> None:
    model = tiny("llama", vocab_size=VOCABULARY)
    (tmp_path / "model").mkdir()
    file = write(model, tmp_path / "model" / "tiny.gguf", Kind.Q4_1)
    write_rows(tmp_path / "train.jsonl", sentences(30, seed=1))
    write_rows(tmp_path / "test.jsonl", sentences(10, seed=2))
    recipe = {"train": {"max_length": 32}, "prune": None}
    path = write_spec(tmp_path, tmp_path / "model", tmp_path, task="causal-lm", recipe=recipe)
    spec = Spec.model_validate_json(path.read_text())
    part = Part.open(spec, tmp_path, spec.asked[0])
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.allclose(part.state.model(ids).logits, model(ids).logits, atol=1e-5)
    assert uploaded(tmp_path / spec.model) == Uploaded(bytes=file.stat().st_size, dtype="Q4_1")
    assert (part.reader("baseline").folder / "tokenizer.json").is_file()
