"""onnxruntime-genai reads tokens at once, one by one and padded on either side, as ONNX Runtime does with the same file."""

from pathlib import Path

import numpy as np
import pytest

from compression.evaluation.runtimes import genai, onnx
from compression.export.onnx.genai import EXPORTER
from compression.modalities.text.decoding import Decoder, pieces
from compression.modalities.text.inputs import Batch
from tests.support.gguf_models import decoder

IDS = np.random.default_rng(0).integers(2, 600, (3, 12))
Opened = tuple[genai.GenaiDecoder, onnx.OnnxDecoder]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("genai")
    EXPORTER.write(decoder("llama", eos_token_id=2, pad_token_id=2), folder, "float32")
    plain = onnx.open_folder(folder, threads=1)
    assert isinstance(plain, onnx.OnnxDecoder)
    return genai.open_folder(folder, threads=1), plain


def test_tokens_one_by_one_are_those_at_once(opened: Opened) -> None:
    found, plain = opened
    assert isinstance(found, Decoder)
    ids = IDS.copy()
    ids[:, 4] = 2  # a token that ends a text is read like any other
    whole, _ = plain.step(ids)
    first, cache = found.step(ids[:, :9])
    second, cache = found.step(ids[:, 9:11], cache)
    third, _ = found.step(ids[:, 11:], cache)
    np.testing.assert_allclose(np.concatenate([first, second, third], axis=1), whole, rtol=0, atol=1e-4)
    assert np.abs(whole).max() > 1


@pytest.mark.parametrize("left", [True, False])
def test_padding_on_either_side_changes_nothing_also_in_pieces(left: bool, opened: Opened) -> None:
    found, plain = opened
    ids, mask = IDS.copy(), np.ones(IDS.shape, np.int64)
    padded = np.s_[:7] if left else np.s_[5:]
    ids[1, padded], mask[1, padded] = 2, 0
    batch = Batch(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))
    wanted = batch.real(plain.logits(batch))
    np.testing.assert_allclose(batch.real(found.logits(batch)), wanted, rtol=0, atol=1e-4)
    parts = np.concatenate([logits for _, logits in pieces(found, batch, 4)], axis=1)
    np.testing.assert_allclose(batch.real(parts), wanted, rtol=0, atol=1e-4)


def test_a_text_beyond_the_model_s_positions_is_refused_in_the_package_s_words(opened: Opened) -> None:
    with pytest.raises(RuntimeError, match="exceeds max length"):
        opened[0].step(np.full((1, 129), 3))


def test_what_is_no_model_is_told_in_the_package_s_words(tmp_path: Path) -> None:
    (tmp_path / genai.FILE).write_text('{"model": {"type": "decoder", "vocab_size": 5, "context_length": 8}}')
    with pytest.raises(RuntimeError, match=r"model|onnx"):
        genai.open_folder(tmp_path, threads=1)
