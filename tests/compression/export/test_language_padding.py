"""A language model's artifact names the padding token that the model has, and none where it has none."""

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification

from compression.export.artifact import write_config
from compression.runtimes.runner import Kind
from tests.compression.language.tiny import model


@pytest.mark.parametrize("padding", [None, 5])
@pytest.mark.parametrize("kind", ["onnx", "transformers"])
def test_padding_is_what_it_was(kind: Kind, padding: int | None, tmp_path: Path) -> None:
    network = model("qwen2", pad_token_id=padding)
    network.save_pretrained(tmp_path)
    assert write_config(network, tmp_path, (), 24, kind) == (padding or 0)
    assert AutoConfig.from_pretrained(tmp_path).pad_token_id == padding
    if kind == "transformers":  # what others train from it: token 0 is a word like any other
        tuned = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert tuned.get_input_embeddings().padding_idx == padding
