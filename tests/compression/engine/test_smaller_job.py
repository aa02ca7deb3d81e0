"""One whole job that gives up tokens and a layer: its artifacts, its checkpoints and a new attempt all read the new ids."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel

from compression.engine.pipeline import compress
from compression.schema.events import StageStarted
from compression.schema.report.measurements import NotMeasured
from compression.schema.report.report import Report
from tests.support.engine_jobs import RECIPE, spec_of
from tests.support.tiny_bert import BAD, FILLER, GOOD, SPECIAL, tiny_config, write_tokenizer

SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789"
TOKENS = [*SPECIAL, *SIGNS, *(f"##{sign}" for sign in SIGNS), *(f"spare{i}" for i in range(60)), *GOOD, *BAD, *FILLER]


def write_model(folder: Path) -> None:
    torch.manual_seed(0)
    BertModel(tiny_config(vocab_size=len(TOKENS))).save_pretrained(folder)
    write_tokenizer(folder, TOKENS)


def run(place: Path, reviews: Path, **changes: Any) -> tuple[Report, list[StageStarted]]:
    prune = {"axes": ["layers", "vocabulary"], "target_latency": {"speed_up": 1e3}, "calibration_rows": 64, "sensitivity": True}
    recipe = {**RECIPE, "quantize": None, "prune": prune, "distill": {"epochs": 2, "rate": 3e-3}}
    events = list(compress(spec_of("model", reviews, recipe=recipe, **changes), place))
    return events[-1].report, [event for event in events if isinstance(event, StageStarted)]


def test_a_job_that_cuts_the_vocabulary_ships_the_tokenizer_that_fits(tmp_path: Path, reviews: Path) -> None:
    write_model(tmp_path / "model")
    # A word that test alone has: no token of its own is kept for it, and its row is judged as it is then read.
    texts = tmp_path / "texts"
    shutil.copytree(reviews, texts)
    lines = [json.loads(line) for line in (texts / "test.jsonl").read_text().splitlines()]
    lines[3]["text"] += " spare7"
    (texts / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report, _ = run(tmp_path, texts)
    baseline, cut, last = report.rows
    left = cut.shape.vocabulary
    assert (baseline.shape.vocabulary, left) == (len(TOKENS), len(TOKENS) - 60)
    assert report.pruning["vocabulary"] == {"before": len(TOKENS), "after": left, "asked": None, "taken": 60 / len(TOKENS)}
    assert f"The vocabulary is not chosen by test: 1 of its {len(lines)} rows are read by other tokens now." in cut.notes
    # Nothing is a thousand times as fast: the deepest cut comes nearest, and that is said.
    assert report.pruning["layers"]["after"] == cut.shape.layers == 1
    assert any("out of reach" in note for note in cut.notes)
    assert any("1 layers of 32/4/64: " in note and " ms" in note for note in cut.notes)
    assert set(report.sensitivity) == {"hidden", "ffn", "layers"}
    assert report == Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    for stage in ("pruned", "distilled"):
        files = {"model.onnx": tmp_path / "out" / "artifacts" / f"{stage}-onnx-float32"}
        files["model.safetensors"] = tmp_path / "out" / "checkpoints" / stage
        for name, folder in files.items():
            assert (folder / name).is_file()
            assert json.loads((folder / "config.json").read_text())["vocab_size"] == left
            assert len(AutoTokenizer.from_pretrained(folder)) == left
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out" / "artifacts" / baseline.artifact)) == len(TOKENS)
    (shipped,) = [artifact for artifact in report.artifacts if artifact.kind == "transformers"]
    assert not isinstance(shipped.score, NotMeasured)
    assert not isinstance(last.score, NotMeasured)
    assert last.score.value > 0.9
    folder = tmp_path / "out" / "artifacts" / shipped.name
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    said = model(**tokenizer(["word1 happy word2", "word3 awful"], padding=True, return_tensors="pt")).logits.argmax(dim=-1)
    assert [model.config.id2label[number] for number in said.tolist()] == ["positive", "negative"]

    # A new attempt that has the cut behind it makes the same of it.
    shutil.copytree(tmp_path / "out" / "checkpoints", tmp_path / "kept")
    shutil.rmtree(tmp_path / "kept" / "distilled")
    again, started = run(tmp_path, texts, resume="kept")
    assert [event.stage for event in started if event.resumed] == ["baseline", "pruned"]
    assert [row.score for row in again.rows] == [row.score for row in report.rows]
    assert (again.pruning, again.sensitivity) == (report.pruning, report.sensitivity)
