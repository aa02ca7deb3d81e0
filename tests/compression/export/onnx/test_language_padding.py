"""A language model's artifact names the padding token that the model has, and none where it has none."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification

from compression.export.manifest import write_config
from compression.schema.artifact_formats import Kind
from tests.compression.engine.on_disk.test_backend import done, model_into, spec_of
from tests.support.tiny_language import model


@pytest.mark.parametrize("padding", [None, 5])
@pytest.mark.parametrize("kind", ["onnx", "transformers"])
def test_padding_is_what_it_was(kind: Kind, padding: int | None, tmp_path: Path) -> None:
    network = model("qwen2", pad_token_id=padding)
    network.save_pretrained(tmp_path)
    assert write_config(network, tmp_path, (), 24, kind) == (padding or 0)
    assert AutoConfig.from_pretrained(tmp_path).pad_token_id == padding
    if kind == "transformers":  # what others train from it: token 0 is a word like any other
        assert AutoModelForSequenceClassification.from_pretrained(tmp_path).get_input_embeddings().padding_idx == padding


@pytest.mark.parametrize("padding", [None, 5])
def test_padding_is_what_it_was_from_file_to_file(padding: int | None, tmp_path: Path) -> None:
    sent = model_into(tmp_path / "model", head="ForCausalLM")
    config = json.loads((sent / "config.json").read_text())
    (sent / "config.json").write_text(json.dumps({**config, "pad_token_id": padding}))
    report = done(spec_of(tmp_path, sent, task="causal-lm"), tmp_path)
    assert [row.stage for row in report.rows] == ["baseline", "quantized"]
    for row in report.rows:
        made = tmp_path / "out" / "artifacts" / row.artifact
        assert AutoConfig.from_pretrained(made).pad_token_id == padding
        assert json.loads((made / "config.json").read_text())["pad_token_id"] == padding
