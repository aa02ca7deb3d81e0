"""The bench of forms: what it writes opens in each runtime, and a line has the median of its runs."""

from pathlib import Path

import numpy as np
import pytest
from transformers import BertForSequenceClassification

from bench.forms import FORMS, line, simulated, written
from compression.evaluation.runtimes.runner import open_artifact
from compression.modalities.text.inputs import Batch
from compression.schema.report.measurements import Shape
from tests.client.figures import row
from tests.support.tiny_bert import WORDS, tiny_config, write_tokenizer

SHAPE = Shape(layers=1, hidden=16, heads=2, ffn=32, vocabulary=len(WORDS))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_a_shape_opens_in_its_runtime(form: str, tmp_path: Path) -> None:
    original = tmp_path / "original"
    BertForSequenceClassification(tiny_config()).save_pretrained(original)
    write_tokenizer(original)
    folder = written(simulated(original, SHAPE), form, original, tmp_path / form)
    assert (folder / "tokenizer.json").is_file()
    ids = np.arange(5, 13)[None]
    logits = open_artifact(form, folder, threads=1).logits(Batch(ids, np.ones_like(ids), 0 * ids))
    assert logits.shape == (1, 2)
    assert np.isfinite(logits).all()


def test_a_line_has_the_median_of_its_runs() -> None:
    runs = [row("distilled", 1, 1, ms, 0.8).latency for ms in (4.0, 2.0, 3.2)]  # the original takes 16 ms
    text = line("openvino-int8", 128, runs)
    assert text.startswith("| openvino-int8 | 128 | **5.00×** | 4.00, 8.00, 5.00 | 3.20 | onnxruntime")
