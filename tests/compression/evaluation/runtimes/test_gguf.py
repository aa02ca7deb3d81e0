"""llama.cpp reads tokens at once, one by one and padded on either side, and answers alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.evaluation.runtimes.gguf import FILE, GgufDecoder, GgufModel, open_folder
from compression.export.gguf.exporter import BF16
from compression.modalities.text.decoding import last_step
from compression.modalities.text.inputs import Batch
from tests.support.gguf_models import byte_pairs, decoder

IDS = np.random.default_rng(0).integers(2, 600, (3, 150))
# Of logits up to 8: sums in 16 bits depend on how many tokens are read at once.
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 0.2}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> GgufDecoder:
    folder = tmp_path_factory.mktemp("gguf")
    byte_pairs(folder)
    BF16.write(decoder("llama", max_position_embeddings=512), folder, "bfloat16")
    return open_folder(folder, threads=1)


def test_tokens_one_by_one_are_those_at_once(opened: GgufDecoder) -> None:
    whole, _ = opened.step(IDS)
    first, cache = opened.step(IDS[:, :-2])
    second, cache = opened.step(IDS[:, -2:-1], cache)
    third, _ = opened.step(IDS[:, -1:], cache)
    np.testing.assert_allclose(np.concatenate([first, second, third], axis=1), whole, **CLOSE)
    assert np.abs(whole).max() > 1
    assert opened.name.startswith("llama.cpp b")


def test_the_last_token_alone_is_answered_as_among_all(opened: GgufDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = opened.step(IDS)
    copied: list[int] = []
    buffer = opened.ffi.buffer

    class Counting:
        def buffer(self, place: Any, size: int) -> Any:
            copied.append(size)
            return buffer(place, size)

        def __getattr__(self, name: str) -> Any:
            return getattr(type(self).real, name)

    monkeypatch.setattr(Counting, "real", opened.ffi, raising=False)
    monkeypatch.setattr(opened, "ffi", Counting())
    first, cache = last_step(opened, IDS[:, :-1])  # in several calls of llama.cpp
    second, _ = last_step(opened, IDS[:, -1:], cache)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole[:, -2:], **CLOSE)
    assert sum(copied) == 4 * 2 * len(IDS) * opened.outputs


def test_a_cache_serves_after_other_tokens_were_read(opened: GgufDecoder) -> None:
    _, cache = opened.step(IDS[:1, :20])
    wanted, _ = opened.step(IDS[:1, 20:24], cache)
    opened.step(IDS[:2, 5:90])
    again, _ = opened.step(IDS[:1, 20:24], cache)
    np.testing.assert_allclose(again, wanted, **CLOSE)


def test_a_context_grows_with_its_tokens(opened: GgufDecoder) -> None:
    wanted, _ = opened.step(np.tile(IDS[:1], 2)[:, :280])
    first, cache = opened.step(IDS[:1, :100])
    second, cache = opened.step(IDS[:1, 100:], cache)
    third, _ = opened.step(IDS[:1, :130], cache)
    np.testing.assert_allclose(np.concatenate([first, second, third], axis=1), wanted, **CLOSE)


@pytest.mark.parametrize("left", [True, False])
def test_padding_on_either_side_changes_nothing(left: bool, opened: GgufDecoder) -> None:
    ids, mask = IDS[:2, :12].copy(), np.ones((2, 12), np.int64)
    wanted = opened.step(ids[1:, :7])[0]
    padded = np.s_[:5] if left else np.s_[7:]
    ids[1] = np.roll(ids[1], 5 if left else 0)
    ids[1, padded], mask[1, padded] = 0, 0
    batch = Batch(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))
    found = batch.real(opened.logits(batch))
    np.testing.assert_allclose(found[12:], wanted[0], **CLOSE)


def test_what_is_no_model_is_told_with_llama_cpp_s_words(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"GGUF and no more")
    with pytest.raises(RuntimeError, match=r"does not open model\.gguf: .+"):
        GgufModel(tmp_path / FILE)
