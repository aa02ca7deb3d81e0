"""Whole jobs that make classifiers of language models: their shapes, their answers, and what stock tools make of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compression.engine import shipping
from compression.engine.pipeline import compress
from compression.evaluation.measure import Measured
from compression.export.onnx import exporter
from compression.schema.errors import InvalidSpec
from compression.schema.report.measurements import NotMeasured, Score, Shape
from compression.schema.report.report import Report
from tests.support.decoder_models import END, UNKNOWN, tiny, write_tokenizer
from tests.support.engine_jobs import report_of, spec_of
from tests.support.measuring import of
from tests.support.tiny_bert import BAD, FILLER, GOOD

SIGNS = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
WORDS = [END, UNKNOWN, *SIGNS, *(f"##{sign}" for sign in SIGNS), *GOOD, *BAD, *FILLER, *(f"spare{n}" for n in range(20))]


def send(folder: Path, kind: str, **changes: Any) -> None:
    tiny(kind, **{"vocab_size": len(WORDS), "initializer_range": 0.1, "eos_token_id": 0, **changes}).save_pretrained(folder)
    write_tokenizer(folder, WORDS)


def run(place: Path, reviews: Path, **recipe: Any) -> Report:
    recipe = {"train": {"batch": 16, "max_length": 16}, "prepare": {"epochs": 4, "rate": 2e-2}, **recipe}
    return report_of(compress(spec_of("model", reviews, recipe=recipe), place))


def opened(folder: Path) -> list[str]:
    """Ask a downloaded checkpoint as its user would: rows of unlike length together, padded by stock code."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    asked = tokenizer(["word1 happy word2 word4 word5", "awful word3"], padding=True, return_tensors="pt")
    with torch.no_grad():  # in inference mode torchao's tensors of experts cannot be indexed
        return [model.config.id2label[number] for number in model(**asked).logits.argmax(dim=-1).tolist()]


def test_a_language_model_becomes_a_small_classifier(tmp_path: Path, reviews: Path) -> None:
    send(tmp_path / "model", "llama", tie_word_embeddings=True)
    ratio = {"hidden": 0.25, "heads": 0.5, "ffn": 0.5, "layers": 0.5, "vocabulary": 1.0}
    prune = {"ratio": ratio, "multiple": 8, "calibration_rows": 64, "reconstruct": True, "sensitivity": True}
    report = run(tmp_path, reviews, prune=prune, distill={"epochs": 4, "rate": 1e-2, "hidden": 0.5, "attention": 0.5})
    baseline, quantized, pruned, distilled = report.rows
    before = Shape(layers=2, hidden=32, heads=4, groups=2, head_size=8, ffn=64, vocabulary=len(WORDS))
    after = Shape(layers=1, hidden=24, heads=2, groups=1, head_size=8, ffn=32, vocabulary=len(WORDS) - 20)
    assert (baseline.shape, pruned.shape, distilled.shape) == (before, after, after)
    assert baseline.parameters == quantized.parameters
    assert quantized.size.bytes < 0.5 * baseline.size.bytes
    assert report.pruning["heads"] == {"before": 4, "after": 2, "asked": 0.5, "taken": 0.5}
    assert set(report.sensitivity) == {"hidden", "heads", "ffn", "layers"}
    assert any("solved by least squares" in note for note in pruned.notes)
    assert any("relations of the last layers" in note for note in distilled.notes)
    for row in report.rows:
        assert not isinstance(row.score, NotMeasured)
        assert row.score.rows_changed_by_batching == 0  # what pads a row is not what it is judged by
        assert row is pruned or row.score.value > 0.9
    for shipped in report.artifacts:
        folder = tmp_path / "out" / "artifacts" / shipped.name
        assert json.loads((folder / "config.json").read_text())["pad_token_id"] == 0
        assert AutoTokenizer.from_pretrained(folder).pad_token == END
        if shipped.kind == "transformers":
            assert opened(folder) == ["positive", "negative"]


def test_experts_are_cut_and_what_stays_float_is_named(tmp_path: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each file is held against the engine, alone and padded, before it is shipped; to measure them is the other job's.
    nothing = NotMeasured(not_measured="It is not asked.")
    nobody = Measured(latency=nothing, score=nothing, peak_memory_bytes=nothing)
    monkeypatch.setattr(shipping, "measure_artifact", lambda *_, **__: of(nobody))
    send(tmp_path / "model", "deepseek_v3", n_group=1, attention_bias=True, num_hidden_layers=1, first_k_dense_replace=0)
    ratio = {"experts": 0.5, "expert_ffn": 0.5, "kv_rank": 0.5, "query_rank": 0.3}
    report = run(tmp_path, reviews, prune={"ratio": ratio, "multiple": 8}, distill=None)
    baseline, quantized, pruned = report.rows
    assert (baseline.shape.experts.count, baseline.shape.experts.ffn) == (4, 16)
    assert (pruned.shape.experts.count, pruned.shape.experts.ffn, pruned.shape.experts.shared) == (2, 8, 16)
    assert report.pruning["expert_ffn"]["taken"] == 0.5
    assert report.pruning["kv_rank"] == {"before": 16, "after": 8, "asked": 0.5, "taken": 0.5}
    router = 4 * 32  # of one layer
    assert quantized.size.dtype == f"int8, {router:,} parameters float32"
    assert quantized.size.bytes < 0.65 * baseline.size.bytes
    assert any(f"{router:,} of " in note for note in quantized.notes)
    (shipped,) = [each for each in report.artifacts if each.kind == "transformers"]
    folder = tmp_path / "out" / "artifacts" / shipped.name
    assert opened(folder)  # stock transformers reads and runs it
    assert json.loads((folder / "config.json").read_text())["n_routed_experts"] == (4 if shipped.stage == "quantized" else 2)
    stays = router if shipped.stage == "quantized" else router // 2
    assert f"(int8, {stays:,} parameters float32)" in (folder / "README.md").read_text()


@pytest.mark.parametrize("rope", ["default", "dynamic"])
def test_a_large_classifier_is_not_traced(rope: str, tmp_path: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "fits_a_graph", lambda parameters: False)
    turned = {"rope_type": rope, "rope_theta": 1e4, **({"factor": 2.0} if rope == "dynamic" else {})}
    send(tmp_path / "model", "llama", rope_parameters=turned)
    report = run(tmp_path, reviews, prune={"ratio": {"ffn": 0.5}, "multiple": 8}, distill=None)
    kinds = ["onnx"] * 3 + ["transformers"] if rope == "default" else ["transformers"] * 3
    assert [one.kind for one in report.artifacts] == kinds
    assert all(isinstance(row.score, Score) for row in report.rows)
    speeds = [getattr(row.latency, "not_measured", "") for row in report.rows]
    told = "Models are timed in ONNX Runtime alone, and this is a checkpoint of PyTorch."
    assert speeds == [told if rope == "dynamic" else ""] * 3
    assert any("There is no ONNX file" in note for note in report.rows[0].notes) == (rope == "dynamic")
    if rope == "dynamic":
        with pytest.raises(InvalidSpec, match="none can be written: rotary embeddings"):
            run(tmp_path, reviews, prune={"axes": ["ffn"], "target_latency": {"speed_up": 2}})
