"""Whole jobs of decoders by the published method, and what they answer: questions, classes, next tokens."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from compression.engine.pipeline import compress
from compression.schema.errors import CompressionError
from compression.schema.events import StageStarted
from compression.schema.recipe.presets import merged, preset
from compression.schema.report.measurements import Score
from compression.schema.report.report import Report
from tests.compression.engine import test_language_job as language
from tests.compression.engine.test_decoder_job import WORDS, send
from tests.support import toy_tasks
from tests.support.decoder_models import tiny, write_tokenizer
from tests.support.engine_jobs import report_of, spec_of
from tests.support.tiny_language import model as language_model, tokenizer

TRAIN = {"batch": 16, "max_length": 16}
FEW = {
    "prepare": {"epochs": 2, "rate": 1e-2},
    "quantize": {"qat": {"full": 1, "ramp": 2, "quantized": 1, "rate": 1e-3}, "calibration_rows": 16},
    "prune": {"target_params": 0.305, "multiple": 1, "calibration_rows": 16, "recovery": {"epochs": 3}},
    "distill": {"epochs": 2, "general": {"epochs": 1}},
    "artifacts": [],
}
"""What a test changes of `article`: fewer epochs and rows, not a part less; and the account's own figure."""


def run(place: Path, base: str, reviews: Path | str = ".", **changes: Any) -> Report:
    return report_of(compress(spec_of(base, reviews, **changes), place))


def parts_of(report: Report) -> dict[str, str]:
    return {row.stage: "\n".join(row.notes) for row in report.rows}


def is_whole(report: Report) -> None:
    """Check that each part of the method was on, by what the rows say, and that the cut is the account's."""
    notes = parts_of(report)
    assert list(notes) == ["baseline", "quantized", "pruned", "distilled"]
    assert "the original with seed 2" in notes["baseline"]
    assert "Quantization-aware training" in notes["quantized"]
    assert "each depth quantized alone" in notes["quantized"]
    assert "Recovery" in notes["pruned"]
    assert set(report.sensitivity or {}) >= {"hidden", "ffn"}
    taught = notes["distilled"]
    for part in ("General phase", "relations of the last layers", "Teachers, with validation", "Weights (uncertainty)"):
        assert part in taught, part
    assert all(f"the original with seed {seed}" in taught for seed in (1, 2))
    assert 0.305 <= report.rows[-1].ratios.parameter_reduction < 0.33


def test_the_published_method_runs_whole_on_a_language_model(tmp_path: Path) -> None:
    language.write(tmp_path, intermediate_size=64)
    recipe = merged(preset("article", "causal-lm"), {**FEW, "train": {"batch": 8, "max_length": 48}})
    report = run(tmp_path, "model", task="causal-lm", recipe=recipe)
    is_whole(report)
    assert all(isinstance(row.score, Score) and row.score.metric == "perplexity" for row in report.rows)


def test_the_published_method_runs_whole_on_a_decoder_that_classifies(tmp_path: Path, reviews: Path) -> None:
    send(tmp_path / "model", "llama", tie_word_embeddings=True)
    recipe = merged(preset("article", "text-classification"), {**FEW, "train": TRAIN})
    report = run(tmp_path, "model", reviews, recipe=recipe)
    is_whole(report)
    assert re.search(r"Augmentation: [1-9]\d* rows made", parts_of(report)["distilled"])


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_decoder_answers_questions_or_says_that_there_is_no_answer(kind: str, tmp_path: Path) -> None:
    toy_tasks.write("question-answering", tmp_path, 256, 48)
    send(tmp_path / "model", kind)
    recipe = {
        "prepare": {"epochs": 8, "rate": 1e-2},
        "prune": {"ratio": {"hidden": 0.25, "heads": 0.5, "ffn": 0.5}, "multiple": 8, "calibration_rows": 64},
        "distill": {"epochs": 6, "rate": 1e-2, "hidden": 0.5, "attention": 0.5},
        "train": {"batch": 16, "max_length": toy_tasks.LENGTH},
    }
    report = run(tmp_path, "model", task="question-answering", recipe=recipe)
    baseline, quantized, pruned, distilled = (row.score for row in report.rows)
    for score in (baseline, quantized, pruned, distilled):
        assert isinstance(score, Score)
        assert (score.metric, score.rows, score.rows_changed_by_batching) == ("f1", 48, 0)
        assert {"exact_match", "f1_answerable", "f1_unanswerable"} < set(score.metrics)
    assert baseline.value > 0.9
    assert quantized.value > 0.85
    assert distilled.value > 0.85
    (shipped,) = [one for one in report.artifacts if one.kind == "transformers"]
    assert "AutoModelForQuestionAnswering" in shipped.opens_with
    folder = tmp_path / "out" / "artifacts" / shipped.name
    tokens, stock = AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder)
    assert stock.config.architectures == [type(stock).__name__]
    for context, answer in (("word3 word4 happy word5", "happy"), ("word3 word4 word5", "")):
        asked = tokens("word1 word2", context, return_tensors="pt", return_offsets_mapping=True)
        offsets = asked.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            out = stock(**{name: value for name, value in asked.items() if name != "token_type_ids"})
        start, end = int(out.start_logits.argmax()), int(out.end_logits.argmax())
        assert (context[offsets[start][0] : offsets[end][1]] if start else "") == answer

    # A new attempt that has the tuned model behind it goes on from that, not from weights drawn anew.
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "out" / "checkpoints" / "baseline", kept / "baseline")
    spec = spec_of("model", task="question-answering", recipe=recipe, resume="kept")
    events = list(compress(spec, tmp_path))
    assert [event.stage for event in events if isinstance(event, StageStarted) and event.resumed] == ["baseline"]
    assert [row.score for row in events[-1].report.rows] == [baseline, quantized, pruned, distilled]


def test_a_decoder_teaches_an_encoder_that_has_other_tokens(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    """The published code's own sample: a decoder that classifies, and a student of BERT's kind."""
    send(tmp_path / "model", "llama")
    plain = {"prepare": {"epochs": 4, "rate": 2e-2}, "prune": None, "train": TRAIN}
    taught = {**plain, "distill": {"epochs": 6, "rate": 3e-3, "hidden": 0.0, "hard": 0.3}}
    report = run(tmp_path, "model", reviews, recipe=taught, student=str(encoder))
    baseline, last = report.rows[0], report.rows[-1]
    assert any("The student is the model that the job names (bert" in note for note in last.notes)
    assert (baseline.shape.groups, last.shape.groups) == (2, None)
    assert isinstance(baseline.score, Score)
    assert isinstance(last.score, Score)
    assert baseline.score.value > 0.9
    assert last.score.value > 0.9
    with pytest.raises(CompressionError, match="no teacher has the student's tokens") as caught:
        run(tmp_path, "model", reviews, recipe={**taught, "distill": {"hidden": 1.0}}, student=str(encoder))
    assert caught.value.remedy_text


def test_a_named_decoder_teaches_an_encoder(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    labels = {0: "negative", 1: "positive"}
    more = {
        "vocab_size": len(WORDS),
        "pad_token_id": 0,
        "id2label": labels,
        "label2id": {name: n for n, name in labels.items()},
    }
    tiny("qwen3", "ForSequenceClassification", **more).save_pretrained(tmp_path / "teacher")
    write_tokenizer(tmp_path / "teacher", WORDS)
    recipe = {
        "prepare": {"epochs": 4, "rate": 3e-3},
        "prune": None,
        "distill": {"epochs": 2, "rate": 1e-3, "hidden": 0.0, "teachers": {"fusion": "validation"}},
        "train": TRAIN,
        "artifacts": [],
    }
    report = run(tmp_path, str(encoder), reviews, recipe=recipe, teachers=["teacher"])
    (note,) = [note for note in report.rows[-1].notes if note.startswith("Teachers, with validation accuracy")]
    assert "models.teachers.0" in note
    assert isinstance(report.rows[-1].score, Score)


def test_a_language_models_named_teachers_are_fused_if_they_have_its_tokens(tmp_path: Path) -> None:
    language.write(tmp_path)
    for name, family in (("wide", "llama"), ("other", "qwen2")):
        language_model(family, initializer_range=0.05, hidden_size=48).save_pretrained(tmp_path / name)
        tokenizer(bos=True).save_pretrained(tmp_path / name)
    recipe = {**language.RECIPE, "prune": None, "distill": {"epochs": 1, "rate": 5e-3, "hidden": 0.0, "hard": 0.3}}
    recipe["artifacts"] = []
    report = run(tmp_path, "model", task="causal-lm", recipe=recipe, teachers=["wide"])
    (note,) = [note for note in report.rows[-1].notes if note.startswith("Teachers, with validation perplexity")]
    assert "the baseline" in note
    assert "models.teachers.0" in note
    # A teacher with another tokenizer is refused before any training, with what to do.
    tokenizer(bos=False).save_pretrained(tmp_path / "wide")
    with pytest.raises(CompressionError, match="different tokens") as caught:
        run(tmp_path, "model", task="causal-lm", recipe=recipe, teachers=["wide"])
    assert (caught.value.code, caught.value.param) == ("invalid_spec", "models.teachers.0")
    assert "same tokenizer" in caught.value.remedy_text
    language_model("llama", vocab_size=300).save_pretrained(tmp_path / "more")
    tokenizer(bos=True).save_pretrained(tmp_path / "more")
    with pytest.raises(CompressionError, match="vocabulary of 300 tokens") as caught:
        run(tmp_path, "model", task="causal-lm", recipe=recipe, teachers=["more"])
    assert caught.value.param == "models.teachers.0"
    assert json.loads((tmp_path / "more" / "config.json").read_text())["vocab_size"] == 300
